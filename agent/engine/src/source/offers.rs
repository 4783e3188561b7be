//! Models that a folder or a repository offers: GGUF files by their tags, and a checkpoint in safetensors.
//!
//! Names and sizes of files go in, and a choice or a refusal comes out. Only [`Offers::in_folder`] reads a folder.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use super::index::{INDEX_FILE, SINGLE_FILE};
use super::{SplitName, tag};
use crate::EngineError;

/// Tags that are looked for if a source names none, in order. llama.cpp looks for the same.
const USUAL_TAGS: [&str; 2] = ["Q4_K_M", "Q8_0"];
/// Parts of the names of GGUF files that accompany a model and are none: projectors, statistics, draft models.
const COMPANIONS: [&str; 6] = ["mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-"];
/// Most models that an error lists.
const MAX_LISTED: usize = 40;

/// Model that a source names among several.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ModelChoice {
    /// The checkpoint. Without one, the GGUF file of a usual quantization, or the only one.
    #[default]
    Usual,
    /// The GGUF file with this quantization in its name.
    Tag(String),
    /// The GGUF file of this name, or the model whose first part it is.
    File(String),
}

/// A model in one GGUF file or in several parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufOffer {
    /// Quantization as the name of the file spells it. `None`: the name has none.
    pub tag: Option<String>,
    /// Names of the parts that are there, in order.
    pub parts: Vec<String>,
    /// Number of parts of the whole model.
    pub count: usize,
    /// Bytes of the parts that are there.
    pub bytes: u64,
}

/// A checkpoint in safetensors.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Checkpoint {
    /// File that stands for it: the weights, or their index.
    file: &'static str,
    /// Number of files with weights.
    count: usize,
    bytes: u64,
}

/// All models of a folder or repository. Displays as a list in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offers {
    /// Models in GGUF, the smallest first.
    ggufs: Vec<GgufOffer>,
    checkpoint: Option<Checkpoint>,
}

impl Offers {
    /// Finds the models among files, which come with their sizes.
    pub fn from_files<'a>(files: impl IntoIterator<Item = (&'a str, u64)>) -> Self {
        let files: BTreeMap<&str, u64> = files.into_iter().collect();
        let mut models: BTreeMap<String, GgufOffer> = BTreeMap::new();
        for (name, size) in files.iter().filter(|(name, _)| is_gguf_name(name) && !is_companion(name)) {
            let split = SplitName::parse(name);
            let first = split.map_or_else(|| (*name).to_owned(), |split| split.name_part(1));
            let model = models.entry(first).or_insert_with(|| GgufOffer {
                tag: tag::find_tag(name),
                parts: Vec::new(),
                count: split.map_or(1, |split| split.count),
                bytes: 0,
            });
            model.parts.push((*name).to_owned());
            model.bytes = model.bytes.saturating_add(*size);
        }
        let mut ggufs: Vec<GgufOffer> = models.into_values().collect();
        ggufs.sort_by_key(|model| model.bytes);
        Self { ggufs, checkpoint: find_checkpoint(&files) }
    }

    /// Finds the models among the files of a folder, not of its folders.
    ///
    /// # Errors
    /// The operating system's.
    pub fn in_folder(folder: &Path) -> std::io::Result<Self> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            // A link that leads nowhere is no file.
            let Ok(metadata) = std::fs::metadata(entry.path()) else { continue };
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                files.push((name, metadata.len()));
            }
        }
        Ok(Self::from_files(files.iter().map(|(name, size)| (name.as_str(), *size))))
    }

    /// Returns the models in GGUF, the smallest first.
    pub fn ggufs(&self) -> &[GgufOffer] {
        &self.ggufs
    }

    /// Returns true if there is a checkpoint in safetensors.
    pub fn has_checkpoint(&self) -> bool {
        self.checkpoint.is_some()
    }

    /// Returns the GGUF file that `choice` names; `None`: the checkpoint, or what stands in its place.
    ///
    /// # Errors
    /// [`EngineError::Source`] with the list of all models, if no model or several fit, or if a part is missing. `source`
    /// is the name of the folder or repository.
    pub fn choose(&self, source: &str, choice: &ModelChoice) -> Result<Option<&GgufOffer>, EngineError> {
        let chosen = match choice {
            ModelChoice::Usual if self.checkpoint.is_some() || self.ggufs.is_empty() => return Ok(None),
            ModelChoice::Usual => self.choose_usual(),
            ModelChoice::Tag(tag) => self.choose_by_tag(tag),
            ModelChoice::File(name) => self.choose_by_name(name),
        };
        let whole = chosen.and_then(|model| model.find_missing_part().map_or(Ok(model), Err));
        whole.map(Some).map_err(|reason| self.refuse(source, &reason))
    }

    /// Returns the refusal of a source, with the list of all models.
    pub fn refuse(&self, source: &str, reason: &str) -> EngineError {
        EngineError::Source { origin: source.into(), reason: format!("{reason}; it offers {self}") }
    }

    fn choose_usual(&self) -> Result<&GgufOffer, String> {
        for tag in USUAL_TAGS {
            match self.with_tag(tag)[..] {
                [] => {}
                [model] => return Ok(model),
                _ => return Err(format!("several GGUF files have the usual tag {tag}: name a file")),
            }
        }
        match &self.ggufs[..] {
            [model] => Ok(model),
            _ => Err(format!(
                "it holds several GGUF files, and none with a usual tag ({}): name a tag or a file",
                USUAL_TAGS.join(", ")
            )),
        }
    }

    fn choose_by_tag(&self, tag: &str) -> Result<&GgufOffer, String> {
        match self.with_tag(tag)[..] {
            [model] => Ok(model),
            [] => Err(format!("no GGUF file has the tag {tag}: name another tag, or a file")),
            _ => Err(format!("several GGUF files have the tag {tag}: name a whole tag, or a file")),
        }
    }

    /// Returns the models with exactly this tag. If there is none, returns those with the tag as a word in their path.
    fn with_tag(&self, tag: &str) -> Vec<&GgufOffer> {
        let has_tag = |model: &&GgufOffer| model.tag.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(tag));
        let exact: Vec<_> = self.ggufs.iter().filter(has_tag).collect();
        match exact.is_empty() {
            true => self.ggufs.iter().filter(|model| tag::has_word(model.first_part(), tag)).collect(),
            false => exact,
        }
    }

    fn choose_by_name(&self, name: &str) -> Result<&GgufOffer, String> {
        let Some(model) = self.ggufs.iter().find(|model| model.parts.iter().any(|part| part == name)) else {
            let companion = format!("{name} accompanies a model and is none: name the model's own file");
            return Err(if is_companion(name) {
                companion
            } else {
                format!("it has no GGUF file {name}: name another")
            });
        };
        match SplitName::parse(name) {
            Some(split) => split.all_parts().map(|_| model),
            None => Ok(model),
        }
    }

    /// Lists all models in lines.
    pub fn to_table(&self) -> String {
        let mut rows = vec![["TAG", "SIZE", "PARTS", "FILE"].map(str::to_owned)];
        for model in &self.ggufs {
            let tag = model.tag.clone().unwrap_or_else(|| "-".into());
            rows.push([tag, format_bytes(model.bytes), model.describe_parts(), model.first_part().to_owned()]);
        }
        if let Some(Checkpoint { file, count, bytes }) = &self.checkpoint {
            rows.push(["safetensors".into(), format_bytes(*bytes), count.to_string(), (*file).to_owned()]);
        }
        let widths = [0, 1, 2].map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or_default());
        let line = |[tag, size, parts, file]: &[String; 4]| {
            format!("{tag:<0$}  {size:>1$}  {parts:>2$}  {file}\n", widths[0], widths[1], widths[2])
        };
        match rows.len() {
            1 => "no model: neither a GGUF file nor a checkpoint in safetensors\n".into(),
            _ => rows.iter().map(line).collect(),
        }
    }

    /// Describes the model that [`ModelChoice::Usual`] means.
    pub fn describe_usual(&self) -> &str {
        match (self.choose("", &ModelChoice::Usual), self.has_checkpoint()) {
            (Ok(Some(model)), _) => model.first_part(),
            (Ok(None), true) => "the checkpoint in safetensors",
            (Ok(None), false) | (Err(_), _) => "none",
        }
    }
}

impl fmt::Display for Offers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ggufs = self.ggufs.iter().map(ToString::to_string);
        let checkpoint = self.checkpoint.iter().map(|checkpoint| {
            let files = if checkpoint.count == 1 { String::new() } else { format!(" in {} files", checkpoint.count) };
            format!("a checkpoint in safetensors ({}{files})", format_bytes(checkpoint.bytes))
        });
        let mut listed: Vec<String> = ggufs.chain(checkpoint).collect();
        let others = listed.len().saturating_sub(MAX_LISTED);
        listed.truncate(MAX_LISTED);
        match (listed.is_empty(), others) {
            (true, _) => f.write_str("no model"),
            (false, 0) => f.write_str(&listed.join(", ")),
            (false, others) => write!(f, "{} and {others} more (--list-files prints all)", listed.join(", ")),
        }
    }
}

impl GgufOffer {
    /// Returns the name of the file, or of the first part that is there.
    pub fn first_part(&self) -> &str {
        self.parts.first().map_or("", String::as_str)
    }

    /// Returns the reason why the model is not whole: a part is missing.
    fn find_missing_part(&self) -> Option<String> {
        let split = SplitName::parse(self.first_part())?;
        let missing = (1..=self.count).map(|index| split.name_part(index)).find(|name| !self.parts.contains(name))?;
        Some(format!("{} of the {} parts are there, and {missing} is missing", self.parts.len(), self.count))
    }

    fn describe_parts(&self) -> String {
        match self.parts.len() == self.count {
            true => self.count.to_string(),
            false => format!("{} of {}", self.parts.len(), self.count),
        }
    }
}

/// Displays as `Q8_0 (8.5 GB in 2 parts, FILE)`, or as `FILE (8.5 GB)` without a tag.
impl fmt::Display for GgufOffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = match self.count {
            1 => format_bytes(self.bytes),
            _ => format!("{} in {} parts", format_bytes(self.bytes), self.describe_parts()),
        };
        match &self.tag {
            Some(tag) => write!(f, "{tag} ({size}, {})", self.first_part()),
            None => write!(f, "{} ({size})", self.first_part()),
        }
    }
}

/// Returns true if the name of a file ends as those of GGUF files do.
pub fn is_gguf_name(name: &str) -> bool {
    name.len() > 5 && name.get(name.len() - 5..).is_some_and(|end| end.eq_ignore_ascii_case(".gguf"))
}

/// Returns true for a GGUF file that accompanies a model: a multimodal projector, statistics for a quantizer, a draft model.
fn is_companion(name: &str) -> bool {
    let name = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    COMPANIONS.iter().any(|part| name.contains(part))
}

fn find_checkpoint(files: &BTreeMap<&str, u64>) -> Option<Checkpoint> {
    let file = [SINGLE_FILE, INDEX_FILE].into_iter().find(|file| files.contains_key(file))?;
    let are_weights = |name: &str| match file {
        SINGLE_FILE => name == SINGLE_FILE,
        _ => name.starts_with("model") && name.ends_with(".safetensors") && !name.contains('/'),
    };
    let sizes: Vec<u64> = files.iter().filter(|(name, _)| are_weights(name)).map(|(_, size)| *size).collect();
    Some(Checkpoint { file, count: sizes.len(), bytes: sizes.iter().fold(0, |sum, size| sum.saturating_add(*size)) })
}

/// Formats a number of bytes for people.
pub fn format_bytes(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes.div_ceil(1000)),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    fn offers(names: &[&str]) -> Offers {
        Offers::from_files(names.iter().zip(1..).map(|(name, size)| (*name, size * MB)))
    }

    fn parse_choice(text: &str) -> ModelChoice {
        match text {
            "" => ModelChoice::Usual,
            file if is_gguf_name(file) => ModelChoice::File(file.into()),
            tag => ModelChoice::Tag(tag.into()),
        }
    }

    /// Files of a repository, a choice, and the first part of the chosen model, `checkpoint`, or a part of the error.
    #[test]
    fn a_model_is_chosen_by_tag_by_name_or_by_the_usual_order() {
        let quants: &[&str] = &["X-IQ4_XS.gguf", "X-Q4_0.gguf", "X-Q4_0_4_4.gguf", "X-Q4_K_M.gguf", "X-Q4_K_S.gguf"];
        let parts: &[&str] = &["Q8_0/X-Q8_0-00001-of-00002.gguf", "Q8_0/X-Q8_0-00002-of-00002.gguf", "X-UD-Q2_K.gguf"];
        let mixed: &[&str] = &["model.safetensors", "X-Q8_0.gguf", "config.json"];
        let twins: &[&str] = &["A-Q4_K_M.gguf", "B-Q4_K_M.gguf", "mmproj-Q4_K_M.gguf", "imatrix-Q4_K_M.gguf"];
        let cut: &[&str] = &["X-F16-00001-of-00003.gguf", "X-F16-00003-of-00003.gguf"];
        let odd: &[&str] = &["A-F16.gguf", "B.gguf", "mtp-X-Q8_0.gguf"];
        let cases: &[(&[&str], &str, Result<&str, &str>)] = &[
            (quants, "", Ok("X-Q4_K_M.gguf")),
            (quants, "q4_k_m", Ok("X-Q4_K_M.gguf")),
            (quants, "Q4_0", Ok("X-Q4_0.gguf")),
            (quants, "IQ4_XS", Ok("X-IQ4_XS.gguf")),
            (quants, "Q4_XS", Err("no GGUF file has the tag Q4_XS: name another tag")),
            (quants, "Q4_K", Err("several GGUF files have the tag Q4_K")),
            (quants, "X-Q4_0_4_4.gguf", Ok("X-Q4_0_4_4.gguf")),
            (quants, "Y.gguf", Err("it has no GGUF file Y.gguf")),
            (parts, "", Ok("Q8_0/X-Q8_0-00001-of-00002.gguf")),
            (parts, "UD-Q2_K", Ok("X-UD-Q2_K.gguf")),
            (parts, "Q2_K", Ok("X-UD-Q2_K.gguf")),
            (parts, "Q8_0/X-Q8_0-00001-of-00002.gguf", Ok("Q8_0/X-Q8_0-00001-of-00002.gguf")),
            (parts, "Q8_0/X-Q8_0-00002-of-00002.gguf", Err("name the first, Q8_0/X-Q8_0-00001-of-00002.gguf")),
            (mixed, "", Ok("checkpoint")),
            (mixed, "Q8_0", Ok("X-Q8_0.gguf")),
            (twins, "", Err("several GGUF files have the usual tag Q4_K_M: name a file")),
            (twins, "B-Q4_K_M.gguf", Ok("B-Q4_K_M.gguf")),
            (twins, "mmproj-Q4_K_M.gguf", Err("mmproj-Q4_K_M.gguf accompanies a model and is none")),
            (cut, "", Err("2 of the 3 parts are there, and X-F16-00002-of-00003.gguf is missing")),
            (odd, "", Err("none with a usual tag (Q4_K_M, Q8_0)")),
            (odd, "f16", Ok("A-F16.gguf")),
            (&["B.gguf"], "", Ok("B.gguf")),
            (&["config.json"], "", Ok("checkpoint")),
            (
                &["config.json"],
                "Q8_0",
                Err("no GGUF file has the tag Q8_0: name another tag, or a file; it offers no model"),
            ),
        ];
        for (files, choice, expected) in cases {
            let offers = offers(files);
            match (offers.choose("hf://o/n", &parse_choice(choice)), expected) {
                (Ok(model), Ok(first)) => assert_eq!(model.map_or("checkpoint", GgufOffer::first_part), *first),
                (Err(error), Err(part)) => {
                    let message = error.to_string();
                    assert!(message.contains(part) && message.contains(&format!("offers {offers}")), "{message}");
                }
                (got, expected) => panic!("{files:?} {choice}: {got:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn the_list_has_tags_sizes_and_parts() {
        let offers = offers(&["X-Q8_0.gguf", "X-BF16-00001-of-00002.gguf", "model.safetensors", "other.gguf"]);
        assert_eq!(
            offers.to_string(),
            "Q8_0 (1.0 MB, X-Q8_0.gguf), BF16 (2.0 MB in 1 of 2 parts, X-BF16-00001-of-00002.gguf), other.gguf (4.0 MB), \
             a checkpoint in safetensors (3.0 MB)"
        );
        let table = "TAG            SIZE   PARTS  FILE\n\
                     Q8_0         1.0 MB       1  X-Q8_0.gguf\n\
                     BF16         2.0 MB  1 of 2  X-BF16-00001-of-00002.gguf\n\
                     -            4.0 MB       1  other.gguf\n\
                     safetensors  3.0 MB       1  model.safetensors\n";
        assert_eq!(offers.to_table(), table);
        assert_eq!(offers.describe_usual(), "the checkpoint in safetensors");
        let names: Vec<String> = (0..50).map(|index| format!("X{index}.gguf")).collect();
        let many = Offers::from_files(names.iter().map(|name| (name.as_str(), 1))).to_string();
        assert!(many.ends_with("and 10 more (--list-files prints all)"), "{many}");
        assert!(Offers::from_files([("a", 1)]).to_table().starts_with("no model"));
        let usual =
            |names: &[&str]| Offers::from_files(names.iter().map(|name| (*name, 1))).describe_usual().to_owned();
        assert_eq!((usual(&["a.gguf"]), usual(&["a.gguf", "b.gguf"])), ("a.gguf".into(), "none".into()));
    }
}
