"""Trains `builtin://tiny`: a Llama of three million parameters that answers questions about Lockstep.

    python train.py --minutes 30 --work /tmp/tiny      # train; checkpoints in /tmp/tiny
    python train.py --work /tmp/tiny --export          # round the last checkpoint to bf16 into tiny/
    python evaluate.py                                 # ask it everything; write expected.json

Needs the packages of tests/parity/requirements.txt. One CPU thread is enough. The learning rate
follows the clock, so a run of any length ends cooled down; two runs are not bit-identical.
"""

import argparse
import json
import math
import pathlib
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from corpus import Conversations

OUT = pathlib.Path(__file__).parent / "tiny"
BOS, END, SYSTEM, USER, ASSISTANT = SPECIAL = ["<s>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
ROLES = dict(system=SYSTEM, user=USER, assistant=ASSISTANT)
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}<|system|>{% elif message['role'] == 'assistant' %}<|assistant|>"
    "{% else %}<|user|>{% endif %}{{ message['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
VOCAB, CONTEXT = 2048, 1024
BATCH, POOL = 16, 12  # conversations in a step; steps whose conversations are sorted by length together
PEAK, WARMUP, FLOOR = 2e-3, 0.02, 0.02  # learning rate; share of the time that it rises; last share of the peak
PROSE = 0.06  # share of rows that are plain text
QUESTION_WEIGHT = 0.1  # of a question's token in the loss; an answer's is 1
CONFIG = dict(
    vocab_size=VOCAB, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=8,
    num_key_value_heads=4, head_dim=32, max_position_embeddings=CONTEXT, rms_norm_eps=1e-5,
    tie_word_embeddings=True, bos_token_id=0, eos_token_id=1,
)


def make_tokenizer(conversations):
    """Byte-level BPE over text as the model will see it."""
    text = [message["content"] for _ in range(4000) for message in conversations.conversation()]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=[AddedToken(token, special=True) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    if tokenizer.get_vocab_size() != VOCAB:
        raise SystemExit(f"the corpus yields {tokenizer.get_vocab_size()} tokens, not {VOCAB}")
    return tokenizer


def encode(tokenizer, messages):
    """Token ids of a conversation and the weight of each in the loss."""
    ids, weights = [tokenizer.token_to_id(BOS)], [0.0]
    for message in messages:
        text = tokenizer.encode(message["content"]).ids + [tokenizer.token_to_id(END)]
        weight = 1.0 if message["role"] == "assistant" else QUESTION_WEIGHT
        ids += [tokenizer.token_to_id(ROLES[message["role"]]), *text]
        weights += [0.0] + [weight] * len(text)
    return ids, weights


def batches(tokenizer, conversations):
    """Endless batches `(ids, weights)`, each `[BATCH, longest]`, padded at the right with weight 0."""
    draw = conversations.random
    while True:
        rows = []
        for _ in range(BATCH * POOL):
            if draw.random() < PROSE:
                ids = tokenizer.encode(conversations.prose()).ids + [tokenizer.token_to_id(END)]
                rows.append((ids, [0.0] + [1.0] * (len(ids) - 1)))
            else:
                rows.append(encode(tokenizer, conversations.conversation()))
        rows.sort(key=lambda row: len(row[0]))
        groups = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
        draw.shuffle(groups)
        for group in groups:
            longest = max(len(ids) for ids, _ in group)
            yield tuple(
                torch.tensor([row[part] + [0] * (longest - len(row[part])) for row in group]) for part in (0, 1)
            )


def optimizer_of(model):
    matrices = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() == 1]
    groups = [dict(params=matrices, weight_decay=0.05), dict(params=rest, weight_decay=0.0)]
    return torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.97), foreach=True)


def rate(done, peak):
    """Learning rate when the share `done` of the time is over."""
    if done < WARMUP:
        return peak * (0.02 + done / WARMUP)
    return peak * max(FLOOR, 0.5 + 0.5 * math.cos(math.pi * min(1.0, (done - WARMUP) / (1 - WARMUP))))


def train(work, minutes, seed, resume):
    torch.manual_seed(seed)
    conversations = Conversations(seed)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG))
    if resume:
        tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
        model.load_state_dict(load_file(work / "model.safetensors"), strict=False)  # lm_head is the embedding
    else:
        tokenizer = make_tokenizer(conversations)
        tokenizer.save(str(work / "tokenizer.json"))
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    optimizer, start, saved, seen = optimizer_of(model), time.time(), 0.0, 0
    for step, (ids, weights) in enumerate(batches(tokenizer, conversations)):
        done = (time.time() - start) / (60 * minutes)
        for group in optimizer.param_groups:
            group["lr"] = rate(done, PEAK * (0.6 if resume else 1.0))
        hidden = model.model(ids[:, :-1], use_cache=False).last_hidden_state
        kept = weights[:, 1:] > 0
        losses = F.cross_entropy(model.lm_head(hidden[kept]), ids[:, 1:][kept], reduction="none")
        loss = (losses * weights[:, 1:][kept]).sum() / weights[:, 1:][kept].sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seen += ids.numel()
        if step % 50 == 0:
            print(f"step {step} done {done:.3f} tokens {seen} loss {loss.item():.3f}", flush=True)
        if time.time() - start > saved + 120 or done >= 1:
            saved = time.time() - start
            kept = {name: value.contiguous() for name, value in model.state_dict().items() if name != "lm_head.weight"}
            save_file(kept, work / "model.safetensors.part")
            (work / "model.safetensors.part").rename(work / "model.safetensors")
        if done >= 1:
            return


def export(work):
    """The last checkpoint, rounded to bf16, as a model folder."""
    OUT.mkdir(exist_ok=True)
    weights = {name: value.to(torch.bfloat16) for name, value in load_file(work / "model.safetensors").items()}
    save_file(weights, OUT / "model.safetensors", metadata={"format": "pt"})
    (OUT / "tokenizer.json").write_bytes((work / "tokenizer.json").read_bytes())
    config = dict(
        architectures=["LlamaForCausalLM"], model_type="llama", **CONFIG, hidden_act="silu", attention_bias=False,
        mlp_bias=False, rope_theta=10000.0, rope_scaling=None, torch_dtype="bfloat16",
    )
    generation = dict(bos_token_id=0, eos_token_id=1, do_sample=True, temperature=0.7)
    wording = dict(
        tokenizer_class="PreTrainedTokenizerFast", bos_token=BOS, eos_token=END, add_bos_token=False,
        clean_up_tokenization_spaces=False, model_max_length=CONTEXT, chat_template=TEMPLATE,
    )
    for name, value in (("config", config), ("generation_config", generation), ("tokenizer_config", wording)):
        (OUT / f"{name}.json").write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    for file in OUT.iterdir():
        file.chmod(0o644)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder of checkpoints")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint, with its tokenizer")
    parser.add_argument("--export", action="store_true", help="write tiny/ from the last checkpoint, train nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.export:
        return export(args.work)
    args.work.mkdir(parents=True, exist_ok=True)
    train(args.work, args.minutes, args.seed, args.resume)


if __name__ == "__main__":
    main()
