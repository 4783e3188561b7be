"""Records what the `tokenizers` package does with published tokenizer.json files, for agent/api to compare with.

    tests/fetch tokenizers FOLDER
    .venv/bin/python tests/parity/make_tokenizers.py FOLDER       # tests/parity/tokenizers.json

The record has `texts` and, for each vocabulary, one entry a text: the ids without added special tokens, the ids with
them, and the texts of the latter without special tokens and with them. A text that equals the input is null.
"""

import json
import pathlib
import random
import sys

from tokenizers import Tokenizer

OUTPUT = pathlib.Path(__file__).with_name("tokenizers.json")
RANDOM_TEXTS = 40
TEXTS = [
    "", " ", "\n", "\t", "Hello world, it's 12345 o'clock!\n\n\tdef f(x): return x**2", "naïve café — “quotes” … ﬁne",
    "日本語の文章です。中文也可以。한국어", "🦙", "🎉🇨🇭👩‍👩‍👧‍👦", "Здравствуй мир", "مرحبا بالعالم", "नमस्ते दुनिया", "ไทยภาษา", " leading",
    "  two leading", "trailing  ", "\r\n\r\n  x", "a\u0301e\u0308 combining", "\u1112\u1161\u11ab", "\u200b\u200dzero width\ufeff",
    "ＦＵＬＬｗｉｄｔｈ", "\u0000\u0001 control", "𝒳𝓎𝓏 math", "word" * 30, "1 12 123 1234 12345 1234567", "don't I'LL we'Ve",
    "\u00a0no-break\u3000wide", "e\u0327\u0301", "\ufffd", "<0x41>", "▁under▁score", "Ġspelled", "</s>", "<s>", "<s> x</s>y", "[INST] a [/INST]",
    "<|eot_id|>hi<|im_end|>", "<bos>x<end_of_turn>y", "<|start|>user<|message|>a<|end|>", "<｜User｜>a<｜Assistant｜>", " <|im_start|> user",
    "<|begin_of_text|><|start_header_id|>", "<think>\n\n</think>", "<|unknown|>", "<|im_", "<pad><unk><mask>",
]
# Ranges of characters, and how often each is drawn.
RANGES = [
    (4, 0x20, 0x7E), (1, 0xA0, 0x24F), (1, 0x300, 0x36F), (1, 0x370, 0x4FF), (1, 0x5D0, 0x5EA), (1, 0x621, 0x64A),
    (1, 0x900, 0x97F), (1, 0xE00, 0xE5B), (1, 0x2000, 0x206F), (1, 0x3040, 0x30FF), (1, 0x4E00, 0x9FFF), (1, 0xAC00, 0xD7A3),
    (1, 0x1F300, 0x1F6FF), (1, 0xE000, 0xE0FF), (1, 0x10000, 0x1FFFF),
]  # fmt: skip
SPACES = [" ", "  ", "\t", "\n", "\n\n", "\r\n"]


def random_text(draw, specials):
    """Draws a text of up to 24 pieces: a character of any range, with spaces and special tokens between."""
    text = ""
    for _ in range(draw.randint(1, 24)):
        _, first, last = draw.choices(RANGES, [weight for weight, _, _ in RANGES])[0]
        text += chr(draw.randint(first, last))
        if draw.random() < 0.2:
            text += draw.choice(SPACES)
        if draw.random() < 0.05:
            text += draw.choice(specials)
    return text


def entry(tokenizer, text):
    ids, special = (tokenizer.encode(text, add_special_tokens=added).ids for added in (False, True))
    decoded = (tokenizer.decode(special, skip_special_tokens=skip) for skip in (True, False))
    return [ids, special, *(None if text == one else one for one in decoded)]


def main():
    files = sorted(pathlib.Path(sys.argv[1]).glob("*.json"))
    tokenizers = {}
    for file in files:
        tokenizers[file.stem] = tokenizer = Tokenizer.from_file(str(file))
        tokenizer.no_truncation()
        tokenizer.no_padding()
    added = [token for tokenizer in tokenizers.values() for token in tokenizer.get_added_tokens_decoder().values()]
    specials = sorted({token.content for token in added if "reserved" not in token.content and "unused" not in token.content})
    draw = random.Random(1)
    texts = TEXTS + [random_text(draw, specials) for _ in range(RANDOM_TEXTS)]
    record = {name: [entry(tokenizer, text) for text in texts] for name, tokenizer in tokenizers.items()}
    parts = []
    for name, entries in record.items():
        rows = ",\n".join(json.dumps(made, separators=(",", ":")) for made in entries)
        parts.append(f'"{name}": [\n{rows}\n]')
    vocabularies = ",\n".join(parts)
    OUTPUT.write_text(f'{{\n"texts": {json.dumps(texts)},\n"vocabularies": {{\n{vocabularies}\n}}\n}}\n')
    print(f"{OUTPUT}: {len(texts)} texts, {', '.join(record)}, {OUTPUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
