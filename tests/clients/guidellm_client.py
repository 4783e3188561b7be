"""guidellm measures an endpoint with its defaults: streamed completions of synthetic prompts, two at a time.

    python tests/clients/guidellm_client.py --base-url http://127.0.0.1:1234/v1

Every request must succeed, with the tokens that guidellm asks for and a time to the first token and between tokens.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

TOKENIZER = pathlib.Path(__file__).parents[2] / "agent/engine/builtin/tiny"
REQUESTS = 6
TOKENS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url", required=True)
    root = parser.parse_args().base_url.removesuffix("/v1")
    program = pathlib.Path(sys.executable).with_name("guidellm")
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.json"
        options = {
            "--target": root,
            "--processor": TOKENIZER,
            "--data": f"prompt_tokens=24,output_tokens={TOKENS}",
            "--rate-type": "concurrent",
            "--rate": 2,
            "--max-requests": REQUESTS,
            "--output-path": report,
        }
        arguments = [str(word) for option in options.items() for word in option]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "GUIDELLM__LOGGING__DISABLED": "true"}
        command = [program, "benchmark", "run", *arguments, "--disable-progress", "--disable-console-outputs"]
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert report.exists(), result.stdout[-3000:] + result.stderr[-3000:]
        benchmark = json.loads(report.read_text())["benchmarks"][0]
    made = benchmark["run_stats"]["requests_made"]
    assert made == {"successful": REQUESTS, "errored": 0, "incomplete": 0, "total": REQUESTS}, made
    for request in benchmark["requests"]["successful"]:
        assert request["output_tokens"] == TOKENS, request
        assert request["time_to_first_token_ms"] > 0 and request["inter_token_latency_ms"] > 0, request
    print(f"guidellm: {REQUESTS} of {REQUESTS} requests measured, {TOKENS} tokens each")


if __name__ == "__main__":
    main()
