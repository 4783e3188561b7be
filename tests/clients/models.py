"""Models for the tests of clients, made from the built-in model: they have its tokenizer and its shapes, and other parts.

Each function changes a copy of that model's folder.
"""

import array
import json
import pathlib
import random
import shutil
import struct
import sys

BOX = pathlib.Path(__file__).resolve().parents[2] / "agent/engine/builtin/tiny"
SEED = 5
# Standard deviation of the weights, around 0. It is small enough that every token is likely, and large enough that some are
# likelier.
SPREAD = 0.05

SHOWS_TOOLS = r"""
{{- bos_token }}
{%- if tools %}
    {{- '<|system|>Tools:\n' }}
    {%- for tool in tools %}{{ tool.function | tojson }}{{ '\n' }}{% endfor %}
    {{- 'A call: <tool_call>\n{"name": ..., "arguments": ...}\n</tool_call>' + eos_token }}
{%- endif %}
{%- for message in messages %}
    {{- '<|assistant|>' if message.role == 'assistant' else '<|user|>' }}
    {%- if message.reasoning_content %}{{ '<think>\n' + message.reasoning_content + '\n</think>\n\n' }}{% endif %}
    {{- 'Result: ' if message.role == 'tool' }}{{ message.content }}
    {%- for call in message.tool_calls or [] %}
        {{- '<tool_call>\n' + ({'name': call.function.name, 'arguments': call.function.arguments} | tojson) }}
        {{- '\n</tool_call>' }}
    {%- endfor %}
    {{- eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}
{%- endif %}
"""


def tools(folder: pathlib.Path) -> None:
    """Writes a chat template that shows tools, their calls and their results, and reasoning, as the templates of Hermes and Qwen
    do."""
    (folder / "chat_template.jinja").write_text(SHOWS_TOOLS)


def random_weights(folder: pathlib.Path) -> None:
    """Replaces the matrices by random numbers, the same on every machine, so that no training helps the answers. The norms
    stay."""
    path = folder / "model.safetensors"
    weights = bytearray(path.read_bytes())
    (length,) = struct.unpack_from("<Q", weights)
    tensors = json.loads(weights[8 : 8 + length])
    tensors.pop("__metadata__", None)
    draw = random.Random(SEED)
    for tensor in tensors.values():
        if len(tensor["shape"]) == 2:
            assert tensor["dtype"] == "BF16", tensor
            begin, end = (8 + length + offset for offset in tensor["data_offsets"])
            singles = array.array("f", (draw.gauss(0, SPREAD) for _ in range((end - begin) // 2)))
            if sys.byteorder == "big":
                singles.byteswap()
            # A bf16 is the upper half of an f32.
            halves = singles.tobytes()
            weights[begin:end:2], weights[begin + 1 : end : 2] = halves[2::4], halves[3::4]
    path.write_bytes(weights)


KINDS = {"tools": tools, "random": random_weights}


def make(kind: str, folder: pathlib.Path) -> pathlib.Path:
    """Makes a folder in `folder` with the model of this kind, and returns it."""
    model = folder / kind
    shutil.copytree(BOX, model)
    KINDS[kind](model)
    return model
