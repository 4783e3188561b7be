//! The spelling of a model on a hub.

use std::fmt;
use std::str::FromStr;

/// Longest part of a model's name, in bytes. The hub has the same bound.
const MAX_PART: usize = 96;
/// Longest name of a branch, tag or commit, in bytes.
const MAX_REVISION: usize = 256;

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

/// A requested model of a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubModel {
    pub repository: Repository,
    pub revision: Revision,
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
}
