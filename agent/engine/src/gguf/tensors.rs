//! The tensors of a GGUF file under the names that models load by.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::DType;
use lockstep_kernels::BlockFormat;

use super::family::FileFamily;
use super::header::{Header, TensorInfo};
use super::names::Name;
use crate::EngineError;
use crate::config::MAX_EXPERTS;
use crate::entry::{Entry, RowOrder, Stored};

/// Maximum number of tensors of a model. The tensors of experts count one by one. The largest model known has a small
/// part of this number.
const MAX_ENTRIES: usize = 1 << 18;

/// Returns the entry of each tensor, by transformers' name.
///
/// # Errors
/// [`EngineError::Format`] and [`EngineError::Truncated`], naming the tensor or the file.
pub fn entries(header: &Header) -> Result<HashMap<String, Entry>, EngineError> {
    let family = FileFamily::new(header)?;
    let mut entries = HashMap::new();
    for tensor in &header.tensors {
        let entry = entry(header, family, tensor)?;
        let found = match Name::new(family.architecture, &tensor.name) {
            Name::Tensor(name) => vec![(name, entry)],
            Name::Experts(before, after) => expert_entries(header, tensor, &entry)?
                .enumerate()
                .map(|(expert, entry)| (format!("{before}.{expert}.{after}"), entry))
                .collect(),
        };
        for (name, entry) in found {
            if entries.insert(name, entry).is_some() {
                return Err(EngineError::format(
                    &*tensor.part.name,
                    format!("tensor `{}` is there twice", tensor.name),
                ));
            }
        }
        if entries.len() > MAX_ENTRIES {
            return Err(EngineError::format(&header.file, format!("it has more than {MAX_ENTRIES} tensors")));
        }
    }
    Ok(entries)
}

/// Iterates over the matrices of a stack, in order.
fn expert_entries<'a>(
    header: &Header,
    tensor: &TensorInfo,
    stack: &'a Entry,
) -> Result<impl Iterator<Item = Entry> + 'a, EngineError> {
    // A stack has one matrix for each expert. Its factors are one number each.
    let (count, shape) = match stack.shape[..] {
        [count @ 1..=MAX_EXPERTS, rows, columns] => (count, vec![rows, columns]),
        [count @ 1..=MAX_EXPERTS] if tensor.name.ends_with("scale") => (count, vec![1]),
        _ => {
            let reason = format!("tensor `{}`: its shape {:?} is no stack of matrices", tensor.name, stack.shape);
            return Err(EngineError::format(&header.file, reason));
        }
    };
    let bytes = stack.bytes / count as u64;
    Ok((0..count).map(move |index| Entry {
        file: Arc::clone(&stack.file),
        shape: shape.clone(),
        offset: stack.offset + index as u64 * bytes,
        bytes,
        stored: stack.stored.clone(),
        order: RowOrder::Plain,
    }))
}

fn entry(header: &Header, family: FileFamily, tensor: &TensorInfo) -> Result<Entry, EngineError> {
    let part = &tensor.part;
    let wrong = |reason: String| EngineError::format(&*part.name, format!("tensor `{}`: {reason}", tensor.name));
    let numbers = tensor.shape.iter().try_fold(1u64, |product, size| product.checked_mul(*size));
    let numbers = numbers.filter(|numbers| *numbers < 1 << 48);
    let numbers = numbers.ok_or_else(|| wrong(format!("its shape {:?} is too large", tensor.shape)))?;
    let stored = stored(tensor.kind);
    let (columns, block) = match &stored {
        Stored::Float(dtype) => (1, dtype.size_in_bytes() as u64),
        Stored::Blocks(format) => (format.columns() as u64, format.bytes() as u64),
        // The tensor is not read, so its size does not matter.
        Stored::Packed(_) | Stored::Other(_) => (1, 0),
    };
    if tensor.shape.last().is_some_and(|row| !row.is_multiple_of(columns)) {
        return Err(wrong(format!("rows of {:?} numbers are no whole blocks of {columns}", tensor.shape.last())));
    }
    let bytes = numbers / columns * block;
    let end = tensor.offset.saturating_add(bytes);
    if end > part.size {
        return Err(EngineError::Truncated { file: part.name.to_string(), size: part.size, expected: end });
    }
    let shape = tensor.shape.iter().map(|size| usize::try_from(*size).unwrap_or(usize::MAX)).collect();
    let order = row_order(header, family, tensor)?;
    Ok(Entry { file: Arc::clone(&part.name), shape, offset: tensor.offset, bytes, stored, order })
}

/// Returns the format for ggml's number of the type.
fn stored(kind: u32) -> Stored {
    match kind {
        0 => Stored::Float(DType::F32),
        1 => Stored::Float(DType::F16),
        30 => Stored::Float(DType::BF16),
        2 => Stored::Blocks(BlockFormat::Q4_0),
        3 => Stored::Blocks(BlockFormat::Q4_1),
        6 => Stored::Blocks(BlockFormat::Q5_0),
        7 => Stored::Blocks(BlockFormat::Q5_1),
        8 => Stored::Blocks(BlockFormat::Q8_0),
        10 => Stored::Blocks(BlockFormat::Q2K),
        11 => Stored::Blocks(BlockFormat::Q3K),
        12 => Stored::Blocks(BlockFormat::Q4K),
        13 => Stored::Blocks(BlockFormat::Q5K),
        14 => Stored::Blocks(BlockFormat::Q6K),
        16 => Stored::Blocks(BlockFormat::Iq2Xxs),
        17 => Stored::Blocks(BlockFormat::Iq2Xs),
        18 => Stored::Blocks(BlockFormat::Iq3Xxs),
        19 => Stored::Blocks(BlockFormat::Iq1S),
        20 => Stored::Blocks(BlockFormat::Iq4Nl),
        21 => Stored::Blocks(BlockFormat::Iq3S),
        22 => Stored::Blocks(BlockFormat::Iq2S),
        23 => Stored::Blocks(BlockFormat::Iq4Xs),
        29 => Stored::Blocks(BlockFormat::Iq1M),
        34 => Stored::Blocks(BlockFormat::Tq1_0),
        35 => Stored::Blocks(BlockFormat::Tq2_0),
        39 => Stored::Blocks(BlockFormat::Mxfp4),
        40 => Stored::Blocks(BlockFormat::Nvfp4),
        41 => Stored::Blocks(BlockFormat::Q1_0),
        42 => Stored::Blocks(BlockFormat::Q2_0),
        _ => Stored::Other(kind_name(kind)),
    }
}

/// Returns the name of a type that is not read, for the error.
fn kind_name(kind: u32) -> String {
    let names = [(9, "Q8_1"), (15, "Q8_K"), (24, "I8"), (25, "I16"), (26, "I32"), (27, "I64"), (28, "F64")];
    let known = names.iter().find(|(number, _)| *number == kind).map(|(_, name)| (*name).to_owned());
    known.unwrap_or_else(|| format!("of ggml type {kind}"))
}

/// Returns the order of a tensor's rows. Some families store the rows of queries and keys for a RoPE that rotates
/// neighbours.
fn row_order(header: &Header, family: FileFamily, tensor: &TensorInfo) -> Result<RowOrder, EngineError> {
    let turned = [("attn_q.", "attention.head_count"), ("attn_k.", "attention.head_count_kv")];
    let has_heads = tensor.name.starts_with("blk.") && !tensor.name.ends_with("scale");
    let turned = turned.iter().find(|(part, _)| has_heads && tensor.name.contains(part));
    let Some((_, heads)) = turned.filter(|_| family.facts.interleaved_heads) else { return Ok(RowOrder::Plain) };
    let heads = match header.integer(&family.key(heads))? {
        Some(heads) => heads,
        None => header.need_integer(&family.key("attention.head_count"))?,
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
