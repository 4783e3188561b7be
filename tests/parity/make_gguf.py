"""Makes a small GGUF file for each architecture that the engine reads, with tensors in every format that it reads. Records the
logits that transformers computes with the numbers that the gguf package itself decodes.

    python3.11 -m venv .venv && .venv/bin/pip install -r tests/parity/requirements.txt
    .venv/bin/python tests/parity/make_gguf.py            # all of tests/parity/gguf
    .venv/bin/python tests/parity/make_gguf.py gemma2     # one of them

Writes `gguf/NAME.gguf` and `gguf/NAME.safetensors`; README.md beside this file describes the second
file. The names of tensors are those of the gguf package. Metadata and the order of rows are as llama.cpp's converter writes
them. Quants are random bits with small scales, because the package does not encode the K formats. If transformers can load a
file by itself, the loaded weights must equal the written weights.
"""

import argparse
import contextlib
import pathlib

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from families import FILES, FORMATS, VOCABULARY

FOLDER = pathlib.Path(__file__).parent / "gguf"
PROMPT = [1, 17, 40, 3, 44, 44, 9, 31, 30]
WORLD_SIZES = (1, 2, 3, 4)
GROUP = 32  # activations that share a scale
EAGER = dict(attn_implementation="eager", experts_implementation="eager")
# Offsets of the f16 scales in a block, and the largest number of a block without its scales.
SCALES = {Type.Q4_0: ([0], 8), Type.Q4_1: ([0, 2], 15), Type.Q5_0: ([0], 16), Type.Q5_1: ([0, 2], 31),
          Type.Q8_0: ([0], 127), Type.Q2_K: ([80, 82], 3 * 15), Type.Q3_K: ([108], 4 * 32), Type.Q4_K: ([0, 2], 15 * 31),
          Type.Q5_K: ([0, 2], 31 * 31), Type.Q6_K: ([208], 32 * 64), Type.IQ4_NL: ([0], 113),
          Type.IQ4_XS: ([0], 32 * 113), Type.MXFP4: ([], 12)}


def numbers(random, kind, shape):
    """Returns random numbers of about 1/sqrt(columns): as stored `[…, bytes of a row]`, and decoded."""
    columns = shape[-1]
    if kind not in SCALES:
        raw = gguf.quantize((random.standard_normal(shape) / np.sqrt(columns)).astype("f4"), kind)
        return raw, gguf.dequantize(raw, kind).astype("f8").reshape(shape)
    size, length = gguf.GGML_QUANT_SIZES[kind]
    raw = random.integers(0, 256, (int(np.prod(shape)) // size, length), dtype=np.uint8)
    places, greatest = SCALES[kind]
    scale = random.uniform(0.5, 1.0, (len(raw), len(places))) * 1.5 / greatest / np.sqrt(columns)
    if kind == Type.MXFP4:  # one byte with an exponent
        raw[:, 0] = random.integers(123, 126, len(raw), dtype=np.uint8) - int(np.log2(columns) / 2)
    for index, place in enumerate(places):
        raw[:, place:place + 2] = scale[:, index:index + 1].astype("<f2").view(np.uint8)
    raw = raw.reshape(*shape[:-1], columns // size * length)
    return raw, gguf.dequantize(raw, kind).astype("f8").reshape(shape)


def for_neighbours(raw, heads):
    """Returns the rows in the order of queries and keys in the `llama` architecture: the two halves of each head alternate."""
    return np.ascontiguousarray(raw.reshape(heads, 2, -1, raw.shape[-1]).swapaxes(1, 2).reshape(raw.shape))


@torch.no_grad()
def fill(writer, random, file, model):
    """Puts random numbers into a file and into the model. Returns the parts of matrices that are in blocks."""
    config, formats = model.config, FORMATS | file.formats
    names = gguf.get_tensor_name_map(next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == file.arch), 64)
    in_blocks = {}

    def matrix(name, parameter, role):
        kind = formats[name.split(".")[-1]]
        raw, decoded = numbers(random, kind, tuple(parameter.shape))
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(name.split(".")[-1])
        if file.interleaved_heads and heads:
            raw = for_neighbours(raw, heads)
        writer.add_tensor(f"{name}.weight", raw, raw_dtype=kind)
        parameter.copy_(torch.from_numpy(decoded))
        if kind in SCALES:
            parts = parameter if parameter.dim() == 3 else [parameter]
            in_blocks.update({part.data_ptr(): role for part in parts})

    for path, parameter in model.named_parameters():
        place, _, last = path.rpartition(".")
        if place.endswith(".experts"):
            block = f"blk.{path.split('.')[2]}.ffn"
            if last == "gate_up_proj":
                gate, up = parameter.chunk(2, dim=1)
                matrix(f"{block}_gate_exps", gate, "up")
                matrix(f"{block}_up_exps", up, "up")
                in_blocks.update({part.data_ptr(): "up" for part in parameter})
            else:
                matrix(f"{block}_down_exps", parameter, "down")
            continue
        name = names.get_name(place)
        if parameter.dim() == 1 or name.endswith("ffn_gate_inp"):
            # Files of Gemma hold its norms with 1 already added.
            is_bias, offset = last == "bias", float("norm" in name and file.arch.startswith("gemma"))
            size = tuple(parameter.shape)
            value = random.standard_normal(size) / 4 if is_bias or len(size) > 1 else random.uniform(0.5, 1.5, size)
            writer.add_tensor(f"{name}.{last}", value.astype("f4"))
            parameter.copy_(torch.from_numpy(value.astype("f4").astype("f8") - offset))
        else:
            role = {"o_proj": "heads", "down_proj": "down"}.get(place.split(".")[-1], "whole")
            matrix(name, parameter, role)
    return in_blocks


def rounded(x, cuts):
    """Rounds rows to eight bits. The part of 32 columns that one rank holds shares a scale."""
    out = torch.zeros_like(x)
    for start, end in cuts:
        for group in range(start // GROUP, -(-end // GROUP)):
            part = slice(max(start, group * GROUP), min(end, (group + 1) * GROUP))
            values = x[..., part].float()
            greatest = values.abs().amax(-1, keepdim=True)
            inverse = torch.where(greatest > 0, 127 / greatest, 0)
            out[..., part] = torch.round(values * inverse).double() * (greatest / 127).double()
    return out


@contextlib.contextmanager
def rounding(in_blocks, config, world_size):
    """Context in which matrices in blocks are multiplied with activations in eight bits, as ranks of a group do."""
    plain = torch.nn.functional.linear

    def ranges(count, size):
        ends = [rank * count // world_size * size for rank in range(world_size + 1)]
        return list(zip(ends, ends[1:]))

    def linear(x, weight, bias=None):
        role, columns = in_blocks.get(weight.data_ptr()), weight.shape[-1]
        heads = config.num_attention_heads
        cuts = {"heads": ranges(heads, columns // heads), "down": ranges(columns, 1)}.get(role, [(0, columns)])
        return plain(rounded(x, cuts) if role else x, weight, bias)

    torch.nn.functional.linear = linear
    try:
        yield
    finally:
        torch.nn.functional.linear = plain


def metadata(writer, file, config):
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    if "head_dim" in file.config:
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(12 if file.arch == "phi3" else config.hidden_size // config.num_attention_heads
                                    if "head_dim" not in file.config else config.head_dim)
    writer.add_rope_freq_base(file.config.get("rope_theta", 10000.0))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    file.metadata(writer, config)


def vocabulary(writer, arch):
    """Writes byte pairs for the Qwens, and a vocabulary of SentencePiece's kind for the others. Both have
    `<s>`, `</s>` and the letters."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    special, control, normal = ["<unk>", "<s>", "</s>"], gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    if not arch.startswith("qwen"):
        pieces = ["▁", "he", "th", "the", "▁the", "▁a", "an", "▁an", "er", "ing"] + letters
        scores = [0.0] * 3 + [-100.0] + [-float(i) for i in range(len(pieces) - 1)]
        writer.add_tokenizer_model("llama")
        writer.add_add_bos_token(True)
        writer.add_add_space_prefix(not arch.startswith("gemma"))
        kinds = [gguf.TokenType.UNKNOWN, control, control] + [normal] * len(pieces)
    else:
        pieces = ["Ġ"] + letters + ["he", "the", "Ġthe", "an"]
        scores = None
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_merges(["h e", "t he", "Ġ the", "a n"])
        kinds = [control] * 3 + [normal] * len(pieces)
    tokens = special + pieces
    filler = [f"[unused{i}]" for i in range(VOCABULARY - len(tokens))]
    writer.add_token_list(tokens + filler)
    writer.add_token_types(kinds + [gguf.TokenType.UNUSED] * len(filler))
    if scores is not None:
        writer.add_token_scores(scores + [-1000.0] * len(filler))
        writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}")


@torch.inference_mode()
def record(name, model, in_blocks):
    """Records the logits after each token of the prompt."""
    compute = lambda: model(torch.tensor([PROMPT]), use_cache=False).logits[0].float().numpy()
    made = {"prompt": np.array(PROMPT, "u4"), "exact": compute()}
    for world_size in WORLD_SIZES:
        with rounding(in_blocks, model.config, world_size):
            made[f"rounded.{world_size}"] = compute()
    save_file(made, FOLDER / f"{name}.safetensors")
    moved = np.abs(made["exact"] - made["rounded.1"]).max()
    print(f"{name}: logits reach {np.abs(made['exact']).max():.2f}, rounding moves them by {moved:.4f}", flush=True)


def check_as_loaded(name, model):
    """Asserts that transformers' own reader of the file finds the written weights."""
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            FOLDER, gguf_file=f"{name}.gguf", config=model.config, dtype=torch.float32, **EAGER
        )
    except Exception as error:
        raise SystemExit(f"{name}: transformers does not read such a file: give it `loads=False` in families.py") from error
    own = dict(model.named_parameters())
    assert own.keys() == dict(loaded.named_parameters()).keys()
    for path, parameter in loaded.named_parameters():
        assert torch.allclose(parameter.double(), own[path], atol=1e-6), f"{name}: {path}"


def make(name, seed):
    file = FILES[name]
    random = np.random.default_rng(seed)
    FOLDER.mkdir(exist_ok=True)
    config = AutoConfig.for_model(**file.config)
    model = AutoModelForCausalLM.from_config(config, **EAGER).double().eval()
    writer = gguf.GGUFWriter(FOLDER / f"{name}.gguf", file.arch)
    metadata(writer, file, config)
    vocabulary(writer, file.arch)
    in_blocks = fill(writer, random, file, model)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if file.loads:
        check_as_loaded(name, model)
    record(name, model, in_blocks)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"files to make; default: all of {', '.join(FILES)}")
    names = parser.parse_args().names or list(FILES)
    if unknown := set(names) - set(FILES):
        parser.error(f"no file {', '.join(sorted(unknown))}; there are: {', '.join(FILES)}")
    torch.set_num_threads(1)
    for name in names:
        make(name, 1 + list(FILES).index(name))


if __name__ == "__main__":
    main()
