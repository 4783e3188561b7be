"""Writes out what transformers takes for each key that a `config.json` leaves out.

    .venv/bin/python tests/parity/make_defaults.py        # tests/parity/defaults.json

The families are those of `fixtures`. `defaults` is a list of pairs. `left_out` is a file with sizes alone, or with one
feature whose keys have defaults of their own. `written_out` is the same file with all keys. The engine must read both as
the same model. `biases` is a list of files, each with the projections that have a bias in the model of such a file.
"""

import json
import pathlib

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

FOLDER = pathlib.Path(__file__).parent
# 30 layers: Qwen's windows begin at the 28th. 32 heads: the number of KV heads of every family divides it.
SIZES = dict(
    hidden_size=2048, intermediate_size=96, num_hidden_layers=30, num_attention_heads=32, vocab_size=100, eos_token_id=2
)
SMALL = SIZES | dict(hidden_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, pad_token_id=0)
LONGROPE = dict(type="longrope", short_factor=[1.0] * 32, long_factor=[2.0] * 32)
# Keys that need others, by a key that a family has if it has the feature.
FEATURES = {
    "use_sliding_window": dict(use_sliding_window=True),
    "original_max_position_embeddings": dict(max_position_embeddings=8192, rope_scaling=LONGROPE),
}


def families():
    """The name and the model type of each family that has a fixture."""
    files = sorted((FOLDER / "fixtures").glob("*/config.json"))
    configs = [json.loads(file.read_text()) for file in files]
    return sorted({(config["architectures"][0], config["model_type"]) for config in configs})


def write_out(name, model_type, keys):
    """The keys of a file, and with them all that transformers takes for the others."""
    config = AutoConfig.for_model(model_type, **json.loads(json.dumps(keys)))
    of_every_model = PreTrainedConfig().to_dict()
    full = {key: value for key, value in config.to_dict().items() if key not in of_every_model}
    # Where the class has no such key, models compute it.
    full["head_dim"] = full.get("head_dim") or config.hidden_size // config.num_attention_heads
    return dict(left_out=dict(architectures=[name], **keys), written_out=dict(architectures=[name], **full))


def biases(name, model_type, keys):
    """The keys of a file, and the projections of its model that have a bias. A model on `meta` has no numbers."""
    keys = SMALL | keys
    config = AutoConfig.for_model(model_type, **keys)
    with torch.device("meta"):
        names = AutoModelForCausalLM.from_config(config).state_dict()
    biases = sorted({name.split(".")[-2] for name in names if name.endswith("_proj.bias")})
    return dict(config=dict(architectures=[name], **keys), biases=biases)


def main():
    pairs, files = [], []
    for name, model_type in families():
        pairs.append(write_out(name, model_type, SIZES))
        known = AutoConfig.for_model(model_type).to_dict()
        pairs += [write_out(name, model_type, SIZES | keys) for key, keys in FEATURES.items() if key in known]
        files += [biases(name, model_type, keys) for keys in ({}, dict(attention_bias=True, mlp_bias=True))]
    lines = lambda entries: ",\n".join(json.dumps(entry) for entry in entries)
    text = f'{{"defaults": [\n{lines(pairs)}\n], "biases": [\n{lines(files)}\n]}}\n'
    (FOLDER / "defaults.json").write_text(text)


if __name__ == "__main__":
    main()
