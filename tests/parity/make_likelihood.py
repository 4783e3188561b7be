"""Records how likely transformers finds the answers of a multiple-choice task, by the built-in model in f32.

    .venv/bin/python tests/parity/make_likelihood.py        # tests/parity/likelihood.json
"""

import json
import pathlib

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

OUTPUT = pathlib.Path(__file__).parent / "likelihood.json"
MODEL = pathlib.Path(__file__).parents[2] / "agent/engine/builtin/tiny"
QUESTIONS = [
    ("What happens when a worker dies?", ["The head forms the group again.", "Bananas are yellow.", "Nothing"]),
    ("What is an epoch?", ["A kind of fruit", "The time in which the same ranks serve.", "It is a file."]),
    ("Who sends plans to the ranks?", ["the kubelet", "The head", "nobody", "Each worker sends its own plan."]),
    ("How do I start a group on this machine?", ["With lockstep up.", "You cannot.", "Buy a horse!"]),
    ("How large is the KV cache?", ["42", "As large as the memory of the ranks allows.", "blue"]),
    ("Why is the sky blue?", ["I only know Lockstep.", "Because of the ring.", "Light"]),
]


def main() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()

    def score(context: str, answer: str) -> dict:
        start, ids = len(tokenizer.encode(context)), tokenizer.encode(context + answer)
        with torch.no_grad():
            logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
        places = range(start, len(ids))
        greedy = all(int(logprobs[place - 1].argmax()) == ids[place] for place in places)
        return {"logprob": sum(float(logprobs[place - 1, ids[place]]) for place in places), "greedy": greedy}

    def record(question: str, choices: list[str]) -> dict:
        context = f"<|user|>{question}<|end|><|assistant|>"
        # One answer is what the model writes by itself, up to the end token, which it would write next.
        ids = torch.tensor([tokenizer.encode(context)])
        written = model.generate(ids, max_new_tokens=80, do_sample=False, pad_token_id=0)
        choices = [*choices, tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)]
        expected = [score(context, choice) for choice in choices]
        best = max(range(len(choices)), key=lambda index: expected[index]["logprob"])
        return {"context": context, "choices": choices, "best": best, "expected": expected}

    records = [record(*question) for question in QUESTIONS]
    assert any(answer["greedy"] for one in records for answer in one["expected"])
    OUTPUT.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
