//! Flags of vLLM and llama.cpp that say the same in other words: their values are translated.

use std::ffi::OsString;

use super::error::ConfigError;

const COMMANDS: [&str; 3] = ["plain", "bench", "node"];

/// Translates a command line.
///
/// # Errors
/// The value of a translated flag is wrong.
pub(super) fn translate(argv: Vec<OsString>) -> Result<Vec<OsString>, ConfigError> {
    let mut words = argv.into_iter().peekable();
    let mut translated = Vec::new();
    while let Some(word) = words.next() {
        let text = word.to_str().unwrap_or_default();
        let (flag, value) = text.split_once('=').map_or((text, None), |(flag, value)| (flag, Some(value.to_owned())));
        match flag {
            "--" => {
                translated.push(word);
                translated.extend(words);
                break;
            }
            "--gpu-memory-utilization" => {
                let value = value.or_else(|| words.next()?.into_string().ok()).unwrap_or_default();
                translated.push(format!("--kv-cache-memory={}", percent(flag, &value)?).into());
            }
            // vLLM takes several names as several words.
            "--served-model-name" if value.is_none() => {
                let mut names: Vec<String> = Vec::new();
                while let Some(name) = words.next_if(|next| names.is_empty() || is_value(next)) {
                    names.push(name.to_string_lossy().into_owned());
                }
                translated.push(word);
                translated.extend((!names.is_empty()).then(|| names.join(",").into()));
            }
            "-np" => translated.push("--max-seqs".into()),
            "-tp" => translated.push("--tensor-parallel-size".into()),
            "-pp" => translated.push("--pipeline-parallel-size".into()),
            _ => translated.push(word),
        }
    }
    Ok(translated)
}

/// Returns true for a word that is neither a flag nor a command.
fn is_value(word: &OsString) -> bool {
    word.to_str().is_some_and(|word| !word.starts_with('-') && !COMMANDS.contains(&word))
}

/// Returns a share from 0 to 1 as `N%`.
fn percent(flag: &str, value: &str) -> Result<String, ConfigError> {
    let share = value.parse::<f64>().ok().filter(|share| *share > 0.0 && *share <= 1.0);
    let share = share.ok_or_else(|| ConfigError::invalid(flag, value, "give a share above 0 to 1, such as 0.9"))?;
    Ok(format!("{}%", ((share * 100.0).round() as u32).max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_spellings_are_translated() {
        let rows = [
            ("a plain -m x --gpu-memory-utilization 0.9 -i", "a plain -m x --kv-cache-memory=90% -i"),
            ("a --gpu-memory-utilization=0.85 plain", "a --kv-cache-memory=85% plain"),
            ("a --served-model-name b c plain -m x", "a --served-model-name b,c plain -m x"),
            ("a plain --served-model-name b c -m x", "a plain --served-model-name b,c -m x"),
            ("a plain --served-model-name=b,c", "a plain --served-model-name=b,c"),
            ("a plain -tp 2 -pp 3 -np 4", "a plain --tensor-parallel-size 2 --pipeline-parallel-size 3 --max-seqs 4"),
            ("a plain -- -tp", "a plain -- -tp"),
        ];
        for (typed, expected) in rows {
            let argv = typed.split(' ').map(OsString::from).collect();
            assert_eq!(translate(argv).unwrap().join(" ".as_ref()), OsString::from(expected), "{typed}");
        }
        for value in ["90", "0", "x", ""] {
            let argv = vec!["--gpu-memory-utilization".into(), value.into()];
            assert!(translate(argv).unwrap_err().to_string().contains("such as 0.9"), "{value}");
        }
    }
}
