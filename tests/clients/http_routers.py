#!/usr/bin/env python3
"""Sends requests through a router that stands before two agents, one of which is drained in the middle:
http_routers.py AGENT ROUTER

ROUTER is `vllm-router` or `sglang-router`, and speaks HTTP with the agents. Every request must be answered, streamed or
whole, and each agent must have answered some. Everything listens on loopback.
"""

import concurrent.futures
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from with_agent import END_S, free_port, wait_until_ready

REQUESTS = 60
AT_ONCE = 4
# The agent is drained when so many requests have been answered.
BEFORE_DRAIN = 15
TIMEOUT_S = 60
STARTS = {
    "vllm-router": ["vllm-router"],
    "sglang-router": [sys.executable, "-m", "sglang_router.launch_router"],
}


def send(url: str, number: int) -> str:
    """Sends one chat, every second one streamed. Returns the text of the answer."""
    streamed = number % 2 == 0
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": f"What does rank {number % 7} do?"}],
        "max_tokens": 24,
        "temperature": 0,
        "stream": streamed,
    }
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            answer = response.read().decode()
    except urllib.error.HTTPError as error:
        raise AssertionError(f"request {number}: {error.code} {error.read().decode()}") from None
    if not streamed:
        return json.loads(answer)["choices"][0]["message"]["content"]
    events = [line.removeprefix("data: ") for line in answer.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]", f"request {number}: the stream ends with {events[-1]}"
    deltas = [json.loads(event)["choices"] for event in events[:-1]]
    return "".join(choice["delta"].get("content") or "" for choices in deltas for choice in choices)


def answered(port: int) -> int:
    """Returns the number of requests that an agent has answered."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=TIMEOUT_S) as page:
        lines = page.read().decode().splitlines()
    counts = [line for line in lines if line.startswith("lockstep_requests_total{") and ("stop" in line or "length" in line)]
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in counts))


def drive(url: str, agents: list[subprocess.Popen], ports: list[int]) -> None:
    answers: dict[int, str] = {}
    before = 0
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        sent = {pool.submit(send, url, number): number for number in range(REQUESTS)}
        for done in concurrent.futures.as_completed(sent):
            answers[sent[done]] = done.result()
            if len(answers) == BEFORE_DRAIN:
                before = answered(ports[0])
                agents[0].send_signal(signal.SIGTERM)
    assert before > 0, "the router sent nothing to the first agent"
    assert agents[0].wait(END_S) == 0, f"the drained agent ended with {agents[0].returncode}"
    assert answered(ports[1]) >= REQUESTS - BEFORE_DRAIN - AT_ONCE, "the second agent answered too few"
    for number, answer in answers.items():
        assert answer == answers[number % 7], f"request {number} has another answer than the same one before"
    print(f"ok {REQUESTS} requests, none lost; {before} by the first agent before its drain", flush=True)


def run(agent: str, router: str) -> None:
    ports, port = [free_port(), free_port()], free_port()
    workers = [f"http://127.0.0.1:{number}" for number in ports]
    program = STARTS[router]
    if program[0] == router:
        program = [str(pathlib.Path(sys.executable).with_name(router))]
    monitor = ["--prometheus-port", str(free_port())]
    start = [*program, "--host=127.0.0.1", f"--port={port}", "--worker-urls", *workers, "--policy=round_robin", *monitor]
    with tempfile.TemporaryFile("w+") as log:
        options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
        serve = [agent, "plain", "-m", "builtin://tiny", "--host=127.0.0.1", "--grpc-port=off"]
        agents = [subprocess.Popen([*serve, f"--http-port={number}"], **options) for number in ports]
        running = list(agents)
        try:
            for process, number in zip(agents, ports, strict=True):
                wait_until_ready(process, f"http://127.0.0.1:{number}/ready")
            running.append(subprocess.Popen(start, **options))
            wait_until_ready(running[-1], f"http://127.0.0.1:{port}/v1/models")
            drive(f"http://127.0.0.1:{port}", agents, ports)
        except BaseException:
            log.seek(0)
            print(log.read()[-10_000:], file=sys.stderr)
            raise
        finally:
            end(running)


def end(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + END_S
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()


if __name__ == "__main__":
    run(*sys.argv[1:])
