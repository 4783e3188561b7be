"""Small models of each family: those of `make_fixtures.py` in `FIXTURES`, those of `make_gguf.py` in `FILES`.

The tables are the lists of fixtures and files. The comment of each entry states what the entry covers.
"""

from dataclasses import dataclass, field

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type

BOS, EOS = 1, 2
PROMPT_LENGTHS = (1, 2, 7, 16, 17, 33, 64, 100)
VOCABULARY = 48  # of GGUF files


@dataclass
class Fixture:
    """A model: its `config.json`, and how its weights are written."""

    config: dict
    dtype: torch.dtype = torch.float32
    shards: int = 1
    gain: float = 1.5  # of every projection, over 1/sqrt(fan_in)
    embedding: float = 0.2  # size of its entries: small if the model scales them up, because answers would repeat one token
    prompts: tuple = PROMPT_LENGTHS


COMMON = dict(
    hidden_act="silu", max_position_embeddings=512, bos_token_id=BOS, eos_token_id=EOS,
    initializer_range=0.02, use_cache=True, attention_bias=False, attention_dropout=0.0,
)
LLAMA = dict(COMMON, architectures=["LlamaForCausalLM"], model_type="llama", mlp_bias=False, pretraining_tp=1)
LLAMA3 = dict(
    LLAMA, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=8,
    num_key_value_heads=2, head_dim=16, vocab_size=288, rms_norm_eps=1e-5, tie_word_embeddings=True,
    rope_theta=500000.0,
    rope_scaling=dict(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=256,
    ),
)
PHI3 = dict(
    COMMON, architectures=["Phi3ForCausalLM"], model_type="phi3", hidden_size=32, intermediate_size=41,
    num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, partial_rotary_factor=0.75, vocab_size=263,
    rms_norm_eps=1e-5, tie_word_embeddings=False, rope_theta=10000.0, sliding_window=None, pad_token_id=0,
    torch_dtype="float32",
    rope_scaling=dict(type="longrope", short_factor=[1.0, 1.2, 1.7], long_factor=[1.1, 3.5, 9.0]),
)

FIXTURES = {
    # Multi-head attention, untied. Written as transformers 4 writes it.
    "llama2": Fixture(dict(
        LLAMA, hidden_size=48, intermediate_size=112, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, vocab_size=288, rms_norm_eps=1e-5, tie_word_embeddings=False,
        rope_theta=10000.0, rope_scaling=None, torch_dtype="float32",
    )),
    # Grouped queries, scaled RoPE (`llama3`), tied, three weight files with an index. Transformers 4's spelling.
    "llama3-sharded": Fixture(dict(LLAMA3, torch_dtype="float32"), shards=3),
    # The same shape in bf16: `dtype: auto` keeps bf16, and `f32` widens it.
    "llama3-bf16": Fixture(dict(LLAMA3, torch_dtype="bfloat16"), dtype=torch.bfloat16),
    # QK norm; heads × head_dim is not the hidden size; tied. Transformers 5's spelling.
    "qwen3": Fixture(dict(
        COMMON, architectures=["Qwen3ForCausalLM"], model_type="qwen3", hidden_size=48, intermediate_size=96,
        num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=16, vocab_size=288,
        rms_norm_eps=1e-6, tie_word_embeddings=True, rope_parameters=dict(rope_theta=1000000.0, rope_type="default"),
        use_sliding_window=False, sliding_window=None, max_window_layers=3,
        layer_types=["full_attention"] * 3, dtype="float32",
    )),
    # Nothing divides: 5 heads, hidden 60, intermediate 97, vocabulary 263.
    "awkward-mha": Fixture(dict(
        LLAMA, hidden_size=60, intermediate_size=97, num_hidden_layers=2, num_attention_heads=5,
        num_key_value_heads=5, head_dim=12, vocab_size=263, rms_norm_eps=1e-6, tie_word_embeddings=False,
        rope_theta=10000.0, torch_dtype="float32",
    )),
    # Query ranges that cut through the groups: 6 heads over 2 KV heads of size 10. Prime intermediate and vocabulary;
    # tied.
    "awkward-gqa": Fixture(dict(
        LLAMA, hidden_size=54, intermediate_size=83, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, head_dim=10, vocab_size=269, rms_norm_eps=1e-6, tie_word_embeddings=True,
        rope_theta=10000.0, torch_dtype="float32",
    )),
    # Biases on every projection, which ranks must add once; 5 query heads share one KV head; linearly scaled RoPE;
    # tied.
    "llama-bias": Fixture(dict(
        LLAMA | dict(attention_bias=True, mlp_bias=True), hidden_size=40, intermediate_size=53, num_hidden_layers=2,
        num_attention_heads=5, num_key_value_heads=1, head_dim=8, vocab_size=271, rms_norm_eps=1e-5,
        tie_word_embeddings=True, rope_theta=10000.0, rope_scaling=dict(rope_type="linear", factor=2.0),
        torch_dtype="float32",
    )),
    # Biases on queries, keys and values alone; a sliding window from the second layer on; 3 KV heads, tied.
    "qwen2": Fixture(dict(
        COMMON, architectures=["Qwen2ForCausalLM"], model_type="qwen2", hidden_size=48, intermediate_size=61,
        num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=3, vocab_size=271, rms_norm_eps=1e-6,
        tie_word_embeddings=True, rope_theta=1000000.0, use_sliding_window=True, sliding_window=16,
        max_window_layers=1, torch_dtype="float32",
    )),
    # A sliding window in every layer, which no block of the cache divides; heads × head_dim is not the hidden size.
    "mistral": Fixture(dict(
        COMMON, architectures=["MistralForCausalLM"], model_type="mistral", hidden_size=40, intermediate_size=67,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=12, vocab_size=263,
        rms_norm_eps=1e-5, tie_word_embeddings=False, rope_theta=10000.0, sliding_window=19, torch_dtype="float32",
    )),
    # 7 experts of 13, 3 a token with weights that sum to one, and a dense layer between; tied.
    "qwen3-moe": Fixture(dict(
        COMMON, architectures=["Qwen3MoeForCausalLM"], model_type="qwen3_moe", hidden_size=32, intermediate_size=37,
        moe_intermediate_size=13, num_experts=7, num_experts_per_tok=3, norm_topk_prob=True, decoder_sparse_step=1,
        mlp_only_layers=[1], num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        vocab_size=263, rms_norm_eps=1e-6, tie_word_embeddings=True, rope_theta=1000000.0, rope_scaling=None,
        use_sliding_window=False, sliding_window=None, max_window_layers=3, torch_dtype="float32",
    )),
    # 5 experts, 2 a token, in Mixtral's names; untied.
    "mixtral": Fixture(dict(
        COMMON, architectures=["MixtralForCausalLM"], model_type="mixtral", hidden_size=32, intermediate_size=29,
        num_local_experts=5, num_experts_per_tok=2, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=263, rms_norm_eps=1e-5, tie_word_embeddings=False, rope_theta=1000000.0,
        sliding_window=None, torch_dtype="float32",
    )),
    # Soft caps on scores and logits that change the result; local and global layers in turn; 1 + w norms before and after each part;
    # scaled embeddings; queries scaled by another number than the head size.
    "gemma2": Fixture(dict(
        COMMON, architectures=["Gemma2ForCausalLM"], model_type="gemma2", hidden_size=32, intermediate_size=43,
        num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=12, vocab_size=263,
        rms_norm_eps=1e-6, rope_theta=10000.0, hidden_act="gelu_pytorch_tanh", hidden_activation="gelu_pytorch_tanh",
        query_pre_attn_scalar=20, sliding_window=16, attn_logit_softcapping=4.0, final_logit_softcapping=8.0,
        torch_dtype="float32",
    ), embedding=0.05),
    # Two local layers to a global one, each kind with its own RoPE, the global one's scaled; QK norms.
    "gemma3": Fixture(dict(
        {k: v for k, v in COMMON.items() if k != "hidden_act"}, architectures=["Gemma3ForCausalLM"],
        model_type="gemma3_text", hidden_size=32, intermediate_size=43, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=1, head_dim=12, vocab_size=263, rms_norm_eps=1e-6, hidden_activation="gelu_pytorch_tanh",
        query_pre_attn_scalar=20, sliding_window=16, sliding_window_pattern=3, rope_theta=1000000.0,
        rope_local_base_freq=10000.0, rope_scaling=dict(rope_type="linear", factor=8.0),
        attn_logit_softcapping=None, final_logit_softcapping=None, torch_dtype="float32",
    ), embedding=0.05),
    # Fused projections, partial rotary; LongRoPE where the served context (256) is the original context of the training; untied.
    "phi3": Fixture(dict(PHI3, original_max_position_embeddings=256)),
    # The same beyond the original context. Every prompt is longer than that context, because transformers decides by the
    # length of each sequence.
    "phi3-long": Fixture(dict(PHI3, original_max_position_embeddings=24), prompts=(33, 47, 64, 100)),
    # YaRN, as Qwen asks for it.
    "qwen3-yarn": Fixture(dict(
        COMMON | dict(max_position_embeddings=256), architectures=["Qwen3ForCausalLM"], model_type="qwen3",
        hidden_size=32, intermediate_size=41, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, vocab_size=263, rms_norm_eps=1e-6, tie_word_embeddings=True, rope_theta=10000.0,
        rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64),
        use_sliding_window=False, sliding_window=None, max_window_layers=2, torch_dtype="float32",
    )),
}


@dataclass
class File:
    """A file: its architecture as llama.cpp names it, the model's configuration in transformers, and the format of each tensor."""

    arch: str
    config: dict
    formats: dict = field(default_factory=dict)
    interleaved_heads: bool = False  # queries and keys are stored for a rotation of neighbours
    loads: bool = True  # transformers reads such a file; `False` if its tables of GGUF architectures lack the name
    metadata: object = lambda writer, config: None


USUAL = dict(
    hidden_size=256, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    head_dim=8, vocab_size=VOCABULARY, max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=10000.0,
    bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False,
)
FORMATS = {
    "token_embd": Type.Q6_K, "attn_q": Type.Q4_K, "attn_k": Type.Q5_K, "attn_v": Type.Q6_K, "attn_output": Type.Q4_0,
    "ffn_gate": Type.Q5_K, "ffn_up": Type.Q4_K, "ffn_down": Type.Q8_0, "output": Type.BF16,
}
EXPERTS = {"ffn_gate_exps": Type.Q4_K, "ffn_up_exps": Type.Q5_K, "ffn_down_exps": Type.Q4_0}
# Narrow rows are too short for blocks of 256.
NARROW = {
    "token_embd": Type.Q8_0, "attn_q": Type.Q8_0, "attn_k": Type.BF16, "attn_v": Type.F16, "attn_output": Type.Q4_0,
    "ffn_gate": Type.Q4_0, "ffn_up": Type.Q8_0, "ffn_down": Type.Q4_0,
}
GEMMA_2_3 = USUAL | dict(
    tie_word_embeddings=True, hidden_activation="gelu_pytorch_tanh", query_pre_attn_scalar=8, sliding_window=4,
)


def expert_counts(writer, config):
    writer.add_expert_count(config.num_local_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)


def qwen3moe(writer, config):
    writer.add_expert_count(config.num_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_expert_feed_forward_length(config.moe_intermediate_size)


def gemma2(writer, config):
    writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    writer.add_final_logit_softcapping(config.final_logit_softcapping)
    writer.add_sliding_window(config.sliding_window)


def gemma3(writer, config):
    writer.add_sliding_window(config.sliding_window)
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(8.0)


def phi3(writer, config):
    writer.add_sliding_window(0)
    writer.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
    writer.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(2.0) / np.log(256.0))))
    for name in ("short", "long"):
        writer.add_tensor(f"rope_factors_{name}.weight", np.array(LONGROPE[f"{name}_factor"], "f4"))


LONGROPE = dict(
    rope_type="longrope", rope_theta=10000.0, partial_rotary_factor=0.75, original_max_position_embeddings=256,
    short_factor=[1.0, 1.1, 1.2, 1.4, 1.7, 2.0], long_factor=[1.1, 1.5, 3.5, 5.0, 9.0, 12.0],
)
# The key is the name in `architectures` without `ForCausalLM`, in small letters. A new entry comes last, because the seed of
# a file is its place in the table.
FILES = {
    # Formats of 256 and of 32 numbers a block. Queries and keys for a rotation of neighbours.
    "llama": File(
        "llama", USUAL | dict(model_type="llama"), {"output": Type.Q6_K}, interleaved_heads=True,
    ),
    # Stacked experts; the output in BF16.
    "mixtral": File(
        "llama", USUAL | dict(model_type="mixtral", num_local_experts=3, num_experts_per_tok=2),
        EXPERTS | {"ffn_gate_exps": Type.Q6_K}, interleaved_heads=True, loads=False, metadata=expert_counts,
    ),
    # Biases on queries, keys and values. The formats that llama.cpp's quantizer falls back to, and those below four bits.
    "qwen2": File("qwen2", USUAL | dict(model_type="qwen2"), {
        "attn_q": Type.Q2_K, "attn_k": Type.Q3_K, "attn_output": Type.Q4_1, "ffn_gate": Type.Q5_0, "ffn_up": Type.Q5_1,
        "ffn_down": Type.Q5_1, "output": Type.F16,
    }),
    # Norms on queries and keys. The formats whose quants are indices of a table.
    "qwen3": File("qwen3", USUAL | dict(model_type="qwen3"), {
        "attn_v": Type.IQ4_XS, "ffn_gate": Type.IQ4_NL, "ffn_up": Type.Q4_0, "ffn_down": Type.MXFP4, "output": Type.Q5_K,
    }),
    # Stacked experts; the output in F16.
    "qwen3moe": File("qwen3moe", USUAL | dict(
        model_type="qwen3_moe", num_experts=3, num_experts_per_tok=2, moe_intermediate_size=32, norm_topk_prob=True,
    ), EXPERTS | {"ffn_down_exps": Type.Q8_0, "output": Type.F16}, metadata=qwen3moe),
    # The first layer slides, the second does not. The table is tied.
    "gemma2": File("gemma2", GEMMA_2_3 | dict(
        model_type="gemma2", attn_logit_softcapping=2.0, final_logit_softcapping=3.0,
    ), metadata=gemma2),
    # Six layers: only the last one has global attention. Its RoPE is scaled. The table is tied.
    "gemma3": File("gemma3", GEMMA_2_3 | dict(
        model_type="gemma3_text", hidden_size=64, intermediate_size=64, num_hidden_layers=6, num_key_value_heads=1,
        rope_theta=1000000.0, rope_local_base_freq=10000.0, rope_scaling=dict(rope_type="linear", factor=8.0),
    ), NARROW, metadata=gemma3),
    # Fused projections, partial rotary, LongRoPE.
    "phi3": File("phi3", {k: v for k, v in USUAL.items() if k not in ("head_dim", "rope_theta")} | dict(
        model_type="phi3", hidden_size=64, sliding_window=None, original_max_position_embeddings=256,
        rope_parameters=LONGROPE,
    ), NARROW | {"attn_qkv": Type.Q8_0, "output": Type.F16}, metadata=phi3),
}
