#!/usr/bin/env python3
"""Measures the cost of a controller for many groups of pods: time, memory, CPU, requests to the API server. Runs in the
bubble.

The API server itself counts all requests (`apiserver_request_total`, and by sender the counters of its flow control). The
counts include the requests of the measurement, which creates the groups and opens two watches.
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
from urllib.parse import quote

import subjects
from api import Api
from cluster import count_apart
from process import Controller, cpu_of

PODS = 4
NAMESPACES = 10
CREATORS = 8
PODS_ON_NODE = 400
CONVERGE_LIMIT_S = 1200
REPLACE_LIMIT_S = 120
# Time that a group must stay whole to count as whole again. Other controllers recreate the rest of a group a little later.
REPLACED_S = 5
SETTLE_S = 30
BASELINE_S = 60
# Bounds for the operator. In the steady state, the operator only restarts its ten watches every five minutes.
MEMORY_MIB = 100
STEADY_REQUESTS_A_MINUTE = 10

SENDERS = {"exempt": "admin: kwok, this measurement; API server itself", "kube-system-service-accounts": "controllers",
           "kube-scheduler": "scheduler", "system-nodes": "kubelet", "system-node-high": "kubelet",
           "kube-controller-manager": "controller manager itself"}


class Progress:
    """The running pods and the ready groups, as two watches report them."""

    def __init__(self, api: Api, subject, groups: int) -> None:
        self.subject, self.wanted, self.running, self.ready = subject, groups, set(), set()
        self.pods_at = self.groups_at = None
        pods = f"&fieldSelector=status.phase%3DRunning&labelSelector={quote(subject.PODS)}"
        for follow, path, selectors in ((self.pods, "/api/v1/pods", pods),
                                        (self.groups, f"{subject.COLLECTION}/{subject.PLURAL}", "")):
            threading.Thread(target=self.listen, args=(api, follow, path, selectors), daemon=True).start()

    def listen(self, api: Api, follow, path: str, selectors: str) -> None:
        for change, thing in api.changes(path, selectors):
            follow(change, thing)

    def pods(self, change: str, pod: dict) -> None:
        self.running.discard(pod["metadata"]["uid"]) if change == "DELETED" else self.running.add(pod["metadata"]["uid"])
        if len(self.running) == PODS * self.wanted and self.pods_at is None:
            self.pods_at = time.monotonic()

    def groups(self, change: str, group: dict) -> None:
        name = group["metadata"]["namespace"], group["metadata"]["name"]
        self.ready.add(name) if self.subject.is_ready(group) else self.ready.discard(name)
        if len(self.ready) == self.wanted and self.groups_at is None:
            self.groups_at = time.monotonic()


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def steady(api: Api, seconds: float, controller: Controller | None = None) -> dict:
    """Returns the requests a minute while nothing changes."""
    before, cpu, began = api.counters(), controller.cpu() if controller else 0, time.monotonic()
    counted = controller.own_counts() if controller else {}
    time.sleep(seconds)
    change, minutes = api.counters() - before, (time.monotonic() - began) / 60
    result = {"seconds": 60 * minutes, "requests": change.total / minutes, "by_sender": per(change.senders, minutes),
              "by_verb_and_kind": per(change.by(0, 1), minutes)}
    if controller:
        result |= {"controller_requests": change.senders[controller.subject.ACCOUNT] / minutes,
                   "own_counts": {"before": counted, "after": controller.own_counts()},
                   "controller_cpu_seconds": (controller.cpu() - cpu) / minutes,
                   "controller_rss_mib": controller.memory("VmRSS")}
    return result


def cpu_of_all() -> float:
    """Returns the CPU seconds of all processes in the bubble: the control plane, the controller, kwok, this measurement."""
    return sum(filter(None, (cpu_of(int(name)) for name in os.listdir("/proc") if name.isdigit())))


def per(counts, by: float) -> dict:
    return {key: round(count / by, 2) for key, count in counts.most_common(40) if count}


def converge(api: Api, controller: Controller, groups: int) -> dict:
    """Creates all groups and waits until they are ready."""
    subject = controller.subject
    progress = Progress(api, subject, groups)
    time.sleep(1)
    names = [(f"scale-{i % NAMESPACES}", f"c{i:04}") for i in range(groups)]
    before, cpu, all_cpu, began = api.counters(), controller.cpu(), cpu_of_all(), time.monotonic()
    with ThreadPoolExecutor(CREATORS) as creators:
        path = f"{subject.COLLECTION}/namespaces/%s/{subject.PLURAL}"
        list(creators.map(lambda name: api.ask("POST", path % name[0], subject.spec(name[1])), names))
    created = time.monotonic()
    last_line = created
    while (progress.groups_at is None or progress.pods_at is None) and time.monotonic() - began < CONVERGE_LIMIT_S:
        time.sleep(0.2)
        if time.monotonic() - last_line > 15:
            last_line = time.monotonic()
            say(f"{last_line - began:.0f} s: {len(progress.running)} pods run, {len(progress.ready)} {subject.UNIT}s are ready; "
                f"{subject.NAME} {controller.memory('VmRSS'):.0f} MiB, {controller.cpu() - cpu:.0f} s")
    change, took = api.counters() - before, lambda at: round(at - began, 1) if at else None
    return {"create_seconds": took(created), "pods_running_seconds": took(progress.pods_at),
            "ready_seconds": took(progress.groups_at), "pods_running": len(progress.running),
            "groups_ready": len(progress.ready), "requests": change.total,
            "requests_per_group": round(change.total / groups, 1),
            "controller_requests": change.senders[subject.ACCOUNT],
            "controller_requests_per_group": round(change.senders[subject.ACCOUNT] / groups, 1),
            "by_sender": dict(change.senders.most_common()),
            "by_verb_and_kind": dict(change.by(0, 1).most_common(40)),
            "refused": {key: count for key, count in change.by(0, 1, 2).items() if key[-3:] >= "400"},
            "own_counts": controller.own_counts(), "controller_cpu_seconds": round(controller.cpu() - cpu, 1),
            "all_cpu_seconds": round(cpu_of_all() - all_cpu, 1)}


def replace(api: Api, controller: Controller) -> dict:
    """Deletes the pod of one worker, and counts the pods of its group that stay the same."""
    namespace, group, subject = "scale-0", "c0000", controller.subject
    pods = lambda: {pod["metadata"]["name"]: pod for pod in api.get(
        f"/api/v1/namespaces/{namespace}/pods?labelSelector={quote(subject.pods_of(group))}")["items"]}
    uids = lambda seen: {name: pod["metadata"]["uid"] for name, pod in seen.items()}
    before, counters, began = uids(pods()), api.counters(), time.monotonic()
    victim = sorted(filter(subject.is_worker, before))[0]
    api.ask("DELETE", f"/api/v1/namespaces/{namespace}/pods/{victim}")
    since = None
    while time.monotonic() - began < REPLACE_LIMIT_S and (since is None or time.monotonic() - since < REPLACED_S):
        now = pods()
        runs = all(pod["status"].get("phase") == "Running" for pod in now.values())
        ready = subject.is_ready(api.get(f"{subject.COLLECTION}/namespaces/{namespace}/{subject.PLURAL}/{group}"))
        whole = len(now) == PODS and uids(now).get(victim) != before[victim] and runs and ready
        since = (since or time.monotonic()) if whole else None
        time.sleep(0.2)
    after, change = uids(pods()), api.counters() - counters
    return {"pods": len(before), "kept": sum(after.get(name) == uid for name, uid in before.items()),
            "running_again_seconds": round(since - began, 1) if since else None,
            "controller_requests": change.senders[subject.ACCOUNT]}


def missed(result: dict, groups: int) -> list[str]:
    """Returns the bounds that the run missed. Other controllers only have to finish."""
    converged, idle, replaced = result["converge"], result["steady"], result["replace"]
    bounds = [
        (converged["groups_ready"] == groups, f"{converged['groups_ready']} of {groups} are ready"),
        (converged["pods_running"] == PODS * groups, f"{converged['pods_running']} of {PODS * groups} pods run"),
    ]
    if result["controller"] == subjects.lockstep.NAME:
        memory, requests, kept = result["controller_peak_mib"], idle["controller_requests"], replaced["kept"]
        bounds += [
            (memory <= MEMORY_MIB, f"the operator used {memory} MiB; at most {MEMORY_MIB} are allowed"),
            (requests <= STEADY_REQUESTS_A_MINUTE,
             f"the operator sent {requests:.0f} requests a minute with nothing to do; at most {STEADY_REQUESTS_A_MINUTE} are allowed"),
            (kept == PODS - 1, f"{kept} of a group's {PODS} pods survived the loss of one, and {PODS - 1} must"),
        ]
    return [message for held, message in bounds if not held]


def table(result: dict) -> str:
    converged, idle, empty, replaced = (result[key] for key in ("converge", "steady", "baseline", "replace"))
    rows = [
        ("all pods run, after", f"{converged['pods_running_seconds']} s"),
        ("all groups ready, after", f"{converged['ready_seconds']} s ({converged['create_seconds']} s of it creating)"),
        ("API requests of all clients until then", f"{converged['requests']:,}, {converged['requests_per_group']} for each group"),
        ("of these the controller's", f"{converged['controller_requests']:,}, {converged['controller_requests_per_group']} for each group"),
        ("controller's CPU until then", f"{converged['controller_cpu_seconds']} s"),
        ("CPU of everything, control plane and kwok too", f"{converged['all_cpu_seconds']} s"),
        ("controller's memory, most", f"{result['controller_peak_mib']} MiB"),
        ("controller's memory, steady", f"{idle['controller_rss_mib']:.0f} MiB"),
        ("steady state: requests a minute, all clients", f"{idle['requests']:.0f} ({empty['requests']:.0f} before there was a group)"),
        ("steady state: requests a minute, controller", f"{idle['controller_requests']:.1f}"),
        ("steady state: controller's CPU a minute", f"{idle['controller_cpu_seconds']:.2f} s"),
        ("one worker's pod deleted: of 4 pods kept", f"{replaced['kept']} (serving again after {replaced['running_again_seconds']} s)"),
    ]
    load = ", ".join(f"{phase} {load}" for phase, load in result["load"].items())
    lines = [f"{result['controller']}: {result['groups']:,} groups of {PODS} pods on {result['fake_nodes']} fake nodes; "
             f"{result['cores']} cores, load {load}", "", "| | |", "|---|---|"] + [f"| {name} | {value} |" for name, value in rows]
    for title, counts in (("sender", converged["by_sender"]), ("request", dict(list(converged["by_verb_and_kind"].items())[:16]))):
        lines += ["", f"| {title} | until ready | for each group |", "|---|---|---|"]
        lines += [f"| {SENDERS.get(key, key)} | {count:,} | {count / result['groups']:.1f} |" for key, count in counts.items() if count]
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", type=int, nargs="?", default=1000)
    parser.add_argument("--of", choices=sorted(subjects.ALL), default=subjects.lockstep.NAME, help="the controller")
    parser.add_argument("--steady", type=float, default=120, help="seconds for which the steady state is measured")
    parser.add_argument("--operator", required=True, help="lockstep-operator")
    parser.add_argument("--manager", help="the manager of LeaderWorkerSet")
    parser.add_argument("--manifests", type=Path, help="the source of LeaderWorkerSet, whose config/ installs it")
    parser.add_argument("--root", type=Path, required=True, help="the source of Lockstep")
    parser.add_argument("--state", type=Path, required=True, help="folder for results and logs")
    return parser.parse_args()


def prepare(api: Api, subject, tools: argparse.Namespace, nodes: int) -> None:
    subprocess.run(["fake-nodes", str(nodes)], check=True)
    subject.install(api, tools)
    count_apart(api, subject)
    for i in range(NAMESPACES):
        api.ask("POST", "/api/v1/namespaces", {"metadata": {"name": f"scale-{i}"}})


def main() -> None:
    tools, api = arguments(), Api()
    subject, nodes = subjects.ALL[tools.of], -(-PODS * tools.groups // PODS_ON_NODE)
    result = {"controller": subject.NAME, "groups": tools.groups, "fake_nodes": nodes,
              "cores": len(os.sched_getaffinity(0)), "load": {}}
    load = lambda phase: result["load"].update({phase: round(os.getloadavg()[0], 1)})
    prepare(api, subject, tools, nodes)
    say(f"{nodes} fake nodes; measures {BASELINE_S} s without a {subject.UNIT} and without {subject.NAME}")
    time.sleep(5)
    result["baseline"] = steady(api, BASELINE_S)
    load("before")
    controller = Controller(subject, api, tools)
    try:
        time.sleep(2)
        say(f"{subject.NAME} runs, {controller.memory('VmRSS'):.0f} MiB; creating {tools.groups} {subject.UNIT}s")
        result["converge"] = converge(api, controller, tools.groups)
        load("when ready")
        say(f"settles for {SETTLE_S} s, then {tools.steady:.0f} s of steady state")
        time.sleep(SETTLE_S)
        result["steady"] = steady(api, tools.steady, controller)
        load("steady")
        result["replace"] = replace(api, controller)
        result["controller_peak_mib"] = round(controller.memory("VmHWM"))
    finally:
        controller.end()
    result["missed"] = missed(result, tools.groups)
    (tools.state / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"\n{table(result)}\n\nAll numbers: {tools.state}/result.json")
    for message in result["missed"]:
        print(f"MISSED: {message}")
    sys.exit(1 if result["missed"] else 0)


main()
