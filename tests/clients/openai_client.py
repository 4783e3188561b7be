"""Drives a running endpoint with the official `openai` client: what its users do, whole, streamed and wrong.

    python tests/clients/openai_client.py --base-url http://127.0.0.1:1234/v1 [--prompt TEXT]

It asserts on shapes and on equalities (a streamed answer is the whole one, a token prompt is the text), never on what
the model says, so it runs against any model. Greedy throughout. Exits with 0 and prints one line per check.
"""

import argparse
import asyncio

import openai

MAX_TOKENS = 24
CONCURRENCY = 8


def check_models(client, args):
    models = client.models.list().data
    assert len(models) == 1 and models[0].object == "model", models
    assert client.models.retrieve("default").id == models[0].id


# A chat model may have nothing to add to a bare text: it goes on past its end token.
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
        next(iter(stream))  # and goes away


def check_sampling(client, args):
    several = chat(client, args, n=3, temperature=1.5, seed=7)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    texts = [choice.message.content for choice in several.choices]
    assert len(set(texts)) > 1, "choices have random numbers of their own"
    again = chat(client, args, n=3, temperature=1.5, seed=7)
    assert [choice.message.content for choice in again.choices] == texts, "and the same ones for the same seed"
    streamed = [""] * 3
    for chunk in chat(client, args, n=3, temperature=1.5, seed=7, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts

    # A token that is biased up is all there is, and one that has been there is not chosen again.
    forced = complete(client, args, logit_bias={"300": 100}, max_tokens=4, logprobs=0)
    assert len(set(forced.choices[0].logprobs.tokens)) == 1, forced
    options = {"max_tokens": 8, "logprobs": 0, "frequency_penalty": 2, "presence_penalty": 2}
    for bias in ({str(token): 50 for token in range(300, 304)},):
        spread = complete(client, args, logit_bias=bias, **options)
        assert len(set(spread.choices[0].logprobs.tokens)) == 4, spread
    once = complete(client, args, max_tokens=16, logprobs=0, extra_body={**GO_ON, "repetition_penalty": 100})
    assert len(set(once.choices[0].logprobs.tokens)) == 16, once
    longer = chat(client, args, extra_body={"min_tokens": MAX_TOKENS})
    assert longer.usage.completion_tokens == MAX_TOKENS, longer
    chat(client, args, temperature=1, extra_body={"min_p": 0.2})


def check_errors(client, args):
    def refused(kind, param, call):
        try:
            call()
        except kind as error:
            assert error.body["param"] == param and error.body["message"], error.body
            assert error.response.headers["x-request-id"]
            return
        raise AssertionError(f"{param}: not refused")

    refused(openai.NotFoundError, "model", lambda: complete(client, args, model="no-such-model"))
    refused(openai.BadRequestError, "n", lambda: chat(client, args, n=65))
    refused(openai.BadRequestError, "temperature", lambda: chat(client, args, temperature=1000))
    refused(openai.BadRequestError, "tools", lambda: chat(client, args, tools=[{"type": "function", "function": {"name": "f"}}]))
    refused(openai.BadRequestError, "messages", lambda: chat(client, args, messages=[]))
    refused(openai.BadRequestError, "prompt", lambda: complete(client, args, prompt="word " * 200_000))


def check_concurrency(client, args):
    """Greedy answers together are the greedy answers alone."""
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


CHECKS = [check_models, check_completion, check_stop, check_logprobs, check_chat, check_sampling, check_errors, check_concurrency]


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
