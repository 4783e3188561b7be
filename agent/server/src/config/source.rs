//! The location of the model, from the settings.

use std::fmt;
use std::path::{Path, PathBuf};

use lockstep_hub::HubModel;

use super::error::ConfigError;
use super::values::Setting;

/// Location of a model's files. It displays as the URL that the head assigns to nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// A folder or file; a relative path starts at the working directory.
    File(PathBuf),
    /// A model that is part of the program.
    Builtin(String),
    /// A model of a hub.
    Hub(HubModel),
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file://{}", path.display()),
            Self::Builtin(name) => write!(f, "builtin://{name}"),
            Self::Hub(model) => model.fmt(f),
        }
    }
}

impl ModelSource {
    /// Parses a folder or URL. `org/name` and `org/name:TAG` are models of the hub if no folder has this name.
    pub(super) fn from_settings(source: &Setting, revision: Option<&Setting>) -> Result<Self, ConfigError> {
        let parsed = Self::parse(source)?;
        match (parsed, revision) {
            (Self::Hub(model), Some(setting)) => {
                let revision = setting.value.parse().map_err(|problem: &str| setting.invalid(problem))?;
                Ok(Self::Hub(HubModel { revision, ..model }))
            }
            (_, Some(setting)) => Err(ConfigError::contradiction(
                format!("{}={}", setting.name, setting.value),
                format!("{}={} is no model of a hub", source.name, source.value),
                "only a model of a hub has revisions; leave the revision out",
            )),
            (parsed, None) => Ok(parsed),
        }
    }

    fn parse(source: &Setting) -> Result<Self, ConfigError> {
        let Some((scheme, rest)) = source.value.split_once("://") else {
            // A path with more parts may be that of a file which is missing.
            let model = source.value.parse::<HubModel>().ok().filter(|_| source.value.matches('/').count() == 1);
            return Ok(match model {
                Some(model) if !Path::new(&source.value).exists() => Self::Hub(model),
                _ => Self::File(PathBuf::from(&source.value)),
            });
        };
        match scheme {
            "file" if !rest.is_empty() => Ok(Self::File(PathBuf::from(rest))),
            "builtin" if !rest.is_empty() => Ok(Self::Builtin(rest.to_owned())),
            "hf" if !rest.is_empty() => match (rest.parse(), rest.split_once('@')) {
                (Ok(model), _) => Ok(Self::Hub(model)),
                (Err(_), Some(_)) => Err(source.invalid("give the revision by --revision, not behind an @")),
                (Err(problem), None) => Err(source.invalid(problem)),
            },
            "file" | "builtin" | "hf" => Err(source.invalid(format!("nothing follows {scheme}://"))),
            "pvc" | "oci" => Err(source.invalid("Kubernetes mounts a volume; give the folder that it is mounted at, or a GGUF file in it")),
            _ => Err(source.invalid(
                "give a folder or a GGUF file, file:// and its path, hf://org/name, maybe with :TAG or /FILE.gguf behind it, \
                 or builtin:// and a name",
            )),
        }
    }

    /// Returns the last part of the source, if it has one. This is the default name of the model.
    pub(super) fn name(&self) -> Option<String> {
        let name = match self {
            Self::File(path) => path.file_name()?.to_str()?.to_owned(),
            Self::Builtin(_) | Self::Hub(_) => self.to_string().rsplit('/').next()?.to_owned(),
        };
        (!name.is_empty() && !name.contains(char::is_control)).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_source(source: &str, revision: Option<&str>) -> Result<ModelSource, ConfigError> {
        let setting = |name: &str, value: &str| Setting { name: name.into(), value: value.into() };
        let revision = revision.map(|revision| setting("--revision", revision));
        ModelSource::from_settings(&setting("--model", source), revision.as_ref())
    }

    #[test]
    fn org_and_name_are_a_model_of_the_hub_unless_a_folder_has_the_name() {
        let shown = |source: &str| parse_source(source, None).unwrap().to_string();
        assert_eq!(shown("hf://org/name"), "hf://org/name");
        assert_eq!(shown("hf://gpt2"), "hf://gpt2");
        assert_eq!(shown("org/name"), "hf://org/name");
        assert_eq!(shown("org/name:Q4_K_M"), "hf://org/name:Q4_K_M");
        assert_eq!(shown("hf://org/name:latest"), "hf://org/name");
        assert_eq!(shown("hf://org/name/sub/a.gguf"), "hf://org/name/sub/a.gguf");
        assert_eq!(shown("src/config"), "file://src/config", "a folder of this crate, where tests run");
        for folder in ["name", "/org/name", "./org/name", "../org", "a/b/c", "a/b/c.gguf", "name:Q8_0"] {
            assert_eq!(shown(folder), format!("file://{folder}"));
        }
        let named = |source: &str| parse_source(source, None).unwrap().name();
        for (source, name) in [
            ("hf://org/name", "name"),
            ("hf://gpt2:Q8_0", "gpt2:Q8_0"),
            ("hf://org/name/sub/a.gguf", "a.gguf"),
            ("/a/b", "b"),
            ("builtin://tiny", "tiny"),
        ] {
            assert_eq!(named(source).as_deref(), Some(name), "{source}");
        }
        let ModelSource::Hub(model) = parse_source("org/name", Some("v1.0")).unwrap() else {
            panic!("no model of the hub")
        };
        assert_eq!(model.revision.as_str(), "v1.0");
        let with_tag = parse_source("hf://org/name:Q8_0", Some("v1.0")).unwrap();
        assert!(matches!(with_tag, ModelSource::Hub(model) if model.revision.as_str() == "v1.0"));
    }

    #[test]
    fn an_error_names_the_setting_as_typed() {
        for (source, revision, part) in [
            ("hf://", None, "nothing follows hf://"),
            ("hf://a/b/c", None, "--model=hf://a/b/c: behind org/name comes a GGUF file"),
            ("hf://a/b:Q8 0", None, "--model=hf://a/b:Q8 0: a tag is a quantization"),
            ("hf://a/b@main", None, "by --revision"),
            ("hf://a/b@main:Q8_0", None, "by --revision"),
            ("hf://a/b", Some("../x"), "--revision=../x: a revision is"),
            ("/folder", Some("main"), "--revision=main but --model=/folder is no model of a hub"),
        ] {
            let message = parse_source(source, revision).unwrap_err().to_string();
            assert!(message.contains(part), "{source}: {message}");
        }
    }
}
