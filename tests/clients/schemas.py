"""Checks with `jsonschema` that answers match a schema, at temperature 1 and with any model.

    python tests/clients/schemas.py --base-url http://127.0.0.1:1234/v1 [--runs 200]

The script asks for RUNS answers to one schema, and for a few answers to each of the other schemas, which use more of the
language. Exits with 0 and prints one line
per schema.
"""

import argparse
import asyncio
import json
import typing

import jsonschema
import openai
import pydantic

RUNS = 200
# Answers to each of the other schemas.
FEW = 10
TOGETHER = 32
MAX_TOKENS = 600

# Strings have a maximum length, because a random model would continue until the context is full.
PERSON = {
    "type": "object",
    "properties": {
        "name": {"enum": ["ada", "grace", "edsger"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 2},
        "ok": {"type": "boolean"},
    },
    "required": ["name", "age", "tags", "ok"],
    "additionalProperties": False,
}
OTHERS = {
    "references": {
        "$defs": {
            "point": {
                "type": "array",
                "prefixItems": [{"type": "integer", "minimum": -9, "maximum": 9}, {"enum": [0.5, 1.5]}],
                "items": False,
                "minItems": 2,
            }
        },
        "type": "object",
        "properties": {"from": {"$ref": "#/$defs/point"}, "to": {"$ref": "#/$defs/point"}},
        "required": ["from", "to"],
        "additionalProperties": False,
    },
    "alternatives": {
        "type": "object",
        "properties": {
            "id": {"anyOf": [{"type": "null"}, {"type": "string", "pattern": "^[a-f]{2}-[0-9]{1,3}$"}]},
            "unit": {"const": "m"},
            "value": {"type": "number", "minimum": 0, "exclusiveMaximum": 100, "multipleOf": 0.5},
            "day": {"type": "string", "format": "date"},
        },
        "required": ["id", "unit", "day"],
        "additionalProperties": False,
    },
    "a list": {
        "type": "array",
        "items": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
        "minItems": 2,
        "maxItems": 4,
    },
}


class Step(pydantic.BaseModel):
    action: typing.Literal["go", "stop"]
    metres: typing.Annotated[int, pydantic.Field(ge=0, le=50)] | None


class Route(pydantic.BaseModel):
    """A class that the client turns into a schema."""

    steps: typing.Annotated[list[Step], pydantic.Field(max_length=3)]
    safe: bool


async def answers(client, schema, runs):
    """Returns the texts of `runs` answers, each with a random seed of its own."""
    form = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
    turns = asyncio.Semaphore(TOGETHER)

    async def one(seed):
        messages = [{"role": "user", "content": f"Number {seed}?"}]
        options = {"temperature": 1, "seed": seed, "max_completion_tokens": MAX_TOKENS}
        async with turns:
            answer = await client.chat.completions.create(
                model="default", messages=messages, response_format=form, **options
            )
        (choice,) = answer.choices
        assert choice.finish_reason == "stop", choice
        return choice.message.content

    return await asyncio.gather(*(one(seed) for seed in range(runs)))


async def check(client, name, schema, runs):
    judge = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    texts = await answers(client, schema, runs)
    for text in texts:
        judge.validate(json.loads(text))
    different = len(set(texts))
    assert len(texts) == runs and different > runs // 2, f"{different} different ones: no random answers"
    print(f"ok {name}: {runs} of {runs}, {different} different ones", flush=True)


async def check_parsed(client):
    """Asks with a class. The client turns the class into a schema and parses the answer into it, whole and streamed."""
    request = {"model": "default", "messages": [{"role": "user", "content": "Where to?"}], "temperature": 1, "seed": 3}
    request |= {"response_format": Route, "max_completion_tokens": MAX_TOKENS}
    whole = (await client.chat.completions.parse(**request)).choices[0].message
    assert isinstance(whole.parsed, Route), whole
    async with client.chat.completions.stream(**request) as stream:
        streamed = (await stream.get_final_completion()).choices[0].message
    assert streamed.parsed == whole.parsed and streamed.content == whole.content, (streamed, whole)
    print("ok parsed", flush=True)


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--base-url", default="http://127.0.0.1:1234/v1")
    parser.add_argument("--runs", type=int, default=RUNS)
    args = parser.parse_args()
    async with openai.AsyncOpenAI(base_url=args.base_url, api_key="none", max_retries=2, timeout=120) as client:
        await check(client, "person", PERSON, args.runs)
        for name, schema in OTHERS.items():
            await check(client, name, schema, FEW)
        await check_parsed(client)


if __name__ == "__main__":
    asyncio.run(main())
