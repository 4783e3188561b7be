#!/usr/bin/env python3
"""What the operator takes for many InferenceClusters: time, memory, CPU, requests to the API server. Runs in the bubble.

All requests are counted by the API server itself (`apiserver_request_total`; by sender, its flow control's counters).
Those of the measurement are among them: it creates the clusters and listens by two watches.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from api import Api
from process import Operator, install

PODS = 4
NAMESPACES = 10
CREATORS = 8
PODS_ON_NODE = 400
CONVERGE_LIMIT_S = 1200
REPLACE_LIMIT_S = 120
SETTLE_S = 30
BASELINE_S = 60
# Bounds. The operator's ten watches are begun anew every five minutes; it asks for nothing else in the steady state.
MEMORY_MIB = 100
STEADY_REQUESTS_A_MINUTE = 10

CLUSTERS = "/apis/lockstep.dev/v1alpha1"
SENDERS = {"lockstep-operator": "operator", "exempt": "admin: kwok, this measurement; API server itself",
           "kube-system-service-accounts": "controllers", "kube-scheduler": "scheduler", "system-nodes": "kubelet",
           "kube-controller-manager": "controller manager itself", "system-node-high": "kubelet"}


def spec(name: str) -> dict:
    """One head and three workers, which only fake nodes take."""
    on_fake_nodes = {"nodeSelector": {"type": "fake"}, "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]}
    return {"apiVersion": "lockstep.dev/v1alpha1", "kind": "InferenceCluster", "metadata": {"name": name},
            "spec": {"model": {"source": "builtin://tiny"}, "workers": PODS - 1, "template": {"spec": on_fake_nodes}}}


class Progress:
    """Pods that run and clusters that are ready, as two watches tell."""

    def __init__(self, api: Api, clusters: int) -> None:
        self.wanted, self.running, self.ready = clusters, set(), set()
        self.pods_at = self.clusters_at = None
        pods = "&fieldSelector=status.phase%3DRunning&labelSelector=app.kubernetes.io%2Fmanaged-by%3Dlockstep"
        for follow, path, selectors in ((self.pods, "/api/v1/pods", pods),
                                        (self.clusters, f"{CLUSTERS}/inferenceclusters", "")):
            threading.Thread(target=self.listen, args=(api, follow, path, selectors), daemon=True).start()

    def listen(self, api: Api, follow, path: str, selectors: str) -> None:
        for change, thing in api.changes(path, selectors):
            follow(change, thing)

    def pods(self, change: str, pod: dict) -> None:
        self.running.discard(pod["metadata"]["uid"]) if change == "DELETED" else self.running.add(pod["metadata"]["uid"])
        if len(self.running) == PODS * self.wanted and self.pods_at is None:
            self.pods_at = time.monotonic()

    def clusters(self, change: str, cluster: dict) -> None:
        name = cluster["metadata"]["namespace"], cluster["metadata"]["name"]
        self.ready.add(name) if is_ready(cluster) else self.ready.discard(name)
        if len(self.ready) == self.wanted and self.clusters_at is None:
            self.clusters_at = time.monotonic()


def is_ready(cluster: dict) -> bool:
    conditions = cluster.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def steady(api: Api, seconds: float, operator: Operator | None = None) -> dict:
    """Requests a minute while nothing is changed."""
    before, cpu, began = api.counters(), operator.cpu() if operator else 0, time.monotonic()
    asked = operator.metrics()["requests"] if operator else {}
    time.sleep(seconds)
    change, minutes = api.counters() - before, (time.monotonic() - began) / 60
    result = {"seconds": 60 * minutes, "requests": change.total / minutes, "by_sender": per(change.senders, minutes),
              "by_verb_and_kind": per(change.by(0, 1), minutes)}
    if operator:
        now = operator.metrics()
        result |= {"operator_requests": change.senders["lockstep-operator"] / minutes,
                   "operator_requests_by_its_own_count": {verb: count - asked.get(verb, 0)
                                                          for verb, count in now["requests"].items()},
                   "operator_cpu_seconds": (operator.cpu() - cpu) / minutes, "operator_rss_mib": operator.memory("VmRSS"),
                   "operator_head_connections": now["head_connections"]}
    return result


def per(counts, by: float) -> dict:
    return {key: round(count / by, 2) for key, count in counts.most_common(40) if count}


def converge(api: Api, operator: Operator, clusters: int) -> dict:
    """Creates them all and waits until they serve."""
    progress = Progress(api, clusters)
    time.sleep(1)
    names = [(f"scale-{i % NAMESPACES}", f"c{i:04}") for i in range(clusters)]
    before, cpu, began = api.counters(), operator.cpu(), time.monotonic()
    with ThreadPoolExecutor(CREATORS) as creators:
        path = f"{CLUSTERS}/namespaces/%s/inferenceclusters"
        list(creators.map(lambda name: api.ask("POST", path % name[0], spec(name[1])), names))
    created = time.monotonic()
    said = created
    while (progress.clusters_at is None or progress.pods_at is None) and time.monotonic() - began < CONVERGE_LIMIT_S:
        time.sleep(0.2)
        if time.monotonic() - said > 15:
            said = time.monotonic()
            say(f"{said - began:.0f} s: {len(progress.running)} pods run, {len(progress.ready)} clusters are ready; "
                f"operator {operator.memory('VmRSS'):.0f} MiB, {operator.cpu() - cpu:.0f} s")
    change, took = api.counters() - before, lambda at: round(at - began, 1) if at else None
    return {"create_seconds": took(created), "pods_running_seconds": took(progress.pods_at),
            "ready_seconds": took(progress.clusters_at), "pods_running": len(progress.running),
            "clusters_ready": len(progress.ready), "requests": change.total,
            "requests_per_cluster": round(change.total / clusters, 1),
            "operator_requests": change.senders["lockstep-operator"],
            "operator_requests_per_cluster": round(change.senders["lockstep-operator"] / clusters, 1),
            "by_sender": dict(change.senders.most_common()),
            "by_verb_and_kind": dict(change.by(0, 1).most_common(40)),
            "refused": {key: count for key, count in change.by(0, 1, 2).items() if key[-3:] >= "400"},
            "operator": operator.metrics(), "operator_cpu_seconds": round(operator.cpu() - cpu, 1)}


def replace(api: Api) -> dict:
    """Deletes one worker's pod; which of its group's pods are the same afterwards?"""
    namespace, cluster = "scale-0", "c0000"
    pods = lambda: {pod["metadata"]["name"]: pod for pod in api.get(
        f"/api/v1/namespaces/{namespace}/pods?labelSelector=lockstep.dev%2Fcluster%3D{cluster}")["items"]}
    uids = lambda seen: {name: pod["metadata"]["uid"] for name, pod in seen.items()}
    before, counters, began = uids(pods()), api.counters(), time.monotonic()
    victim = sorted(name for name in before if "-worker-" in name)[0]
    api.ask("DELETE", f"/api/v1/namespaces/{namespace}/pods/{victim}")
    while time.monotonic() - began < REPLACE_LIMIT_S:
        now = pods()
        runs = all(pod["status"].get("phase") == "Running" for pod in now.values())
        ready = is_ready(api.get(f"{CLUSTERS}/namespaces/{namespace}/inferenceclusters/{cluster}"))
        if len(now) == PODS and now[victim]["metadata"]["uid"] != before[victim] and runs and ready:
            break
        time.sleep(0.2)
    took, after = time.monotonic() - began, uids(pods())
    time.sleep(5)
    change = api.counters() - counters
    return {"pods": len(before), "kept": sum(after.get(name) == uid for name, uid in before.items()),
            "running_again_seconds": round(took, 1) if took < REPLACE_LIMIT_S else None,
            "operator_requests": change.senders["lockstep-operator"]}


def missed(result: dict, clusters: int) -> list[str]:
    converged, idle, replaced = result["converge"], result["steady"], result["replace"]
    bounds = [
        (converged["clusters_ready"] == clusters, f"{converged['clusters_ready']} of {clusters} clusters are ready"),
        (converged["pods_running"] == PODS * clusters, f"{converged['pods_running']} of {PODS * clusters} pods run"),
        (result["operator_peak_mib"] <= MEMORY_MIB, f"the operator took {result['operator_peak_mib']} MiB; {MEMORY_MIB} are allowed"),
        (idle["operator_requests"] <= STEADY_REQUESTS_A_MINUTE,
         f"the operator made {idle['operator_requests']:.0f} requests a minute with nothing to do; {STEADY_REQUESTS_A_MINUTE} are allowed"),
        (replaced["kept"] == PODS - 1, f"{replaced['kept']} of a group's {PODS} pods outlived the loss of one; {PODS - 1} should"),
    ]
    return [what for held, what in bounds if not held]


def table(result: dict) -> str:
    converged, idle, empty, replaced = (result[key] for key in ("converge", "steady", "baseline", "replace"))
    rows = [
        ("all pods run, after", f"{converged['pods_running_seconds']} s"),
        ("all clusters `Ready`, after", f"{converged['ready_seconds']} s ({converged['create_seconds']} s of it creating)"),
        ("API requests of all clients until then", f"{converged['requests']:,}, {converged['requests_per_cluster']} for each cluster"),
        ("of these the operator's", f"{converged['operator_requests']:,}, {converged['operator_requests_per_cluster']} for each cluster"),
        ("operator's CPU until then", f"{converged['operator_cpu_seconds']} s"),
        ("operator's memory, most", f"{result['operator_peak_mib']} MiB"),
        ("operator's memory, steady", f"{idle['operator_rss_mib']:.0f} MiB"),
        ("steady state: requests a minute, all clients", f"{idle['requests']:.0f} ({empty['requests']:.0f} before there was a cluster)"),
        ("steady state: requests a minute, operator", f"{idle['operator_requests']:.1f}"),
        ("steady state: operator's CPU a minute", f"{idle['operator_cpu_seconds']:.2f} s"),
        ("one worker's pod deleted: of 4 pods kept", f"{replaced['kept']} (serving again after {replaced['running_again_seconds']} s)"),
    ]
    load = ", ".join(f"{phase} {load}" for phase, load in result["load"].items())
    lines = [f"{result['clusters']:,} clusters of {PODS} pods on {result['fake_nodes']} fake nodes; {result['cores']} cores, load {load}",
             "", "| | |", "|---|---|"] + [f"| {name} | {value} |" for name, value in rows]
    for title, counts in (("sender", converged["by_sender"]), ("request", dict(list(converged["by_verb_and_kind"].items())[:16]))):
        lines += ["", f"| {title} | until ready | for each cluster |", "|---|---|---|"]
        lines += [f"| {SENDERS.get(key, key)} | {count:,} | {count / result['clusters']:.1f} |" for key, count in counts.items() if count]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clusters", type=int, nargs="?", default=1000)
    parser.add_argument("--steady", type=float, default=120, help="seconds of the steady state that are measured")
    parser.add_argument("--operator", required=True, help="lockstep-operator")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    tools = parser.parse_args()
    nodes = -(-PODS * tools.clusters // PODS_ON_NODE)
    result = {"clusters": tools.clusters, "fake_nodes": nodes, "cores": len(os.sched_getaffinity(0)), "load": {}}
    load = lambda phase: result["load"].update({phase: round(os.getloadavg()[0], 1)})

    api = Api()
    subprocess.run(["fake-nodes", str(nodes)], check=True)
    install(api, tools.root)
    for i in range(NAMESPACES):
        api.ask("POST", "/api/v1/namespaces", {"metadata": {"name": f"scale-{i}"}})
    say(f"{nodes} fake nodes; {BASELINE_S} s without a cluster or the operator")
    time.sleep(5)
    result["baseline"] = steady(api, BASELINE_S)
    load("before")
    operator = Operator(tools.operator, api, tools.state)
    try:
        time.sleep(2)
        say(f"the operator runs, {operator.memory('VmRSS'):.0f} MiB; creating {tools.clusters} clusters")
        result["converge"] = converge(api, operator, tools.clusters)
        load("when ready")
        say(f"settles for {SETTLE_S} s, then {tools.steady:.0f} s of steady state")
        time.sleep(SETTLE_S)
        result["steady"] = steady(api, tools.steady, operator)
        load("steady")
        result["replace"] = replace(api)
        result["operator_peak_mib"] = round(operator.memory("VmHWM"))
    finally:
        operator.end()
    result["missed"] = missed(result, tools.clusters)
    (tools.state / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"\n{table(result)}\n\nAll numbers: {tools.state}/result.json")
    for what in result["missed"]:
        print(f"MISSED: {what}")
    sys.exit(1 if result["missed"] else 0)


main()
