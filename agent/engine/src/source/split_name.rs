//! Names of GGUF files that are parts of one model.

/// Name of a part as llama.cpp writes it: `NAME-00002-of-00005.gguf`. It may begin with folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SplitName<'a> {
    pub name: &'a str,
    /// Number of the part, from 1.
    pub index: usize,
    pub count: usize,
}

impl<'a> SplitName<'a> {
    pub(crate) fn parse(file: &'a str) -> Option<Self> {
        let (rest, count) = file.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (name, index) = rest.rsplit_once('-')?;
        let number = |text: &str| (text.len() == 5).then(|| text.parse::<usize>().ok()).flatten();
        let (index, count) = (number(index)?, number(count)?);
        (1..=count).contains(&index).then_some(Self { name, index, count })
    }

    /// Returns the name of part `index` of the same model.
    pub(crate) fn name_part(&self, index: usize) -> String {
        format!("{}-{index:05}-of-{:05}.gguf", self.name, self.count)
    }

    /// Returns the names of all parts of the same model, in order.
    ///
    /// # Errors
    /// The reason why this part does not stand for the model: it is not the first.
    pub(crate) fn all_parts(&self) -> Result<Vec<String>, String> {
        match self.index {
            1 => Ok((1..=self.count).map(|index| self.name_part(index)).collect()),
            _ => Err(format!("it is a part of several; name the first, {}", self.name_part(1))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts_are_parsed() {
        let parse = |file| SplitName::parse(file).map(|split| (split.index, split.count, split.name_part(1)));
        assert_eq!(parse("a-b-00002-of-00003.gguf"), Some((2, 3, "a-b-00001-of-00003.gguf".into())));
        assert_eq!(parse("q/a-00001-of-00001.gguf"), Some((1, 1, "q/a-00001-of-00001.gguf".into())));
        for other in ["a.gguf", "a-2-of-3.gguf", "a-00004-of-00003.gguf", "a-00000-of-00003.gguf", "a-00001-of-00003"] {
            assert_eq!(parse(other), None, "{other}");
        }
        let parts = |file| SplitName::parse(file).unwrap().all_parts();
        assert_eq!(parts("a-00001-of-00002.gguf").unwrap(), ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"]);
        assert!(parts("a-00002-of-00002.gguf").unwrap_err().contains("name the first, a-00001-of-00002.gguf"));
    }
}
