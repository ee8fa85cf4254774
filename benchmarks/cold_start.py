"""How long one recording takes from a cold start, until its call is printed."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import corpora
import cyclopts
import measured
from common import HERE, machine, markdown, publish, say, version
from measured import Watched

GOAL_S = 2.5
COMMAND = (sys.executable, "-c", "from stallscan.cli import main; main()", "predict")


def main(
    file: Path | None = None,
    /,
    *,
    repeats: int = 7,
    page: Path = HERE / "cold_start.md",
) -> None:
    """Time the whole command over and over, and write the table.

    Parameters
    ----------
    file
        A recording; a simulated one if not given.
    repeats
        Runs; one before them, which brings programs and libraries into the disk's cache, is not
        counted.
    page
        The table, a Markdown file.
    """
    with tempfile.TemporaryDirectory(prefix="stallscan-") as temporary:
        folder = Path(temporary)
        recording = file or next((corpora.simulated(folder, 1) / "train").iterdir())
        runs = [_run(recording, folder / f"run-{number}") for number in range(repeats + 1)][1:]
        what = f"{recording.name}, {'given' if file else 'simulated'}"
    lead = (
        f"`stallscan predict FILE -o OUT` on one recording ({what}) with the default bundle, from "
        "starting the interpreter to its end, with the call printed; libraries are in the disk's "
        f"cache. Median of {repeats} runs, fastest and slowest in brackets. Wanted: under "
        f"{GOAL_S} s. {version()}, {machine()}."
    )
    head = ["", "s", "CPU s", "memory, GB", ""]
    publish(page, "One recording from a cold start", lead, [markdown(head, [_row(runs)])])


def _run(recording: Path, out: Path) -> Watched:
    watched = measured.watch([*COMMAND, recording, "-o", out])
    say(f"{watched.seconds:.2f} s: {watched.printed.strip()}")
    return watched


def _row(runs: Sequence[Watched]) -> list[str]:
    seconds = [run.seconds for run in runs]
    return [
        "`stallscan predict`",
        f"{median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})",
        f"{median(run.cpu_s for run in runs):.2f}",
        f"{max(run.peak_bytes for run in runs) / 1e9:.2f}",
        "met" if median(seconds) < GOAL_S else "**missed**",
    ]


if __name__ == "__main__":
    cyclopts.run(main)
