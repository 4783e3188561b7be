"""Drives `/v1/messages` of a running endpoint with the official `anthropic` client: whole, streamed and wrong requests.

    python tests/clients/anthropic_client.py --base-url http://127.0.0.1:1234/v1

The chat template of the model must show tools and reasoning, as that of the model `tools` of models.py does. All requests are
greedy, so a streamed answer must equal the whole answer. Exits with 0 and prints one line per check.
"""

import argparse
import json
import typing

import anthropic
import pydantic
from anthropic.types import Message, RawMessageStreamEvent

MAX_TOKENS = 24
QUESTION = "How is the weather?"
ARGUMENTS = {"city": "Bern", "days": 2}
CALL = f'<tool_call>\n{{"name": "Weather", "arguments": {json.dumps(ARGUMENTS)}}}\n</tool_call>'
EVENT = pydantic.TypeAdapter(RawMessageStreamEvent)


class Weather(pydantic.BaseModel):
    """The weather of a city in the next days"""

    model_config = pydantic.ConfigDict(extra="forbid")

    city: typing.Literal["Bern", "Paris", "Rome"]
    days: int = pydantic.Field(ge=1, le=9)


class Report(pydantic.BaseModel):
    """The weather now. The client sends no bounds of numbers, so this has no numbers."""

    city: typing.Literal["Bern", "Paris", "Rome"]
    sunny: bool


# The fields of these requests that the client does not know pass through `extra_body`.
GREEDY = {"temperature": 0}
TOOLS = [{"name": "Weather", "description": "The weather", "input_schema": Weather.model_json_schema()}]


def says(*texts):
    """Forces the answer to be one of the texts."""
    return {**GREEDY, "structured_outputs": {"choice": list(texts)}}


def user(content):
    return {"role": "user", "content": content}


def create(client, **options):
    options = {"model": "default", "messages": [user(QUESTION)], "max_tokens": MAX_TOKENS, "extra_body": GREEDY, **options}
    return client.messages.create(**options)


def streamed(client, **options):
    """Streams an answer. The client library assembles it."""
    options = {"model": "default", "messages": [user(QUESTION)], "max_tokens": MAX_TOKENS, "extra_body": GREEDY, **options}
    with client.messages.stream(**options) as stream:
        stream.until_done()
        return stream.get_final_message()


def validated(message):
    """Returns the message if it has each field that the client's model of it needs. The client itself does not check."""
    return Message.model_validate(message.to_dict())


def stable(message):
    """Returns the blocks of a message without what differs from request to request."""
    blocks = [block.to_dict() for block in message.content]
    return [{name: value for name, value in block.items() if name not in ("id", "signature")} for block in blocks]


def tokens(usage):
    return usage.input_tokens + usage.cache_read_input_tokens


def check_text(client):
    whole = validated(create(client))
    (block,) = whole.content
    assert whole.role == "assistant" and whole.stop_reason in ("end_turn", "max_tokens") and block.text, whole
    assert 0 < whole.usage.output_tokens <= MAX_TOKENS
    parts = [user([{"type": "text", "text": QUESTION, "cache_control": {"type": "ephemeral"}}])]
    counted = client.messages.count_tokens(model="default", messages=parts)
    assert counted.input_tokens == tokens(whole.usage), (counted, whole.usage)
    told = create(client, messages=parts, system=[{"type": "text", "text": "Be brief."}], metadata={"user_id": "me"})
    assert tokens(told.usage) > tokens(whole.usage)
    longer = create(client, messages=[*parts, whole.to_param(), user("And then?")])
    assert tokens(longer.usage) > tokens(whole.usage)
    stop = block.text[len(block.text) // 2 :][:3]
    cut = create(client, stop_sequences=["no such text", stop])
    assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", stop), cut
    assert "".join(part.text for part in cut.content) == block.text[: block.text.find(stop)]


def check_stream(client):
    whole = create(client)
    events = list(create(client, stream=True))
    for event in events:
        EVENT.validate_python(event.to_dict())
    assert [event.type for event in events[:2]] == ["message_start", "content_block_start"]
    assert [event.type for event in events[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
    assert "".join(event.delta.text for event in events if event.type == "content_block_delta") == whole.content[0].text
    final = streamed(client)
    assert (stable(final), final.stop_reason) == (stable(whole), whole.stop_reason)
    assert final.usage.output_tokens == whole.usage.output_tokens and tokens(final.usage) == tokens(whole.usage)
    with create(client, stream=True, max_tokens=1000) as stream:
        next(iter(stream))  # then the client disconnects


def check_thinking(client):
    forced = says("<think>\nHm.\n</think>\n\nSun.")
    thinking = {"type": "enabled", "budget_tokens": 1024}
    whole = validated(create(client, extra_body=forced, thinking=thinking))
    thought, text = whole.content
    assert (thought.type, thought.thinking, text.text) == ("thinking", "Hm.", "Sun.") and thought.signature, whole
    assert whole.usage.output_tokens_details.thinking_tokens > 0
    final = streamed(client, extra_body=forced, thinking=thinking)
    assert stable(final) == stable(whole) and final.content[0].signature
    back = create(client, messages=[user(QUESTION), whole.to_param(), user("?")])
    assert tokens(back.usage) > tokens(whole.usage)
    off = create(client, thinking={"type": "disabled"})
    assert tokens(off.usage) > tokens(create(client).usage), "the template closes the reasoning at once"


def check_calls(client):
    options = {"tools": TOOLS, "extra_body": says(f"Let me see.\n{CALL}\n{CALL}"), "max_tokens": 200}
    whole = validated(create(client, **options))
    text, *calls = whole.content
    assert text.text == "Let me see." and [call.input for call in calls] == [ARGUMENTS] * 2, whole
    assert whole.stop_reason == "tool_use" and len({call.id for call in calls}) == 2, whole
    final = streamed(client, **options)
    assert stable(final) == stable(whole) and final.stop_reason == "tool_use"

    once = {"disable_parallel_tool_use": True}
    for choice in ({"type": "any", **once}, {"type": "tool", "name": "Weather", **once}):
        first = create(client, tools=TOOLS, tool_choice=choice, max_tokens=300)
        (call,) = first.content
        Weather.model_validate(call.input)
        result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "18 degrees and sun"}]}
        messages = [user(QUESTION), first.to_param(), user([result, {"type": "text", "text": "So?"}])]
        answer = create(client, messages=messages, tools=TOOLS, tool_choice={"type": "none"})
        assert answer.content[0].text and answer.stop_reason in ("end_turn", "max_tokens"), answer


def check_structured(client):
    options = {"model": "default", "messages": [user(QUESTION)], "max_tokens": 200, "extra_body": GREEDY}
    parsed = client.messages.parse(output_format=Report, **options)
    assert isinstance(parsed.parsed_output, Report), parsed
    with client.messages.stream(output_format=Report, **options) as stream:
        stream.until_done()
        assert stream.get_final_message().parsed_output == parsed.parsed_output


def check_errors(client):
    def refused(kind, name, part, **options):
        try:
            create(client, **options)
        except kind as error:
            told = error.body["error"]
            assert (error.body["type"], told["type"]) == ("error", name) and part in told["message"], error.body
            assert error.request_id == error.body["request_id"], error.body
            return
        raise AssertionError(f"the server did not refuse {part}")

    invalid = (anthropic.BadRequestError, "invalid_request_error")
    refused(anthropic.NotFoundError, "not_found_error", "no-such-model", model="no-such-model")
    refused(*invalid, "messages", messages=[])
    refused(*invalid, "context", messages=[user("word " * 20_000)], stream=True)
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
    refused(*invalid, "messages[0].content[0].type", messages=[user([image])])
    refused(*invalid, "tools[0].type", tools=[{"type": "bash_20250124", "name": "bash"}])
    refused(*invalid, "the last message", messages=[user(QUESTION), {"role": "assistant", "content": "It"}])
    refused(*invalid, "temperature", extra_body={"temperature": 1000})


CHECKS = [check_text, check_stream, check_thinking, check_calls, check_structured, check_errors]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--base-url", default="http://127.0.0.1:1234/v1")
    args = parser.parse_args()
    base_url = args.base_url.removesuffix("/v1")  # this client adds it
    with anthropic.Anthropic(base_url=base_url, api_key="none", max_retries=2, timeout=120) as client:
        for check in CHECKS:
            check(client)
            print(f"ok {check.__name__.removeprefix('check_')}", flush=True)


if __name__ == "__main__":
    main()
