"""Schemathesis against the endpoint, by the endpoint's own description at `/openapi.json`.

    python tests/clients/openapi.py --base-url http://127.0.0.1:1234/v1

It makes requests that fit the description and requests that do not. No answer may be a 5xx, have a status or a media type
that the description lacks, or a body of another form. The seed is fixed, so the requests are the same each time.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
EXAMPLES = 30
# An answer may take long on a busy machine.
TIMEOUT_S = 120


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url", required=True)
    root = parser.parse_args().base_url.removesuffix("/v1")
    program = pathlib.Path(sys.executable).with_name("schemathesis")
    options = [f"--checks={CHECKS}", f"--max-examples={EXAMPLES}", f"--request-timeout={TIMEOUT_S}"]
    options += ["--seed=1", "--generation-database=none", "--no-color"]
    # The program keeps a cache in its working folder.
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "run", f"{root}/openapi.json", *options]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if result.returncode != 0:
        print(result.stdout[-10_000:], result.stderr[-2_000:], file=sys.stderr)
        sys.exit(1)
    cases = [line.strip() for line in result.stdout.splitlines() if "generated" in line]
    print(f"openapi: {'; '.join(cases)}: no 5xx, no undocumented status")


if __name__ == "__main__":
    main()
