"""Functions for every controller under test: kubectl, a namespace, an account, and a FlowSchema that counts its requests."""

import base64
import json
import os
import re
import subprocess
from pathlib import Path


def kubectl(*arguments: str, given: str | None = None) -> str:
    done = subprocess.run(["kubectl", *arguments], input=given, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def namespace(name: str) -> None:
    if subprocess.run(["kubectl", "get", "namespace", name], capture_output=True).returncode:
        kubectl("create", "namespace", name)


def without_deployment(manifests: str) -> str:
    """Removes the Deployment, because the controller runs as a process beside the control plane."""
    parts = re.split(r"^---$", manifests, flags=re.M)
    return "---".join(part for part in parts if not re.search(r"^kind: Deployment$", part, re.M))


def says(thing: dict, condition: str) -> bool:
    """Returns true if the status of the object has the condition with status True."""
    conditions = thing.get("status", {}).get("conditions", [])
    return any(one["type"] == condition and one["status"] == "True" for one in conditions)


def count_apart(api, subject) -> None:
    """Makes a FlowSchema, so that the API server counts the requests of the account by themselves. The account keeps the
    priority of other accounts."""
    account = {"kind": "ServiceAccount", "serviceAccount": {"namespace": subject.NAMESPACE, "name": subject.ACCOUNT}}
    api.ask("POST", "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas", {
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": subject.ACCOUNT},
        "spec": {"priorityLevelConfiguration": {"name": "workload-low"}, "matchingPrecedence": 800,
                 "distinguisherMethod": {"type": "ByUser"},
                 "rules": [{"subjects": [account],
                            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"],
                                               "namespaces": ["*"], "clusterScope": True}],
                            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}})


def kubeconfig(api, subject, state: Path) -> Path:
    token = kubectl("--namespace", subject.NAMESPACE, "create", "token", subject.ACCOUNT, "--duration=12h").strip()
    authority = base64.b64encode((Path(os.environ["KUBECONFIG"]).parent / "ca.crt").read_bytes()).decode()
    server = f"https://{api.address[0]}:{api.address[1]}"
    path = state / "controller.kubeconfig"
    path.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority-data": authority}}],
        "users": [{"name": "controller", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "controller"}}]}))
    return path
