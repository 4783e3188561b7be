#!/usr/bin/env python3
"""Prefill and decode of a 1 G-parameter Llama in bf16: Lockstep's own endpoint beside peers, on the same threads.

All systems are started once and take turns within each round, in an order that rotates, so that whatever else the
machine does falls on all alike. The table shows medians over the rounds, the spread (least to most), and
Lockstep's rate over each peer's, as the median of the ratios within a round. `run` installs what is missing and
calls this.
"""

import argparse
import json
import math
import os
import random
import re
import statistics
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

import checkpoint

HERE = Path(__file__).resolve().parent
START_LIMIT_S = 180
# What is measured: sequences, tokens of each prompt, tokens of each answer.
MEASURES = {"prefill": (1, 512, 1), "decode": (1, 32, 48), "decode of 8": (8, 32, 24)}


class Lockstep:
    """A group of one or two ranks; requests go to its HTTP endpoint as token ids and are streamed back."""

    def __init__(self, agent: str, model: Path, ranks: int, threads: int, port: int) -> None:
        self.version, self.port, self.processes = f"{ranks} rank(s), {threads} thread(s) each", port, []
        for rank in range(ranks):
            env = {name: value for name, value in os.environ.items() if "RING" not in name and "MISTRALRS" not in name}
            if ranks > 1:
                env |= {"RING_RANK": str(rank), "RING_WORLD_SIZE": str(ranks), "RING_PORT": str(port + 1 + rank),
                        "RING_RIGHT": str(port + 1 + (rank + 1) % ranks)}
            command = [agent, "plain", "-m", str(model), "--threads", str(threads), "--log", "warn"]
            command += ["--host", "127.0.0.1", "--http-port", str(port), "--grpc-port", "off"] if rank == 0 else []
            self.processes.append(subprocess.Popen(command, env=env))

    def wait(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline and all(process.poll() is None for process in self.processes):
            try:
                connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/ready")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.2)
        sys.exit("lockstep-agent did not become ready")

    def answer(self, prompts: list[list[int]], tokens: int) -> tuple[float, float, int]:
        body = {"model": "default", "prompt": prompts if len(prompts) > 1 else prompts[0], "max_tokens": tokens,
                "temperature": 0, "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}
        connection = HTTPConnection("127.0.0.1", self.port, timeout=600)
        start = time.perf_counter()
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        response, begun, first, usage = connection.getresponse(), set(), 0.0, None
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            if "choices" not in chunk:
                sys.exit(f"lockstep answered {chunk}")
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                if choice["index"] not in begun:
                    begun.add(choice["index"])
                    first = time.perf_counter() - start
        return first, time.perf_counter() - start, usage["completion_tokens"]

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(30)


class Peer:
    """A peer in a process of its own."""

    def __init__(self, name: str, python: str, model: Path, threads: int) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads), "RUST_LOG": "error",
               "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [python, str(HERE / "peers.py"), name, str(model), str(threads)]
        self.process = subprocess.Popen(command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def line(self) -> dict:
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        sys.exit(f"a peer ended with {self.process.wait()}")

    def wait(self) -> None:
        self.version = self.line()["version"]

    def answer(self, prompts: list[list[int]], tokens: int) -> list | None:
        self.process.stdin.write(json.dumps({"prompts": prompts, "tokens": tokens}) + "\n")
        self.process.stdin.flush()
        return self.line()["answer"]

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait(30)


def rate(system, measure: str, seed: int) -> float:
    """Tokens per second of one measurement, NaN where the system cannot; prompts are new each time, so that no cache of prefixes helps."""
    sequences, length, tokens = MEASURES[measure]
    draw = random.Random(seed)
    prompts = [[draw.randrange(2, checkpoint.VOCABULARY) for _ in range(length)] for _ in range(sequences)]
    answer = system.answer(prompts, tokens)
    if answer is None:
        return math.nan
    first, total, generated = answer
    if tokens == 1:
        return length / first
    if generated != sequences * tokens:
        sys.exit(f"{system.version} generated {generated} tokens instead of {sequences * tokens}")
    return (generated - sequences) / (total - first)


def measure(systems: dict, rounds: int) -> dict[str, dict[str, list[float]]]:
    rates = {name: {measure: [] for measure in MEASURES} for name in systems}
    for system in systems.values():
        system.answer([[2, 3, 4]], 4)
    for turn in range(rounds):
        names = list(systems)
        names = names[turn % len(names):] + names[:turn % len(names)]
        for at, name in enumerate(MEASURES):
            for system in names:
                rates[system][name].append(rate(systems[system], name, 1000 * turn + 100 * at))
        print(f"round {turn + 1} of {rounds} done", file=sys.stderr)
    return rates


def machine() -> str:
    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", info)
    family = re.search(r"cpu family\s*: (\d+)\nmodel\s*: (\d+)", info)
    flags = set((re.search(r"flags\s*: (.*)", info) or [""])[0].split())
    known = [flag for flag in ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16") if flag in flags]
    where = f" (family {family[1]}, model {family[2]})" if family else ""
    return f"{model[1] if model else 'unknown CPU'}{where}, {len(os.sched_getaffinity(0))} cores, {' '.join(known)}"


def report(systems: dict, rates: dict, rounds: int) -> dict:
    ours = [name for name in systems if name.startswith("lockstep")]
    result = {"machine": machine(), "rounds": rounds, "load": os.getloadavg(), "systems": {}}
    print(f"{result['machine']}; load {result['load'][0]:.1f}; medians of {rounds} rounds, tokens/s (least to most)\n")
    columns = [f"{mine} / it" for mine in ours]
    print("| | system | tokens/s | " + " | ".join(columns) + " |")
    print("|---" * (3 + len(columns)) + "|")
    for measure_name in MEASURES:
        for name in systems:
            own = rates[name][measure_name]
            if math.isnan(own[0]):
                continue
            ratios = {mine: statistics.median(a / b for a, b in zip(rates[mine][measure_name], own)) for mine in ours}
            result["systems"].setdefault(name, {"version": systems[name].version})[measure_name] = {
                "median": statistics.median(own), "rates": own, "lockstep_over_it": ratios}
            cells = [f"{ratios[mine]:.2f}" if name not in ours else "" for mine in ours]
            print(f"| {measure_name} | {name} | {statistics.median(own):.1f} ({min(own):.1f}–{max(own):.1f}) | "
                  + " | ".join(cells) + " |")
    print("\n" + "\n".join(f"{name}: {system.version}" for name, system in systems.items()))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent", required=True, help="lockstep-agent")
    parser.add_argument("--model", type=Path, required=True, help="the checkpoint's folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of each system in all")
    parser.add_argument("--peers", nargs="*", default=["transformers", "llamacpp", "mistralrs"], help="transformers mistralrs llamacpp")
    parser.add_argument("--python", default=sys.executable, help="a Python that has the peers")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--port", type=int, default=24100, help="first of the ports to use")
    tools = parser.parse_args()
    checkpoint.write(tools.model)
    if "llamacpp" in tools.peers:
        checkpoint.write_gguf(tools.model / "model.gguf")
    systems: dict = {}
    try:
        for ranks in (1, 2):
            threads = max(1, tools.threads // ranks)
            systems[f"lockstep x{ranks}"] = Lockstep(tools.agent, tools.model, ranks, threads, tools.port + 10 * ranks)
            systems[f"lockstep x{ranks}"].wait()
        for name in tools.peers:
            systems[name] = Peer(name, tools.python, tools.model, tools.threads)
            systems[name].wait()
        result = report(systems, measure(systems, tools.rounds), tools.rounds)
    finally:
        for system in systems.values():
            system.stop()
    if tools.json:
        tools.json.write_text(json.dumps(result, indent=1))


main()
