"""The operator as a process beside the cluster, with the rights and the identity that an installation gives it."""

import base64
import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

from api import Api

NAMESPACE, ACCOUNT = "lockstep-system", "lockstep-operator"
LISTEN = "127.0.0.1:18080"
START_LIMIT_S = 60
END_LIMIT_S = 20
REQUESTS = re.compile(r'^lockstep_operator_api_requests_total\{verb="(\w+)"\} (\d+)', re.M)
RECONCILES = re.compile(r'^lockstep_operator_reconciles_total\{result="(\w+)",cause="(\w*)"\} (\d+)', re.M)
CONNECTIONS = re.compile(r"^lockstep_operator_head_connections (\d+)", re.M)


def kubectl(*arguments: str, given: str | None = None) -> str:
    done = subprocess.run(["kubectl", *arguments], input=given, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def install(api: Api, root: Path) -> None:
    """Everything of the cluster-wide overlay but the Deployment, and a name in the API server's books for its account."""
    if subprocess.run(["kubectl", "get", "namespace", NAMESPACE], capture_output=True).returncode:
        kubectl("create", "namespace", NAMESPACE)
    overlay = kubectl("kustomize", str(root / "deploy/overlays/cluster-wide"))
    parts = [part for part in re.split(r"^---$", overlay, flags=re.M) if not re.search(r"^kind: Deployment$", part, re.M)]
    kubectl("apply", "--server-side", "-f", "-", given="---".join(parts))
    kubectl("wait", "--for=condition=Established", "crd/inferenceclusters.lockstep.dev", "--timeout=30s")
    account = {"kind": "ServiceAccount", "serviceAccount": {"namespace": NAMESPACE, "name": ACCOUNT}}
    api.ask("POST", "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas", {
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": ACCOUNT},
        # As other accounts: with their share of the API server, under a name of its own.
        "spec": {"priorityLevelConfiguration": {"name": "workload-low"}, "matchingPrecedence": 800,
                 "distinguisherMethod": {"type": "ByUser"},
                 "rules": [{"subjects": [account],
                            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"],
                                               "namespaces": ["*"], "clusterScope": True}],
                            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}})


def kubeconfig(api: Api, state: Path) -> Path:
    token = kubectl("--namespace", NAMESPACE, "create", "token", ACCOUNT, "--duration=12h").strip()
    authority = base64.b64encode((Path(os.environ["KUBECONFIG"]).parent / "ca.crt").read_bytes()).decode()
    server = f"https://{api.address[0]}:{api.address[1]}"
    path = state / "operator.kubeconfig"
    path.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority-data": authority}}],
        "users": [{"name": "operator", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "operator"}}]}))
    return path


class Operator:
    def __init__(self, program: str, api: Api, state: Path) -> None:
        env = os.environ | {"KUBECONFIG": str(kubeconfig(api, state))}
        self.log = open(state / "operator.log", "wb")
        command = [program, "run", "--agent-image", "lockstep/agent:scale", "--no-leader-election", "--listen", LISTEN]
        self.process = subprocess.Popen(command, env=env, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + START_LIMIT_S
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.end()
                raise SystemExit(f"the operator does not become ready: read {state}/operator.log")
            time.sleep(0.2)

    def page(self, path: str) -> str:
        return urllib.request.urlopen(f"http://{LISTEN}{path}", timeout=30).read().decode()

    def answers(self) -> bool:
        try:
            return self.page("/readyz").startswith("ok")
        except OSError:
            return False

    def memory(self, which: str) -> float:
        """MiB: `VmHWM` is the most so far, `VmRSS` what it is now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"^{which}:\s+(\d+) kB", status, re.M).group(1)) / 1024

    def cpu(self) -> float:
        """Seconds so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def metrics(self) -> dict:
        page = self.page("/metrics")
        connections = CONNECTIONS.search(page)
        return {"requests": {verb: int(count) for verb, count in REQUESTS.findall(page)},
                "reconciles": {f"{result} {cause}".strip(): int(count) for result, cause, count in RECONCILES.findall(page)},
                "head_connections": int(connections.group(1)) if connections else None}

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
