//! The tensors that a model reads, by its configuration.
//!
//! The head compares this list with the headers of the weight files, so that a model that cannot load is refused before a
//! rank starts. A test holds the list against the tensors that ranks read.

use crate::EngineError;
use crate::config::{BlockKind, ModelConfig};
use crate::entry::{Entry, Stored};
use crate::error::supported_types;
use crate::layers::MlpNames;

/// Bytes of faults that one message names. Kubernetes keeps the last 2 KiB of what a process says.
const MAX_FAULTS: usize = 1000;

/// One tensor that the model reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExpectedTensor {
    pub name: String,
    /// `[out, in]` for a matrix, one size for a vector. Vectors are stored in floating point.
    pub shape: Vec<usize>,
}

/// Compares the stored tensors with those that the model reads. `find` returns the entry of a name. `spell` returns the name
/// in the file, where this is another.
///
/// # Errors
/// [`EngineError::Unloadable`] with all faults, or the first [`MAX_FAULTS`] bytes of many.
pub(crate) fn check<'a>(
    config: &ModelConfig,
    origin: &str,
    spell: impl Fn(&str) -> Option<String>,
    find: impl Fn(&str) -> Option<&'a Entry>,
) -> Result<(), EngineError> {
    let expected = expected_tensors(config);
    let (mut text, mut unnamed, mut has_type) = (String::new(), 0, false);
    for tensor in &expected {
        let name = spell(&tensor.name).unwrap_or_else(|| tensor.name.clone());
        let Some(fault) = Fault::find(&tensor.shape, find(&tensor.name)) else { continue };
        has_type |= matches!(fault, Fault::Type { .. });
        if text.len() > MAX_FAULTS {
            unnamed += 1;
        } else {
            text += &format!("{}`{name}` {fault}", if text.is_empty() { "" } else { "; " });
        }
    }
    if text.is_empty() {
        return Ok(());
    }
    if unnamed > 0 {
        text += &format!("; and {unnamed} more of {} tensors", expected.len());
    }
    if has_type {
        text += &format!("; {}", supported_types());
    }
    Err(EngineError::Unloadable { origin: origin.into(), faults: text })
}

/// Reason that a tensor cannot be read.
enum Fault<'a> {
    Missing { shape: &'a [usize] },
    Shape { shape: &'a [usize], found: &'a Entry },
    Type { found: &'a Entry },
}

impl<'a> Fault<'a> {
    fn find(shape: &'a [usize], found: Option<&'a Entry>) -> Option<Self> {
        let Some(found) = found else { return Some(Self::Missing { shape }) };
        if found.shape != shape {
            return Some(Self::Shape { shape, found });
        }
        let is_read = match found.stored {
            Stored::Float(_) => true,
            Stored::Blocks(_) | Stored::Packed(_) => shape.len() > 1,
            Stored::Other(_) => false,
        };
        (!is_read).then_some(Self::Type { found })
    }
}

impl std::fmt::Display for Fault<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing { shape } => write!(f, "{shape:?} is missing"),
            Self::Shape { shape, found } => {
                write!(f, "in {} has shape {:?}, the configuration asks for {shape:?}", found.file, found.shape)
            }
            Self::Type { found } => write!(f, "in {} is {}", found.file, found.type_name()),
        }
    }
}

/// Returns every tensor that the ranks of a model read.
pub(crate) fn expected_tensors(config: &ModelConfig) -> Vec<ExpectedTensor> {
    let root = config.weights_prefix.map_or(String::new(), |prefix| format!("{prefix}."));
    let mut list = TensorList { config, prefix: format!("{root}model."), tensors: Vec::new() };
    let hidden = config.hidden_size;
    list.matrix("embed_tokens", config.vocab_size, hidden, false);
    for index in 0..config.num_layers {
        list.prefix = format!("{root}model.layers.{index}.");
        list.add_layer(index);
    }
    list.prefix = format!("{root}model.");
    list.vector("norm.weight", hidden);
    list.prefix = root;
    if !config.tie_word_embeddings {
        list.matrix("lm_head", config.vocab_size, hidden, false);
    }
    list.tensors
}

/// The list while it grows.
struct TensorList<'a> {
    config: &'a ModelConfig,
    /// Beginning of the names that are added next.
    prefix: String,
    tensors: Vec<ExpectedTensor>,
}

impl TensorList<'_> {
    fn vector(&mut self, name: &str, size: usize) {
        self.tensors.push(ExpectedTensor { name: format!("{}{name}", self.prefix), shape: vec![size] });
    }

    fn matrix(&mut self, name: &str, rows: usize, columns: usize, bias: bool) {
        let prefix = &self.prefix;
        self.tensors.push(ExpectedTensor { name: format!("{prefix}{name}.weight"), shape: vec![rows, columns] });
        if bias {
            self.vector(&format!("{name}.bias"), rows);
        }
    }

    fn add_layer(&mut self, index: usize) {
        let config = self.config;
        let norms: &[&str] = match config.architecture.facts().block {
            BlockKind::PreNorm => &["input_layernorm", "post_attention_layernorm"],
            BlockKind::SandwichNorm => &[
                "input_layernorm",
                "post_attention_layernorm",
                "pre_feedforward_layernorm",
                "post_feedforward_layernorm",
            ],
        };
        norms.iter().for_each(|norm| self.vector(&format!("{norm}.weight"), config.hidden_size));
        self.add_attention();
        match config.moe.filter(|_| config.layers[index].sparse) {
            Some(moe) => {
                let prefix = moe.prefix;
                self.matrix(&format!("{prefix}.gate"), moe.num_experts, config.hidden_size, false);
                for expert in 0..moe.num_experts {
                    let names = MlpNames::Separate(moe.projections);
                    self.add_mlp(&format!("{prefix}.experts.{expert}"), names, moe.intermediate_size);
                }
            }
            None => {
                let names = if config.mlp.fused_gate_up { MlpNames::Fused } else { MlpNames::USUAL };
                self.add_mlp("mlp", names, config.intermediate_size);
            }
        }
    }

    fn add_attention(&mut self) {
        let config = self.config;
        let (hidden, dim, tensors) = (config.hidden_size, config.head_dim, config.attention);
        let (queries, kv) = (config.num_heads * dim, config.num_kv_heads * dim);
        if tensors.fused_qkv {
            self.matrix("self_attn.qkv_proj", queries + 2 * kv, hidden, tensors.qkv_bias);
        } else {
            for (name, rows) in [("q_proj", queries), ("k_proj", kv), ("v_proj", kv)] {
                self.matrix(&format!("self_attn.{name}"), rows, hidden, tensors.qkv_bias);
            }
        }
        self.matrix("self_attn.o_proj", hidden, queries, tensors.o_bias);
        if tensors.qk_norm {
            ["q_norm", "k_norm"].iter().for_each(|norm| self.vector(&format!("self_attn.{norm}.weight"), dim));
        }
    }

    fn add_mlp(&mut self, place: &str, names: MlpNames, intermediate: usize) {
        let (hidden, bias) = (self.config.hidden_size, self.config.mlp.bias);
        let down = match names {
            MlpNames::Separate([gate, up, down]) => {
                self.matrix(&format!("{place}.{gate}"), intermediate, hidden, bias);
                self.matrix(&format!("{place}.{up}"), intermediate, hidden, bias);
                down
            }
            MlpNames::Fused => {
                self.matrix(&format!("{place}.gate_up_proj"), 2 * intermediate, hidden, bias);
                "down_proj"
            }
        };
        self.matrix(&format!("{place}.{down}"), hidden, intermediate, bias);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::fixture;
    use crate::open;
    use crate::weights::Weights;

    const PARITY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/parity");

    /// Returns the folders and GGUF files of every family.
    fn models() -> Vec<String> {
        let paths = |folder: &str| {
            let entries = std::fs::read_dir(format!("{PARITY}/{folder}")).unwrap();
            entries.map(|entry| entry.unwrap().path().to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let files = paths("gguf").into_iter().filter(|path| path.ends_with(".gguf"));
        paths("fixtures").into_iter().chain(files).collect()
    }

    #[test]
    fn the_list_is_that_of_the_checkpoints() {
        for source in models() {
            let files = open(&source).unwrap();
            let config = ModelConfig::from_files(files.as_ref()).unwrap();
            let weights = Weights::open(files).unwrap();
            check(&config, &source, |_| None, |name| weights.find(name)).unwrap();
            let expected: BTreeSet<String> = expected_tensors(&config).into_iter().map(|tensor| tensor.name).collect();
            let stored: BTreeSet<String> = weights.entries().map(|(name, _)| name.to_owned()).collect();
            let unread: Vec<_> = stored.difference(&expected).collect();
            assert!(unread.iter().all(|name| name.contains("rope_")), "{source}: {unread:?}");
        }
    }

    #[test]
    fn every_fault_is_in_one_message() {
        let config = fixture::tiny_config();
        let entry = |shape: &[usize], stored| Entry {
            file: "w".into(),
            shape: shape.into(),
            offset: 0,
            bytes: 0,
            stored,
            order: crate::entry::RowOrder::Plain,
        };
        let float = Stored::Float(candle_core::DType::F32);
        let mut entries: std::collections::HashMap<String, Entry> = expected_tensors(&config)
            .into_iter()
            .map(|tensor| (tensor.name, entry(&tensor.shape, float.clone())))
            .collect();
        let find = |entries: &std::collections::HashMap<String, Entry>| {
            check(&config, "m", |_| None, |name| entries.get(name)).map_err(|error| error.to_string())
        };
        find(&entries).unwrap();
        entries.remove("model.norm.weight");
        entries.insert("model.embed_tokens.weight".into(), entry(&[3, 5], float.clone()));
        let name = "model.layers.0.self_attn.q_proj.weight";
        let shape = entries[name].shape.clone();
        entries.insert(name.into(), entry(&shape, Stored::Other("IQ1_S".into())));
        let norm = "model.layers.0.input_layernorm.weight";
        entries.insert(norm.into(), entry(&[config.hidden_size], Stored::Blocks(lockstep_kernels::BlockFormat::Q8_0)));
        let message = find(&entries).unwrap_err();
        assert_eq!(message.matches("supported: ").count(), 1, "{message}");
        let parts = ["`model.norm.weight`", "is missing", "has shape [3, 5]", "is IQ1_S", "is Q8_0", "`m`"];
        parts.iter().for_each(|part| assert!(message.contains(part), "{part}: {message}"));
        let none = find(&std::collections::HashMap::new()).unwrap_err();
        assert!(none.contains("more of") && none.len() < MAX_FAULTS + 300, "{none}");
    }
}
