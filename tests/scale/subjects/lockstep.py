"""The operator of this repository, with the rights and the identity that `deploy/overlays/cluster-wide` gives it."""

import re

from cluster import kubectl, namespace, says, without_deployment

NAME, UNIT = "lockstep", "cluster"
NAMESPACE, ACCOUNT = "lockstep-system", "lockstep-operator"
COLLECTION, PLURAL = "/apis/lockstep.dev/v1alpha1", "inferenceclusters"
PODS = "app.kubernetes.io/managed-by=lockstep"
LISTEN = "127.0.0.1:18080"
READY_URL = f"http://{LISTEN}/readyz"
METRICS_URL = f"http://{LISTEN}/metrics"
REQUESTS = re.compile(r'^lockstep_operator_api_requests_total\{verb="(\w+)"\} (\d+)', re.M)
RECONCILES = re.compile(r'^lockstep_operator_reconciles_total\{result="(\w+)",cause="(\w*)"\} (\d+)', re.M)
CONNECTIONS = re.compile(r"^lockstep_operator_head_connections (\d+)", re.M)
ON_FAKE_NODES = {"nodeSelector": {"type": "fake"}, "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]}


def install(api, tools) -> None:
    namespace(NAMESPACE)
    overlay = kubectl("kustomize", str(tools.root / "deploy/overlays/cluster-wide"))
    kubectl("apply", "--server-side", "-f", "-", given=without_deployment(overlay))
    kubectl("wait", "--for=condition=Established", "crd/inferenceclusters.lockstep.dev", "--timeout=30s")


def command(tools) -> list[str]:
    agent = "lockstep/agent:scale"
    return [tools.operator, "run", "--agent-image", agent, "--no-leader-election", "--listen", LISTEN]


def spec(name: str) -> dict:
    return {"apiVersion": "lockstep.dev/v1alpha1", "kind": "InferenceCluster", "metadata": {"name": name},
            "spec": {"model": {"source": "builtin://tiny"}, "workers": 3, "template": {"spec": ON_FAKE_NODES}}}


def is_ready(cluster: dict) -> bool:
    return says(cluster, "Ready")


def pods_of(name: str) -> str:
    return f"lockstep.dev/cluster={name}"


def is_worker(pod: str) -> bool:
    return "-worker-" in pod


def own_counts(page: str) -> dict:
    """What its metrics say beside what the API server counts."""
    connections = CONNECTIONS.search(page)
    return {"requests": {verb: int(count) for verb, count in REQUESTS.findall(page)},
            "reconciles": {f"{result} {cause}".strip(): int(count) for result, cause, count in RECONCILES.findall(page)},
            "head_connections": int(connections.group(1)) if connections else None}
