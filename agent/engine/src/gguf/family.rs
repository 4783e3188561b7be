//! llama.cpp's architectures that are read, and the families that they are here.

use super::header::Header;
use crate::EngineError;
use crate::config::Architecture;

const FAMILIES: [(&str, Architecture); 7] = [
    ("llama", Architecture::Llama),
    ("qwen2", Architecture::Qwen2),
    ("qwen3", Architecture::Qwen3),
    ("qwen3moe", Architecture::Qwen3Moe),
    ("gemma2", Architecture::Gemma2),
    ("gemma3", Architecture::Gemma3),
    ("phi3", Architecture::Phi3),
];

/// What a file says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// llama.cpp's name, with which the keys of metadata begin.
    pub name: &'static str,
    pub architecture: Architecture,
}

impl Family {
    /// A `llama` with experts is a Mixtral.
    ///
    /// # Errors
    /// [`EngineError::Architecture`], [`EngineError::Format`] naming the key.
    pub fn of(header: &Header) -> Result<Self, EngineError> {
        const KEY: &str = "general.architecture";
        let found = header.text(KEY)?.ok_or_else(|| header.wrong(KEY, "it is missing"))?;
        let known = FAMILIES.into_iter().find(|(name, _)| *name == found);
        let (name, architecture) = known.ok_or_else(|| EngineError::Architecture {
            found: format!("{found} (in {})", header.file),
            supported: FAMILIES.map(|(name, _)| name).join(", "),
        })?;
        let family = Self { name, architecture };
        let experts = header.integer(&family.key("expert_count"))?.unwrap_or(0);
        Ok(match architecture {
            Architecture::Llama if experts > 0 => Self { architecture: Architecture::Mixtral, ..family },
            _ => family,
        })
    }

    /// A key of metadata of this architecture.
    pub fn key(self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }

    /// Queries and keys are stored for a rotation of neighbours.
    pub fn turns_neighbours(self) -> bool {
        self.name == "llama"
    }
}
