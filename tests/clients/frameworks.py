"""Drives a running endpoint with the frameworks that people build on: LangChain, LiteLLM, instructor and OpenAI's agents.

    python tests/clients/frameworks.py --base-url http://127.0.0.1:1234/v1

The chat template of the model must show tools. Every framework keeps its defaults, which differ in the endpoint and the fields
that they use. Exits with 0 and prints one line per check.
"""

import argparse
import os
import typing

# The frameworks report to their makers otherwise.
os.environ |= {"OPENAI_AGENTS_DISABLE_TRACING": "1", "LANGSMITH_TRACING": "false", "DO_NOT_TRACK": "1"}
os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "OPENAI_API_KEY": "none"}

import agents  # noqa: E402
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


def check_agents(base_url):
    """OpenAI's agents use the Responses API by default."""
    agents.set_default_openai_client(openai.AsyncOpenAI(base_url=base_url, api_key="none"), use_for_tracing=False)
    agents.set_tracing_disabled(True)
    asked = []

    @agents.function_tool
    def weather(city: typing.Literal["Bern", "Paris"]) -> str:
        """The weather of a city"""
        asked.append(city)
        return f"{city}: sun"

    plain = agents.Agent(name="a", model=MODEL, model_settings=agents.ModelSettings(temperature=0, max_tokens=24))
    assert agents.Runner.run_sync(plain, QUESTION).final_output
    typed = agents.ModelSettings(temperature=0, max_tokens=200)
    answer = agents.Runner.run_sync(agents.Agent(name="t", model=MODEL, output_type=Weather, model_settings=typed), QUESTION)
    assert isinstance(answer.final_output, Weather), answer.final_output
    forced = agents.ModelSettings(temperature=0, max_tokens=100, tool_choice="required")
    calling = agents.Agent(name="c", model=MODEL, tools=[weather], model_settings=forced)
    assert agents.Runner.run_sync(calling, QUESTION, max_turns=4).final_output and asked, asked


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--base-url", default="http://127.0.0.1:1234/v1")
    parser.add_argument("--only")
    args = parser.parse_args()
    for check in (check_langchain, check_litellm, check_instructor, check_agents):
        name = check.__name__.removeprefix("check_")
        if args.only in (None, name):
            check(args.base_url)
            print(f"ok {name}", flush=True)


if __name__ == "__main__":
    main()
