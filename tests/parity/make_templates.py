"""Renders chat templates as transformers does, for agent/api to compare with.

    tests/fetch templates FOLDER
    .venv/bin/python tests/parity/make_templates.py FOLDER               # tests/parity/templates/*.json
    .venv/bin/python tests/parity/make_templates.py FOLDER NAME [TURNS]  # print the prompts of one template

`constructs.json` is a list of pairs: a template of constructs.py, and the text that it renders, or null if transformers
refuses it. `expected.json` has, for each template of llama.cpp, the first 8 bytes of the SHA-256 of its prompt for each
conversation of `conversations.json`, or null if transformers refuses the conversation.

Four differences are intended, and the record has Lockstep's side: content that is null counts as empty, no text is
escaped for HTML, `map` returns a list, which `tojson` takes, and firefunction's template gets its variables. `differs`
lists the conversations in which transformers' own prompt is another for these reasons.
"""

import datetime
import hashlib
import json
import os
import pathlib
import sys

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
from constructs import CONSTRUCTS  # noqa: E402
from jinja2 import pass_context  # noqa: E402
from transformers.utils.chat_template_utils import _compile_jinja_template  # noqa: E402

FOLDER = pathlib.Path(__file__).parent / "templates"
TOKENS = dict(bos_token="<s>", eos_token="</s>")
# The time in all prompts.
NOW = datetime.datetime(2024, 5, 6, 7, 8, 9)


def render(source, messages, tools, as_lockstep=False):
    """The prompt, or None if transformers refuses the conversation."""
    try:
        environment = _compile_jinja_template(source).environment.overlay()
        environment.globals = environment.globals | dict(strftime_now=NOW.strftime)
        if as_lockstep:
            lazy = environment.filters["map"]
            mapped = pass_context(lambda *positional, **named: list(lazy(*positional, **named)))
            environment.filters = environment.filters | dict(safe=str, map=mapped)
        variables = dict(TOKENS)
        if as_lockstep and "functools[" in source:
            variables["functions"] = json.dumps([tool["function"] for tool in tools or []], indent=4, ensure_ascii=False)
            variables["datetime"] = NOW.strftime("%Y-%m-%d %H:%M:%S UTC")
        template = environment.from_string(source)
        return template.render(messages=messages, tools=tools, documents=None, add_generation_prompt=True, **variables)
    except Exception:
        return None


def in_model(messages, content_is_null=True):
    """The messages as the model's template sees them: the arguments of calls are objects."""
    messages = json.loads(json.dumps(messages))
    for message in messages:
        if message["content"] is None and not content_is_null:
            message["content"] = ""
        for call in message.get("tool_calls", []):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return messages


def digest(prompt):
    return None if prompt is None else hashlib.sha256(prompt.encode()).hexdigest()[:16]


def prompts(source, conversation):
    """The prompt of transformers, and the one of Lockstep."""
    messages, tools = conversation["messages"], conversation.get("tools")
    own = render(source, in_model(messages), tools)
    return own, render(source, in_model(messages, content_is_null=False), tools, as_lockstep=True)


def write(name, value):
    FOLDER.mkdir(exist_ok=True)
    lines = ",\n".join(json.dumps(item, ensure_ascii=False) for item in value) if isinstance(value, list) else None
    text = f"[\n{lines}\n]\n" if lines else json.dumps(value, ensure_ascii=False, indent=1) + "\n"
    (FOLDER / name).write_text(text)


def main():
    conversations = json.loads((FOLDER / "conversations.json").read_text())
    files = sorted(pathlib.Path(sys.argv[1]).glob("*.jinja"))
    if wanted := sys.argv[2:3]:
        source = next(file for file in files if file.stem == wanted[0]).read_text()
        for name, conversation in conversations.items():
            if name in (sys.argv[3:] or conversations):
                print(f"== {name}", prompts(source, conversation)[1], sep="\n")
        return
    templates, differs = {}, []
    for file in files:
        rendered = {name: prompts(file.read_text(), conversation) for name, conversation in conversations.items()}
        templates[file.stem] = " ".join(digest(prompt) or "null" for _, prompt in rendered.values())
        differs += [f"{file.stem} {name}" for name, (own, prompt) in rendered.items() if own != prompt]
    write("expected.json", dict(templates=templates, differs=differs))
    user = [dict(role="user", content="Hi")]
    write("constructs.json", [[source, render(source, user, None)] for source in CONSTRUCTS])


main()
