#!/usr/bin/env python3
"""Runs a client's script against a group: with_agent.py AGENT RANKS MODEL SCRIPT [ARGUMENT…]

RANKS processes on a ring serve MODEL (`tiny`, the built-in model, or a model of models.py) in f32, on a free port of this
machine. The script gets `--base-url`, its arguments, and the address of the gRPC port in `GRPC_ADDRESS`. After the script
has passed, SIGTERM to the head must end all processes with status 0. After a failure, this program prints their log.
"""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import models

READY_S = 120
SCRIPT_S = 300
END_S = 45


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_ready(process: subprocess.Popen, address: str) -> None:
    deadline = time.monotonic() + READY_S
    pending = "no answer yet"
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the agent ended with {process.returncode}"
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except urllib.error.HTTPError as error:
            pending = error.read().decode()
        except OSError as error:
            pending = str(error)
        time.sleep(0.1)
    raise AssertionError(f"not ready after {READY_S} s: {pending}")


def environment(ring: list[int], rank: int) -> dict[str, str]:
    """Returns the environment of one rank. A ring of one process needs no variables."""
    if len(ring) == 1:
        return dict(os.environ)
    right = ring[(rank + 1) % len(ring)]
    place = {"RING_PORT": ring[rank], "RING_RIGHT": right, "RING_RANK": rank, "RING_WORLD_SIZE": len(ring)}
    return os.environ | {name: str(value) for name, value in place.items()}


def run(command: list[str], ranks: int, script: list[str]) -> None:
    port, grpc, ring = free_port(), free_port(), [free_port() for _ in range(ranks)]
    command = [*command, "--dtype=f32", "--host=127.0.0.1", f"--http-port={port}", f"--grpc-port={grpc}"]
    with tempfile.TemporaryFile("w+") as log:
        options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
        group = [subprocess.Popen(command, env=environment(ring, rank), **options) for rank in range(ranks)]
        head = group[0]
        try:
            wait_until_ready(head, f"http://127.0.0.1:{port}/ready")
            client = [sys.executable, *script, "--base-url", f"http://127.0.0.1:{port}/v1"]
            variables = os.environ | {"GRPC_ADDRESS": f"127.0.0.1:{grpc}"}
            subprocess.run(client, check=True, timeout=SCRIPT_S, env=variables)
            head.send_signal(signal.SIGTERM)
            for process in group:
                assert process.wait(END_S) == 0, f"an agent ended with {process.returncode}"
        except BaseException:
            for process in group:
                process.terminate()  # a process that gets SIGTERM ends its own ranks too
            for process in group:
                try:
                    process.wait(END_S)
                except subprocess.TimeoutExpired:
                    process.kill()
            log.seek(0)
            print(log.read()[-10_000:], file=sys.stderr)
            raise


def main(agent: str, ranks: str, model: str, *script: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = "builtin://tiny" if model == "tiny" else str(models.make(model, pathlib.Path(folder)))
        run([agent, "plain", "-m", source], int(ranks), list(script))


if __name__ == "__main__":
    main(*sys.argv[1:])
