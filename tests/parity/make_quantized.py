"""Makes tiny checkpoints in the quantized formats of Hugging Face and records the results of transformers with them.

    python3.11 -m venv .venv && .venv/bin/pip install -r tests/parity/requirements.txt -r tests/parity/quantizers.txt
    .venv/bin/python tests/parity/make_quantized.py            # all of tests/parity/quantized
    .venv/bin/python tests/parity/make_quantized.py gptq       # one of them

Each `quantized/NAME` is a model folder like those of `make_fixtures.py`. Its weights are packed by the library of the
format where that library works without a GPU (`compressed-*`, `bnb-*`), and by this script, from the published layout,
where it does not (`gptq*`, `awq`, `fp8*`, `modelopt-*`). `expected.*` is what transformers computes in f32 with the
weights that the same library, or this script, unpacks.
"""

import json
import pathlib
import shutil
import tempfile

import torch
from safetensors.torch import save_file

from families import LLAMA, Fixture
from make_fixtures import SEEDS, Doubt, dump, make_each, record, weights, write_plain

FOLDER = pathlib.Path(__file__).parent / "quantized"
PROMPTS = (1, 7, 33)
BASE = Fixture(dict(
    LLAMA, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    head_dim=16, vocab_size=288, rms_norm_eps=1e-5, tie_word_embeddings=False, rope_theta=10000.0, rope_scaling=None,
    torch_dtype="bfloat16",
), dtype=torch.bfloat16, prompts=PROMPTS)
GROUP = 32
E4M3 = torch.float8_e4m3fn
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def is_linear(name):
    return name.endswith("_proj.weight")


def pack_each(tensors, pack, also=()):
    """Packs each projection, and the tensors `also`. `pack` returns a matrix' tensors by suffix, and the unpacked matrix."""
    packed, plain = {}, {}
    for name, weight in tensors.items():
        if not (is_linear(name) or name in also):
            packed[name] = plain[name] = weight
            continue
        parts, plain[name] = pack(weight)
        packed |= {f"{name.removesuffix('.weight')}.{suffix}": value for suffix, value in parts.items()}
    return packed, plain


def to_words(words):
    """Returns i32 with the bits of numbers from 0 to 2³² - 1."""
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32).contiguous()


def unpack(whole, scales, zeros, group_of):
    return (whole - zeros[group_of].T) * scales.float()[group_of].T


# --- GPTQ: https://github.com/AutoGPTQ/AutoGPTQ, auto_gptq/nn_modules/qlinear/qlinear_cuda_old.py, `pack`


def pack_stream(numbers, bits):
    """Packs whole numbers `[n, m]` down the first dimension, as one little-endian stream of bits: i32 words."""
    numbers = numbers.to(torch.int64)
    count = numbers.shape[0] * bits
    assert count % 32 == 0
    stream = torch.stack([(numbers >> bit) & 1 for bit in range(bits)], 1).reshape(count, -1)
    words = sum(stream.reshape(count // 32, 32, -1)[:, bit] << bit for bit in range(32))
    return to_words(words)


def affine(weight, group_of, bits, symmetric):
    """Returns whole numbers, scales and zeros of a matrix `[out, in]`, with one scale and zero a row and group: `[groups, out]`."""
    groups, most = int(group_of.max()) + 1, 2**bits - 1
    weight, scales, zeros = weight.float(), [], []
    for group in range(groups):
        part = weight[:, group_of == group]
        if symmetric:
            scale = part.abs().amax(1).clamp(min=1e-6) * 2 / most
            zero = torch.full_like(scale, 2 ** (bits - 1))
        else:
            low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
            scale = (high - low).clamp(min=1e-6) / most
            zero = (-low / scale).round()
        scales.append(scale.to(torch.float16))
        zeros.append(zero.clamp(0, most))
    scales, zeros = torch.stack(scales), torch.stack(zeros)
    whole = (weight / scales.float()[group_of].T + zeros[group_of].T).round().clamp(0, most)
    return whole, scales, zeros


def gptq(bits, symmetric, act_order=False, version=1, lm_head=False):
    def quantize(tensors):
        generator = torch.Generator().manual_seed(3)

        def pack(weight):
            columns = weight.shape[1]
            group_of = torch.arange(columns) // GROUP
            if act_order:
                group_of = group_of[torch.randperm(columns, generator=generator)]
            whole, scales, zeros = affine(weight, group_of, bits, symmetric)
            stored = (zeros - (1 if version == 1 else 0)) % 2**bits
            qzeros = pack_stream(stored.T, bits).T.contiguous()
            parts = dict(qweight=pack_stream(whole.T, bits), qzeros=qzeros, scales=scales, g_idx=group_of.to(torch.int32))
            return parts, unpack(whole, scales, zeros, group_of)

        config = dict(quant_method="gptq", bits=bits, group_size=GROUP, desc_act=act_order, sym=symmetric)
        if version == 2:
            config["checkpoint_format"] = "gptq_v2"
        return *pack_each(tensors, pack, ["lm_head.weight"] if lm_head else ()), config | dict(lm_head=lm_head)

    return quantize


# --- AWQ: https://github.com/casper-hansen/AutoAWQ, awq/modules/linear/gemm.py, `WQLinear_GEMM`


def pack_awq(numbers):
    """Packs whole numbers of four bits `[n, m]` along the second dimension, eight in a word, in the order of AWQ's kernel."""
    parts = numbers.to(torch.int64).reshape(len(numbers), -1, 8)
    words = sum(parts[..., column] << 4 * place for place, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7)))
    return to_words(words)


def awq(tensors):
    def pack(weight):
        group_of = torch.arange(weight.shape[1]) // GROUP
        whole, scales, zeros = affine(weight, group_of, 4, symmetric=False)
        parts = dict(qweight=pack_awq(whole.T), qzeros=pack_awq(zeros), scales=scales)
        return parts, unpack(whole, scales, zeros, group_of)

    config = dict(quant_method="awq", bits=4, group_size=GROUP, zero_point=True, version="gemm")
    return *pack_each(tensors, pack), config | dict(modules_to_not_convert=["lm_head"])


# --- FP8: transformers' `finegrained_fp8` and `fbgemm_fp8`, and ModelOpt


def to_e4m3(weight):
    return weight.clamp(-448, 448).to(E4M3)


def fp8(kind, block=None):
    def pack(weight):
        weight, parts, suffix = weight.float(), {}, "weight_scale"
        if kind == "block":
            down, across = block
            rows = torch.arange(weight.shape[0]) // down
            columns = torch.arange(weight.shape[1]) // across
            scales = torch.zeros(int(rows[-1]) + 1, int(columns[-1]) + 1)
            for row in range(scales.shape[0]):
                for column in range(scales.shape[1]):
                    scales[row, column] = weight[rows == row][:, columns == column].abs().max() / 448
            whole, stored, suffix = scales[rows][:, columns], scales, "weight_scale_inv"
        elif kind == "channel":
            stored = whole = weight.abs().amax(1, keepdim=True) / 448
        else:
            stored = whole = weight.abs().max() / 448
            parts["input_scale"] = torch.tensor(1.0)
        parts["weight"], parts[suffix] = to_e4m3(weight / whole), stored.contiguous()
        return parts, parts["weight"].float() * whole

    config = {
        "block": dict(quant_method="fp8", activation_scheme="dynamic", weight_block_size=block),
        "channel": dict(quant_method="fbgemm_fp8", activation_scale_ub=1200.0, modules_to_not_convert=["lm_head"]),
        "tensor": dict(quant_method="modelopt", quant_algo="FP8", ignore=["lm_head"]),
    }[kind]
    return lambda tensors: (*pack_each(tensors, pack), config)


def nvfp4(tensors):
    """As ModelOpt stores it: halves of bytes, scales of 16 in E4M3, and one scale of them all."""

    def pack(weight):
        weight = weight.float()
        second = weight.abs().max() / (6 * 448)
        scales = to_e4m3(weight.reshape(weight.shape[0], -1, 16).abs().amax(2) / 6 / second)
        wide = (scales.float() * second).repeat_interleave(16, 1)
        ratio = weight / wide
        index = (ratio.abs()[..., None] - E2M1).abs().argmin(-1)
        bits = index + 8 * (ratio < 0)
        halves = (bits[:, ::2] | bits[:, 1::2] << 4).to(torch.uint8)
        parts = dict(weight=halves, weight_scale=scales, weight_scale_2=second)
        return parts, E2M1[index] * torch.where(ratio < 0, -1, 1) * wide

    return *pack_each(tensors, pack), dict(quant_method="modelopt", quant_algo="NVFP4", group_size=16, ignore=["lm_head"])


# --- compressed-tensors, by the library


def compressed(scheme):
    """`scheme` is the name of a scheme of the library, or a scheme."""

    def quantize(tensors):
        from compressed_tensors.compressors import ModelCompressor
        from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
        from compressed_tensors.quantization import QuantizationStatus
        from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme
        from compressed_tensors.quantization.utils import calculate_qparams
        from transformers import AutoModelForCausalLM, LlamaConfig

        model = AutoModelForCausalLM.from_config(LlamaConfig(**BASE.config)).to(torch.float32)
        model.load_state_dict({name: value.float() for name, value in tensors.items()})
        named = isinstance(scheme, str)
        group = preset_name_to_scheme(scheme, ["Linear"]) if named else dict(targets=["Linear"], weights=scheme)
        config = QuantizationConfig(
            config_groups=dict(group_0=group), ignore=["lm_head"], quantization_status=QuantizationStatus.FROZEN,
        )
        apply_quantization_config(model, config)
        for module in model.modules():
            if getattr(module, "quantization_scheme", None) is None:
                continue
            args, weight = module.quantization_scheme.weights, module.weight.data
            size = args.group_size or weight.shape[1]
            parts = weight.reshape(weight.shape[0], -1, size)
            scale, zero = calculate_qparams(parts.amin(2), parts.amax(2), args)
            module.weight_scale.data = scale.to(module.weight_scale.dtype).reshape(module.weight_scale.shape)
            if hasattr(module, "weight_zero_point"):
                module.weight_zero_point.data = zero.to(module.weight_zero_point.dtype)
        compressor = ModelCompressor.from_pretrained_model(model)
        compressor.compress_model(model)
        packed = {name: value.clone() for name, value in model.state_dict().items()}
        compressor.decompress_model(model)
        plain = {name: value.float() for name, value in model.state_dict().items() if name in tensors}
        with tempfile.TemporaryDirectory() as folder:
            dump(pathlib.Path(folder) / "config.json", BASE.config)
            compressor.update_config(folder)
            made = json.loads((pathlib.Path(folder) / "config.json").read_text())["quantization_config"]
        packed |= {name: tensors[name] for name in tensors if not is_linear(name)}
        return packed, plain, made

    return quantize


def compressed_act_order(tensors):
    """As versions of compressed-tensors before 0.20 wrote it: the group of each column is in an index."""
    generator = torch.Generator().manual_seed(5)

    def pack(weight):
        columns = weight.shape[1]
        group_of = (torch.arange(columns) // GROUP)[torch.randperm(columns, generator=generator)]
        whole, scales, zeros = affine(weight, group_of, 4, symmetric=False)
        scales = scales.to(torch.bfloat16)
        parts = dict(
            weight_packed=pack_stream(whole.T, 4).T.contiguous(), weight_zero_point=pack_stream(zeros.T, 4),
            weight_scale=scales.T.contiguous(), weight_shape=torch.tensor(weight.shape),
            weight_g_idx=group_of.to(torch.int32),
        )
        return parts, unpack(whole, scales, zeros, group_of)

    weights = dict(INT, num_bits=4, symmetric=False, actorder="group")
    config = dict(quant_method="compressed-tensors", format="pack-quantized", ignore=["lm_head"])
    groups = dict(group_0=dict(targets=["Linear"], weights=weights))
    return *pack_each(tensors, pack), config | dict(config_groups=groups)


# --- bitsandbytes, by the library


def bnb_int8(tensors):
    import bitsandbytes.functional as F

    def pack(weight):
        whole, scale, _ = F.int8_vectorwise_quant(weight.to(torch.float16))
        parts = dict(weight=whole, SCB=scale, weight_format=torch.tensor(0, dtype=torch.uint8))
        return parts, whole.float() * scale[:, None] / 127

    return *pack_each(tensors, pack), dict(quant_method="bitsandbytes", load_in_8bit=True)


def bnb_4bit(kind, nested=False):
    def quantize(tensors):
        import bitsandbytes.functional as F

        def pack(weight):
            bits, state = F.quantize_4bit(weight, blocksize=32, compress_statistics=nested, quant_type=kind)
            parts = {f"weight.{part}": value for part, value in state.as_dict(packed=True).items()}
            state.dtype = torch.float32
            return parts | dict(weight=bits), F.dequantize_4bit(bits, state).float()

        config = dict(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=nested)
        return *pack_each(tensors, pack), dict(quant_method="bitsandbytes", **config)

    return quantize


INT = dict(type="int", strategy="group", group_size=GROUP)
FORMATS = {
    # Four bits, symmetric; the version of AutoGPTQ, whose zeros are stored less one.
    "gptq": gptq(4, symmetric=True),
    # Columns of a group lie apart, with zeros; the output projection is packed too.
    "gptq-act-order": gptq(4, symmetric=False, act_order=True, lm_head=True),
    # Numbers that cross words.
    "gptq-3bit": gptq(3, symmetric=False),
    # Zeros that are stored as they are.
    "gptq-8bit": gptq(8, symmetric=False, version=2),
    "awq": awq,
    # Blocks that divide no dimension.
    "fp8-block": fp8("block", [40, 24]),
    "fp8-channel": fp8("channel"),
    "modelopt-fp8": fp8("tensor"),
    "modelopt-nvfp4": nvfp4,
    "compressed-w4a16": compressed(INT | dict(num_bits=4, symmetric=True)),
    "compressed-act-order": compressed_act_order,
    "compressed-w8a16": compressed(INT | dict(num_bits=8, symmetric=False)),
    "compressed-w8a8": compressed("W8A8"),
    "compressed-fp8": compressed("FP8_DYNAMIC"),
    "compressed-mxfp4": compressed("MXFP4A16"),
    "bnb-nf4": bnb_4bit("nf4", nested=True),
    "bnb-fp4": bnb_4bit("fp4"),
    "bnb-int8": bnb_int8,
}


def make(name):
    folder = FOLDER / name
    for seed in range(SEEDS):
        packed, plain, config = FORMATS[name](weights(BASE, seed))
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_plain(BASE, folder)
        save_file({name: value.contiguous() for name, value in plain.items()}, folder / "model.safetensors")
        try:
            made = record(folder, seed, PROMPTS)
        except Doubt:
            continue
        dump(folder / "config.json", BASE.config | dict(quantization_config=config))
        save_file(packed, folder / "model.safetensors", metadata={"format": "pt"})
        size = sum(file.stat().st_size for file in folder.iterdir())
        return print(f"{name}: {made}, {size // 1024} KiB", flush=True)
    raise SystemExit(f"{name}: none of {SEEDS} seeds fits")


if __name__ == "__main__":
    make_each(__doc__, FORMATS, make)
