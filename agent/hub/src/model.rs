//! The spelling of a model on a hub.

use std::fmt;
use std::path::{Component, Path};
use std::str::FromStr;

use lockstep_engine::source::{ModelChoice, is_gguf_name};

/// Longest part of a model's name, in bytes. The hub has the same bound.
const MAX_PART: usize = 96;
/// Longest name of a branch, tag or commit, in bytes.
const MAX_REVISION: usize = 256;
/// Longest name of a file, in bytes.
const MAX_NAME: usize = 512;
/// Longest tag, in bytes.
const MAX_TAG: usize = 128;
/// Tag that Ollama takes if a model is named without one.
const DEFAULT_TAG: &str = "latest";

/// A model's name on a hub: `org/name`, or only `name` for some of the oldest models.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Repository(String);

impl Repository {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Repository {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('/').collect();
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let part = |part: &&str| {
            let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
            (1..=MAX_PART).contains(&part.len())
                && part.chars().all(legal)
                && edge(part.chars().next())
                && edge(part.chars().next_back())
                // The cache names its folders with `--` between the parts.
                && !part.contains("--")
                && !part.contains("..")
        };
        match parts.len() {
            1 | 2 if parts.iter().all(part) => Ok(Self(text.to_owned())),
            _ => Err("a model on the hub is called org/name: give letters, digits, `-`, `_` and `.`"),
        }
    }
}

/// A branch, a tag or a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision(String);

impl Revision {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the revision if it is a whole commit. Such a revision never moves.
    pub fn commit(&self) -> Option<&str> {
        is_commit(&self.0).then_some(self.0.as_str())
    }
}

/// Returns true if `text` is a whole git commit: 40 hexadecimal digits in lower case.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

impl Default for Revision {
    fn default() -> Self {
        Self("main".to_owned())
    }
}

impl FromStr for Revision {
    type Err = &'static str;

    /// Accepts the names that git allows, except those that are unsafe in a path.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '+' | '=');
        let fits = (1..=MAX_REVISION).contains(&text.len()) && text.chars().all(legal);
        let part = |part: &str| !part.is_empty() && !part.starts_with(['.', '-']) && !part.contains("..");
        match fits && text.split('/').all(part) {
            true => Ok(Self(text.to_owned())),
            false => Err("a revision is a branch, a tag or a commit; give one, such as main"),
        }
    }
}

/// Returns true if a file of this name stays inside the model's folder.
pub(crate) fn is_file_name(name: &str) -> bool {
    let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    inside && (1..=MAX_NAME).contains(&name.len()) && !name.contains(char::is_control)
}

/// A requested model of a hub. It displays as the source that names it, without its revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubModel {
    pub repository: Repository,
    pub revision: Revision,
    /// Model among those of the repository.
    pub choice: ModelChoice,
}

impl FromStr for HubModel {
    type Err = &'static str;

    /// Parses `org/name`, `org/name:TAG` or `org/name/FOLDER/FILE.gguf`, with the usual revision. A file may also be given
    /// as a tag.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (repository, choice) = match text.match_indices('/').nth(1) {
            Some((end, _)) => (&text[..end], parse_file(&text[end + 1..])?),
            None => match text.split_once(':') {
                Some((repository, tag)) => (repository, parse_tag(tag)?),
                None => (text, ModelChoice::Usual),
            },
        };
        Ok(Self { repository: repository.parse()?, revision: Revision::default(), choice })
    }
}

fn parse_file(name: &str) -> Result<ModelChoice, &'static str> {
    match is_file_name(name) && is_gguf_name(name) {
        true => Ok(ModelChoice::File(name.to_owned())),
        false => Err("behind org/name comes a GGUF file: give org/name/FILE.gguf, or org/name alone"),
    }
}

fn parse_tag(tag: &str) -> Result<ModelChoice, &'static str> {
    if is_gguf_name(tag) {
        return parse_file(tag);
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match (1..=MAX_TAG).contains(&tag.len()) && tag.chars().all(legal) {
        true if tag.eq_ignore_ascii_case(DEFAULT_TAG) => Ok(ModelChoice::Usual),
        true => Ok(ModelChoice::Tag(tag.to_owned())),
        false => Err("a tag is a quantization such as Q4_K_M: give letters, digits, `-`, `_` and `.`"),
    }
}

impl fmt::Display for HubModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf://{}", self.repository)?;
        match &self.choice {
            ModelChoice::Usual => Ok(()),
            ModelChoice::Tag(tag) => write!(f, ":{tag}"),
            ModelChoice::File(name) if self.repository.as_str().contains('/') => write!(f, "/{name}"),
            ModelChoice::File(name) => write!(f, ":{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside_the_cache_and_the_url() {
        for good in ["org/name", "gpt2", "meta-llama/Llama-3.1-8B-Instruct", "a_b/c_d", "_a/b"] {
            assert!(good.parse::<Repository>().is_ok(), "{good}");
        }
        let long = format!("a/{}", "b".repeat(97));
        for bad in
            ["", "a/", "/a", "a/b/c", "a/..", "../a", "a/.b", "a b/c", "a/b--c", "a/b?c", "a/b%2f", "a\\b", &long]
        {
            assert!(bad.parse::<Repository>().is_err(), "{bad}");
        }
        for good in ["main", "v1.0", "refs/pr/1", "0123456789abcdef0123456789abcdef01234567"] {
            assert!(good.parse::<Revision>().is_ok(), "{good}");
        }
        for bad in ["", "..", "a/../b", "/a", "a//b", "a/", "-a", "a b", "a?b", "a%2fb", "a#b"] {
            assert!(bad.parse::<Revision>().is_err(), "{bad}");
        }
        let commit: Revision = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
        assert!(commit.commit().is_some() && Revision::default().commit().is_none());
    }

    #[test]
    fn a_source_may_name_one_model_of_a_repository() {
        let tag = |tag: &str| ModelChoice::Tag(tag.into());
        let file = |name: &str| ModelChoice::File(name.into());
        for (text, repository, choice) in [
            ("org/name", "org/name", ModelChoice::Usual),
            ("org/name:Latest", "org/name", ModelChoice::Usual),
            ("org/name:Q4_K_M", "org/name", tag("Q4_K_M")),
            ("gpt2:UD-IQ1_S", "gpt2", tag("UD-IQ1_S")),
            ("gpt2:a.gguf", "gpt2", file("a.gguf")),
            ("org/name:a-Q8_0.GGUF", "org/name", file("a-Q8_0.GGUF")),
            ("org/name/a.gguf", "org/name", file("a.gguf")),
            ("org/name/a b--c/d:e@f.gguf", "org/name", file("a b--c/d:e@f.gguf")),
        ] {
            let model: HubModel = text.parse().unwrap();
            assert_eq!((model.repository.as_str(), &model.choice), (repository, &choice), "{text}");
            let shown = model.to_string();
            assert_eq!(shown.strip_prefix("hf://").unwrap().parse::<HubModel>().unwrap(), model, "{shown}");
        }
        for (text, part) in [
            ("org/name/a", "behind org/name comes a GGUF file"),
            ("org/name/.gguf", "behind org/name"),
            ("org/name/../a.gguf", "behind org/name"),
            ("org/name//a.gguf", "behind org/name"),
            ("org/name/a.gguf/", "behind org/name"),
            ("org/name:", "a tag is a quantization"),
            ("org/name:Q4 K", "a tag is a quantization"),
            ("org/name:a:b", "a tag is a quantization"),
            ("org/name:Q8_0/a.gguf", "is called org/name"),
            (":Q8_0", "is called org/name"),
            ("a/b@main", "is called org/name"),
        ] {
            let problem = text.parse::<HubModel>().unwrap_err();
            assert!(problem.contains(part), "{text}: {problem}");
        }
    }
}
