"""Drives a running endpoint with the frameworks that people build on: LangChain, LiteLLM and instructor.

    python tests/clients/frameworks.py --base-url http://127.0.0.1:1234/v1

The chat template of the model must show tools. Every framework keeps its defaults, which differ in the endpoint and the fields
that they use. Exits with 0 and prints one line per check.
"""

import argparse
import os
import typing

# The frameworks report to their makers otherwise.
os.environ |= {"LANGSMITH_TRACING": "false", "DO_NOT_TRACK": "1"}
os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "OPENAI_API_KEY": "none"}

import instructor  # noqa: E402
import langchain_openai  # noqa: E402
import litellm  # noqa: E402
import openai  # noqa: E402
import pydantic  # noqa: E402

MODEL = "default"
QUESTION = "How is the weather?"
LONG = "word " * 4000


class Weather(pydantic.BaseModel, extra="forbid"):
    """The weather of a city"""

    city: typing.Literal["Bern", "Paris"]
    days: int = pydantic.Field(ge=1, le=9)


def check_langchain(base_url):
    model = langchain_openai.ChatOpenAI(model=MODEL, base_url=base_url, temperature=0, max_tokens=24)
    whole = model.invoke(QUESTION)
    assert whole.content and whole.usage_metadata["output_tokens"] > 0, whole
    assert "".join(chunk.content for chunk in model.stream(QUESTION)) == whole.content
    tools = langchain_openai.ChatOpenAI(model=MODEL, base_url=base_url, temperature=0, max_tokens=200)
    call = tools.bind_tools([Weather], tool_choice="any").invoke(QUESTION).tool_calls[0]
    assert call["name"] == "Weather" and Weather.model_validate(call["args"]), call
    for method in ("json_schema", "function_calling"):
        answer = tools.with_structured_output(Weather, method=method).invoke(QUESTION)
        assert isinstance(answer, Weather), (method, answer)


def check_litellm(base_url):
    messages = [{"role": "user", "content": QUESTION}]
    for provider in ("openai", "hosted_vllm"):
        ask = {"model": f"{provider}/{MODEL}", "api_base": base_url, "api_key": "none", "temperature": 0}
        whole = litellm.completion(messages=messages, max_tokens=24, **ask).choices[0].message.content
        assert whole
        chunks = litellm.completion(messages=messages, max_tokens=24, stream=True, **ask)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
        # Its fallback to a model with a longer context begins with this exception.
        try:
            litellm.completion(messages=[{"role": "user", "content": LONG}], **ask)
        except litellm.ContextWindowExceededError:
            continue
        raise AssertionError(f"{provider}: no ContextWindowExceededError")


def check_instructor(base_url):
    client = openai.OpenAI(base_url=base_url, api_key="none")
    for mode in (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON_SCHEMA):
        patched = instructor.from_openai(client, mode=mode)
        ask = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 200}
        answer = patched.chat.completions.create(response_model=Weather, max_retries=1, **ask)
        assert isinstance(answer, Weather), (mode, answer)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--base-url", default="http://127.0.0.1:1234/v1")
    parser.add_argument("--only")
    args = parser.parse_args()
    for check in (check_langchain, check_litellm, check_instructor):
        name = check.__name__.removeprefix("check_")
        if args.only in (None, name):
            check(args.base_url)
            print(f"ok {name}", flush=True)


if __name__ == "__main__":
    main()
