#!/usr/bin/env python3
"""Measures the fan-out latency: the time from the head's send of a plan to the start of the step on a rank, by the head's own
metric.

Groups of 2 and 3 agents on loopback get requests for a single token, far enough apart that every rank sleeps when its plan
arrives. In the same run and with the same pauses, the script measures the floor of the machine: one message over one TCP
connection to a process that sleeps in `read`. Quantiles are interpolated within the metric's buckets.
"""

import argparse
import json
import os
import random
import re
import socket
import statistics
import struct
import subprocess
import sys
import time
from http.client import HTTPConnection

START_LIMIT_S = 60
BUCKET = re.compile(r'lockstep_plan_fanout_seconds_bucket\{le="([^"]+)"\} (\d+)')


def ask(port: int, method: str, path: str, body: dict | None = None) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, json.dumps(body) if body else None, {"content-type": "application/json"})
    response = connection.getresponse()
    return response.status, response.read().decode()


def start(agent: str, ranks: int, port: int) -> list[subprocess.Popen]:
    processes = []
    for rank in range(ranks):
        env = {name: value for name, value in os.environ.items() if "RING" not in name and "MISTRALRS" not in name}
        env |= {"RING_RANK": str(rank), "RING_WORLD_SIZE": str(ranks), "RING_PORT": str(port + 1 + rank),
                "RING_RIGHT": str(port + 1 + (rank + 1) % ranks)}
        command = [agent, "plain", "-m", "builtin://tiny", "--threads", "1", "--log", "error"]
        command += ["--host", "127.0.0.1", "--http-port", str(port), "--grpc-port", "off"] if rank == 0 else []
        processes.append(subprocess.Popen(command, env=env))
    return processes


def wait(port: int) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        try:
            if ask(port, "GET", "/ready")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    sys.exit("the group did not become ready")


def buckets(port: int) -> list[tuple[float, int]]:
    page = ask(port, "GET", "/metrics")[1]
    return [(float(bound.replace("+Inf", "inf")), int(count)) for bound, count in BUCKET.findall(page)]


def quantile(counts: list[tuple[float, int]], part: float) -> float:
    """Returns a quantile in seconds, from pairs of an upper bound and the number of values up to it."""
    wanted, below, floor = part * counts[-1][1], 0, 0.0
    for bound, count in counts:
        if count >= wanted and count > below:
            return floor + (min(bound, 2 * floor) - floor) * (wanted - below) / (count - below)
        below, floor = count, bound
    return floor


def fanout(agent: str, ranks: int, port: int, requests: int, pause: float) -> list[float]:
    """Returns p10, p50 and p90 in microseconds over all ranks and requests."""
    processes = start(agent, ranks, port)
    try:
        wait(port)
        before = dict(buckets(port))
        for _ in range(requests):
            prompt = [random.randrange(5, 200) for _ in range(5)]
            status, answer = ask(port, "POST", "/v1/completions", {"model": "default", "prompt": prompt, "max_tokens": 1})
            if status != 200:
                sys.exit(answer)
            time.sleep(pause)
        counts = [(bound, count - before.get(bound, 0)) for bound, count in buckets(port)]
        return [quantile(counts, part) * 1e6 for part in (0.1, 0.5, 0.9)]
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(30)


def hop(messages: int, pause: float) -> list[float]:
    """Returns p10, p50 and p90 in microseconds of one message to a process that sleeps. This is the floor of the machine."""
    listener = socket.create_server(("127.0.0.1", 0))
    child = os.fork()
    sender = socket.create_connection(listener.getsockname()) if child == 0 else listener.accept()[0]
    sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if child == 0:
        for _ in range(messages):
            time.sleep(pause)
            sender.sendall(struct.pack("q", time.monotonic_ns()))
        os._exit(0)
    times = []
    for _ in range(messages):
        (sent,) = struct.unpack("q", sender.recv(8))
        times.append((time.monotonic_ns() - sent) / 1e3)
    os.waitpid(child, 0)
    tenths = statistics.quantiles(times, n=10)
    return [tenths[0], tenths[4], tenths[8]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent", required=True, help="lockstep-agent")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--pause", type=float, default=0.03, help="seconds between requests")
    parser.add_argument("--port", type=int, default=24500, help="first of the ports to use")
    tools = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}\n\n| µs | median | p10–p90 |\n|---|---|---|")
    rows = [("one TCP hop", hop(tools.requests, tools.pause))]
    for ranks in tools.ranks:
        times = fanout(tools.agent, ranks, tools.port + 20 * ranks, tools.requests, tools.pause)
        rows.append((f"fan-out, {ranks} ranks", times))
    rows.append(("one TCP hop, after", hop(tools.requests, tools.pause)))
    for name, (low, median, high) in rows:
        print(f"| {name} | {median:.0f} | {low:.0f}–{high:.0f} |")


main()
