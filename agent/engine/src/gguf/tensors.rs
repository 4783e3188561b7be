//! The tensors of a GGUF file under the names that models load by.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::DType;
use lockstep_kernels::BlockFormat;

use super::header::{Header, TensorInfo};
use crate::EngineError;
use crate::weights::{Entry, RowOrder, Stored};

/// llama.cpp's names of a block's tensors, and transformers'.
const IN_BLOCK: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];
const OUTSIDE: &[(&str, &str)] =
    &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// Where each tensor lies, by transformers' name.
///
/// # Errors
/// [`EngineError::Format`] and [`EngineError::Truncated`], naming the tensor or the file.
pub fn entries(header: &Header) -> Result<HashMap<String, Entry>, EngineError> {
    let file: Arc<str> = header.file.as_str().into();
    let mut entries = HashMap::new();
    for tensor in &header.tensors {
        let entry = entry(header, tensor, &file)?;
        if entries.insert(name(&tensor.name), entry).is_some() {
            return Err(EngineError::format(&header.file, format!("tensor `{}` is there twice", tensor.name)));
        }
    }
    Ok(entries)
}

/// transformers' name of a tensor; one that is not known keeps its own.
fn name(gguf: &str) -> String {
    let Some((stem, kind)) = gguf.rsplit_once('.') else { return gguf.into() };
    let find = |table: &[(&str, &'static str)], stem: &str| {
        table.iter().find(|(theirs, _)| *theirs == stem).map(|(_, ours)| *ours)
    };
    let block = stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    match (find(OUTSIDE, stem), block) {
        (Some(ours), _) => format!("{ours}.{kind}"),
        (None, Some((layer, stem))) => match find(IN_BLOCK, stem) {
            Some(ours) => format!("model.layers.{layer}.{ours}.{kind}"),
            None => gguf.into(),
        },
        (None, None) => gguf.into(),
    }
}

fn entry(header: &Header, tensor: &TensorInfo, file: &Arc<str>) -> Result<Entry, EngineError> {
    let wrong = |reason: String| EngineError::format(&header.file, format!("tensor `{}`: {reason}", tensor.name));
    let numbers = tensor.shape.iter().try_fold(1u64, |product, size| product.checked_mul(*size));
    let numbers = numbers.filter(|numbers| *numbers < 1 << 48);
    let numbers = numbers.ok_or_else(|| wrong(format!("its shape {:?} is too large", tensor.shape)))?;
    let stored = stored(tensor.kind);
    let (columns, block) = match &stored {
        Stored::Float(dtype) => (1, dtype.size_in_bytes() as u64),
        Stored::Blocks(format) => (format.columns() as u64, format.bytes() as u64),
        // Not read, so its size does not matter.
        Stored::Other(_) => (1, 0),
    };
    if tensor.shape.last().is_some_and(|row| !row.is_multiple_of(columns)) {
        return Err(wrong(format!("rows of {:?} numbers are no whole blocks of {columns}", tensor.shape.last())));
    }
    let bytes = numbers / columns * block;
    let end = tensor.offset.saturating_add(bytes);
    if end > header.size {
        return Err(EngineError::Truncated { file: header.file.clone(), size: header.size, expected: end });
    }
    let shape = tensor.shape.iter().map(|size| usize::try_from(*size).unwrap_or(usize::MAX)).collect();
    let order = order(header, tensor)?;
    Ok(Entry { file: Arc::clone(file), shape, offset: tensor.offset, bytes, stored, order })
}

/// By ggml's number of the type.
fn stored(kind: u32) -> Stored {
    match kind {
        0 => Stored::Float(DType::F32),
        1 => Stored::Float(DType::F16),
        30 => Stored::Float(DType::BF16),
        2 => Stored::Blocks(BlockFormat::Q4_0),
        8 => Stored::Blocks(BlockFormat::Q8_0),
        12 => Stored::Blocks(BlockFormat::Q4K),
        13 => Stored::Blocks(BlockFormat::Q5K),
        14 => Stored::Blocks(BlockFormat::Q6K),
        _ => Stored::Other(kind_name(kind)),
    }
}

/// The name of a type that is not read, for the error.
fn kind_name(kind: u32) -> String {
    let names = [(3, "Q4_1"), (6, "Q5_0"), (7, "Q5_1"), (9, "Q8_1"), (10, "Q2_K"), (11, "Q3_K"), (15, "Q8_K")];
    let known = names.iter().find(|(number, _)| *number == kind).map(|(_, name)| (*name).to_owned());
    known.unwrap_or_else(|| format!("of ggml type {kind}"))
}

/// The `llama` architecture has queries and keys for a rotation of neighbours.
fn order(header: &Header, tensor: &TensorInfo) -> Result<RowOrder, EngineError> {
    let turned = [("attn_q.", "llama.attention.head_count"), ("attn_k.", "llama.attention.head_count_kv")];
    let turned = turned.iter().find(|(part, _)| tensor.name.starts_with("blk.") && tensor.name.contains(part));
    let (Some((_, heads)), Some("llama")) = (turned, header.text("general.architecture")?) else {
        return Ok(RowOrder::Plain);
    };
    let heads = match header.integer(heads)? {
        Some(heads) => heads,
        None => header.need_integer("llama.attention.head_count")?,
    };
    let (rows, heads) = (tensor.shape.first().copied().unwrap_or(0), u64::try_from(heads).unwrap_or(0));
    match rows.checked_div(heads).filter(|head| *head > 0 && head.is_multiple_of(2) && rows.is_multiple_of(heads)) {
        Some(head) => Ok(RowOrder::Interleaved(usize::try_from(head).unwrap_or(usize::MAX))),
        None => {
            let reason = format!("tensor `{}`: {rows} rows are not {heads} heads of an even size", tensor.name);
            Err(EngineError::format(&header.file, reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_transformers() {
        let cases = [
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("output.weight", "lm_head.weight"),
            ("blk.12.attn_q.bias", "model.layers.12.self_attn.q_proj.bias"),
            ("blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight"),
            ("blk.0.ssm_a", "blk.0.ssm_a"),
            ("rope_freqs.weight", "rope_freqs.weight"),
        ];
        for (gguf, ours) in cases {
            assert_eq!(name(gguf), ours);
        }
    }
}
