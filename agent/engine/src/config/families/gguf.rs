//! The shape of a family's facts about its GGUF files.
//!
//! Keys of metadata are written without the architecture's name, which stands before each of them.

/// Facts about a family's GGUF files.
pub struct GgufFacts {
    /// llama.cpp's name of the architecture: the value of `general.architecture`.
    pub name: &'static str,
    /// Files of that name that are of this family.
    pub variant: GgufVariant,
    /// Queries and keys are stored for a rotation of neighbours.
    pub interleaved_heads: bool,
    /// Meaning of the keys about sliding windows.
    pub window: GgufWindow,
    /// Keys of `config.json` that this family has beyond the common ones, and where their values come from.
    pub config: &'static [(&'static str, GgufValue)],
    /// Tensors of a layer that have another name than in most families: llama.cpp's, and transformers'.
    pub tensor_names: &'static [(&'static str, &'static str)],
}

/// Files of one architecture name that are of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufVariant {
    All,
    WithoutExperts,
    WithExperts,
}

/// Meaning of `attention.sliding_window`.
pub enum GgufWindow {
    /// The key is ignored.
    Ignored,
    /// The window; none if the key is left out or 0.
    ZeroIsNone,
    /// The window, or the family's default if the key is left out. `attention.sliding_window_pattern` says which layers
    /// slide.
    Patterned,
    /// The window; no layer slides if the key is left out. `attention.sliding_window_pattern` says which layers slide.
    PatternedOrNone,
}

/// Value of a key of `config.json`.
pub enum GgufValue {
    True,
    Zero,
    /// A whole number that the file must have under this key.
    Integer(&'static str),
    /// A number under this key. The key of `config.json` is left out if the file has none.
    Float(&'static str),
    /// The head's size; in a model of `even_at` layers, `hidden_size / num_attention_heads`. No key says it: llama.cpp
    /// knows the largest model of the family by its number of layers.
    QueryPreAttnScalar {
        even_at: i64,
    },
}
