"""How long the evaluation of all recordings of the competition takes, and how much memory."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cyclopts
import numpy as np
import pandas as pd
from common import HERE, machine, markdown, publish, say, version

# The competition's training set (docs/facts.md 4).
RECORDINGS, STALLED, PROJECTS = 573_048, 1_887, 12
MICE = 200  # chosen: some 2,900 recordings each
LIMIT_S, LIMIT_GB = 60.0, 2.0


def main(
    *,
    recordings: int = RECORDINGS,
    stalled: int = STALLED,
    seed: int = 0,
    page: Path = HERE / "evaluate_scale.md",
) -> None:
    """Time `stallscan evaluate` on random scores, and write the table.

    Parameters
    ----------
    recordings
        How many scores.
    stalled
        How many of them are labelled stalled.
    seed
        Of scores and labels.
    page
        The table, a Markdown file.
    """
    with tempfile.TemporaryDirectory(prefix="stallscan-") as temporary:
        folder = Path(temporary)
        make_tables(folder, recordings, stalled, seed)
        rows = [
            _row("figures, by recording", folder, []),
            _row(f"figures, by {MICE} mice", folder, ["--group", "mouse"]),
            _row("two models compared, by recording", folder, ["--against", folder / "b.csv"]),
        ]
    lead = (
        f"The whole command `stallscan evaluate` on {recordings:,} random scores, {stalled:,} "
        "labelled stalled: reading the tables, every figure with its interval, the breakdowns by "
        f"{PROJECTS} projects and by frames, seven plots as PNG and SVG, metrics.json and the page "
        f"({version()}; {machine()}; one thread). Wanted of the first two: under {LIMIT_S:.0f} s "
        f"and {LIMIT_GB:.0f} GB."
    )
    head = ["", "s", "processor time, s", "peak memory, GB"]
    publish(page, "Evaluation of all recordings", lead, [markdown(head, rows)])


def make_tables(folder: Path, recordings: int, stalled: int, seed: int) -> None:
    """Write a.csv and b.csv, predictions of two models, and labels.csv."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(recordings, int)
    labels[rng.choice(recordings, stalled, replace=False)] = 1
    mouse = rng.integers(0, MICE, recordings)
    filenames = [f"{100000 + row}.mp4" for row in range(recordings)]
    frames = np.clip(rng.lognormal(4.03, 0.25, recordings), 17, 434).astype(int)
    for name, spread in (("a", 1.5), ("b", 1.4)):
        logits = 4.0 * labels - 7.0 + 0.4 * (mouse % 5) + rng.normal(0, spread, recordings)
        scores = 1.0 / (1.0 + np.exp(-logits))
        pd.DataFrame(
            {
                "filename": filenames,
                "status": "ok",
                "reason": "",
                "frames": frames,
                "frames_declared": frames,
                "score": scores.round(7),
                "call": np.where(scores >= 0.4, "stalled", "flowing"),
                "threshold": 0.4,
                "bundle": f"random-{name}",
            }
        ).to_csv(folder / f"{name}.csv", index=False)
    known = {"filename": filenames, "stalled": labels, "mouse": mouse, "project_id": mouse % 12}
    pd.DataFrame(known).to_csv(folder / "labels.csv", index=False)


def _row(name: str, folder: Path, more: list[str | Path]) -> list[str]:
    given = more if "--group" in more else ["--group", "", *more]
    words = ["evaluate", folder / "a.csv", "--labels", folder / "labels.csv", "-o", folder / "out"]
    # A process of its own, so that its peak of memory is its own.
    code = (
        "import atexit, resource; from stallscan.cli.main import main; atexit.register(lambda: "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)); main()"
    )
    start, used = time.perf_counter(), _processor_s()
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, [*words, *given])],
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds, used = time.perf_counter() - start, _processor_s() - used
    gigabytes = int(done.stdout.split()[-1]) * 1024 / 1e9
    say(f"{name}: {seconds:.1f} s, {gigabytes:.2f} GB")
    return [name, f"{seconds:.1f}", f"{used:.1f}", f"{gigabytes:.2f}"]


def _processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    cyclopts.run(main)
