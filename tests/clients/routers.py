#!/usr/bin/env python3
"""Runs a router before two groups: routers.py AGENT ROUTER

Both groups serve the built-in model in f32, one with three ranks and one with one. The router sends requests to both: `smg` by gRPC,
`vllm-router` and `sglang-router` by HTTP. An answer that comes through the router must equal the answer of a group's own HTTP
port, whole and streamed. Then one group gets SIGTERM while clients ask the router: both groups must answer, no request may be
lost, and its processes must end with status 0. Exits with 0 and prints one line per check. After a failure, this program prints
all logs.
"""

import contextlib
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import openai

from with_agent import END_S, READY_S, environment, free_port, wait_until_ready

MAX_TOKENS = 24
CLIENTS = 8
# Answers for each client before the drain begins, and after that.
ROUNDS = 8
# Different prompts of the clients.
PROMPTS = 7
TIMEOUT_S = 60
# Ranks of each group. The first one is drained.
RANKS = (3, 1)
# A router that asks a hub for the tokenizer gets no answer here, and takes that of the group.
NO_HUB = {"HF_ENDPOINT": "http://127.0.0.1:9"}


@contextlib.contextmanager
def process(command, log, variables):
    with open(log, "w") as output:
        options = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
        running = subprocess.Popen(command, env=os.environ | variables, **options)
        try:
            yield running
        finally:
            running.terminate()
            try:
                running.wait(END_S)
            except subprocess.TimeoutExpired:
                running.kill()


def wait_for_workers(router, port, count):
    """Waits until smg has found all groups. It has a page of models before that."""
    deadline, state = time.monotonic() + READY_S, "no answer yet"
    while time.monotonic() < deadline:
        assert router.poll() is None, f"the router ended with {router.returncode}"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/workers", timeout=5) as response:
                workers = json.load(response)["workers"]
            state = [(worker["url"], worker["status"]) for worker in workers]
            if sum(worker["is_healthy"] for worker in workers) == count:
                return
        except OSError as error:
            state = str(error)
        time.sleep(0.1)
    raise AssertionError(f"the router has not found {count} workers after {READY_S} s: {state}")


def wait_for_models(router, port, count):
    wait_until_ready(router, f"http://127.0.0.1:{port}/v1/models")


# Of each router: how to start it, the scheme of a group's address, and the wait for its start.
ROUTERS = {
    "smg": ([sys.executable, "-m", "smg.launch_router", "--health-check-interval-secs=1"], "grpc", wait_for_workers),
    "vllm-router": ([str(pathlib.Path(sys.executable).with_name("vllm-router"))], "http", wait_for_models),
    "sglang-router": ([sys.executable, "-m", "sglang_router.launch_router"], "http", wait_for_models),
}


@functools.cache
def completions(port):
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=TIMEOUT_S, max_retries=0)
    return client.chat.completions


def options(prompt):
    return {"model": "tiny", "max_tokens": MAX_TOKENS, "temperature": 0, "messages": [{"role": "user", "content": prompt}]}


def ask(port, prompt, **more):
    return completions(port).create(**options(prompt) | more)


def ask_raw(port, prompt):
    """Returns the text of a streamed answer and its finish reason, with a look at the mark that ends the stream."""
    with completions(port).with_streaming_response.create(**options(prompt), stream=True) as response:
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]", f"the stream ends with {events[-1]}"
    choices = [choice for event in events[:-1] for choice in json.loads(event)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices), choices[-1]["finish_reason"]


def check_answers(router, group):
    for number in range(4):  # both groups answer
        prompt = f"What does the head do? {number}"
        direct = ask(group, prompt).choices[0]
        routed = ask(router, prompt)
        assert routed.choices[0].message.content == direct.message.content, (routed, direct)
        assert routed.choices[0].finish_reason == direct.finish_reason and routed.usage.prompt_tokens > 0
        chunks = list(ask(router, prompt, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == direct.message.content
    stop = direct.message.content[4:8]
    assert stop not in ask(router, prompt, stop=[stop]).choices[0].message.content
    schema = {"type": "object", "properties": {"name": {"enum": ["ada", "grace"]}}, "required": ["name"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    person = ask(router, "Who?", response_format=form, max_tokens=100).choices[0].message.content
    assert json.loads(person)["name"] in ("ada", "grace"), person


def answered(port):
    """Returns the number of requests that a group has answered."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=TIMEOUT_S) as page:
        lines = page.read().decode().splitlines()
    counts = [line for line in lines if line.startswith("lockstep_requests_total{") and ("stop" in line or "length" in line)]
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in counts))


def check_drain(router, groups, ports):
    """Drains the first group while clients ask the router for answers, every second one streamed."""
    outcomes, total = [], 2 * ROUNDS * CLIENTS
    at_first = [answered(port) for port in ports]

    def work(number):
        for round in range(2 * ROUNDS):
            at = number + round
            prompt = f"What does rank {at % PROMPTS} do?"
            try:
                if round % 2 == 0:
                    text, finish_reason = ask_raw(router, prompt)
                else:
                    choice = ask(router, prompt).choices[0]
                    text, finish_reason = choice.message.content, choice.finish_reason
                outcomes.append((at % PROMPTS, text, finish_reason))
            except (openai.OpenAIError, AssertionError) as error:
                outcomes.append((at % PROMPTS, None, repr(error)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    while len(outcomes) < total // 2:  # from now on, requests run all the time
        time.sleep(0.01)
    before = answered(ports[0]) - at_first[0]
    groups[0][0].send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert len(outcomes) == total and {reason for *_, reason in outcomes} <= {"stop", "length"}, outcomes
    texts = {(prompt, text) for prompt, text, _ in outcomes}
    assert len(texts) == PROMPTS, f"a prompt has several answers: {sorted(texts)}"
    for member in groups[0]:
        assert member.wait(END_S) == 0, "a process of the drained group ended with a failure"
    assert before > 0, "the router sent nothing to the first group"
    after = answered(ports[1]) - at_first[1]
    assert after >= total // 2 - CLIENTS, f"the second group answered {after} requests of {total}"


def main(agent, name):
    launch, scheme, wait = ROUTERS[name]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        folder = pathlib.Path(folder)
        try:
            ports = [{"http": free_port(), "grpc": free_port()} for _ in range(2)]
            command = [agent, "plain", "-m", "builtin://tiny", "--dtype=f32", "--host=127.0.0.1"]
            groups = []
            for port, ranks in zip(ports, RANKS):
                group = [*command, f"--http-port={port['http']}", f"--grpc-port={port['grpc']}"]
                ring = [free_port() for _ in range(ranks)]
                logs = [folder / f"group-{port['http']}-{rank}" for rank in range(ranks)]
                members = [process(group, log, environment(ring, rank)) for rank, log in enumerate(logs)]
                groups.append([stack.enter_context(member) for member in members])
            for (head, *_), port in zip(groups, ports):
                wait_until_ready(head, f"http://127.0.0.1:{port['http']}/ready")
            port = free_port()
            launch = [*launch, "--host=127.0.0.1", f"--port={port}", "--policy=round_robin", f"--prometheus-port={free_port()}"]
            launch += ["--worker-urls", *(f"{scheme}://127.0.0.1:{group[scheme]}" for group in ports)]
            router = stack.enter_context(process(launch, folder / name, NO_HUB))
            wait(router, port, len(groups))
            check_answers(port, ports[0]["http"])
            print(f"ok answers through {name}", flush=True)
            check_drain(port, groups, [group["http"] for group in ports])
            print(f"ok drain behind {name}", flush=True)
        except BaseException:
            for log in folder.iterdir():
                print(f"== {log.name}\n{log.read_text()[-10_000:]}", file=sys.stderr)
            raise


if __name__ == "__main__":
    main(*sys.argv[1:])
