"""Drives `/v1/responses` of a running endpoint with the official `openai` client: whole, streamed and wrong requests.

    python tests/clients/responses_client.py --base-url http://127.0.0.1:1234/v1

The chat template of the model must show tools and reasoning, as that of the model `tools` of models.py does. All requests are
greedy, so a streamed answer must equal the whole answer. Exits with 0 and prints one line per check.
"""

import argparse
import json
import typing

import openai
import pydantic
from openai.types.responses import Response, ResponseStreamEvent

MAX_TOKENS = 24
QUESTION = "How is the weather?"
ARGUMENTS = {"city": "Bern", "days": 2}
CALL = f'<tool_call>\n{{"name": "Weather", "arguments": {json.dumps(ARGUMENTS)}}}\n</tool_call>'
EVENT = pydantic.TypeAdapter(ResponseStreamEvent)


class Weather(pydantic.BaseModel):
    """The weather of a city in the next days"""

    city: typing.Literal["Bern", "Paris", "Rome"]
    days: int = pydantic.Field(ge=1, le=9)


TOOL = openai.pydantic_function_tool(Weather)["function"]
TOOLS = [{"type": "function", **TOOL}]


def says(*texts):
    """Forces the answer to be one of the texts."""
    return {"structured_outputs": {"choice": list(texts)}}


def create(client, **options):
    options = {"model": "default", "input": QUESTION, "max_output_tokens": MAX_TOKENS, "temperature": 0, **options}
    return client.responses.create(**options)


def validated(response):
    """Returns the response if it has each field that the client's model of it needs. The client itself does not check."""
    return Response.model_validate(response.to_dict())


def stable(response):
    """Returns the output of a response without what differs from request to request."""
    items = [item.to_dict() for item in response.output]
    return [{name: value for name, value in item.items() if name not in ("id", "call_id")} for item in items]


def check_text(client):
    whole = validated(create(client))
    assert whole.object == "response" and whole.status in ("completed", "incomplete") and whole.output_text, whole
    assert (whole.status == "incomplete") == (whole.incomplete_details is not None), whole
    assert whole.temperature == 0 and whole.to_dict()["store"] is False, whole
    usage = whole.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens and 0 < usage.output_tokens <= MAX_TOKENS
    assert client.responses.input_tokens.count(model="default", input=QUESTION).input_tokens == usage.input_tokens
    listed = [{"role": "user", "content": [{"type": "input_text", "text": QUESTION}]}]
    assert create(client, input=listed).output_text == whole.output_text
    instructed = create(client, instructions="Be brief.", metadata={"key": "value"}, user="me", store=True)
    assert instructed.usage.input_tokens > usage.input_tokens and instructed.metadata == {"key": "value"}
    # The whole output is the next request's input.
    longer = create(client, input=[*listed, *whole.output, {"role": "user", "content": "And then?"}])
    assert longer.usage.input_tokens > usage.input_tokens, (longer.usage, usage)
    logprobs = create(client, include=["message.output_text.logprobs"], top_logprobs=2).output[0].content[0].logprobs
    assert logprobs and all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in logprobs)


def check_stream(client):
    whole = create(client)
    events = list(create(client, stream=True))
    for at, event in enumerate(events):
        EVENT.validate_python(event.to_dict())
        assert event.sequence_number == at, event
    assert [event.type for event in events[:3]] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert events[-1].type == f"response.{whole.status}" and stable(events[-1].response) == stable(whole)
    with create(client, stream=True, max_output_tokens=1000) as stream:
        next(iter(stream))  # then the client disconnects


def check_reasoning(client):
    body = says("<think>\nHm.\n</think>\n\nSun.")
    for summary in (None, "auto"):
        options = {"reasoning": {"effort": "low", "summary": summary}} if summary else {}
        whole = validated(create(client, extra_body=body, **options))
        thought, message = whole.output
        (part,) = thought.summary if summary else thought.content
        assert (thought.type, part.text, message.content[0].text) == ("reasoning", "Hm.", "Sun."), whole
        assert whole.usage.output_tokens_details.reasoning_tokens > 0
        name = "response.reasoning_summary_text.delta" if summary else "response.reasoning_text.delta"
        events = list(create(client, extra_body=body, stream=True, **options))
        assert "".join(event.delta for event in events if event.type == name) == "Hm."
        assert stable(events[-1].response) == stable(whole)
        back = create(client, input=[{"role": "user", "content": QUESTION}, thought, message, {"role": "user", "content": "?"}])
        assert back.usage.input_tokens > whole.usage.input_tokens
    off = create(client, reasoning={"effort": "none"}).usage.input_tokens
    assert off > create(client).usage.input_tokens, "the template closes the reasoning at once"


def check_calls(client):
    forced = says(f"Let me see.\n{CALL}\n{CALL}")
    options = {"tools": TOOLS, "extra_body": forced, "max_output_tokens": 200}
    whole = validated(create(client, **options))
    message, *calls = whole.output
    assert message.content[0].text == "Let me see." and len({call.call_id for call in calls}) == 2, whole
    assert [json.loads(call.arguments) for call in calls] == [ARGUMENTS] * 2 and whole.status == "completed", whole
    with client.responses.stream(model="default", input=QUESTION, temperature=0, **options) as stream:
        done = [event for event in stream if event.type == "response.function_call_arguments.done"]
        final = stream.get_final_response()
    assert [event.arguments for event in done] == [call.arguments for call in calls]
    parsed = [item for item in final.output if item.type == "function_call"]
    assert [item.parsed_arguments["city"] for item in parsed] == ["Bern"] * 2, final

    named = {"type": "function", "name": "Weather"}
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [named]}
    for choice in ("required", named, allowed):
        items = [{"role": "user", "content": QUESTION}]
        first = create(client, input=items, tools=TOOLS, tool_choice=choice, parallel_tool_calls=False, max_output_tokens=300)
        (call,) = first.output
        Weather.model_validate_json(call.arguments)
        items += [call, {"type": "function_call_output", "call_id": call.call_id, "output": "18 degrees and sun"}]
        answer = create(client, input=items, tools=TOOLS, tool_choice="none")
        assert answer.output_text and answer.usage.input_tokens > 0, answer


def check_structured(client):
    options = {"model": "default", "input": QUESTION, "temperature": 0, "max_output_tokens": 200}
    parsed = client.responses.parse(text_format=Weather, **options)
    assert isinstance(parsed.output_parsed, Weather), parsed
    with client.responses.stream(text_format=Weather, **options) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_parsed == parsed.output_parsed


def check_errors(client):
    def refused(kind, param, **options):
        try:
            create(client, **options)
        except kind as error:
            assert error.body["param"] == param and error.body["message"], error.body
            return
        raise AssertionError(f"the server did not refuse {param}")

    refused(openai.NotFoundError, "model", model="no-such-model")
    refused(openai.BadRequestError, "previous_response_id", previous_response_id="resp_1")
    refused(openai.BadRequestError, "background", background=True)
    refused(openai.BadRequestError, "tools[0].type", tools=[{"type": "web_search"}])
    refused(openai.BadRequestError, "input", input=[])
    refused(openai.BadRequestError, "input", input="word " * 100_000, stream=True)
    image = [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,"}]}]
    refused(openai.BadRequestError, "input[0].content[0].type", input=image)
    refused(openai.BadRequestError, "text.format.type", text={"format": {"type": "xml"}})
    try:
        client.responses.retrieve("resp_1")
    except openai.NotFoundError as error:
        assert "stores no responses" in error.body["message"], error.body
    else:
        raise AssertionError("the server found a response that it never stored")


CHECKS = [check_text, check_stream, check_reasoning, check_calls, check_structured, check_errors]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--base-url", default="http://127.0.0.1:1234/v1")
    args = parser.parse_args()
    with openai.OpenAI(base_url=args.base_url, api_key="none", max_retries=2, timeout=120) as client:
        for check in CHECKS:
            check(client)
            print(f"ok {check.__name__.removeprefix('check_')}", flush=True)


if __name__ == "__main__":
    main()
