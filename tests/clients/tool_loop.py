"""The loop that users of tools write with the official `openai` client: question, call, result of the tool, answer.

    python tests/clients/tool_loop.py --base-url http://127.0.0.1:1234/v1

The chat template of the model must show tools. All requests are greedy, so a streamed answer must equal the whole answer,
in calls and in text. Exits with 0 and prints one line per check.
"""

import argparse
import json
import typing

import openai
import pydantic

MAX_TOKENS = 48
# After as many turns without an answer in text, the loop is stuck.
MAX_TURNS = 4


class Weather(pydantic.BaseModel):
    """The weather of a city in the next days"""

    city: typing.Literal["Bern", "Paris", "Rome"]
    days: int = pydantic.Field(ge=1, le=9)


class Time(pydantic.BaseModel):
    """The time of day there"""

    zone: typing.Literal["CET", "UTC"]


ASKED_FOR = {"Weather": Weather, "Time": Time}
TOOLS = [openai.pydantic_function_tool(Weather), openai.pydantic_function_tool(Time)]


def answer_call(call):
    """Returns the result of the called tool."""
    arguments = ASKED_FOR[call.function.name].model_validate_json(call.function.arguments)
    match arguments:
        case Weather(city=city, days=days):
            return f"{city}: sun for {days} days"
        case Time(zone=zone):
            return f"noon {zone}"


def whole(client, **request):
    completion = client.chat.completions.create(**request)
    (choice,) = completion.choices
    return choice.finish_reason, choice.message, completion.usage


def by_the_library(client, **request):
    """Streams an answer. The client library assembles it and parses the arguments."""
    with client.chat.completions.stream(stream_options={"include_usage": True}, **request) as stream:
        events = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        completion = stream.get_final_completion()
    (choice,) = completion.choices
    calls = choice.message.tool_calls or []
    assert [event.arguments for event in events] == [call.function.arguments for call in calls]
    for call in calls:
        assert isinstance(call.function.parsed_arguments, ASKED_FOR[call.function.name]), call
    return choice.finish_reason, choice.message, completion.usage


def by_hand(client, **request):
    """Streams an answer, and assembles it as in OpenAI's guide."""
    content, calls, finish, usage, pieces = "", [], None, None, 0
    for chunk in client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **request):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            content += choice.delta.content or ""
            for part in choice.delta.tool_calls or []:
                if part.index == len(calls):
                    assert part.id and part.type == "function" and part.function.name, "a call begins with its name"
                    calls.append({"id": part.id, "type": "function", "function": part.function.model_dump()})
                else:
                    assert part.index == len(calls) - 1 and part.id is None and part.function.name is None, part
                    calls[-1]["function"]["arguments"] += part.function.arguments
                    pieces += 1
    assert not calls or pieces > len(calls), "arguments come bit by bit"
    message = {"role": "assistant", "content": content or None} | ({"tool_calls": calls} if calls else {})
    return finish, openai.types.chat.ChatCompletionMessage.model_validate(message), usage


def loop(client, ask, first):
    """Asks with the tool choice `first`, and goes on until the model calls no tool. Returns the answer and the calls."""
    messages = [{"role": "user", "content": "How is the weather?"}]
    choice, calls, before = first, [], 0
    for _ in range(MAX_TURNS):
        request = {"tools": TOOLS, "tool_choice": choice, "max_completion_tokens": 300 if choice != "auto" else MAX_TOKENS}
        finish, message, usage = ask(client, model="default", messages=messages, temperature=0, **request)
        assert usage.prompt_tokens > before, "each prompt holds the prompt before it, the call and its result"
        before = usage.prompt_tokens
        messages.append(message)
        if finish != "tool_calls":
            assert finish in ("stop", "length") and message.content and not message.tool_calls, message
            return message.content, calls
        assert message.tool_calls and not message.content, message
        for call in message.tool_calls:
            messages.append({"role": "tool", "tool_call_id": call.id, "content": answer_call(call)})
            calls.append((call.function.name, call.function.arguments))
        choice = "auto"
    raise AssertionError(f"no answer in text: {messages}")


def check_loop(client):
    named = {"type": "function", "function": {"name": "Time"}}
    for first in ("required", named):
        content, calls = loop(client, whole, first)
        assert calls and (first == "required" or [name for name, _ in calls] == ["Time"]), calls
        for ask in (by_the_library, by_hand):
            assert loop(client, ask, first) == (content, calls), f"{ask.__name__} differs from the whole answer"


def check_what_a_model_writes_by_itself(client):
    """The request requires no call. A grammar forces the text of the answer, and the server must find the calls in this text."""
    arguments = {"city": "Bern", "days": 2}
    call = f'<tool_call>\n{{"name": "Weather", "arguments": {json.dumps(arguments)}}}\n</tool_call>'
    request = {"model": "default", "messages": [{"role": "user", "content": "Hm?"}], "temperature": 0}
    form = {"structured_outputs": {"choice": [f"Let me see.\n{call}\n{call}"]}}
    for ask in (whole, by_hand):
        finish, message, _ = ask(client, tools=TOOLS, extra_body=form, **request)
        assert (finish, message.content) == ("tool_calls", "Let me see."), message
        assert [json.loads(call.function.arguments) for call in message.tool_calls] == [arguments] * 2, message
        assert len({call.id for call in message.tool_calls}) == 2, message
        # Without tools in the prompt, the client expects no calls, so the same text is content.
        finish, message, _ = ask(client, tools=TOOLS, tool_choice="none", extra_body=form, **request)
        assert finish == "stop" and message.content.endswith(call) and not message.tool_calls, message


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--base-url", default="http://127.0.0.1:1234/v1")
    args = parser.parse_args()
    with openai.OpenAI(base_url=args.base_url, api_key="none", max_retries=2, timeout=120) as client:
        for check in (check_loop, check_what_a_model_writes_by_itself):
            check(client)
            print(f"ok {check.__name__.removeprefix('check_')}", flush=True)


if __name__ == "__main__":
    main()
