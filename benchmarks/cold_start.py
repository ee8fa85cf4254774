"""How long one recording takes from a cold start, until its call is printed."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import corpora
import cyclopts
import measured
from common import HERE, machine, markdown, publish, say, version
from measured import Watched

from stallscan.bundle import disk
from stallscan.engines import choose
from stallscan.engines.choose import Which
from stallscan.errors import BundleError, InputError

GOAL_S = 2.5
NAMES: tuple[Which, ...] = ("openvino", "openvino-bf16", "openvino-int8", "torch")
COMMAND = (sys.executable, "-c", "from stallscan.cli.main import main; main()", "predict")


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
        Runs of each engine that can be used; one before them, which brings programs and libraries
        into the disk's cache, is not counted.
    page
        The table, a Markdown file.
    """
    with tempfile.TemporaryDirectory(prefix="stallscan-") as temporary:
        folder = Path(temporary)
        recording = file or next((corpora.simulated(folder, 1) / "train").iterdir())
        names = list(_usable())
        runs: dict[str, list[Watched]] = {name: [] for name in names}
        for number in range(repeats + 1):
            for name in names:
                runs[name].append(_run(recording, name, folder / f"{name}-{number}"))
        what = f"{recording.name}, {'given' if file else 'simulated'}"
    lead = (
        f"`stallscan predict FILE -o OUT` on one recording ({what}) with the default bundle and "
        "--engine, from "
        "starting the interpreter to its end, with the call printed; libraries are in the disk's "
        f"cache. Median of {repeats} runs in turn, fastest and slowest in brackets. Wanted of "
        f"openvino: under {GOAL_S} s. {version()}, {machine()}."
    )
    rows = [_row(name, runs[name][1:]) for name in names]
    head = ["engine", "s", "CPU s", "memory, GB", ""]
    publish(page, "One recording from a cold start", lead, [markdown(head, rows)])


def _usable() -> Iterator[str]:
    """Name the engines that the default bundle can be run with here."""
    for name in NAMES:
        try:
            choose.choose(disk.load(), name)
        except (BundleError, InputError) as error:
            say(f"{name} is left out: {error}")
        else:
            yield name


def _run(recording: Path, name: str, out: Path) -> Watched:
    watched = measured.watch([*COMMAND, recording, "-o", out, "--engine", name])
    say(f"{name}: {watched.seconds:.2f} s: {watched.printed.splitlines()[0]}")
    return watched


def _row(name: str, runs: Sequence[Watched]) -> list[str]:
    seconds = [run.seconds for run in runs]
    return [
        name,
        f"{median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})",
        f"{median(run.cpu_s for run in runs):.2f}",
        f"{max(run.peak_bytes for run in runs) / 1e9:.2f}",
        _verdict(name, median(seconds)),
    ]


def _verdict(name: str, seconds: float) -> str:
    if name != "openvino":
        return "-"
    return "met" if seconds < GOAL_S else "**missed**"


if __name__ == "__main__":
    cyclopts.run(main)
