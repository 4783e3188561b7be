"""A client of the API server, and the counts of requests in the metrics of the API server."""

import http.client
import json
import os
import re
import ssl
import threading
import time
from collections import Counter
from pathlib import Path

REQUESTS = re.compile(r"^apiserver_request_total\{(.*)\} (\S+)$", re.M)
DISPATCHED = re.compile(r"^apiserver_flowcontrol_dispatched_requests_total\{(.*)\} (\S+)$", re.M)
LABEL = re.compile(r'(\w+)="([^"]*)"')
ANSWER_LIMIT_S = 60
# The API server closes connections that are idle for longer.
IDLE_LIMIT_S = 20


class Refused(Exception):
    pass


class Api:
    """A client with the rights of the cluster's admin. Each thread has a connection of its own."""

    def __init__(self) -> None:
        kubeconfig = Path(os.environ["KUBECONFIG"])
        host, port = re.search(r'server: "https://(.*):(\d+)"', kubeconfig.read_text()).groups()
        self.address = (host, int(port))
        folder = kubeconfig.parent
        self.tls = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        self.tls.load_cert_chain(folder / "admin.crt", folder / "admin.key")
        self.local = threading.local()

    def connect(self, limit: float = ANSWER_LIMIT_S) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(*self.address, timeout=limit, context=self.tls)

    def ask(self, method: str, path: str, body: dict | None = None) -> str:
        if time.monotonic() - getattr(self.local, "used", float("-inf")) > IDLE_LIMIT_S:
            self.local.connection = self.connect()
        self.local.used = time.monotonic()
        connection = self.local.connection
        connection.request(method, path, json.dumps(body) if body else None, {"content-type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode()
        if answer.status >= 300:
            raise Refused(f"{method} {path}: {answer.status} {text[:500]}")
        return text

    def get(self, path: str) -> dict:
        return json.loads(self.ask("GET", path))

    def changes(self, path: str, selectors: str = ""):
        """Yields (kind of change, object) for ever, from now on."""
        version = self.get(f"{path}?limit=1{selectors}")["metadata"]["resourceVersion"]
        connection = self.connect(limit=3600)
        connection.request("GET", f"{path}?watch=1&resourceVersion={version}&timeoutSeconds=3600{selectors}")
        for line in connection.getresponse():
            change = json.loads(line)
            yield change["type"], change["object"]

    def counters(self) -> "Counters":
        return Counters(self.ask("GET", "/metrics"))


class Counters:
    """Requests since the start of the API server, by verb and kind, and by sender."""

    def __init__(self, page: str = "") -> None:
        self.requests, self.senders = Counter(), Counter()
        for labels, value in REQUESTS.findall(page):
            labels = dict(LABEL.findall(labels))
            self.requests[labels["verb"], kind(labels), labels["code"]] += int(float(value))
        for labels, value in DISPATCHED.findall(page):
            self.senders[dict(LABEL.findall(labels))["flow_schema"]] += int(float(value))

    def __sub__(self, before: "Counters") -> "Counters":
        change = Counters()
        change.requests, change.senders = self.requests - before.requests, self.senders - before.senders
        return change

    @property
    def total(self) -> int:
        return self.requests.total()

    def by(self, *places: int) -> Counter:
        """Returns the sums by the named places of (verb, kind, code)."""
        summed = Counter()
        for key, count in self.requests.items():
            summed[" ".join(key[place] for place in places)] += count
        return summed


def kind(labels: dict) -> str:
    return "/".join(part for part in (labels["resource"], labels["subresource"]) if part) or "none"
