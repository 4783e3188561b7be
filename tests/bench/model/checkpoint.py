"""Makes a checkpoint with the shape of Llama-3.2-1B and random weights. The speed does not depend on the text of a model.

Its vocabulary has 32,000 words instead of 128,256 tokens, so that all peers can get the same token ids: the word `w17` is
token 17, and blanks separate words. The checkpoint has about 1.04 G parameters in bf16. The script also writes a GGUF file for
llama.cpp, which quantizes the file itself. `set_layers` makes a smaller model, to try the benchmark itself.
"""

import json
import math
from pathlib import Path

VOCABULARY = 32000
END = 1
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "hidden_act": "silu",
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 64, "vocab_size": VOCABULARY, "tie_word_embeddings": True,
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "initializer_range": 0.02,
    "attention_bias": False, "mlp_bias": False, "bos_token_id": 0, "eos_token_id": END, "use_cache": True,
}
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def set_layers(layers: int) -> None:
    CONFIG["num_hidden_layers"] = layers


def shapes() -> dict[str, list[int]]:
    hidden, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    kv = CONFIG["num_key_value_heads"] * CONFIG["head_dim"]
    tensors = {"model.embed_tokens.weight": [VOCABULARY, hidden], "model.norm.weight": [hidden]}
    for layer in range(CONFIG["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        tensors |= {f"{at}.{name}.weight": [hidden] for name in ("input_layernorm", "post_attention_layernorm")}
        tensors |= {f"{at}.self_attn.{name}_proj.weight": [kv if name in "kv" else hidden, hidden] for name in "qkvo"}
        tensors |= {f"{at}.mlp.{name}_proj.weight": [inner, hidden] for name in ("gate", "up")}
        tensors[f"{at}.mlp.down_proj.weight"] = [hidden, inner]
    return tensors


def weights(seed: int = 7):
    """Yields the name, the shape and the numbers (as bits of bf16) of every tensor. Norms are ones."""
    import numpy
    draw = numpy.random.default_rng(seed)
    for name, shape in shapes().items():
        if len(shape) == 1:
            values = numpy.ones(shape, numpy.float32)
        else:
            values = draw.standard_normal(shape, numpy.float32) * numpy.float32(CONFIG["initializer_range"])
        # The numbers are rounded half up. None is near the largest bf16.
        yield name, shape, ((values.view(numpy.uint32) + 0x8000) >> 16).astype(numpy.uint16)


def tokenizer() -> dict:
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": {"type": "WordLevel", "vocab": {f"w{i}": i for i in range(VOCABULARY)}, "unk_token": "w0"},
    }


def write(folder: Path) -> None:
    """Writes the checkpoint if it is missing. The file that marks it as complete comes last."""
    if (folder / "complete").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    special = {"bos_token": "w0", "eos_token": f"w{END}", "unk_token": "w0", "chat_template": TEMPLATE,
               "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
               "model_max_length": CONFIG["max_position_embeddings"]}
    for name, content in {"config": CONFIG, "tokenizer": tokenizer(), "tokenizer_config": special,
                          "generation_config": {"bos_token_id": 0, "eos_token_id": END}}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    write_safetensors(folder / "model.safetensors")
    (folder / "complete").touch()


def write_safetensors(path: Path) -> None:
    """Writes the length of the header (u64, little-endian), the header in JSON, and the numbers, by
    https://huggingface.co/docs/safetensors."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes().items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, _, bits in weights():
            file.write(bits.tobytes())


# Names of a format: in Lockstep's --isq, in mistral.rs, and in llama.cpp's enum of file types.
FORMATS = {
    "bf16": (None, None, None),
    "Q8_0": ("Q8_0", "Q8_0", "LLAMA_FTYPE_MOSTLY_Q8_0"),
    "Q4_K": ("Q4_K", "Q4K", "LLAMA_FTYPE_MOSTLY_Q4_K_S"),
}

# Names of the same tensors in llama.cpp.
GGUF_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "model.layers": "blk",
}


def write_gguf(path: Path) -> None:
    """Writes the same shapes for llama.cpp, with norms in f32 as its converter does. The rows of queries and keys stay in
    Hugging Face's order, which changes the text of the model and not its speed."""
    import gguf
    import numpy
    if path.exists():
        return
    part = path.with_suffix(".part")
    writer = gguf.GGUFWriter(part, "llama")
    writer.add_context_length(CONFIG["max_position_embeddings"])
    writer.add_embedding_length(CONFIG["hidden_size"])
    writer.add_block_count(CONFIG["num_hidden_layers"])
    writer.add_feed_forward_length(CONFIG["intermediate_size"])
    writer.add_head_count(CONFIG["num_attention_heads"])
    writer.add_head_count_kv(CONFIG["num_key_value_heads"])
    writer.add_rope_dimension_count(CONFIG["head_dim"])
    writer.add_rope_freq_base(CONFIG["rope_theta"])
    writer.add_layer_norm_rms_eps(CONFIG["rms_norm_eps"])
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("no_vocab")
    for name, shape, bits in weights():
        for ours, theirs in GGUF_NAMES.items():
            name = name.replace(ours, theirs)
        if len(shape) == 1:
            writer.add_tensor(name, numpy.ones(shape, numpy.float32))
        else:
            writer.add_tensor(name, bits.view(numpy.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.rename(path)


def gguf_path(folder: Path, format: str) -> Path:
    return folder / f"model-{format}.gguf"


def quantize_gguf(folder: Path, format: str) -> None:
    """Has llama.cpp quantize every matrix of the GGUF in bf16 to `format`."""
    import llama_cpp
    path = gguf_path(folder, format)
    if path.exists():
        return
    part = path.with_suffix(".part")
    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, None)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, FORMATS[format][2])
    params.pure = True
    if llama_cpp.llama_model_quantize(str(gguf_path(folder, "bf16")).encode(), str(part).encode(), params) != 0:
        raise SystemExit(f"llama.cpp cannot quantize to {format}")
    part.rename(path)
