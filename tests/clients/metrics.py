"""The check of `promtool check metrics`, on the metrics of a group that has answered and refused requests.

    python tests/clients/metrics.py --base-url http://127.0.0.1:1234/v1

Go compiles the check (metrics/main.go). It objects to colons in names, which vLLM's names have. Nothing else may be found.
"""

import argparse
import json
import os
import pathlib
import subprocess
import urllib.error
import urllib.request

CHECK = pathlib.Path(__file__).parent / "metrics"
COLON = "metric names should not contain ':'"


def fetch(url: str, body: dict | None = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.read().decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url", required=True)
    base = parser.parse_args().base_url
    fetch(f"{base}/completions", {"prompt": "hi", "max_tokens": 4, "unheard_of": 1})
    try:
        fetch(f"{base}/completions", {"prompt": 5})
        raise AssertionError("a wrong prompt was taken")
    except urllib.error.HTTPError as error:
        assert error.code == 400, error
    metrics = fetch(base.removesuffix("/v1") + "/metrics")
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"}
    command = ["go", "run", "-C", str(CHECK), "."]
    result = subprocess.run(command, input=metrics, env=environment, capture_output=True, text=True)
    problems = result.stdout.splitlines()
    # Without a problem of vLLM's names, the check has not run.
    assert any(line.startswith("vllm:") for line in problems), result.stderr
    others = [line for line in problems if not (line.startswith("vllm:") and line.endswith(COLON))]
    assert not others, others
    names = {line.split()[2] for line in metrics.splitlines() if line.startswith("# TYPE")}
    print(f"metrics: promtool's check finds nothing in {len(names)} metrics but the colons of {len(problems)} of vLLM's names")


if __name__ == "__main__":
    main()
