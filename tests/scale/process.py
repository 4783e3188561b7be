"""The controller as a process beside the cluster, with the rights and the identity that an installation gives it."""

import os
import re
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

from api import Api
from cluster import kubeconfig

START_LIMIT_S = 60
END_LIMIT_S = 20


class Controller:
    def __init__(self, subject, api: Api, tools) -> None:
        self.subject, log = subject, tools.state / "controller.log"
        env = os.environ | {"KUBECONFIG": str(kubeconfig(api, subject, tools.state))}
        self.log = open(log, "wb")
        self.process = subprocess.Popen(subject.command(tools), env=env, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + START_LIMIT_S
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.end()
                raise SystemExit(f"{subject.NAME} does not become ready: read {log}")
            time.sleep(0.2)

    def answers(self) -> bool:
        try:
            return page(self.subject.READY_URL).startswith("ok")
        except OSError:
            return False

    def memory(self, which: str) -> float:
        """Returns the memory in MiB: `VmHWM` is the peak so far, `VmRSS` the current value."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"^{which}:\s+(\d+) kB", status, re.M).group(1)) / 1024

    def cpu(self) -> float:
        """Returns the CPU seconds so far."""
        return cpu_of(self.process.pid) or 0

    def own_counts(self) -> dict:
        """Returns the counts in the controller's own metrics, if it has any."""
        url = self.subject.METRICS_URL
        return self.subject.own_counts(page(url)) if url else {}

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def cpu_of(pid: int) -> float | None:
    """Returns the CPU seconds of a process so far, or `None` if the process has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def page(url: str) -> str:
    return urllib.request.urlopen(url, timeout=30).read().decode()
