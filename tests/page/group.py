"""Groups of real processes for the test of the page. Every process ends with its group."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
READY_S = 120
END_S = 45


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Group:
    """A running group and the address of its endpoint."""

    def __init__(self, process: subprocess.Popen, port: int, log: pathlib.Path):
        self.process, self.url, self.log = process, f"http://127.0.0.1:{port}/", log

    def ready(self) -> dict:
        """Returns the head's answer to /ready, or {} if the head does not answer."""
        try:
            with urllib.request.urlopen(f"{self.url}ready", timeout=5) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)
        except OSError:
            return {}

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"{self.url}metrics", timeout=5) as answer:
            page = answer.read().decode()
        return sum(float(line.split()[-1]) for line in page.splitlines() if line.split("{")[0].split(" ")[0] == name)

    def wait_until(self, what: str, condition) -> None:
        deadline = time.monotonic() + READY_S
        while not condition():
            assert self.process.poll() is None, f"the group ended with {self.process.returncode}:\n{self.tail()}"
            assert time.monotonic() < deadline, f"not {what} after {READY_S} s: {self.ready()}\n{self.tail()}"
            time.sleep(0.1)

    def worker(self, ordinal: int) -> int:
        """Returns the process id of a worker: a child of `lockstep up` with this ordinal in its environment."""
        wanted = f"MISTRALRS_MN_WORKER_ID={ordinal}".encode()
        threads = pathlib.Path(f"/proc/{self.process.pid}/task").glob("*/children")
        children = [pid for thread in threads for pid in thread.read_text().split()]
        found = [int(pid) for pid in children if wanted in pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")]
        assert len(found) == 1, f"children {children}, of which {found} are worker {ordinal}"
        return found[0]

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-6000:]


@contextlib.contextmanager
def running(command: list[str], port: int, log: pathlib.Path):
    with log.open("w") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    group = Group(process, port, log)
    try:
        yield group
    except BaseException:
        print(group.tail(), file=sys.stderr)
        raise
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def published(bin_folder: pathlib.Path, model: pathlib.Path, folder: pathlib.Path):
    """Runs the sample of the published model, three ranks, by `lockstep up`. The model comes from `model`."""
    lines = (ROOT / "deploy/samples/smollm2.yaml").read_text().splitlines()
    lines = [f"    source: file://{model}" if line.strip().startswith("source:") else line for line in lines]
    manifest = folder / "smollm2.yaml"
    manifest.write_text("\n".join(lines) + "\n")
    port = free_port()
    up = [bin_folder / "lockstep", "up", manifest, f"--http-port={port}", f"--agent={bin_folder / 'lockstep-agent'}"]
    return running([str(part) for part in up], port, folder / "published.log")


def single(bin_folder: pathlib.Path, model: pathlib.Path, folder: pathlib.Path, key: str):
    """Runs one process with a model of a folder. Its endpoint asks for a key."""
    port = free_port()
    agent = [bin_folder / "lockstep-agent", "plain", "-m", model, "--host=127.0.0.1", f"--http-port={port}", "--grpc-port=off", f"--api-key={key}"]
    return running([str(part) for part in agent], port, folder / "single.log")


@contextlib.contextmanager
def lost(served: Group, ordinal: int):
    """Kills a worker. `lockstep up` starts the worker again after the block: until then it is stopped itself."""
    worker = served.worker(ordinal)
    os.kill(served.process.pid, signal.SIGSTOP)
    try:
        os.kill(worker, signal.SIGKILL)
        yield
    finally:
        os.kill(served.process.pid, signal.SIGCONT)
