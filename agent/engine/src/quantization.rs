//! In what format matrices are kept that the checkpoint stores in floating point: quantized while loading, where asked.

use lockstep_kernels::BlockFormat;

use crate::EngineError;

/// Format that matrices are quantized to while they are loaded ("in-situ quantization", ISQ).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Quantization {
    /// Matrices stay as the checkpoint or the dtype has them.
    #[default]
    None,
    /// 8 bits and a scale for 32 numbers: 8.5 bits a weight.
    Q8_0,
    /// 4 bits, a scale and a minimum for 32 numbers: about 4.6 bits a weight.
    Q4K,
}

impl Quantization {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::None, Self::Q8_0, Self::Q4K];

    pub(crate) fn format(self) -> Option<BlockFormat> {
        match self {
            Self::None => None,
            Self::Q8_0 => Some(BlockFormat::Q8_0),
            Self::Q4K => Some(BlockFormat::Q4K),
        }
    }

    /// Its one name on the wire, in logs and in the custom resource: `none`, `q8_0`, `q4_k`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Q8_0 => "q8_0",
            Self::Q4K => "q4_k",
        }
    }
}

impl std::fmt::Display for Quantization {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl std::str::FromStr for Quantization {
    type Err = EngineError;

    /// Takes the spellings that mistral.rs users have: `Q8_0`, `q8`, `8`, `Q4_K`, `q4k`, `Q4K`, `4`, in any case; `none`
    /// and nothing are [`Quantization::None`].
    fn from_str(name: &str) -> Result<Self, EngineError> {
        match name.trim().to_ascii_lowercase().as_str() {
            "" | "none" => Ok(Self::None),
            "8" | "q8" | "q8_0" => Ok(Self::Q8_0),
            "4" | "q4" | "q4k" | "q4_k" => Ok(Self::Q4K),
            _ => Err(EngineError::Usage(format!(
                "quantization `{name}` is not one of Q8_0 (or 8), Q4_K (or 4) and none; other formats are read from GGUF \
                 files, not made while loading"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_understood() {
        let spellings = [
            (Quantization::None, &["", "none", "None"][..]),
            (Quantization::Q8_0, &["Q8_0", "q8_0", "8", "q8", " Q8 "]),
            (Quantization::Q4K, &["Q4K", "q4k", "Q4_K", "q4_k", "4", "q4"]),
        ];
        for (expected, names) in spellings {
            for name in names {
                assert_eq!(name.parse::<Quantization>().unwrap(), expected, "{name}");
            }
            assert_eq!(expected.to_string().parse::<Quantization>().unwrap(), expected);
        }
        for wrong in ["Q3K", "int8", "q4_0", "16", "hqq4", "q8_1"] {
            let message = wrong.parse::<Quantization>().unwrap_err().to_string();
            assert!(message.contains(wrong) && message.contains("Q4_K (or 4)"), "{message}");
        }
    }
}
