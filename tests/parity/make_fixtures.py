"""Makes tiny random-weight models of each family and records the results of transformers with them.

    python3.11 -m venv .venv && .venv/bin/pip install -r tests/parity/requirements.txt
    .venv/bin/python tests/parity/make_fixtures.py            # all of tests/parity/fixtures
    .venv/bin/python tests/parity/make_fixtures.py qwen3      # one of them

Each `fixtures/NAME` is a model folder as on the Hugging Face hub, with two more files:
`expected.json` (prompts, greedy tokens, positions that have logits) and `expected.safetensors`
(those logits, f32). README.md beside this file states their format.

The same versions on the same kind of machine write the same bytes. The seed of a model is the
first seed whose greedy tokens do not depend on rounding: see `Doubt`.
"""

import argparse
import json
import math
import pathlib
import shutil

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM

from families import BOS, EOS, FIXTURES

FOLDER = pathlib.Path(__file__).parent / "fixtures"
EVERY_POSITION = 33  # the prompt whose logits are kept at every position
GENERATED = 28
GENERATED_POSITIONS = (0, 1, 13, 26)  # decode steps whose logits are kept
MIN_MARGIN = 2e-3  # between the best two logits of any greedy step
MAX_ROUNDING = 3e-5  # largest difference of a kept logit to the same sum in f64
MIN_DISTINCT = 10  # tokens in each greedy answer
SEEDS = 200
SPECIAL = ["<unk>", "<s>", "</s>"]


class Doubt(Exception):
    """Rounding could change the greedy tokens of this seed, or the tokens are too few to test anything: try the next seed."""


def dump(path, value):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def tokenizer(vocab_size):
    """Returns a byte-level BPE tokenizer of exactly `vocab_size` ids: special tokens, bytes, then pairs of common letters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(a, b) for b in "eaoti" for a in "thrnsldm"][: vocab_size - len(SPECIAL) - len(alphabet)]
    pieces = SPECIAL + alphabet + [a + b for a, b in merges]
    assert len(pieces) == vocab_size == len(set(pieces))
    made = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(piece, special=True) for piece in SPECIAL])
    return made


def write_plain(fixture, folder):
    """Writes all files of a model folder except the weights."""
    dump(folder / "config.json", fixture.config)
    dump(folder / "generation_config.json", dict(bos_token_id=BOS, eos_token_id=EOS, do_sample=False))
    tokenizer(fixture.config["vocab_size"]).save(str(folder / "tokenizer.json"))
    dump(folder / "tokenizer_config.json", dict(
        tokenizer_class="PreTrainedTokenizerFast", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        clean_up_tokenization_spaces=False, model_max_length=512, add_bos_token=False,
    ))


def weights(fixture, seed):
    """Returns random weights by name, in the order of the model, without a tied lm_head."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(**{k: v for k, v in fixture.config.items() if k != "architectures"})
    shapes = AutoModelForCausalLM.from_config(config).state_dict()
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, like in shapes.items():
        noise = torch.randn(like.shape, generator=generator, dtype=torch.float32)
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if name.endswith(".bias"):
            value = 0.3 * noise
        elif like.dim() == 1:
            value = 1 + 0.2 * noise
        elif name == "model.embed_tokens.weight":
            value = fixture.embedding * noise
        else:
            value = fixture.gain / math.sqrt(like.shape[-1]) * noise
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            value[: len(SPECIAL)] *= 0.1  # so that greedy answers hold no special token
        made[name] = value.to(fixture.dtype)
    return {name: value.contiguous() for name, value in as_on_the_hub(made, config.model_type)}


def as_on_the_hub(tensors, model_type):
    """Splits the experts, as in checkpoints. transformers holds the experts of a layer as one tensor."""
    mixtral = model_type == "mixtral"
    gate, up, down = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    for name, tensor in tensors.items():
        if mixtral:
            name = name.replace(".mlp.", ".block_sparse_moe.")
        place, _, fused = name.rpartition(".")
        if not place.endswith(".experts"):
            yield name, tensor
            continue
        for expert, matrix in enumerate(tensor):
            parts = zip((gate, up), matrix.chunk(2)) if fused == "gate_up_proj" else [(down, matrix)]
            for part, value in parts:
                yield f"{place}.{expert}.{part}.weight", value


def write_weights(tensors, shards, folder):
    if shards == 1:
        return save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    names, files = list(tensors), {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        own = names[len(names) * shard // shards : len(names) * (shard + 1) // shards]
        save_file({name: tensors[name] for name in own}, folder / file, metadata={"format": "pt"})
        files.update(dict.fromkeys(own, file))
    size = sum(tensor.nbytes for tensor in tensors.values())
    dump(folder / "model.safetensors.index.json", dict(metadata=dict(total_size=size), weight_map=files))


def prompts(vocab_size, lengths):
    """Returns the prompts, which are the same at every seed: BOS, then any ids except the special ones."""
    generator = torch.Generator().manual_seed(7)
    draw = lambda n: torch.randint(len(SPECIAL), vocab_size, (n,), generator=generator).tolist()
    return [[BOS] + draw(length - 1) for length in lengths]


@torch.inference_mode()
def greedy(model, exact, prompt):
    """Returns the greedy tokens after `prompt`, and the logits at every position, `[prompt + GENERATED, vocab]`."""
    out = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False,
        min_new_tokens=None, max_new_tokens=GENERATED, eos_token_id=None, pad_token_id=0,
    )
    answer = out[0, len(prompt):].tolist()
    logits = model(out, use_cache=False).logits[0]
    best = logits[len(prompt) - 1 : -1].topk(2)
    if best.indices[:, 0].tolist() != answer:
        raise Doubt("the answers with and without a cache differ")
    margin = (best.values[:, 0] - best.values[:, 1]).min().item()
    if margin < MIN_MARGIN or len(set(answer)) < MIN_DISTINCT or set(answer) & {0, BOS, EOS}:
        raise Doubt(f"margin {margin:.1e}, {len(set(answer))} distinct tokens")
    rounding = (exact(out, use_cache=False).logits[0] - logits).abs().max().item()
    if rounding > MAX_ROUNDING:
        raise Doubt(f"logits differ from f64 by {rounding:.1e}")
    return answer, logits, margin, rounding


def record(folder, seed, lengths):
    """Runs the model as a user of transformers would load it, and writes the results."""
    model, exact = (
        AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager", experts_implementation="eager"
        ).eval()
        for dtype in (torch.float32, torch.float64)
    )
    entries, tensors, margins, roundings = [], {}, [], []
    for index, prompt in enumerate(prompts(model.config.vocab_size, lengths)):
        answer, logits, margin, rounding = greedy(model, exact, prompt)
        margins.append(margin)
        roundings.append(rounding)
        last = len(prompt) - 1
        first = 0 if len(prompt) == EVERY_POSITION else last
        positions = [*range(first, last), *(last + step for step in GENERATED_POSITIONS)]
        tensors[f"logits.{index}"] = logits[positions].contiguous()
        entries.append(dict(prompt=prompt, greedy=answer, logits=f"logits.{index}", positions=positions))
    made = dict(seed=seed, dtype="float32", min_margin=float(f"{min(margins):.3e}"),
                max_rounding=float(f"{max(roundings):.1e}"), ignore_eos=True)
    lines = ",\n  ".join(json.dumps(entry) for entry in entries)
    (folder / "expected.json").write_text(json.dumps(made)[:-1] + f', "prompts": [\n  {lines}\n]}}\n')
    save_file(tensors, folder / "expected.safetensors")
    return made


def make(name):
    fixture, folder = FIXTURES[name], FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_plain(fixture, folder)
    for seed in range(SEEDS):
        write_weights(weights(fixture, seed), fixture.shards, folder)
        try:
            made = record(folder, seed, fixture.prompts)
        except Doubt:
            continue
        size = sum(file.stat().st_size for file in folder.iterdir())
        return print(f"{name}: {made}, {size // 1024} KiB", flush=True)
    raise SystemExit(f"{name}: none of {SEEDS} seeds fits; change `gain`")


def make_each(description, table, make):
    """Makes those entries of a table that the command line names, or all."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"what to make; default: all of {', '.join(table)}")
    names = parser.parse_args().names or list(table)
    if unknown := set(names) - set(table):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are: {', '.join(table)}")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name in names:
        make(name)


if __name__ == "__main__":
    make_each(__doc__, FIXTURES, make)
