#!/usr/bin/env python3
"""Runs routers before two groups: routers.py AGENT

Each group is one process that serves the built-in model in f32. The router sends requests to both by gRPC. An answer that
comes through the router must equal the answer of a group's own HTTP port, whole and streamed. Then one group gets SIGTERM
while clients ask the router: no request may be lost, and the process must end with status 0. Exits with 0 and prints one line
per check. After a failure, this program prints all logs.
"""

import contextlib
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

from with_agent import END_S, READY_S, free_port, wait_until_ready

MAX_TOKENS = 24
CLIENTS = 8
# Answers for each client before the drain begins, and after that.
ROUNDS = 8
# A router that asks a hub for the tokenizer gets no answer here, and takes that of the group.
NO_HUB = {"HF_ENDPOINT": "http://127.0.0.1:9"}


@contextlib.contextmanager
def process(command, log, **variables):
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


def wait_for_workers(url, count):
    deadline, state = time.monotonic() + READY_S, "no answer yet"
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                workers = json.load(response)["workers"]
            state = [(worker["url"], worker["status"]) for worker in workers]
            if sum(worker["is_healthy"] for worker in workers) == count:
                return
        except OSError as error:
            state = str(error)
        time.sleep(0.1)
    raise AssertionError(f"the router has not found {count} workers after {READY_S} s: {state}")


def client(port):
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=60, max_retries=0)


def ask(port, prompt, **options):
    options = {"model": "tiny", "max_tokens": MAX_TOKENS, "temperature": 0, **options}
    return client(port).chat.completions.create(messages=[{"role": "user", "content": prompt}], **options)


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


def check_drain(router, group):
    """Drains a group while clients ask the router for answers."""
    outcomes = []

    def work(number):
        for round in range(2 * ROUNDS):
            try:
                outcomes.append(ask(router, f"{number} {round}", temperature=1).choices[0].finish_reason)
            except openai.OpenAIError as error:
                outcomes.append(repr(error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    while len(outcomes) < ROUNDS * CLIENTS:  # from now on, requests run all the time
        time.sleep(0.01)
    group.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert len(outcomes) == 2 * ROUNDS * CLIENTS and set(outcomes) <= {"stop", "length"}, outcomes
    assert group.wait(END_S) == 0, "the drained group ended with a failure"


def main(agent):
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        folder = pathlib.Path(folder)
        try:
            ports = [(free_port(), free_port()) for _ in range(2)]
            command = [agent, "plain", "-m", "builtin://tiny", "--dtype=f32", "--host=127.0.0.1"]
            groups = [
                stack.enter_context(process([*command, f"--http-port={http}", f"--grpc-port={grpc}"], folder / f"group-{http}"))
                for http, grpc in ports
            ]
            for group, (http, _) in zip(groups, ports):
                wait_until_ready(group, f"http://127.0.0.1:{http}/ready")
            router = free_port()
            launch = [sys.executable, "-m", "smg.launch_router", "--host=127.0.0.1", f"--port={router}", "--policy=round_robin"]
            launch += [f"--prometheus-port={free_port()}", "--health-check-interval-secs=1", "--worker-urls"]
            launch += [f"grpc://127.0.0.1:{grpc}" for _, grpc in ports]
            stack.enter_context(process(launch, folder / "smg", **NO_HUB))
            wait_for_workers(f"http://127.0.0.1:{router}/workers", len(groups))
            check_answers(router, ports[0][0])
            print("ok answers through smg", flush=True)
            check_drain(router, groups[0])
            print("ok drain behind smg", flush=True)
        except BaseException:
            for log in folder.iterdir():
                print(f"== {log.name}\n{log.read_text()[-10_000:]}", file=sys.stderr)
            raise


if __name__ == "__main__":
    main(*sys.argv[1:])
