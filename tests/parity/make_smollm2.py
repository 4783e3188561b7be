"""Records the answers of transformers with a real model: SmolLM2-135M-Instruct, a GGUF file in Q4_1.

    tests/fetch smollm2 FOLDER
    .venv/bin/python tests/parity/make_smollm2.py FOLDER        # tests/parity/smollm2.json, smollm2-likelihood.json

transformers decodes the blocks to f32 and rounds no activation. So an answer is kept only up to the first token whose
logit is less than `MIN_MARGIN` above the next one. The likelihood is that of the beginning of `TEXT`, in `WINDOWS`
windows of `WINDOW` tokens: the first token of a window is given, and the others are predicted.
"""

import argparse
import hashlib
import json
import pathlib
import struct

import torch
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

OUTPUT = pathlib.Path(__file__).parent / "smollm2.json"
LIKELIHOOD = OUTPUT.with_name("smollm2-likelihood.json")
TEXT = pathlib.Path(__file__).parents[2] / "LICENSE"
WINDOW = 64
WINDOWS = 16
GENERATED = 24
MIN_MARGIN = 0.5
PROMPTS = [
    "The capital of France is",
    "Water boils at a temperature of",
    "The first president of the United States was",
    "def fibonacci(n):\n    if n < 2:\n        return",
    "Roses are red, violets are",
    "The opposite of hot is",
    "1, 2, 3, 4, 5,",
    "Monday, Tuesday, Wednesday,",
    "<|im_start|>user\nWhat is the largest planet?<|im_end|>\n<|im_start|>assistant\n",
    "The sun rises in the east and sets in the",
]


@torch.inference_mode()
def answer(model, ids):
    """Returns the greedy tokens after `ids`, up to the first close call."""
    out = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=GENERATED, eos_token_id=None, pad_token_id=0)
    logits = model(out, use_cache=False).logits[0, len(ids) - 1 : -1]
    best = logits.topk(2).values
    sure = (best[:, 0] - best[:, 1] >= MIN_MARGIN).tolist()
    length = sure.index(False) if False in sure else len(sure)
    return out[0, len(ids) :].tolist()[:length]


@torch.inference_mode()
def likelihood(model, ids):
    """Returns the mean negative log-likelihood of the predicted tokens of all windows, and their number."""
    windows = torch.tensor(ids[: WINDOWS * WINDOW]).reshape(WINDOWS, WINDOW)
    logits = model(windows, use_cache=False).logits[:, :-1].double()
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten(), reduction="none")
    return losses.mean().item(), len(losses)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    file = next(folder.glob("*.gguf")).name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    # transformers does not read `tokenizer.ggml.pre`. The tokenizer that the model is published with cuts so.
    cuts = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(cuts)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
    entries = []
    for text in PROMPTS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        entries.append(dict(text=text, prompt=ids, greedy=answer(model, ids)))
        print(entries[-1], flush=True)
    OUTPUT.write_text("[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n")
    ids = tokenizer.encode(TEXT.read_text(), add_special_tokens=False)
    mean, predicted = likelihood(model, ids)
    digest = hashlib.sha256(struct.pack(f"<{len(ids)}I", *ids)).hexdigest()
    record = dict(tokens=len(ids), sha256_of_tokens=digest, window=WINDOW, windows=WINDOWS, predicted=predicted)
    record["mean_nll"] = round(mean, 5)
    LIKELIHOOD.write_text(json.dumps(record, indent=2) + "\n")
    print(record)


if __name__ == "__main__":
    main()
