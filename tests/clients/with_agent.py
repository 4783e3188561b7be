#!/usr/bin/env python3
"""Runs a client's script against an agent: with_agent.py AGENT SCRIPT [ARGUMENT…]

The agent serves the model in the box, in f32, on a free port of this machine; the script gets `--base-url` and its
arguments. Once it has passed, SIGTERM must end the agent with status 0. The agent's log is shown where something failed.
"""

import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

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


def main(agent: str, script: list[str]) -> None:
    port = free_port()
    command = [agent, "plain", "-m", "builtin://tiny", "--dtype=f32", "--host=127.0.0.1"]
    command += [f"--http-port={port}", "--grpc-port=off"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_until_ready(process, f"http://127.0.0.1:{port}/ready")
            client = [sys.executable, *script, "--base-url", f"http://127.0.0.1:{port}/v1"]
            subprocess.run(client, check=True, timeout=SCRIPT_S)
            process.send_signal(signal.SIGTERM)
            assert process.wait(END_S) == 0, f"the agent ended with {process.returncode}"
        except BaseException:
            process.terminate()  # so that it ends its own ranks, too
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
            log.seek(0)
            print(log.read()[-10_000:], file=sys.stderr)
            raise


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
