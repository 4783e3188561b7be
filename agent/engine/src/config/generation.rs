//! `generation_config.json`: values that the model's makers suggest for options that a client leaves out.

use lockstep_schedule::plan::SamplingDefaults;
use serde::Deserialize;

use super::ModelConfig;
use super::raw::TokenIds;
use crate::EngineError;
use crate::json;
use crate::source::ModelFiles;

/// Name of the file; it may be absent.
pub const GENERATION_FILE: &str = "generation_config.json";

/// Largest temperature and repetition penalty that a request may have. A larger suggestion is ignored.
const MAX_FACTOR: f32 = 100.0;

/// Defaults for requests.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerationDefaults {
    /// Tokens that end an answer: those of this file and those of `config.json`.
    pub eos_token_ids: Vec<u32>,
    /// Sampling options. A file that suggests greedy decoding (`do_sample: false`) has temperature 0.
    pub sampling: SamplingDefaults,
}

#[derive(Deserialize, Default)]
struct RawGeneration {
    eos_token_id: Option<TokenIds>,
    do_sample: Option<bool>,
    temperature: Option<f32>,
    top_k: Option<WholeNumber>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
}

/// A whole number, which some tools write with a point.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged, expecting = "a whole number")]
enum WholeNumber {
    Integer(i64),
    Float(f64),
}

impl WholeNumber {
    /// Returns the number; 0 for a negative one, which means "all" as 0 does.
    fn or_zero(self) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "the cast saturates")]
        let number = match self {
            Self::Integer(number) => number,
            Self::Float(number) => number as i64,
        };
        u32::try_from(number.max(0)).unwrap_or(u32::MAX)
    }
}

impl GenerationDefaults {
    /// Reads the file. Its end tokens come before those of `config.json`.
    ///
    /// # Errors
    /// [`EngineError::Format`] for a malformed file.
    pub fn from_files(files: &dyn ModelFiles, config: &ModelConfig) -> Result<Self, EngineError> {
        let raw: RawGeneration = match files.read_all(GENERATION_FILE)? {
            Some(text) => json::parse(GENERATION_FILE, &text)?,
            None => RawGeneration::default(),
        };
        let sampled = raw.do_sample != Some(false);
        let mut eos_token_ids = raw.eos_token_id.map_or_else(Vec::new, |ids| ids.all());
        for id in &config.eos_token_ids {
            if !eos_token_ids.contains(id) {
                eos_token_ids.push(*id);
            }
        }
        Ok(Self {
            eos_token_ids,
            sampling: SamplingDefaults {
                temperature: if sampled {
                    raw.temperature.filter(|t| (0.0..=MAX_FACTOR).contains(t))
                } else {
                    Some(0.0)
                },
                top_k: raw.top_k.filter(|_| sampled).map(WholeNumber::or_zero),
                top_p: raw.top_p.filter(|p| sampled && *p > 0.0 && *p <= 1.0),
                min_p: raw.min_p.filter(|p| sampled && (0.0..=1.0).contains(p)),
                repetition_penalty: raw.repetition_penalty.filter(|penalty| *penalty > 0.0 && *penalty <= MAX_FACTOR),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::open;

    fn parse_file(json: Option<&str>) -> Result<GenerationDefaults, EngineError> {
        let model = fixture::tiny_llama();
        if let Some(json) = json {
            model.write(GENERATION_FILE, json.as_bytes());
        }
        let files = open(model.source()).unwrap();
        GenerationDefaults::from_files(files.as_ref(), &ModelConfig::from_files(files.as_ref()).unwrap())
    }

    #[test]
    fn the_file_overrides_the_configuration() {
        let absent = parse_file(None).unwrap();
        assert_eq!((absent.eos_token_ids.as_slice(), absent.sampling.temperature), ([2].as_slice(), None));
        let greedy = parse_file(Some(r#"{"do_sample": false, "temperature": 0.6, "eos_token_id": 7}"#)).unwrap();
        assert_eq!((greedy.eos_token_ids.as_slice(), greedy.sampling.temperature), ([7, 2].as_slice(), Some(0.0)));
        let sampled = parse_file(Some(
            r#"{"do_sample": true, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "eos_token_id": [7, 8],
                "min_p": 0.05, "repetition_penalty": 1.1}"#,
        ));
        let sampled = sampled.unwrap();
        assert_eq!((sampled.sampling.min_p, sampled.sampling.repetition_penalty), (Some(0.05), Some(1.1)));
        assert_eq!(
            (sampled.sampling.temperature, sampled.sampling.top_p, sampled.sampling.top_k),
            (Some(0.6), Some(0.9), Some(20))
        );
        assert_eq!(sampled.eos_token_ids, [7, 8, 2]);
        for (text, top_k) in [(r#"{"top_k": -1}"#, 0), (r#"{"top_k": 50.0}"#, 50)] {
            assert_eq!(parse_file(Some(text)).unwrap().sampling.top_k, Some(top_k), "{text}");
        }
        let odd =
            parse_file(Some(r#"{"eos_token_id": [-1, 7], "temperature": 1e9, "repetition_penalty": 101}"#)).unwrap();
        assert_eq!((odd.eos_token_ids, odd.sampling), (vec![7, 2], SamplingDefaults::default()));
        let message = parse_file(Some(r#"{"top_k": "many"}"#)).unwrap_err().to_string();
        assert!(message.contains("generation_config.json: `top_k`: a whole number"), "{message}");
        assert!(parse_file(Some("{")).unwrap_err().to_string().starts_with("generation_config.json"));
    }
}
