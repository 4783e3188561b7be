#!/usr/bin/env python3
"""lm-eval scores a multiple-choice task by log-likelihood, through its model `local-completions`.

The log-likelihoods must be those of transformers (tests/parity/likelihood.json), and the best answers too. lm-eval sends
the prompts as token ids, alone and in batches, with `echo`, `logprobs` and one token to generate.
"""

import argparse
import json
import os
import pathlib
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import lm_eval  # noqa: E402

ROOT = pathlib.Path(__file__).parents[2]
RECORDS = json.loads((ROOT / "tests/parity/likelihood.json").read_text())
TOKENIZER = ROOT / "agent/engine/builtin/tiny"
# Greatest distance of the sum of up to 60 log-probabilities.
TOLERANCE = 2e-3


def task(folder: pathlib.Path) -> dict:
    data = folder / "task.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return {
        "task": "likelihood",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder)},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "context",
        "doc_to_choice": "choices",
        "doc_to_target": "best",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }


def check(url: str, batch_size: int, folder: pathlib.Path) -> None:
    model = {"model": "default", "base_url": f"{url}/completions", "tokenizer": str(TOKENIZER)}
    model |= {"tokenizer_backend": "huggingface", "max_length": 512}
    result = lm_eval.simple_evaluate(
        model="local-completions", model_args=model, tasks=[task(folder)], batch_size=batch_size, bootstrap_iters=0
    )
    assert result["results"]["likelihood"]["acc,none"] == 1.0, result["results"]
    scored, worst = 0, 0.0
    for sample in result["samples"]["likelihood"]:
        for answer, (logprob, greedy) in zip(RECORDS[sample["doc_id"]]["expected"], sample["filtered_resps"], strict=True):
            worst = max(worst, abs(logprob - answer["logprob"]))
            assert greedy == answer["greedy"], (sample["doc"], answer)
            scored += 1
    assert scored == sum(len(record["choices"]) for record in RECORDS)
    assert worst < TOLERANCE, worst
    print(f"lm-eval, batches of {batch_size}: {scored} log-likelihoods, at most {worst:.1e} from transformers")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base-url", required=True)
    url = parser.parse_args().base_url
    for batch_size in [1, 8]:
        with tempfile.TemporaryDirectory() as folder:
            check(url, batch_size, pathlib.Path(folder))


if __name__ == "__main__":
    main()
