"""Drives the service `vllm.grpc.engine.VllmEngine` as a router does, with the client of the package `smg-grpc-proto`.

    GRPC_ADDRESS=127.0.0.1:50051 python tests/clients/vllm_client.py --base-url http://127.0.0.1:1234/v1

The script fetches the tokenizer from the service, encodes and decodes by it, and judges the answers by those of the HTTP
port. The head must run with --kv-events. It asserts shapes and equalities, and never the text of the model. Exits with 0 and prints one line per check.
"""

import argparse
import hashlib
import io
import json
import os
import threading
import zipfile

import grpc
import openai
import tokenizers
from smg_grpc_proto.generated import common_pb2 as common
from smg_grpc_proto.generated import vllm_engine_pb2 as vllm
from smg_grpc_proto.generated import vllm_engine_pb2_grpc

MAX_TOKENS = 24
TIMEOUT_S = 60


class Router:
    """A client that keeps what a router keeps of an engine: its channel and its tokenizer."""

    def __init__(self, address, base_url):
        self.engine = vllm_engine_pb2_grpc.VllmEngineStub(grpc.insecure_channel(address))
        self.http = openai.OpenAI(base_url=base_url, api_key="none", timeout=TIMEOUT_S)
        self.files = self.fetch_files()
        self.tokenizer = tokenizers.Tokenizer.from_str(self.files["tokenizer.json"].decode())

    def fetch_files(self):
        chunks = list(self.engine.GetTokenizer(common.GetTokenizerRequest(), timeout=TIMEOUT_S))
        archive = b"".join(chunk.data for chunk in chunks)
        assert chunks[-1].sha256 == hashlib.sha256(archive).hexdigest(), "the digest is that of the archive"
        with zipfile.ZipFile(io.BytesIO(archive)) as files:
            assert files.testzip() is None
            return {name: files.read(name) for name in files.namelist()}

    def encode(self, text):
        return self.tokenizer.encode(text).ids

    def generate(self, prompt, stream=False, **params):
        """Returns the chunks and the last messages of an answer."""
        params = {"temperature": 0, "max_tokens": MAX_TOKENS, "ignore_eos": True, **params}
        request = vllm.GenerateRequest(stream=stream, sampling_params=vllm.SamplingParams(**params))
        if isinstance(prompt, str):
            request.text = prompt
        else:
            request.tokenized.SetInParent()
            request.tokenized.input_ids.extend(prompt)
        answer = list(self.engine.Generate(request, timeout=TIMEOUT_S))
        chunks = [response.chunk for response in answer if response.HasField("chunk")]
        return chunks, [response.complete for response in answer if response.HasField("complete")]

    def whole(self, prompt, **params):
        chunks, (complete,) = self.generate(prompt, **params)
        assert not chunks
        return complete

    def form(self, prompt, **params):
        """Returns the text of an answer that must have a form."""
        answer = self.whole(prompt, ignore_eos=False, max_tokens=200, temperature=1, seed=5, **params)
        assert answer.finish_reason == "stop", answer
        return self.tokenizer.decode(list(answer.output_ids))


def check_generate(router, args):
    ids = router.encode(args.prompt)
    answer = router.whole(ids)
    assert answer.prompt_tokens == len(ids) and answer.completion_tokens == len(answer.output_ids) == MAX_TOKENS, answer
    assert answer.finish_reason == "length" and not answer.WhichOneof("matched_stop"), answer
    assert router.whole(args.prompt).output_ids == answer.output_ids, "a text is encoded as the router encodes it"
    options = {"model": "default", "max_tokens": MAX_TOKENS, "temperature": 0, "extra_body": {"ignore_eos": True}}
    text = router.http.completions.create(prompt=ids, **options).choices[0].text
    assert router.tokenizer.decode(list(answer.output_ids)) == text, "the HTTP port gives the same answer"

    chunks, (last,) = router.generate(ids, stream=True)
    assert len(chunks) > 1 and [token for chunk in chunks for token in chunk.token_ids] == answer.output_ids
    assert all(len(chunk.token_ids) == chunk.completion_tokens for chunk in chunks)
    assert last.output_ids == answer.output_ids and last.finish_reason == "length"
    assert router.whole(ids, truncate_prompt_tokens=2).prompt_tokens == 2


def check_stop(router, args):
    ids = router.encode(args.prompt)
    answer = list(router.whole(ids).output_ids)
    # A token that comes for the first time ends the answer before it.
    at = next(at for at in range(1, len(answer)) if answer[at] not in answer[:at])
    cut = router.whole(ids, stop_token_ids=[answer[at]])
    assert list(cut.output_ids) == answer[:at] and cut.finish_reason == "stop", cut
    assert cut.matched_token_id == answer[at], cut
    stop = router.tokenizer.decode(answer)[3:6]
    cut = router.whole(ids, stop=[stop])
    assert stop in router.tokenizer.decode(list(cut.output_ids)) and cut.matched_stop_str == stop, cut


def check_sampling(router, args):
    ids = router.encode(args.prompt)
    _, several = router.generate(ids, n=3, temperature=2, seed=7)
    assert sorted(answer.index for answer in several) == [0, 1, 2]
    assert all(answer.prompt_tokens == len(ids) for answer in several)
    assert len({tuple(answer.output_ids) for answer in several}) > 1, "choices have random numbers of their own"
    chunks, again = router.generate(ids, n=3, temperature=2, seed=7, stream=True)
    of_index = lambda answers: {answer.index: list(answer.output_ids) for answer in answers}
    assert of_index(again) == of_index(several), "and the same ones for the same seed"
    for answer in again:
        assert [token for chunk in chunks if chunk.index == answer.index for token in chunk.token_ids] == answer.output_ids
    forced = router.whole(ids, logit_bias={300: 100}, max_tokens=4)
    assert list(forced.output_ids) == [300] * 4, forced

    answer = router.whole(ids, logprobs=2)
    assert answer.output_logprobs.token_ids == answer.output_ids
    for token, logprob, top in zip(answer.output_ids, answer.output_logprobs.token_logprobs, answer.output_logprobs.top_logprobs):
        assert logprob <= 0 and len(top.token_ids) == len(top.values) == 2
        assert top.token_ids[0] == token and top.values[0] == logprob, "a greedy token is the likeliest one"


def check_forms(router, args):
    schema = {"type": "object", "properties": {"name": {"enum": ["ada", "grace"]}}, "required": ["name"], "additionalProperties": False}
    assert json.loads(router.form(args.prompt, json_schema=json.dumps(schema)))["name"] in ("ada", "grace")
    digits = router.form(args.prompt, regex="[0-9]{3}-[0-9]{4}")
    assert len(digits) == 8 and digits.replace("-", "").isdigit(), digits
    choice = vllm.ChoiceConstraint(choices=["left", "right"])
    assert router.form(args.prompt, choice=choice) in ("left", "right")
    assert router.form(args.prompt, grammar='start: "a" "b"') == "ab"
    assert router.whole(args.prompt, json_object=True, ignore_eos=False).output_ids
    assert router.whole(args.prompt, json_object=False).finish_reason == "length"


def check_abort(router, args):
    for stream in (True, False):
        request = vllm.GenerateRequest(request_id=f"long-{stream}", text=args.prompt, stream=stream)
        request.sampling_params.ignore_eos = True
        answer = router.engine.Generate(request, timeout=TIMEOUT_S)
        abort = vllm.AbortRequest(request_ids=[request.request_id])
        if stream:
            next(answer)
            router.engine.Abort(abort, timeout=TIMEOUT_S)
        else:
            answer.initial_metadata()  # the head has accepted the request
            threading.Timer(0.05, lambda: router.engine.Abort(abort, timeout=TIMEOUT_S)).start()
        last = list(answer)[-1].complete
        assert last.finish_reason == "abort" and last.completion_tokens < args.context - 20, last


def check_errors(router, args):
    def refused(code, field, call):
        try:
            call()
        except grpc.RpcError as error:
            assert error.code() == code and field in error.details(), error
            return
        raise AssertionError(f"the server did not refuse {field}")

    wrong = grpc.StatusCode.INVALID_ARGUMENT
    refused(wrong, "top_p", lambda: router.whole(args.prompt, top_p=2))
    refused(wrong, "prompt_logprobs", lambda: router.whole(args.prompt, prompt_logprobs=1))
    refused(wrong, "json_schema", lambda: router.whole(args.prompt, json_schema='{"type": "robot"}', ignore_eos=False))
    refused(wrong, "prompt", lambda: router.whole([]))
    refused(wrong, "prompt", lambda: router.whole([1] * args.context))
    images = vllm.GenerateRequest(text=args.prompt, mm_inputs=vllm.MultimodalInputs(im_token_id=1))
    refused(wrong, "mm_inputs", lambda: list(router.engine.Generate(images, timeout=TIMEOUT_S)))
    unsupported = grpc.StatusCode.UNIMPLEMENTED
    refused(unsupported, "Embed", lambda: router.engine.Embed(vllm.EmbedRequest(), timeout=TIMEOUT_S))
    refused(unsupported, "FlushCache", lambda: router.engine.FlushCache(common.FlushCacheRequest(), timeout=TIMEOUT_S))


class Index:
    """What a router knows of an engine's prefix cache: the tokens of each block and those before it, by hash."""

    def __init__(self, router, start=0):
        request = common.SubscribeKvEventsRequest(start_sequence_number=start)
        self.stream = router.engine.SubscribeKvEvents(request, timeout=TIMEOUT_S)
        self.stream.initial_metadata()  # the head has subscribed it
        self.prefixes, self.number = {}, None

    def read(self):
        """Applies the next batch, and returns it."""
        batch = next(self.stream)
        assert self.number is None or batch.sequence_number == self.number + 1, batch
        self.number = batch.sequence_number
        for event in batch.events:
            if event.HasField("cleared"):
                self.prefixes.clear()
            for block in event.stored.blocks:
                assert len(block.token_ids) == block.block_size
                before = []
                if event.stored.HasField("parent_block_hash"):
                    before = self.prefixes[event.stored.parent_block_hash]
                self.prefixes[block.block_hash] = before + list(block.token_ids)
            for removed in event.removed.block_hashes:
                del self.prefixes[removed]
        return batch

    def longest(self, tokens):
        """Returns how many of the tokens the engine has in its cache."""
        return max((len(prefix) for prefix in self.prefixes.values() if tokens[: len(prefix)] == prefix), default=0)


def check_events(router, args):
    size = router.engine.GetServerInfo(vllm.GetServerInfoRequest(), timeout=TIMEOUT_S).block_size
    prompt = router.encode("Events of the prefix cache name its blocks. " * 8)
    index = Index(router)
    listed = index.read()
    assert listed.HasField("snapshot") and listed.events[0].HasField("cleared"), listed
    assert index.longest(prompt) < size
    answer = router.whole(prompt)
    tokens = prompt + list(answer.output_ids)
    # The last token is never computed.
    whole = (len(tokens) - 1) // size * size
    while index.longest(tokens) < whole:
        index.read()
    late = Index(router)
    late.read()
    assert late.prefixes == index.prefixes and late.number == index.number, "a list and the changes say the same"
    assert router.whole(prompt).cached_tokens == (len(prompt) - 1) // size * size
    resumed = Index(router, start=index.number)
    router.whole(router.encode("Another prompt, which has blocks of its own. " * 4))
    assert not resumed.read().HasField("snapshot") and resumed.number == index.number + 1
    for one in (index, late, resumed):
        one.stream.cancel()


def check_facts(router, args):
    assert router.engine.HealthCheck(vllm.HealthCheckRequest(), timeout=TIMEOUT_S).healthy
    model = router.engine.GetModelInfo(vllm.GetModelInfoRequest(), timeout=TIMEOUT_S)
    assert model.served_model_name == router.http.models.list().data[0].id
    assert model.is_generation and not model.supports_vision and model.max_context_length == args.context, model
    config = json.loads(router.files["config.json"])
    assert list(model.architectures) == config["architectures"] and model.model_type == config["model_type"]
    assert (model.vocab_size, model.bos_token_id) == (config["vocab_size"], config["bos_token_id"])
    assert config["eos_token_id"] in model.eos_token_ids
    assert json.loads(model.default_sampling_params_json)["temperature"] > 0
    assert json.loads(router.files["tokenizer_config.json"])["chat_template"]
    server = router.engine.GetServerInfo(vllm.GetServerInfoRequest(), timeout=TIMEOUT_S)
    assert server.max_num_seqs > 0 and server.block_size > 0 and server.uptime_seconds > 0, server
    assert server.last_receive_timestamp > 0 and not server.is_paused

    request = vllm.GenerateRequest(text=args.prompt, stream=True)
    request.sampling_params.ignore_eos = True
    running = router.engine.Generate(request, timeout=TIMEOUT_S)
    load = vllm.SchedulerLoad()
    for _ in running:  # the status follows the schedule within a few tokens
        (load,) = router.engine.GetLoads(vllm.GetLoadsRequest(include=["core"]), timeout=TIMEOUT_S).loads
        if load.num_running_reqs:
            break
    running.cancel()
    assert load.num_running_reqs >= 1 and load.num_total_reqs >= 1 and 0 < load.token_usage < 1, load
    assert 0 < load.num_used_tokens < load.max_total_num_tokens


CHECKS = [check_generate, check_stop, check_sampling, check_forms, check_abort, check_errors, check_events, check_facts]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--base-url", default="http://127.0.0.1:1234/v1")
    parser.add_argument("--grpc", default=os.environ.get("GRPC_ADDRESS", "127.0.0.1:50051"))
    parser.add_argument("--prompt", default="What does the head do?")
    parser.add_argument("--context", type=int, default=1024, help="the model's context")
    args = parser.parse_args()
    router = Router(args.grpc, args.base_url)
    for check in CHECKS:
        check(router, args)
        print(f"ok {check.__name__.removeprefix('check_')}", flush=True)


if __name__ == "__main__":
    main()
