#!/usr/bin/env python3
"""All-reduce of f32 between processes on loopback: Lockstep's TCP backend beside gloo (PyTorch) and Open MPI over TCP.

The three take turns within each round, so that other work on the machine slows all of them alike. The table shows the
medians over the rounds, and how many times longer the peers took. `run` installs missing packages and calls this script.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SIZES = {4 << 10: 400, 16 << 10: 400, 64 << 10: 200, 256 << 10: 100, 1 << 20: 50, 4 << 20: 20, 16 << 20: 10}
LIMIT_S = 120


def outputs(commands: list[list[str]], env: dict[str, str]) -> str:
    """Runs the commands side by side, and returns the output of the first."""
    processes = [subprocess.Popen(c, stdout=subprocess.PIPE, text=True, env={**os.environ, **env}) for c in commands]
    try:
        texts = [process.communicate(timeout=LIMIT_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for command, process in zip(commands, processes):
        if process.returncode != 0:
            sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return texts[0]


def commands(system: str, ranks: int, port: int, tools: argparse.Namespace, mpi: str) -> list[list[str]]:
    """Returns one command per rank (Open MPI: one for all). Each rank is bound to its own core if there are enough."""
    cores = sorted(os.sched_getaffinity(0))
    own_core = ranks <= len(cores)
    bound = [["taskset", "-c", str(cores[r])] if own_core else [] for r in range(ranks)]
    sizes = [f"{size}={max(5, calls * 2 // ranks)}" for size, calls in SIZES.items() if size in tools.sizes]
    if system == "lockstep":
        spin = "true" if own_core else "false"
        return [[*bound[r], tools.lockstep, str(r), str(ranks), str(port), spin, *sizes] for r in range(ranks)]
    if system == "gloo":
        gloo = [tools.python, str(HERE / "gloo.py")]
        return [[*bound[r], *gloo, str(r), str(ranks), str(port), *sizes] for r in range(ranks)]
    mca = ["--mca", "pml", "ob1", "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "lo"]
    binding = ["--bind-to", "core" if own_core else "none"]
    return [["mpirun", "--allow-run-as-root", "--oversubscribe", *binding, *mca, "-np", str(ranks), mpi, *sizes]]


def measure(tools: argparse.Namespace) -> dict[tuple[str, int, int], list[float]]:
    times: dict[tuple[str, int, int], list[float]] = {}
    env = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        mpi = f"{folder}/allreduce"
        subprocess.run(["mpicc", "-O2", "-o", mpi, str(HERE / "allreduce.c")], check=True)
        port = tools.port
        for round_index in range(tools.rounds):
            for ranks in tools.ranks:
                for system in tools.systems:
                    port += ranks
                    for line in outputs([tools.prefix.split() + c for c in commands(system, ranks, port, tools, mpi)], env).splitlines():
                        size, median, quickest = line.split()
                        times.setdefault((system, ranks, int(size)), []).append(float(quickest if tools.quickest else median))
            print(f"round {round_index + 1} of {tools.rounds} done", file=sys.stderr)
    return times


def label(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"


def report(times: dict[tuple[str, int, int], list[float]], tools: argparse.Namespace) -> bool:
    """Prints the table. Returns true if Lockstep was fastest at every size between two processes."""
    fastest = True
    print("| ranks | size | " + " | ".join(f"{s}, µs" for s in tools.systems) + " | "
          + " | ".join(f"{s} / lockstep" for s in tools.systems if s != "lockstep") + " |")
    print("|---" * (2 + 2 * len(tools.systems) - 1) + "|")
    for ranks in tools.ranks:
        for size in tools.sizes:
            medians = {s: statistics.median(times[s, ranks, size]) for s in tools.systems}
            ratios = [medians[s] / medians["lockstep"] for s in tools.systems if s != "lockstep"]
            fastest &= ranks != 2 or all(ratio > 1 for ratio in ratios)
            print(f"| {ranks} | {label(size)} | " + " | ".join(f"{medians[s]:.0f}" for s in tools.systems) + " | "
                  + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")
    return fastest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lockstep", required=True, help="the built example `allreduce` of lockstep-collectives")
    parser.add_argument("--python", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--systems", nargs="+", default=["lockstep", "gloo", "openmpi"])
    parser.add_argument("--quickest", action="store_true", help="use quickest calls instead of medians, for a busy machine")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), choices=list(SIZES), help="bytes")
    parser.add_argument("--prefix", default="", help="put before each command, as in 'chrt -r 5' on a busy machine")
    parser.add_argument("--port", type=int, default=23000, help="first of the ports to use")
    tools = parser.parse_args()
    if not report(measure(tools), tools):
        sys.exit("a peer was faster between two processes")


main()
