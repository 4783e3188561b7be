"""Compares the products of quantized matrices with llama.cpp's: compare.py --bench PROGRAM. Prints a table of the ratios of
llama.cpp's time to Lockstep's, as Markdown: above one, Lockstep is faster. PROGRAM is agent/kernels/examples/bench.rs.

Both measure the same shapes in turn, one thread each, and take the best of some rounds. A ratio is the median over the turns."""

import argparse
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

FORMATS = ("q4_0 q4_1 q5_0 q5_1 q8_0 q2_k q3_k q4_k q5_k q6_k iq4_nl iq4_xs mxfp4 nvfp4 iq1_s iq1_m iq2_xxs iq2_xs iq2_s "
           "iq3_xxs iq3_s tq1_0 tq2_0").split()
ROWS = (1, 256)


def own(tools, name):
    """Returns the seconds by number of rows."""
    command = [tools.bench, str(tools.threads), tools.isa, str(tools.rounds), name, ",".join(map(str, ROWS))]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    times = re.findall(r"^(\S+) +(\d+) rows: +([\d.]+) ms", text, re.MULTILINE)
    return {int(rows): float(milliseconds) / 1e3 for found, rows, milliseconds in times if found == name}


def other(tools, name):
    """Returns llama.cpp's seconds by number of rows, and whether llama.cpp reordered the weights."""
    command = [tools.python, Path(__file__).parent / "ggml.py", str(tools.threads), str(tools.rounds), ",".join(map(str, ROWS)), name]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    found = [json.loads(line) for line in lines]
    return {line["rows"]: line["seconds"] for line in found}, found[0]["repacked"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", required=True, help="the program built from agent/kernels/examples/bench.rs")
    parser.add_argument("--isa", default="avx512", choices=["avx2", "avx512"], help="that of Lockstep; llama.cpp has the one that it was compiled for")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--formats", nargs="*", default=FORMATS, choices=FORMATS)
    parser.add_argument("--python", default=sys.executable, help="a Python that has llama-cpp-python and gguf")
    tools = parser.parse_args()
    print(f"| {tools.isa} | " + " | ".join(f"{rows} row{'s' * (rows > 1)}: ms, ratio" for rows in ROWS) + " | reordered by llama.cpp |")
    print("|---|" + "---|" * (len(ROWS) + 1))
    for name in tools.formats:
        turns = [(own(tools, name), other(tools, name)) for _ in range(tools.turns)]
        cells = []
        for rows in ROWS:
            ratio = statistics.median(theirs[rows] / ours[rows] for ours, (theirs, _) in turns)
            cells.append(f"{statistics.median(ours[rows] for ours, _ in turns) * 1e3:.1f}, **{ratio:.2f}**")
        print(f"| {name.upper()} | " + " | ".join(cells) + f" | {'yes' if turns[0][1][1] else ''} |", flush=True)


if __name__ == "__main__":
    main()
