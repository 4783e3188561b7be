"""Makes small GGUF files with llama.cpp's own quantizer. Records the logits of each in f64, with the numbers that the gguf
package decodes.

    python3.11 -m venv .venv && .venv/bin/pip install -r tests/parity/requirements-llamacpp.txt   # compiles llama.cpp
    .venv/bin/python tests/parity/make_llamacpp.py            # all of tests/parity/llamacpp
    .venv/bin/python tests/parity/make_llamacpp.py 576-Q4_K_M # one of them

Writes `llamacpp/NAME.gguf` and `llamacpp/NAME.safetensors`, and `llamacpp/blocks.safetensors`. README.md beside this file
describes them. The number in a name is the width of the rows. The rest is the name of llama.cpp's file type, or `mixed` for one
format a matrix.
"""

import argparse
import ctypes
import pathlib
import tempfile

import gguf
import llama_cpp
import numpy as np
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import save_file

FOLDER = pathlib.Path(__file__).parent / "llamacpp"
PROMPT = [1, 17, 40, 3, 44]
WORLD_SIZES = (1, 2, 3)
GROUP = 32  # activations that share a scale
MIN_MARGIN = 2e-5  # least distance of an activation from the middle of two steps, so that f32 rounds it as f64 does
HEADS, KV_HEADS, HEAD_DIM, VOCABULARY, EPSILON, THETA = 4, 2, 8, 48, 1e-5, 10000.0
BLOCKS = "blocks"  # the file of single blocks
# Width, size of the feed-forward part, layers, and llama.cpp's file type. `None`: each matrix has the format of `MIXED`.
FILES = {
    "256-mixed": (256, 256, 4, None),
    "576-Q4_K_M": (576, 32, 2, llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M),
    "576-Q3_K_M": (576, 32, 2, llama_cpp.LLAMA_FTYPE_MOSTLY_Q3_K_M),
    "576-Q4_1": (576, 32, 2, llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_1),
    "896-Q5_K_M": (896, 32, 2, llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_K_M),
    "1152-IQ4_XS": (1152, 32, 2, llama_cpp.LLAMA_FTYPE_MOSTLY_IQ4_XS),
}
# Formats of the matrices of each layer whose rows have 256 numbers. Some need to know which numbers matter: all do alike.
MIXED = [
    dict(attn_q=Type.Q2_K, attn_k=Type.Q3_K, attn_v=Type.Q4_K, ffn_gate=Type.Q5_K, ffn_up=Type.Q6_K, ffn_down=Type.Q4_K),
    dict(attn_q=Type.IQ4_XS, attn_k=Type.IQ3_S, attn_v=Type.IQ3_XXS, ffn_gate=Type.IQ4_NL, ffn_up=Type.IQ2_S,
         ffn_down=Type.IQ3_S),
    dict(attn_q=Type.IQ2_XS, attn_k=Type.IQ2_XXS, attn_v=Type.IQ1_M, ffn_gate=Type.IQ1_S, ffn_up=Type.TQ2_0,
         ffn_down=Type.IQ2_XS),
    dict(attn_q=Type.TQ1_0, attn_k=Type.MXFP4, attn_v=Type.NVFP4, ffn_gate=Type.Q5_1, ffn_up=Type.NVFP4, ffn_down=Type.Q6_K),
]
# Factors of whole matrices, which converters write beside NVFP4. The quantizer gets numbers that are divided by them.
FACTORS = {"blk.3.attn_v": 0.125, "blk.3.ffn_up": 0.0625}


def matrices(width, inner, layers):
    """Returns the shape of each tensor."""
    shapes = {"token_embd": (VOCABULARY, width), "output": (VOCABULARY, width), "output_norm": (width,)}
    for layer in range(layers):
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in {
            "attn_norm": (width,), "ffn_norm": (width,), "attn_q": (HEADS * HEAD_DIM, width),
            "attn_k": (KV_HEADS * HEAD_DIM, width), "attn_v": (KV_HEADS * HEAD_DIM, width),
            "attn_output": (width, HEADS * HEAD_DIM), "ffn_gate": (inner, width), "ffn_up": (inner, width),
            "ffn_down": (width, inner),
        }.items()}
    return shapes


def random_numbers(random, shape):
    """Returns numbers as trained matrices have them: mostly small, a few several times as large."""
    if len(shape) == 1:
        return random.uniform(0.5, 1.5, shape).astype("f4")
    return (random.standard_t(5, shape) / np.sqrt(shape[-1])).astype("f4")


def write(path, width, inner, layers, tensors):
    """Writes a file. `tensors` has arrays, or pairs of bytes and their format."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(THETA)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", "▁"] + [f"[unused{i}]" for i in range(VOCABULARY - 4)])
    writer.add_token_scores([0.0] * 3 + [-float(i) for i in range(VOCABULARY - 3)])
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([gguf.TokenType.UNKNOWN, control, control, normal] + [gguf.TokenType.UNUSED] * (VOCABULARY - 4))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, tensor in tensors.items():
        data, kind = tensor if isinstance(tensor, tuple) else (tensor, None)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=kind)
        if kind == Type.NVFP4:
            writer.add_tensor(f"{name}.scale", np.array([FACTORS[name]], "f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def ggml(name, result, *arguments):
    """Returns a function of ggml."""
    library = ctypes.CDLL(str(next(pathlib.Path(llama_cpp.__file__).parent.glob("lib/libggml-base.*"))))
    function = library[name]
    function.restype, function.argtypes = result, arguments
    return function


POINTER, INTEGER = ctypes.c_void_p, ctypes.c_int64


def quantized(numbers, kind):
    """Returns rows in blocks, as llama.cpp's quantizer makes them. All numbers of a row matter alike."""
    rows, columns = numbers.shape
    size, length = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.zeros((rows, columns // size * length), "u1")
    # Formats that can do without are made without.
    importance = np.ones(columns, "f4") if kind.name.startswith(("IQ1", "IQ2", "IQ3_XXS")) else None
    quantize = ggml("ggml_quantize_chunk", ctypes.c_size_t, ctypes.c_int, POINTER, POINTER, INTEGER, INTEGER, INTEGER, POINTER)
    written = quantize(
        kind, numbers.ctypes.data, blocks.ctypes.data, 0, rows, columns, None if importance is None else importance.ctypes.data
    )
    assert written == blocks.nbytes, f"{kind.name}: {written} bytes"
    return blocks


def make_file(path, name, random):
    width, inner, layers, file_type = FILES[name]
    numbers = {name: random_numbers(random, shape) for name, shape in matrices(width, inner, layers).items()}
    if file_type is None:
        for name in [name for name, tensor in numbers.items() if tensor.ndim == 2]:
            parts = name.split(".")
            kind = MIXED[int(parts[1])].get(parts[2], Type.Q8_0) if parts[0] == "blk" else Type.Q6_K
            numbers[name] = quantized(numbers[name] / np.float32(FACTORS.get(name, 1)), kind), kind
        return write(path, width, inner, layers, numbers)
    with tempfile.TemporaryDirectory() as folder:
        source = f"{folder}/source.gguf"
        write(source, width, inner, layers, numbers)
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype, params.nthread = file_type, 1
        assert llama_cpp.llama_model_quantize(source.encode(), str(path).encode(), params) == 0


def rounded(x, cuts):
    """Rounds rows to eight bits. The part of 32 columns that one rank holds shares a scale. Returns also the least distance of a
    number from the middle of two steps."""
    out, margin = np.zeros_like(x), 1.0
    for start, end in cuts:
        for group in range(start // GROUP, -(-end // GROUP)):
            part = slice(max(start, group * GROUP), min(end, (group + 1) * GROUP))
            values = x[:, part].astype("f4")
            greatest = np.abs(values).max(-1, keepdims=True)
            inverse = np.divide(np.float32(127), greatest, where=greatest > 0, out=np.zeros_like(greatest))
            out[:, part] = np.rint(values * inverse).astype("f8") * (greatest / np.float32(127)).astype("f8")
            steps = x[:, part] * inverse
            margin = min(margin, np.abs(np.abs(steps - np.rint(steps)) - 0.5).min())
    return out, margin


class Model:
    """A Llama in f64, from a file."""

    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        self.tensors, self.in_blocks, self.kinds, self.margin = {}, set(), {}, 1.0
        for tensor in reader.tensors:
            name = tensor.name.removesuffix(".weight")
            shape = [int(size) for size in reversed(tensor.shape)]
            numbers = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(shape).astype("f8")
            self.tensors[name] = numbers * FACTORS.get(name, 1)
            if tensor.tensor_type.name not in ("F32", "F16", "BF16"):
                self.in_blocks.add(name)
                self.kinds.setdefault(tensor.tensor_type.name, []).append(name)
        self.layers = reader.fields["llama.block_count"].contents()
        self.inner = reader.fields["llama.feed_forward_length"].contents()

    def logits(self, world_size):
        """Returns the logits after each token of the prompt. With a world size, activations are rounded as its ranks do."""
        self.world_size = world_size
        x = self.tensors["token_embd"][PROMPT]
        for layer in range(self.layers):
            at = f"blk.{layer}."
            x = x + self.attention(at, self.norm(x, f"{at}attn_norm"))
            h = self.norm(x, f"{at}ffn_norm")
            gate, up = self.product(h, f"{at}ffn_gate"), self.product(h, f"{at}ffn_up")
            x = x + self.product(gate / (1 + np.exp(-gate)) * up, f"{at}ffn_down", self.ranges(self.inner, 1))
        return self.product(self.norm(x, "output_norm"), "output").astype("f4")

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPSILON) * self.tensors[name]

    def ranges(self, count, size):
        ends = [rank * count // (self.world_size or 1) * size for rank in range((self.world_size or 1) + 1)]
        return list(zip(ends, ends[1:]))

    def product(self, x, name, cuts=None):
        if self.world_size and name in self.in_blocks:
            x, margin = rounded(x, cuts or [(0, x.shape[-1])])
            self.margin = min(self.margin, margin)
        return x @ self.tensors[name].T

    def attention(self, at, x):
        positions = np.arange(len(x))
        angles = np.outer(positions, THETA ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM))
        turn = (np.cos(angles) + 1j * np.sin(angles))[:, None]
        # Files of this architecture have queries and keys for a rotation of neighbours.
        rotate = lambda y: (y.reshape(len(x), -1, HEAD_DIM // 2, 2) @ [1, 1j] * turn).view("f8").reshape(len(x), -1, HEAD_DIM)
        q, k = rotate(self.product(x, f"{at}attn_q")), rotate(self.product(x, f"{at}attn_k"))
        v = self.product(x, f"{at}attn_v").reshape(len(x), KV_HEADS, HEAD_DIM)
        k, v = (np.repeat(y, HEADS // KV_HEADS, axis=1) for y in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(HEAD_DIM)
        scores = np.where(positions[:, None] >= positions, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", weights, v).reshape(len(x), -1)
        return self.product(mixed, f"{at}attn_output", self.ranges(HEADS, HEAD_DIM))


# Offsets of the f16 in a block, of the formats that `make_blocks` records.
F16_OFFSETS = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0], Type.Q2_K: [80, 82], Type.Q3_K: [108],
    Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208], Type.IQ4_NL: [0], Type.IQ4_XS: [0], Type.MXFP4: [],
    Type.NVFP4: [],
    Type.IQ1_S: [0], Type.IQ1_M: [], Type.IQ2_XXS: [0], Type.IQ2_XS: [0], Type.IQ2_S: [0], Type.IQ3_XXS: [0], Type.IQ3_S: [0],
    Type.TQ1_0: [52], Type.TQ2_0: [64],
}
# Formats that the gguf package does not decode: ggml's number, and the columns and the bytes of a block.
NEWER = {"Q1_0": (41, 128, 18), "Q2_0": (42, 64, 18)}


def random_blocks(random, kind, rows, columns):
    """Returns rows of random bits whose scales are small."""
    size, length = gguf.GGML_QUANT_SIZES[kind]
    raw = random.integers(0, 256, (rows * columns // size, length), dtype=np.uint8)
    for place in F16_OFFSETS[kind]:
        raw[:, place:place + 2] = random.uniform(-0.1, 0.1, (len(raw), 1)).astype("<f2").view("u1")
    if kind == Type.MXFP4:  # an exponent
        raw[:, 0] = random.integers(100, 130, len(raw))
    if kind == Type.IQ1_M:  # the high four bits of four words are an f16
        words = raw[:, 48:].view("<u2")
        scale = random.uniform(-0.1, 0.1, len(raw)).astype("<f2").view("<u2")
        for word in range(4):
            words[:, word] = words[:, word] & 0x0FFF | (scale >> 4 * word & 15) << 12
    return raw.reshape(rows, -1)


def make_blocks():
    """Records blocks of random bits with their numbers, and the errors of llama.cpp's quantizer on `x`."""
    random = np.random.default_rng(7)
    x = np.concatenate([random.standard_normal((8, 512)), random.standard_t(5, (8, 512))]).astype("f4") / np.float32(40)
    made = {"x": x}
    for kind in F16_OFFSETS:
        blocks = random_blocks(random, kind, 8, 256)
        made[f"{kind.name}.blocks"], made[f"{kind.name}.numbers"] = blocks, gguf.dequantize(blocks, kind).astype("f4")
        error = (gguf.dequantize(quantized(x, kind), kind).astype("f8") - x) ** 2
        # All numbers count alike, by their sizes, by their squares.
        weights = [np.abs(x).astype("f8") ** power for power in range(3)]
        errors = [np.sqrt((weight * error).sum() / (weight * x.astype("f8") ** 2).sum()) for weight in weights]
        made[f"{kind.name}.errors"] = np.array(errors, "f4")
        print(f"{kind.name}: errors of {made[f'{kind.name}.errors']}", flush=True)
    for name, (_, columns, length) in NEWER.items():
        blocks = random.integers(0, 256, (8, 256 // columns * length), dtype=np.uint8)
        for place in range(0, blocks.shape[1], length):
            blocks[:, place:place + 2] = random.uniform(-0.1, 0.1, (8, 1)).astype("<f2").view("u1")
        numbers = np.zeros((8, 256), "f4")
        decode = ggml(f"dequantize_row_{name.lower()}", None, POINTER, POINTER, INTEGER)
        decode(blocks.ctypes.data, numbers.ctypes.data, numbers.size)
        made[f"{name}.blocks"], made[f"{name}.numbers"] = blocks, numbers
    save_file(made, FOLDER / f"{BLOCKS}.safetensors")


def make(name):
    path = FOLDER / f"{name}.gguf"
    for seed in range(1000):
        make_file(path, name, np.random.default_rng([list(FILES).index(name), seed]))
        model = Model(path)
        made = {"prompt": np.array(PROMPT, "u4"), "exact": model.logits(None)}
        made |= {f"rounded.{world_size}": model.logits(world_size) for world_size in WORLD_SIZES}
        if model.margin >= MIN_MARGIN:
            break
    save_file(made, FOLDER / f"{name}.safetensors")
    moved = np.abs(made["exact"] - made["rounded.1"]).max()
    print(f"{name}: seed {seed}, logits reach {np.abs(made['exact']).max():.2f}, rounding moves them by {moved:.4f}; "
          + ", ".join(f"{len(names)} {kind}" for kind, names in model.kinds.items()), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"files to make; default: all of {', '.join([*FILES, BLOCKS])}")
    known = [*FILES, BLOCKS]
    names = parser.parse_args().names or known
    if unknown := set(names) - set(known):
        parser.error(f"no file {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    FOLDER.mkdir(exist_ok=True)
    for name in names:
        make_blocks() if name == BLOCKS else make(name)


if __name__ == "__main__":
    main()
