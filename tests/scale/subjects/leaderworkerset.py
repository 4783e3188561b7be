"""LeaderWorkerSet's manager, from its Go module, with the rights and the webhooks that its own manifests give it.

Its groups have the same pods that Lockstep makes for a cluster. The script first makes a cluster, and reads head, worker, their
containers, variables, probes and volumes from its StatefulSets. LeaderWorkerSet makes no Services for clients, no
certificates, no policies and no budgets. Its users would have to make them.

The manager runs beside the control plane, as the operator does. So the API server calls its webhooks at a local address
instead of through a Service, and this script makes the certificate instead of the manager.
"""

import base64
import json
import re
import subprocess
import time

from cluster import kubectl, namespace, says, without_deployment
from process import Controller

from . import lockstep

NAME, UNIT = "leaderworkerset", "group"
NAMESPACE, ACCOUNT = "lws-system", "lws-controller-manager"
COLLECTION, PLURAL = "/apis/leaderworkerset.x-k8s.io/v1", "leaderworkersets"
PODS = "leaderworkerset.sigs.k8s.io/name"
HEALTH, WEBHOOKS = "127.0.0.1:18081", "127.0.0.1:19443"
READY_URL = f"http://{HEALTH}/readyz"
METRICS_URL = None
WEBHOOK_KINDS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
CONFIGURATION = {
    "apiVersion": "config.lws.x-k8s.io/v1alpha1", "kind": "Configuration",
    "leaderElection": {"leaderElect": False}, "internalCertManagement": {"enable": False},
    "health": {"healthProbeBindAddress": HEALTH}, "metrics": {"bindAddress": "127.0.0.1:18443"}}
PATTERN = "pattern"
PATTERN_LIMIT_S = 60
template: dict = {}


def install(api, tools) -> None:
    namespace(NAMESPACE)
    manifests = kubectl("kustomize", str(tools.manifests / "config/default"))
    kubectl("apply", "--server-side", "-f", "-", given=without_deployment(manifests))
    kubectl("wait", "--for=condition=Established", f"crd/{PLURAL}.leaderworkerset.x-k8s.io", "--timeout=30s")
    certificate(tools)
    ca = base64.b64encode((tools.state / "tls.crt").read_bytes()).decode()
    for kind in WEBHOOK_KINDS:
        call_locally(kind, ca)
    template.update(pods_of_lockstep(api, tools))


def pods_of_lockstep(api, tools) -> dict:
    """Returns the pod templates of leader and workers, from a Lockstep cluster of the same size."""
    namespace(PATTERN)
    lockstep.install(api, tools)
    operator = Controller(lockstep, api, tools)
    try:
        path = f"{lockstep.COLLECTION}/namespaces/{PATTERN}/{lockstep.PLURAL}"
        api.ask("POST", path, lockstep.spec(PATTERN))
        deadline = time.monotonic() + PATTERN_LIMIT_S
        while len(sets := api.get(f"/apis/apps/v1/namespaces/{PATTERN}/statefulsets")["items"]) < 2:
            if time.monotonic() > deadline:
                raise SystemExit(f"Lockstep made no StatefulSets: read {tools.state}/controller.log")
            time.sleep(0.5)
        api.ask("DELETE", f"{path}/{PATTERN}")
    finally:
        operator.end()
    kubectl("delete", "namespace", PATTERN, "--wait=true")
    kubectl("delete", "crd", f"{lockstep.PLURAL}.lockstep.dev")
    specs = {lockstep.is_worker(found["metadata"]["name"] + "-0"): found["spec"]["template"]["spec"] for found in sets}
    return {"leaderTemplate": {"spec": specs[False]}, "workerTemplate": {"spec": specs[True]}}


def certificate(tools) -> None:
    """Makes a certificate for the address of the webhooks. The webhook configurations name it as their CA."""
    host = WEBHOOKS.partition(":")[0]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=webhooks",
                    "-addext", f"subjectAltName=IP:{host}", "-keyout", tools.state / "tls.key",
                    "-out", tools.state / "tls.crt"], check=True, stderr=subprocess.DEVNULL)


def call_locally(kind: str, ca: str) -> None:
    found = json.loads(kubectl("get", kind.lower(), "-l", "app.kubernetes.io/instance=lws", "-o", "json"))["items"]
    for configuration in found:
        for webhook in configuration["webhooks"]:
            path = webhook["clientConfig"].pop("service")["path"]
            webhook["clientConfig"] = {"url": f"https://{WEBHOOKS}{path}", "caBundle": ca}
        configuration["metadata"].pop("managedFields", None)
        kubectl("replace", "-f", "-", given=json.dumps(configuration))
    if not found:
        raise SystemExit(f"the manifests of LeaderWorkerSet have no {kind}")


def command(tools) -> list[str]:
    host, port = WEBHOOKS.split(":")
    webhook = {"host": host, "port": int(port), "certDir": str(tools.state)}
    path = tools.state / "manager.json"
    path.write_text(json.dumps(CONFIGURATION | {"webhook": webhook}))
    return [tools.manager, "--config", str(path)]


def spec(name: str) -> dict:
    return {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "metadata": {"name": name},
            "spec": {"replicas": 1, "leaderWorkerTemplate": {"size": 4, **template}}}


def is_ready(thing: dict) -> bool:
    return says(thing, "Available")


def pods_of(name: str) -> str:
    return f"leaderworkerset.sigs.k8s.io/name={name}"


def is_worker(pod: str) -> bool:
    """`NAME-GROUP` is the leader, `NAME-GROUP-N` a worker."""
    return re.search(r"-\d+-\d+$", pod) is not None
