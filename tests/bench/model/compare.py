#!/usr/bin/env python3
"""Measures prefill and decode of a 1 G-parameter Llama in bf16, Q8_0 and Q4_K: `lockstep-agent bench` beside peers, with the
same number of threads.

For each format, all systems take turns within each round, in an order that rotates, so that other work on the machine slows
all of them alike. The tables show medians over the rounds, the spread (least to most), and the ratio of Lockstep's rate to
the peer's, as the median of the ratios within a round. `run` installs missing packages and calls this script.
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
from pathlib import Path

import checkpoint

HERE = Path(__file__).resolve().parent
TURN_LIMIT_S = 900
# Number of sequences, tokens of each prompt and tokens of each answer, for each measurement. Decodes begin after the prompt
# that `lockstep-agent bench` uses.
MEASURES = {"prefill": (1, 512, 1), "decode": (1, 32, 48), "decode of 8": (8, 32, 24)}


class Lockstep:
    """A group of one rank or two. The benchmark starts it for each turn, and the group measures itself."""

    def __init__(self, agent: str, model: Path, format: str, ranks: int, threads: int, port: int) -> None:
        self.ranks, self.port = ranks, port
        self.command = [agent, "bench", "-m", str(model), "--threads", str(threads), "--rounds", "1", "--json"]
        quantization = checkpoint.FORMATS[format][0]
        self.command += ["--isq", quantization] if quantization else []
        self.version = f"{ranks} rank(s), {threads} thread(s) each, {format}"

    def wait(self) -> None:
        pass

    def environment(self, rank: int) -> dict[str, str]:
        env = {name: value for name, value in os.environ.items()
               if not name.startswith(("RING_", "MISTRALRS_", "LOCKSTEP_"))}
        if self.ranks == 1:
            return env
        ring = {"RANK": rank, "WORLD_SIZE": self.ranks, "PORT": self.port + rank,
                "RIGHT": self.port + (rank + 1) % self.ranks}
        return env | {f"RING_{name}": str(value) for name, value in ring.items()}

    def rate(self, measure: str, _seed: int) -> float:
        sequences, prompt, answer = MEASURES[measure]
        command = self.command + ["--batch-sizes", str(sequences), "--prompt-tokens", str(prompt)]
        command += ["--answer-tokens", str(max(answer, 2))]
        others = [subprocess.Popen(command, env=self.environment(rank), stderr=subprocess.DEVNULL)
                  for rank in range(1, self.ranks)]
        try:
            head = subprocess.run(command, env=self.environment(0), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  text=True, timeout=TURN_LIMIT_S)
        finally:
            for other in others:
                other.terminate()
                other.wait(30)
        if head.returncode != 0:
            sys.exit(f"{' '.join(command)} ended with {head.returncode}:\n{head.stderr}")
        report = json.loads(head.stdout)
        self.version = f"{report['version']}, {report['world_size']} rank(s), {report['format']}, {report['devices'][0]}"
        return report["results"][0]["prefill" if answer == 1 else "decode"]["median"]

    def stop(self) -> None:
        pass


class Peer:
    """A peer in a process of its own."""

    def __init__(self, name: str, python: str, model: Path, format: str, threads: int) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads), "RUST_LOG": "error",
               "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [python, str(HERE / "peers.py"), name, str(model), format, str(threads)]
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

    def rate(self, measure: str, seed: int) -> float:
        """Returns the tokens per second, or NaN if the peer cannot do this. Prompts are new each time, so that no prefix cache
        helps."""
        sequences, length, tokens = MEASURES[measure]
        draw = random.Random(seed)
        prompts = [[draw.randrange(2, checkpoint.VOCABULARY) for _ in range(length)] for _ in range(sequences)]
        answer = self.answer(prompts, tokens)
        if answer is None:
            return math.nan
        first, total, generated = answer
        if tokens == 1:
            return length / first
        if generated != sequences * tokens:
            sys.exit(f"{self.version} generated {generated} tokens instead of {sequences * tokens}")
        return (generated - sequences) / (total - first)

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait(30)


def measure(systems: dict, rounds: int) -> dict[str, dict[str, list[float]]]:
    rates = {name: {measure: [] for measure in MEASURES} for name in systems}
    # `bench` warms up by itself in each turn.
    for system in systems.values():
        if isinstance(system, Peer):
            for name in MEASURES:
                system.rate(name, 7)
    for turn in range(rounds):
        names = list(systems)
        names = names[turn % len(names):] + names[:turn % len(names)]
        for at, name in enumerate(MEASURES):
            for system in names:
                rates[system][name].append(systems[system].rate(name, 1000 * turn + 100 * at))
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


def report(systems: dict, rates: dict) -> tuple[dict, str]:
    """Returns the figures of one format, and their table."""
    ours = [name for name in systems if name.startswith("lockstep")]
    figures: dict = {}
    lines = ["| | system | tokens/s | " + " | ".join(f"{mine} / it" for mine in ours) + " |",
             "|---" * (3 + len(ours)) + "|"]
    for measure_name in MEASURES:
        for name in systems:
            own = rates[name][measure_name]
            if math.isnan(own[0]):
                continue
            ratios = {mine: statistics.median(a / b for a, b in zip(rates[mine][measure_name], own)) for mine in ours}
            figures.setdefault(name, {"version": systems[name].version})[measure_name] = {
                "median": statistics.median(own), "rates": own, "lockstep_over_it": ratios}
            cells = [f"{ratios[mine]:.2f}" if name not in ours else "" for mine in ours]
            lines.append(f"| {measure_name} | {name} | {statistics.median(own):.1f} ({min(own):.1f}–{max(own):.1f}) | "
                         + " | ".join(cells) + " |")
    lines += [""] + [f"{name}: {system.version}" for name, system in systems.items()]
    return figures, "\n".join(lines)


def compare(tools: argparse.Namespace, format: str) -> tuple[dict, str]:
    if "llamacpp" in tools.peers:
        checkpoint.write_gguf(checkpoint.gguf_path(tools.model, "bf16"))
        if format != "bf16":
            checkpoint.quantize_gguf(tools.model, format)
    systems: dict = {}
    try:
        for ranks in tools.ranks:
            threads = max(1, tools.threads // ranks)
            systems[f"lockstep x{ranks}"] = Lockstep(tools.agent, tools.model, format, ranks, threads, tools.port)
        for name in tools.peers:
            if name != "transformers" or format == "bf16":
                systems[name] = Peer(name, tools.python, tools.model, format, tools.threads)
                systems[name].wait()
        return report(systems, measure(systems, tools.rounds))
    finally:
        for system in systems.values():
            system.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent", required=True, help="lockstep-agent")
    parser.add_argument("--model", type=Path, required=True, help="the checkpoint's folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="threads of each system in all")
    parser.add_argument("--formats", nargs="*", default=list(checkpoint.FORMATS), choices=list(checkpoint.FORMATS))
    parser.add_argument("--peers", nargs="*", default=["llamacpp", "mistralrs"], choices=["llamacpp", "mistralrs", "transformers"])
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2], help="sizes of Lockstep's groups; the threads are divided between ranks")
    parser.add_argument("--layers", type=int, default=16, help="fewer, to try the benchmark itself, with a --model of its own")
    parser.add_argument("--python", default=sys.executable, help="a Python that has the peers")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--table", type=Path, help="write the tables of ratios here too, as Markdown")
    parser.add_argument("--port", type=int, default=24100, help="first of the ports to use")
    tools = parser.parse_args()
    checkpoint.set_layers(tools.layers)
    checkpoint.write(tools.model)
    result = {"machine": machine(), "rounds": tools.rounds, "load": os.getloadavg()[0],
              "day": time.strftime("%Y-%m-%d"), "formats": {}}
    text = f"{result['machine']}; load {result['load']:.1f}; medians of {tools.rounds} rounds, tokens/s (least to most)\n"
    print(text)
    for format in tools.formats:
        result["formats"][format], table = compare(tools, format)
        table = f"{format}\n\n{table}\n"
        print(table, flush=True)
        text += f"\n{table}"
    for path, content in ((tools.json, json.dumps(result, indent=1)), (tools.table, text)):
        if path:
            path.write_text(content)


main()
