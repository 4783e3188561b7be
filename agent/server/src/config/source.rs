//! Where the model is, from what was typed.

use std::fmt;
use std::path::{Path, PathBuf};

use lockstep_hub::{HubModel, Repository, Revision};

use super::error::ConfigError;
use super::values::Setting;

/// Where a model's files are. Displays as the URL that the assignment carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// A folder; a relative one is relative to the working directory.
    File(PathBuf),
    /// One that is part of the program.
    Builtin(String),
    /// One that is fetched from a hub.
    Hub(HubModel),
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file://{}", path.display()),
            Self::Builtin(name) => write!(f, "builtin://{name}"),
            Self::Hub(model) => write!(f, "hf://{}", model.repository),
        }
    }
}

impl ModelSource {
    /// Folder or URL → source. `org/name` is a model of the hub where no folder is called so.
    pub(super) fn read(source: &Setting, revision: Option<&Setting>) -> Result<Self, ConfigError> {
        let read = Self::of(source)?;
        match (read, revision) {
            (Self::Hub(model), Some(said)) => {
                let revision = said.value.parse().map_err(|problem: &str| said.invalid(problem))?;
                Ok(Self::Hub(HubModel { revision, ..model }))
            }
            (_, Some(said)) => Err(ConfigError::contradiction(
                format!("{}={}", said.name, said.value),
                format!("{}={} is no model of a hub", source.name, source.value),
                "a revision picks a commit of hf://org/name; leave it out",
            )),
            (read, None) => Ok(read),
        }
    }

    fn of(source: &Setting) -> Result<Self, ConfigError> {
        let hub = |repository| Self::Hub(HubModel { repository, revision: Revision::default() });
        let Some((scheme, rest)) = source.value.split_once("://") else {
            let repository = source.value.parse::<Repository>().ok().filter(|_| source.value.contains('/'));
            return Ok(match repository {
                Some(repository) if !Path::new(&source.value).exists() => hub(repository),
                _ => Self::File(PathBuf::from(&source.value)),
            });
        };
        match scheme {
            "file" if !rest.is_empty() => Ok(Self::File(PathBuf::from(rest))),
            "builtin" if !rest.is_empty() => Ok(Self::Builtin(rest.to_owned())),
            "hf" if !rest.is_empty() => match (rest.parse(), rest.split_once('@')) {
                (Ok(repository), _) => Ok(hub(repository)),
                (Err(_), Some(_)) => Err(source.invalid("give the revision by --revision, not behind an @")),
                (Err(problem), None) => Err(source.invalid(problem)),
            },
            "file" | "builtin" | "hf" => Err(source.invalid(format!("nothing follows {scheme}://"))),
            "pvc" | "oci" => {
                Err(source.invalid("a volume is mounted by Kubernetes; give the folder that it is mounted at"))
            }
            _ => Err(source.invalid("give a folder, file:// and a folder, hf://org/name, or builtin:// and a name")),
        }
    }

    /// The last part, if it has one: what clients call the model unless they are told otherwise.
    pub(super) fn name(&self) -> Option<String> {
        let name = match self {
            Self::File(path) => path.file_name()?.to_str()?,
            Self::Builtin(name) => name.rsplit('/').next()?,
            Self::Hub(model) => model.repository.as_str().rsplit('/').next()?,
        };
        (!name.is_empty() && !name.contains(char::is_control)).then(|| name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(source: &str, revision: Option<&str>) -> Result<ModelSource, ConfigError> {
        let said = |name: &str, value: &str| Setting { name: name.into(), value: value.into() };
        let revision = revision.map(|revision| said("--revision", revision));
        ModelSource::read(&said("--model", source), revision.as_ref())
    }

    #[test]
    fn a_model_of_the_hub_is_what_looks_like_one_and_is_no_folder() {
        let shown = |source: &str| read(source, None).unwrap().to_string();
        assert_eq!(shown("hf://org/name"), "hf://org/name");
        assert_eq!(shown("hf://gpt2"), "hf://gpt2");
        assert_eq!(shown("org/name"), "hf://org/name");
        assert_eq!(shown("src/config"), "file://src/config", "a folder of this crate, where tests run");
        for folder in ["name", "/org/name", "./org/name", "../org", "a/b/c"] {
            assert_eq!(shown(folder), format!("file://{folder}"));
        }
        let named = |source: &str| read(source, None).unwrap().name();
        assert_eq!((named("hf://org/name").as_deref(), named("/a/b").as_deref()), (Some("name"), Some("b")));
        let ModelSource::Hub(model) = read("org/name", Some("v1.0")).unwrap() else { panic!("no model of the hub") };
        assert_eq!(model.revision.as_str(), "v1.0");
    }

    #[test]
    fn what_is_wrong_is_named_as_it_was_said() {
        for (source, revision, part) in [
            ("hf://", None, "nothing follows hf://"),
            ("hf://a/b/c", None, "--model=hf://a/b/c: a model on the hub is called org/name"),
            ("hf://a/b@main", None, "by --revision"),
            ("hf://a/b", Some("../x"), "--revision=../x: a revision is"),
            ("/folder", Some("main"), "--revision=main but --model=/folder is no model of a hub"),
        ] {
            let told = read(source, revision).unwrap_err().to_string();
            assert!(told.contains(part), "{source}: {told}");
        }
    }
}
