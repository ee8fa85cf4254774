"""Fuzz all readers of files for hours, and write how many inputs there were and what they did.

    python benchmarks/fuzzing.py OUT --hours 2

Can be stopped and continued: OUT keeps the counts, and another run adds to them. `tests.fuzz.run`
says what counts as a finding; each stays in OUT with its input. Give OUT anew after mending one.
"""

import collections
import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import cyclopts
from common import HERE, machine, markdown, publish, say, version

# Shares of the time. The decoders of video and TIFF are large, and written in C.
SHARES = {
    **{"mp4": 25, "avi": 5, "mkv": 5, "gif": 10, "tiff": 25, "npy": 5},
    **{"table": 15, "note": 3, "recipe": 7, "bundle": 5, "weights": 4, "exports": 1},
    **{"store": 3, "shard": 7, "answers": 4, "plot": 2},
    **{"stack": 10, "roi": 2, "rois": 3, "regions": 3, "swc": 2, "plan": 3, "list": 2, "result": 3},
}
# All readers in turn, so that an early end leaves none out. Starting a reader takes 10 s.
ROUND_HOURS = 0.5
# What was found and mended; tests/fuzz has a test for each.
FOUND = (
    "JSON nested a thousand levels deep ended every reader of it with a RecursionError.",
    "YAML with references to lists of references, merged or not, filled the memory; dates such as "
    "2001-99-99, `!!timestamp x` and control characters ended with a traceback.",
    "A shard of a clip store whose header has the right hash and wrong content ended with any of "
    "eight exceptions; its shapes were believed before memory was taken.",
    "An mp4 file that declares 10^9 frames took 35 GB in FFmpeg.",
    "A TIFF page whose zipped strip expands to gigabytes was expanded whole where imagecodecs is "
    "not installed.",
    "A review's database may have had views that never end, triggers, and answers of other types.",
    "Pages of a TIFF file that refer to each other in a circle were followed without end.",
    "Frames that are a pixel wide ended the search for an outline with an exception.",
    "Answers that a damaged index misses did not count.",
    "A gzipped table was expanded whatever its size.",
    "A pipe in place of a JSON file, a shard or a recording that is hashed was waited for.",
    "A message quoted wrong settings of any length.",
    "Raw stacks whose pages have other shapes or types than the first, ROIs without points or at "
    "impossible places, and plans that contradict themselves ended with an exception.",
    "A TIFF header that declares more values per pixel than there are ended with an IndexError.",
    "TIFF files behind a single header whose palette is missing or short, or whose values begin "
    "before the file, ended with an exception; a size stored as text became 4 GB of text.",
    "YAML that only opens lists was parsed to the limit of Python's stack, in a time that grows "
    "with the square of the depth.",
    "Mp4 boxes whose length has 64 bits declared any number of frames unseen, and FFmpeg took "
    "2.4 GB.",
    "In the headers of TIFF files: a part of a page that is larger than the file was asked for as "
    "memory, a size that is a list was repeated for each row, a negative number of samples was "
    "followed without end, and a place that is a fraction ended with an exception.",
    "A table with a row of invisible characters only ended with an IndexError, and a shard with an "
    "infinite number of frames with an OverflowError.",
)
app = cyclopts.App()


@app.default
def main(out: Path, *, hours: float = 2.0, page: Path = HERE / "fuzzing.md") -> None:
    """Fuzz each reader for its share of the time, on one core, and write the table.

    Parameters
    ----------
    out
        A folder for counts and findings.
    hours
        CPU time of all readers together; 0 only writes the table.
    page
        The table, a Markdown file.
    """
    out = out.absolute()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    rounds = math.ceil(hours / ROUND_HOURS)
    for _ in range(rounds):
        for reader, share in SHARES.items():
            minutes = 60 * hours * share / sum(SHARES.values()) / rounds
            words = ["-m", "tests.fuzz.run", reader, "--minutes", f"{minutes:.2f}"]
            words += ["--seed", str(random.randrange(10**6)), "--out", str(out)]
            done = subprocess.run(
                [sys.executable, *words], cwd=HERE.parent, env=environment, check=False
            )
            if done.returncode:
                say(f"{reader}: {done.returncode}")
    _write(page, [json.loads(line) for line in (out / "counts.jsonl").read_text().splitlines()])


def _write(page: Path, counts: list[dict[str, Any]]) -> None:
    inputs, cpu_s = collections.Counter[str](), collections.Counter[str]()
    found = collections.defaultdict[str, collections.Counter[str]](collections.Counter)
    for each in counts:
        inputs[each["reader"]] += each["inputs"]
        cpu_s[each["reader"]] += each["cpu_s"]
        found[each["reader"]].update(each["findings"])
    rows = [
        [
            reader,
            f"{inputs[reader]:,}",
            f"{cpu_s[reader] / 60:.1f}",
            ", ".join(f"{count} {kind}" for kind, count in found[reader].items()) or "none",
        ]
        for reader in SHARES
        if inputs[reader]
    ]
    rows.append(
        [
            "all",
            f"{inputs.total():,}",
            f"{cpu_s.total() / 60:.1f}",
            str(sum(map(collections.Counter.total, found.values()))),
        ]
    )
    guided = sum(each["guided"] for each in counts)
    lead = (
        "Mutated files of every kind that stallscan reads, made from valid ones of simulated and "
        "drawn recordings. A reader may refuse a file with an error of stallscan's own. A finding "
        "is any other exception, a crash of the process, 30 s or 2 GiB for one file, or a file "
        f"written elsewhere. {guided} of {len(counts)} runs were guided by coverage (atheris). "
        f"{version()}, {machine()}."
    )
    if missing := [reader for reader in SHARES if not inputs[reader]]:
        lead += f" Only fuzzed by the tests: {', '.join(missing)}."
    before = "\n".join(f"- {line}" for line in FOUND) + "\n"
    table = markdown(["reader", "inputs", "CPU minutes, start included", "findings"], rows)
    title = "What malformed files do to the readers"
    publish(
        page, title, lead, [table, "Found and mended, those of the table among them:\n", before]
    )


if __name__ == "__main__":
    app()
