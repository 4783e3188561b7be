//! Tags of GGUF files: the quantization that a file's name spells, as llama.cpp and Ollama let users ask for it.

use super::SplitName;

/// Formats whose names have no variants.
const FLOATS: [&str; 8] = ["F32", "F16", "BF16", "FP32", "FP16", "FP8", "MXFP4", "NVFP4"];
/// Parts that may follow the first part of a quantization's name, beside digits.
const VARIANTS: [&str; 10] = ["K", "S", "M", "L", "XL", "XS", "XXS", "NL", "P", "MOE"];
/// Mark before the tag of a file whose tensors have different formats, chosen one by one.
const DYNAMIC: &str = "UD-";

/// Returns the tag in the path of a GGUF file: `Q4_K_M`, `UD-Q4_K_XL`, `BF16`. The name of the file counts before the
/// names of its folders.
pub(super) fn find_tag(path: &str) -> Option<String> {
    stem(path).rsplit('/').find_map(tag_of_name).map(str::to_owned)
}

/// Returns true if the path of a GGUF file has `tag` as a whole word, in any case.
pub(super) fn has_word(path: &str, tag: &str) -> bool {
    let (path, tag) = (stem(path).to_ascii_lowercase(), tag.to_ascii_lowercase());
    let ends = |c: Option<char>| c.is_none_or(|c| matches!(c, '-' | '.' | '_' | '/'));
    path.match_indices(&tag)
        .any(|(at, word)| ends(path[..at].chars().next_back()) && ends(path[at + word.len()..].chars().next()))
}

/// Returns the path without the number of the part and without `.gguf`.
fn stem(path: &str) -> &str {
    match SplitName::parse(path) {
        Some(split) => split.name,
        None => path.rsplit_once('.').map_or(path, |(stem, _)| stem),
    }
}

/// Returns the last tag in a name.
fn tag_of_name(name: &str) -> Option<&str> {
    let after_delimiter = name.match_indices(['-', '.', '_']).map(|(at, _)| at + 1);
    let starts: Vec<usize> = std::iter::once(0).chain(after_delimiter).collect();
    starts.into_iter().rev().find_map(|start| {
        let end = start + tag_length(&name[start..])?;
        Some(&name[start - dynamic_length(&name[..start])..end])
    })
}

/// Returns the length of the tag that `text` begins with.
fn tag_length(text: &str) -> Option<usize> {
    let words = &text[..text.find(['-', '.']).unwrap_or(text.len())];
    let mut words = words.split('_');
    let first = words.next()?;
    let is_any_of = |word: &str, names: &[&str]| names.iter().any(|name| name.eq_ignore_ascii_case(word));
    let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let bits = first.strip_prefix(['i', 'I', 't', 'T']).unwrap_or(first).strip_prefix(['q', 'Q']);
    if !is_any_of(first, &FLOATS) && !bits.is_some_and(are_digits) {
        return None;
    }
    let variants = words.take_while(|word| are_digits(word) || is_any_of(word, &VARIANTS));
    Some(first.len() + variants.map(|variant| 1 + variant.len()).sum::<usize>())
}

/// Returns the length of the mark of dynamic formats at the end of `before`, or 0.
fn dynamic_length(before: &str) -> usize {
    let Some(start) = before.len().checked_sub(DYNAMIC.len()) else { return 0 };
    let is_mark = before.get(start..).is_some_and(|mark| mark.eq_ignore_ascii_case(DYNAMIC));
    let is_word = start == 0 || before[..start].ends_with(['-', '.', '_']);
    if is_mark && is_word { DYNAMIC.len() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of published files, and their tags.
    #[test]
    fn a_tag_is_found_in_the_name() {
        for (path, tag) in [
            ("Llama-3.2-3B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
            ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
            ("smollm2-1.7b-instruct-q4_k_m.gguf", "q4_k_m"),
            ("mistral_7b_instruct_Q8_0.gguf", "Q8_0"),
            ("Qwen3-8B-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
            ("X.i1-IQ3_XXS.gguf", "IQ3_XXS"),
            ("X-IQ4_NL.gguf", "IQ4_NL"),
            ("X-TQ1_0.gguf", "TQ1_0"),
            ("X-Q4_0_4_4.gguf", "Q4_0_4_4"),
            ("X-Q6_K_L.gguf", "Q6_K_L"),
            ("gpt-oss-20b-mxfp4.gguf", "mxfp4"),
            ("X-MXFP4_MOE.gguf", "MXFP4_MOE"),
            ("Phi-3-mini-4k-instruct-fp16.gguf", "fp16"),
            ("ggml-model-f16.gguf", "f16"),
            ("X-Q8_0-00001-of-00002.gguf", "Q8_0"),
            ("BF16/X-00001-of-00009.gguf", "BF16"),
            ("Q4_K_M/X-Q5_K_M.gguf", "Q5_K_M"),
            ("Q2_K.gguf", "Q2_K"),
        ] {
            assert_eq!(find_tag(path).as_deref(), Some(tag), "{path}");
        }
        for path in ["model.gguf", "Qwen3-8B.gguf", "quick-q.gguf", "X-F16emb.gguf", "é-ü.gguf", "sub/model.gguf"] {
            assert_eq!(find_tag(path), None, "{path}");
        }
    }

    #[test]
    fn a_word_ends_at_delimiters() {
        for (path, tag, expected) in [
            ("X-Q4_K_M.gguf", "q4_k_m", true),
            ("X-Q4_K_M.gguf", "Q4_K", true),
            ("X-Q4_K_M.gguf", "4_K_M", false),
            ("X-IQ4_XS.gguf", "Q4_XS", false),
            ("Q8_0/X-00001-of-00002.gguf", "Q8_0", true),
            ("X-Q8_0.gguf", "gguf", false),
            ("X-Q8_0-00001-of-00002.gguf", "00002", false),
        ] {
            assert_eq!(has_word(path, tag), expected, "{path} {tag}");
        }
    }
}
