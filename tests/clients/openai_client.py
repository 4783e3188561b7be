"""Drives a running endpoint with the official `openai` client, with whole, streamed and wrong requests.

    python tests/clients/openai_client.py --base-url http://127.0.0.1:1234/v1 [--prompt TEXT]

It asserts shapes and equalities (a streamed answer equals the whole answer, a prompt of tokens equals its text), and never the
text of the model, so it runs against any model. All requests are greedy unless they set a temperature. Exits with 0 and
prints one line per check.
"""

import argparse
import asyncio
import json
import math
import pathlib

import openai

MAX_TOKENS = 24
CONCURRENCY = 8
# Written by tests/parity/make_beams.py.
BEAMS = pathlib.Path(__file__).parents[1] / "parity/beams.json"


def check_models(client, args):
    models = client.models.list().data
    assert len(models) == 1 and models[0].object == "model", models
    assert client.models.retrieve("default").id == models[0].id


# A chat model may end its answer to a bare text at once, so the requests ignore its end token.
GO_ON = {"ignore_eos": True}


def complete(client, args, **options):
    options = {"model": "default", "prompt": args.prompt, "max_tokens": MAX_TOKENS, "temperature": 0, **options}
    options.setdefault("extra_body", GO_ON)
    return client.completions.create(**options)


def chat(client, args, **options):
    messages = [{"role": "user", "content": args.prompt}]
    options = {"model": "default", "messages": messages, "max_completion_tokens": MAX_TOKENS, "temperature": 0, **options}
    return client.chat.completions.create(**options)


def check_completion(client, args):
    whole = complete(client, args)
    assert whole.object == "text_completion" and whole.choices[0].text, whole
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert 0 < whole.usage.completion_tokens <= MAX_TOKENS

    chunks = list(complete(client, args, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens

    several = complete(client, args, prompt=[args.prompt, args.prompt + " and"])
    assert [choice.index for choice in several.choices] == [0, 1]
    assert several.choices[0].text == whole.choices[0].text
    assert complete(client, args, prompt=[1, 2, 3]).usage.prompt_tokens == 3


def check_stop(client, args):
    text = complete(client, args).choices[0].text
    stop = text[len(text) // 2 :][:3]
    cut = complete(client, args, stop=[stop])
    assert cut.choices[0].text == text[: text.find(stop)] and cut.choices[0].finish_reason == "stop", (text, stop, cut)


def check_logprobs(client, args):
    choice = complete(client, args, logprobs=2).choices[0]
    assert len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs) == len(choice.logprobs.text_offset)
    assert all(logprob <= 0 for logprob in choice.logprobs.token_logprobs)
    choice = chat(client, args, logprobs=True, top_logprobs=3).choices[0]
    assert all(len(token.top_logprobs) <= 3 and token.bytes is not None for token in choice.logprobs.content)


def check_chat(client, args):
    whole = chat(client, args)
    message = whole.choices[0].message
    assert whole.object == "chat.completion" and message.role == "assistant" and message.content, whole
    chunks = list(chat(client, args, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == message.content
    parts = [{"role": "user", "content": [{"type": "text", "text": args.prompt}]}]
    assert chat(client, args, messages=parts).choices[0].message.content == message.content
    with chat(client, args, stream=True, max_completion_tokens=1000) as stream:
        next(iter(stream))  # then the client disconnects


def check_sampling(client, args):
    several = chat(client, args, n=3, temperature=2, seed=7)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    texts = [choice.message.content for choice in several.choices]
    assert len(set(texts)) > 1, "choices have random numbers of their own"
    again = chat(client, args, n=3, temperature=2, seed=7)
    assert [choice.message.content for choice in again.choices] == texts, "and the same ones for the same seed"
    streamed = [""] * 3
    for chunk in chat(client, args, n=3, temperature=2, seed=7, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts

    # The model answers with only the token that the bias raises. With penalties, it does not choose the same token again.
    forced = complete(client, args, logit_bias={"300": 100}, max_tokens=4, logprobs=0)
    assert len(set(forced.choices[0].logprobs.tokens)) == 1, forced
    options = {"max_tokens": 48, "logprobs": 0, "frequency_penalty": 2, "presence_penalty": 2}
    spread = complete(client, args, logit_bias={str(token): 50 for token in range(300, 304)}, **options)
    assert len(set(spread.choices[0].logprobs.tokens)) >= 4, spread
    once = complete(client, args, max_tokens=16, logprobs=0, extra_body={**GO_ON, "repetition_penalty": 100})
    assert len(set(once.choices[0].logprobs.tokens)) == 16, once
    longer = chat(client, args, extra_body={"min_tokens": MAX_TOKENS})
    assert longer.usage.completion_tokens == MAX_TOKENS, longer
    chat(client, args, temperature=1, extra_body={"min_p": 0.2})


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"enum": ["Bern", "Paris", "Rome"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time", "description": "The time of day"}}


def check_call(call):
    assert call["id"], call
    arguments = json.loads(call["arguments"])
    if call["name"] == "get_time":
        assert arguments == {}, call
    else:
        assert call["name"] == "get_weather" and set(arguments) <= {"city", "days"}, call
        assert arguments["city"] in ("Bern", "Paris", "Rome") and 1 <= arguments.get("days", 1) <= 9, call


def ask_for_calls(client, args, stream, **options):
    """Returns the calls of an answer, whole or streamed, each as id, name and arguments."""
    options = {"tools": [WEATHER, TIME], "temperature": 1, "max_completion_tokens": 400, "stream": stream, **options}
    answer = chat(client, args, **options)
    if not stream:
        (choice,) = answer.choices
        assert choice.finish_reason == "tool_calls" and not choice.message.content, choice
        calls = choice.message.tool_calls
        return [{"id": call.id, "name": call.function.name, "arguments": call.function.arguments} for call in calls]
    calls, finish = [], None
    for chunk in answer:
        (choice,) = chunk.choices
        assert not choice.delta.content, choice
        finish = finish or choice.finish_reason
        for part in choice.delta.tool_calls or []:
            if part.index == len(calls):
                assert part.function.name, "the name comes first"
                calls.append({"id": part.id, "name": part.function.name, "arguments": ""})
            else:
                assert part.function.name is None and part.id is None, part
            calls[part.index]["arguments"] += part.function.arguments or ""
    assert finish == "tool_calls"
    return calls


def check_tools(client, args):
    for stream in (False, True):
        for seed in range(4):
            calls = ask_for_calls(client, args, stream, tool_choice="required", seed=seed)
            assert calls, "a call is required"
            for call in calls:
                check_call(call)
        named = {"type": "function", "function": {"name": "get_weather"}}
        (call,) = ask_for_calls(client, args, stream, tool_choice=named)
        check_call(call)
        assert call["name"] == "get_weather"
        only = ask_for_calls(client, args, stream, tool_choice="required", parallel_tool_calls=False)
        assert len(only) == 1, only

        # The loop: the question, the call, the result of the tool, the answer.
        function = {"name": call["name"], "arguments": call["arguments"]}
        messages = [
            {"role": "user", "content": args.prompt},
            {"role": "assistant", "content": None, "tool_calls": [{"id": call["id"], "type": "function", "function": function}]},
            {"role": "tool", "tool_call_id": call["id"], "content": "18 degrees and sun"},
        ]
        answer = chat(client, args, messages=messages, tools=[WEATHER], tool_choice="none", stream=stream)
        if stream:
            text = "".join(chunk.choices[0].delta.content or "" for chunk in answer)
        else:
            (choice,) = answer.choices
            assert choice.finish_reason in ("stop", "length") and not choice.message.tool_calls
            text = choice.message.content
        assert text, "an answer in words"


def check_beams(client, args):
    """The built-in model finds what transformers finds with it. Any model gives as many answers as there are beams."""
    several = complete(client, args, prompt=[args.prompt] * 2, n=2, extra_body={"use_beam_search": True})
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in several.choices[:2]] == [choice.text for choice in several.choices[2:]]
    if client.models.list().data[0].id != "tiny":
        return
    for entry in json.loads(BEAMS.read_text())["tiny"]:
        search = {key: entry[key] for key in ("length_penalty", "early_stopping")}
        body = {"use_beam_search": True, "return_token_ids": True, **search}
        options = {"prompt": entry["prompt"], "n": entry["beams"], "max_tokens": entry["max_tokens"]}
        answers = complete(client, args, **options, extra_body=body).choices
        assert [choice.token_ids for choice in answers] == [answer["tokens"] for answer in entry["answers"]], entry


def check_all_logprobs(client, args):
    """The probabilities of the whole vocabulary add up to 1."""
    answer = chat(client, args, max_completion_tokens=1, logprobs=True, extra_body={"top_logprobs": -1})
    top = answer.choices[0].logprobs.content[0].top_logprobs
    assert abs(sum(math.exp(token.logprob) for token in top) - 1) < 1e-3, len(top)
    assert [token.logprob for token in top] == sorted((token.logprob for token in top), reverse=True)


def check_forms(client, args):
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["ada", "grace"]}, "year": {"type": "integer", "minimum": 1800, "maximum": 1999}},
        "required": ["name", "year"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": schema}}
    for seed in range(8):
        answer = chat(client, args, response_format=form, temperature=1, seed=seed, max_completion_tokens=200)
        person = json.loads(answer.choices[0].message.content)
        assert person["name"] in ("ada", "grace") and 1800 <= person["year"] <= 1999 and len(person) == 2, person
        assert answer.choices[0].finish_reason == "stop"
    one_of = chat(client, args, extra_body={"guided_choice": ["left", "right"]}).choices[0].message.content
    assert one_of in ("left", "right"), one_of
    digits = complete(client, args, extra_body={"structured_outputs": {"regex": "[0-9]{3}-[0-9]{4}"}}).choices[0].text
    assert len(digits) == 8 and digits[3] == "-" and digits.replace("-", "").isdigit(), digits


def check_errors(client, args):
    def refused(kind, param, call):
        try:
            call()
        except kind as error:
            assert error.body["param"] == param and error.body["message"], error.body
            assert error.response.headers["x-request-id"]
            return
        raise AssertionError(f"the server did not refuse {param}")

    refused(openai.NotFoundError, "model", lambda: complete(client, args, model="no-such-model"))
    refused(openai.BadRequestError, "n", lambda: chat(client, args, n=65))
    refused(openai.BadRequestError, "temperature", lambda: chat(client, args, temperature=1000))
    refused(openai.BadRequestError, "tools[0].function.name", lambda: chat(client, args, tools=[{"type": "function"}]))
    bad_schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "robot"}}}
    refused(openai.BadRequestError, "response_format", lambda: chat(client, args, response_format=bad_schema))
    refused(openai.BadRequestError, "messages", lambda: chat(client, args, messages=[]))
    refused(openai.BadRequestError, "prompt", lambda: complete(client, args, prompt="word " * 200_000))


def check_concurrency(client, args):
    """Concurrent greedy answers must equal the greedy answers alone."""
    prompts = [f"{args.prompt} {number}" for number in range(CONCURRENCY)]
    alone = [complete(client, args, prompt=prompt).choices[0].text for prompt in prompts]

    async def together():
        async with openai.AsyncOpenAI(base_url=args.base_url, api_key="none") as client:
            options = {"model": "default", "max_tokens": MAX_TOKENS, "temperature": 0, "extra_body": GO_ON}
            return await asyncio.gather(*(client.completions.create(prompt=prompt, **options) for prompt in prompts))

    answers = asyncio.run(together())
    if args.exact:
        assert [answer.choices[0].text for answer in answers] == alone
    assert all(answer.usage.completion_tokens for answer in answers)


CHECKS = [
    check_models,
    check_completion,
    check_stop,
    check_logprobs,
    check_chat,
    check_sampling,
    check_tools,
    check_beams,
    check_all_logprobs,
    check_forms,
    check_errors,
    check_concurrency,
]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--base-url", default="http://127.0.0.1:1234/v1")
    parser.add_argument("--prompt", default="What does the head do?")
    parser.add_argument("--exact", action="store_true", help="answers must not depend on the batch (true in f32)")
    args = parser.parse_args()
    with openai.OpenAI(base_url=args.base_url, api_key="none", max_retries=2, timeout=120) as client:
        for check in CHECKS:
            check(client, args)
            print(f"ok {check.__name__.removeprefix('check_')}", flush=True)


if __name__ == "__main__":
    main()
