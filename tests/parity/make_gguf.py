"""Makes a small GGUF file for each architecture, its tensors in every format that is read, and records the logits that
the gguf package's own dequantization gives.

    python3.11 -m venv .venv && .venv/bin/pip install -r tests/parity/requirements.txt
    .venv/bin/python tests/parity/make_gguf.py

Writes `gguf/NAME.gguf` and `gguf/NAME.json`: `prompt`, the `logits` after each of its tokens, and `rounded`: the same
where quantized matrices are multiplied with activations in eight bits, 32 of which share a scale. The arithmetic is
llama.cpp's, in f64 with numpy: the `llama` architecture rotates neighbours, the others halves. Quants are random bits
and scales are small, for the package does not encode the K formats.
"""

import json
import pathlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

FOLDER = pathlib.Path(__file__).parent / "gguf"
HIDDEN, INNER, HEADS, KV_HEADS, HEAD, VOCABULARY, LAYERS = 256, 256, 4, 2, 64, 96, 1
THETA, EPS = 10000.0, 1e-5
PROMPT = [1, 17, 80, 3, 44, 44, 9, 61, 30]
# Which tensor is in which format: all of those that are read.
FORMATS = {
    "token_embd": Type.Q6_K, "attn_q": Type.Q4_K, "attn_k": Type.Q5_K, "attn_v": Type.Q6_K, "attn_output": Type.Q4_K,
    "ffn_gate": Type.Q8_0, "ffn_up": Type.Q4_0, "ffn_down": Type.Q5_K, "output": Type.BF16,
}
# Where a block has f16 scales, and how large numbers are without them.
SCALES = {Type.Q4_0: ([0], 8), Type.Q8_0: ([0], 127), Type.Q4_K: ([0, 2], 15 * 31), Type.Q5_K: ([0, 2], 31 * 31),
          Type.Q6_K: ([208], 32 * 64)}


def blocks(random, rows, columns, kind):
    """Random blocks whose numbers are about 1/sqrt(columns)."""
    size, length = gguf.GGML_QUANT_SIZES[kind]
    raw = random.integers(0, 256, (rows * columns // size, length), dtype=np.uint8)
    places, greatest = SCALES[kind]
    scale = random.uniform(0.5, 1.0, (len(raw), len(places))) * 1.5 / greatest / np.sqrt(columns)
    for index, place in enumerate(places):
        raw[:, place:place + 2] = scale[:, index:index + 1].astype("<f2").view(np.uint8)
    return raw.reshape(rows, columns // size * length)


def weights(random, arch):
    """(name, data as stored, type, numbers)"""
    shapes = {"token_embd": (VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        at = f"blk.{layer}."
        shapes |= {at + "attn_q": (HEADS * HEAD, HIDDEN), at + "attn_k": (KV_HEADS * HEAD, HIDDEN),
                   at + "attn_v": (KV_HEADS * HEAD, HIDDEN), at + "attn_output": (HIDDEN, HEADS * HEAD),
                   at + "ffn_gate": (INNER, HIDDEN), at + "ffn_up": (INNER, HIDDEN), at + "ffn_down": (HIDDEN, INNER)}
    shapes["output"] = (VOCABULARY, HIDDEN)
    for name, (rows, columns) in shapes.items():
        kind = FORMATS[name.split(".")[-1]]
        if kind == Type.BF16:
            raw = gguf.quantize((random.standard_normal((rows, columns)) / np.sqrt(columns)).astype("f4"), kind)
        else:
            raw = blocks(random, rows, columns, kind)
        yield name + ".weight", raw, kind, gguf.dequantize(raw, kind).astype("f8")
    norms = ["output_norm"] + [f"blk.{layer}.{name}" for layer in range(LAYERS) for name in ("attn_norm", "ffn_norm")]
    sizes = {name: HIDDEN for name in norms}
    if arch == "qwen3":
        sizes |= {f"blk.{layer}.{name}": HEAD for layer in range(LAYERS) for name in ("attn_q_norm", "attn_k_norm")}
    for name, size in sizes.items():
        vector = random.uniform(0.5, 1.5, size).astype("f4")
        yield name + ".weight", vector, Type.F32, vector.astype("f8")


def norm(x, weight):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * weight


def rotate(x, arch):
    """x [tokens, heads, HEAD]"""
    angles = np.arange(len(x))[:, None] * THETA ** (-np.arange(0, HEAD, 2) / HEAD)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    out = np.empty_like(x)
    first, second = (slice(0, None, 2), slice(1, None, 2)) if arch == "llama" else (slice(HEAD // 2), slice(HEAD // 2, None))
    out[..., first] = x[..., first] * cos - x[..., second] * sin
    out[..., second] = x[..., second] * cos + x[..., first] * sin
    return out


def product(x, weight, rounded):
    decoded, kind = weight
    if rounded and kind != Type.BF16:
        groups = x.reshape(len(x), -1, 32)
        scale = np.abs(groups).max(-1, keepdims=True) / 127
        x = (np.rint(groups / np.where(scale == 0, 1, scale)) * scale).reshape(x.shape)
    return x @ decoded.T


def logits(arch, weights, rounded=False):
    w = {name: decoded for name, (decoded, _) in weights.items()}
    stream = w["token_embd.weight"][PROMPT]
    tokens = len(PROMPT)
    for layer in range(LAYERS):
        of = lambda name: w[f"blk.{layer}.{name}.weight"]
        times = lambda x, name: product(x, weights[f"blk.{layer}.{name}.weight"], rounded)
        x = norm(stream, of("attn_norm"))
        q, k, v = (times(x, name).reshape(tokens, -1, HEAD) for name in ("attn_q", "attn_k", "attn_v"))
        if arch == "qwen3":
            q, k = norm(q, of("attn_q_norm")), norm(k, of("attn_k_norm"))
        q, k = rotate(q, arch), rotate(k, arch)
        heads = []
        for head in range(HEADS):
            kv = head * KV_HEADS // HEADS
            scores = q[:, head] @ k[:, kv].T / np.sqrt(HEAD)
            scores[np.triu_indices(tokens, 1)] = -np.inf
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(scores / scores.sum(-1, keepdims=True) @ v[:, kv])
        stream = stream + times(np.concatenate(heads, -1), "attn_output")
        x = norm(stream, of("ffn_norm"))
        gate = times(x, "ffn_gate")
        stream = stream + times(gate / (1 + np.exp(-gate)) * times(x, "ffn_up"), "ffn_down")
    return product(norm(stream, w["output_norm.weight"]), weights["output.weight"], rounded)


def make(arch, seed):
    random = np.random.default_rng(seed)
    FOLDER.mkdir(exist_ok=True)
    writer = gguf.GGUFWriter(FOLDER / f"{arch}.gguf", arch)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(THETA)
    writer.add_layer_norm_rms_eps(EPS)
    vocabulary(writer, arch)
    numbers = {}
    for name, raw, kind, decoded in weights(random, arch):
        numbers[name] = decoded, kind
        writer.add_tensor(name, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    exact, rounded = logits(arch, numbers), logits(arch, numbers, rounded=True)
    print(arch, "largest logit", np.abs(exact).max(), "moved by rounding", np.abs(exact - rounded).max())
    rows = lambda logits: [[round(float(x), 5) for x in row] for row in logits]
    record = {"prompt": PROMPT, "logits": rows(exact), "rounded": rows(rounded)}
    (FOLDER / f"{arch}.json").write_text(json.dumps(record) + "\n")


def vocabulary(writer, arch):
    """SentencePiece's kind for `llama`, bytes for `qwen3`; both know `<s>`, `</s>` and the letters."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    special, control, normal = ["<unk>", "<s>", "</s>"], gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    if arch == "llama":
        pieces = ["▁", "he", "th", "the", "▁the", "▁a", "an", "▁an", "er", "ing"] + letters
        scores = [0.0] * 3 + [-100.0] + [-float(i) for i in range(len(pieces) - 1)]
        writer.add_tokenizer_model("llama")
        writer.add_add_bos_token(True)
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


if __name__ == "__main__":
    make("llama", 1)
    make("qwen3", 2)
