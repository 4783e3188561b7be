"""Runs one peer in a process of its own: peers.py NAME MODEL FORMAT THREADS. Prints its version as a line of JSON. Then
it answers each line {"prompts": [[ids]], "tokens": n} (greedy, n tokens for each prompt, all prompts in one batch) with
{"answer": [seconds until every prompt has its first token, seconds in all, tokens in all]},
or with null if the peer cannot do it."""

import json
import sys
import time
from pathlib import Path

import checkpoint


class Transformers:
    """PyTorch, eager, in bf16: a bare loop around the model, without the costs of `generate`."""

    def __init__(self, model: str, format: str, threads: int) -> None:
        import torch
        import transformers
        torch.set_num_threads(threads)
        self.torch = torch
        self.model = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()
        self.version = f"transformers {transformers.__version__}, torch {torch.__version__}, bf16"

    def answer(self, prompts: list[list[int]], tokens: int) -> tuple[float, float, int]:
        with self.torch.inference_mode():
            start = time.perf_counter()
            ids, cache = self.torch.tensor(prompts), None
            for step in range(tokens):
                out = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
                ids, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
                if step == 0:
                    first = time.perf_counter() - start
            return first, time.perf_counter() - start, tokens * len(prompts)


class MistralRs:
    """mistral.rs as published for Python. For bf16 it runs in f32, because its bf16 on CPUs is several times slower still.
    It quantizes to the other formats while it loads. Its own clock separates the time of a prompt from that of the answer."""

    def __init__(self, model: str, format: str, threads: int) -> None:
        from importlib.metadata import version
        import mistralrs
        self.api = mistralrs
        which = mistralrs.Which.Plain(model_id=model, dtype=mistralrs.ModelDType.F32)
        quantization = checkpoint.FORMATS[format][1]
        self.runner = mistralrs.Runner(
            which=which, max_seqs=8, token_source="none", prefix_cache_n=0, in_situ_quant=quantization)
        self.version = f"mistralrs {version('mistralrs')}, {quantization or 'f32'}"

    def one(self, prompt: list[int], tokens: int):
        request = self.api.CompletionRequest(
            prompt=" ".join(f"w{token}" for token in prompt), model="default", max_tokens=tokens, top_k=1,
            temperature=0.0, ignore_eos=True)
        return self.runner.send_completion_request(request).usage

    def answer(self, prompts: list[list[int]], tokens: int) -> tuple[float, float, int] | None:
        if len(prompts) > 1:
            return None  # its Python interface accepts one request at a time
        start = time.perf_counter()
        usage = self.one(prompts[0], tokens)
        total = time.perf_counter() - start
        assert usage.prompt_tokens == len(prompts[0]), usage
        return total if tokens == 1 else usage.total_prompt_time_sec, total, usage.completion_tokens


class LlamaCpp:
    """llama.cpp through its C interface, from a GGUF beside the checkpoint."""

    def __init__(self, model: str, format: str, threads: int) -> None:
        import llama_cpp
        self.api = llama_cpp
        self.quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.quiet, None)
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        path = checkpoint.gguf_path(Path(model), format)
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        context = llama_cpp.llama_context_default_params()
        context.n_ctx, context.n_batch, context.n_ubatch, context.n_seq_max = 8192, 2048, 512, 8
        context.n_threads = context.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, context)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.version = f"llama.cpp of llama-cpp-python {llama_cpp.__version__}, {format}"

    def decode(self, rows: list[tuple[int, int, int, bool]]) -> list[int]:
        """Computes rows of (token, position, sequence, wanted), and returns the greedy token of each wanted row."""
        import numpy
        batch = self.api.llama_batch_init(len(rows), 0, 1)
        batch.n_tokens = len(rows)
        for at, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, position, 1
            batch.seq_id[at][0], batch.logits[at] = sequence, wanted
        assert self.api.llama_decode(self.context, batch) == 0
        wanted = [at for at, row in enumerate(rows) if row[3]]
        logits = [self.api.llama_get_logits_ith(self.context, at) for at in wanted]
        tokens = [int(numpy.ctypeslib.as_array(row, (self.vocabulary,)).argmax()) for row in logits]
        self.api.llama_batch_free(batch)
        return tokens

    def answer(self, prompts: list[list[int]], tokens: int) -> tuple[float, float, int]:
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)
        start = time.perf_counter()
        rows = [(token, at, sequence, at == len(prompt) - 1)
                for sequence, prompt in enumerate(prompts) for at, token in enumerate(prompt)]
        latest = self.decode(rows)
        first = time.perf_counter() - start
        for step in range(tokens - 1):
            latest = self.decode([(token, len(prompts[s]) + step, s, True) for s, token in enumerate(latest)])
        return first, time.perf_counter() - start, tokens * len(prompts)


PEERS = {"transformers": Transformers, "mistralrs": MistralRs, "llamacpp": LlamaCpp}


def main() -> None:
    name, model, format, threads = sys.argv[1:5]
    peer = PEERS[name](model, format, int(threads))
    print(json.dumps({"version": peer.version}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps({"answer": peer.answer(request["prompts"], request["tokens"])}), flush=True)


main()
