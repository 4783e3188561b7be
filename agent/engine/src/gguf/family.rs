//! The family of a GGUF file.

use super::header::Header;
use crate::EngineError;
use crate::config::{Architecture, GgufFacts, GgufVariant};

/// The family of a file, and the facts about such files.
#[derive(Clone, Copy)]
pub struct FileFamily {
    pub architecture: Architecture,
    pub facts: &'static GgufFacts,
}

impl FileFamily {
    /// Finds the family by llama.cpp's name of the architecture, and by the number of experts if families share a name.
    ///
    /// # Errors
    /// [`EngineError::Architecture`], [`EngineError::Format`] naming the key.
    pub fn new(header: &Header) -> Result<Self, EngineError> {
        const KEY: &str = "general.architecture";
        let found = header.text(KEY)?.ok_or_else(|| header.wrong(KEY, "it is missing"))?;
        let experts = header.integer(&format!("{found}.expert_count"))?.unwrap_or(0);
        let matches = |family: &Self| {
            family.facts.name == found
                && match family.facts.variant {
                    GgufVariant::All => true,
                    GgufVariant::WithoutExperts => experts <= 0,
                    GgufVariant::WithExperts => experts > 0,
                }
        };
        Self::all().find(matches).ok_or_else(|| {
            let mut names: Vec<&str> = Self::all().map(|family| family.facts.name).collect();
            names.dedup();
            EngineError::Architecture { found: format!("{found} (in {})", header.file), supported: names.join(", ") }
        })
    }

    /// Iterates over the families that have GGUF files.
    fn all() -> impl Iterator<Item = Self> {
        let file_family = |architecture: &Architecture| {
            Some(Self { architecture: *architecture, facts: architecture.facts().gguf.as_ref()? })
        };
        Architecture::ALL.iter().filter_map(file_family)
    }

    /// Returns a key of metadata of this architecture.
    pub fn key(self, name: &str) -> String {
        format!("{}.{name}", self.facts.name)
    }
}
