//! Beam searches, and log-probabilities of the whole vocabulary.

use serde_json::json;

use crate::common::*;
use crate::fields::{chunks, post};
use crate::http::{COMPLETIONS, Client};

#[tokio::test]
async fn a_beam_search_is_a_request_a_step() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    // The script finds the prompt's first token likeliest everywhere, and then x.
    let beams = json!({"prompt": ["ab", "c"], "n": 2, "use_beam_search": true, "max_tokens": 3, "logprobs": 1});
    let answer = post(&client, COMPLETIONS, &beams).await.body;
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 4, "{answer}");
    assert!(choices.iter().all(|choice| choice["finish_reason"] == "length"), "{answer}");
    assert!(choices[0]["text"] == "aaa" && choices[2]["text"] == "ccc", "{answer}");
    assert_eq!(choices[1]["text"].as_str().unwrap().matches('x').count(), 1, "{answer}");
    assert_eq!(choices[0]["logprobs"]["top_logprobs"][2].as_object().unwrap().len(), 1);
    assert_eq!(answer["usage"]["prompt_tokens"], 3);
    assert_eq!(answer["usage"]["completion_tokens"], 4 * 3);
    let mut seen: Vec<(usize, u32)> =
        endpoint.seen.lock().unwrap().iter().map(|step| (step.prompt.len(), step.max_tokens)).collect();
    seen.sort_unstable();
    assert_eq!(seen, [(1, 1), (2, 1), (2, 1), (2, 1), (3, 1), (3, 1), (3, 1), (3, 1), (4, 1), (4, 1)]);

    let streamed = json!({"prompt": "ab", "n": 2, "use_beam_search": true, "max_tokens": 3, "stream": true});
    let chunks = chunks(&client, COMPLETIONS, &streamed).await;
    let text = |index: u64| -> String {
        let own = chunks.iter().map(|chunk| &chunk["choices"][0]).filter(|choice| choice["index"] == index);
        own.map(|choice| choice["text"].as_str().unwrap()).collect()
    };
    assert_eq!((json!(text(0)), json!(text(1))), (choices[0]["text"].clone(), choices[1]["text"].clone()));
}

#[tokio::test]
async fn the_whole_vocabulary_is_reported() {
    let endpoint = start().await;
    let client = Client::new(&endpoint);
    let all =
        json!({"prompt": ["ab", "cd"], "n": 2, "logprobs": -1, "max_tokens": 2, "return_tokens_as_token_ids": true});
    let answer = post(&client, COMPLETIONS, &all).await.body;
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 4, "{answer}");
    let seen: Vec<Option<u32>> = endpoint.seen.lock().unwrap().iter().map(|seen| seen.sampling.logprobs).collect();
    assert_eq!(seen, [Some(BYTE_LEVEL_VOCAB); 4]);
    for choice in choices {
        let top = choice["logprobs"]["top_logprobs"].as_array().unwrap();
        assert!(top.iter().all(|top| top.as_object().unwrap().len() >= BYTE_LEVEL_VOCAB as usize), "{choice}");
    }
}
