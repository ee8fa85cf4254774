"""How fast recordings are prepared and called, beside the decoder alone and the published pipeline.

All rows are run in turn, over and over, on the same files, so that a minute in which the machine is
busy hits them all. The published pipeline is that of `published.py`.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import corpora
import cv2
import cyclopts
import measured
import torch
from common import HERE, machine, markdown, publish, say, version
from measured import Run

from stallscan import files
from stallscan.bundle import disk
from stallscan.engines import choose


class Row(NamedTuple):
    """One thing that is timed: a job, what it is called, and how many cores it gets."""

    job: str
    cores: int
    name: str


class Goal(NamedTuple):
    """How many times as fast as `than` something is to be."""

    row: Row
    than: Row
    wanted: float


DECODE_1, DECODE = (Row("decode", cores, "decoder alone") for cores in (1, 2))
PREPARE_1, PREPARE = (Row("prepare", cores, "`stallscan prepare`") for cores in (1, 2))
PREDICT_1, PREDICT = (Row("predict", cores, "`stallscan predict`") for cores in (1, 2))
CLIPS_1, CLIPS = (
    Row("published-clips", cores, "published preprocessing and second decoding") for cores in (1, 2)
)
SINGLE = Row("published-single", 2, "published pipeline, R(2+1)D")
ENSEMBLE = Row("published-ensemble", 2, "published pipeline, three nets")
ROWS = (DECODE_1, DECODE, PREPARE_1, PREPARE, CLIPS_1, CLIPS, PREDICT_1, PREDICT, SINGLE, ENSEMBLE)
SLOW = (SINGLE, ENSEMBLE)  # seconds a recording: on some of the files only
GOALS = (
    Goal(PREPARE, DECODE, 0.9),
    Goal(PREPARE, CLIPS, 1.6),
    Goal(PREDICT, DECODE, 0.7),
    Goal(PREDICT, SINGLE, 20.0),
    Goal(PREDICT, ENSEMBLE, 50.0),
)


def main(
    out: Path,
    /,
    *,
    count: int = 300,
    real: Path | None = None,
    repeated: int = 100,
    repeats: int = 3,
    one_core_repeats: int = 1,
    slow: int = 20,
    page: Path = HERE / "speed.md",
) -> None:
    """Simulate recordings, run everything on them, and write the tables.

    Parameters
    ----------
    out
        Folder for the recordings, which a later call uses again, and for what the runs write.
    count
        Simulated recordings.
    real
        One original recording, which is measured under many names; of those that are at hand
        104611.mp4 is one as it was published (all frames intra, 2.4 MB).
    repeated
        How many names it gets.
    repeats
        Runs of each row on two cores, which the goals are judged by.
    one_core_repeats
        Runs of each row on one core.
    slow
        How many of the recordings the published nets are run on; they take seconds for each.
    page
        The tables, a Markdown file.
    """
    files.make_folder(out)
    corpus = corpora.simulated(out, count)
    every = corpus / "train"
    chosen = corpora.by_length(corpus, min(slow, count))
    some = corpora.link(chosen, out / "some", len(chosen))
    lengths = [
        corpora.frames(corpus, [path.name for path in paths])
        for paths in (sorted(every.iterdir()), chosen)
    ]
    tables = [
        f"## {count} simulated recordings\n",
        f"{lengths[0]:.1f} frames on average; the {len(chosen)} for the published nets, chosen "
        f"evenly by length, {lengths[1]:.1f}.\n",
        *_measure(every, some, out, repeats, one_core_repeats),
    ]
    if real is not None:
        original = out / real.name
        shutil.copyfile(real, original)
        many = corpora.link([original], out / "original", repeated)
        few = corpora.link([original], out / "original-some", min(slow, repeated))
        tables += [
            f"## The original {real.stem}, under {repeated} names\n",
            *_measure(many, few, out, repeats, one_core_repeats),
        ]
    lead = (
        f"Medians of {repeats} runs of each row (on one core: {one_core_repeats}), in turn, on the "
        "same files; fastest and slowest run in brackets. Each run is a fresh process that gets as "
        "many cores as the second column says, and that starts as many processes; the files are in "
        "the disk's cache. Times are "
        "from before the first import to after the last process has ended; of the published "
        "pipeline, starting, imports and loading the nets are left out. *First after* is when the "
        "first recording was done. Memory is that of all processes together, what they share "
        "counted once. The decoder alone is PyAV with one thread a process and frames thrown "
        f"away; `predict` took the engine {choose.choose(disk.load()).name}. "
        f"{version()}, OpenCV {cv2.__version__}, torch {torch.__version__}, {machine()}."
    )
    publish(page, "Speed", lead, tables)


def _measure(every: Path, some: Path, out: Path, repeats: int, one_core_repeats: int) -> list[str]:
    """Run all rows, and make the table of what they took and that of the goals."""
    for path in every.iterdir():
        path.read_bytes()  # into the disk's cache, so that the first run is like all others
    runs: dict[Row, list[Run]] = {row: [] for row in ROWS}
    for repeat in range(1, repeats + 1):
        for row in ROWS:
            if row.cores == 1 and repeat > one_core_repeats:
                continue
            run = measured.run(row.job, some if row in SLOW else every, out, row.cores)
            runs[row].append(run)
            say(f"{repeat} of {repeats}: {row.name} on {row.cores}: {run.rate:.2f} a second")
    took = [
        [
            row.name,
            str(row.cores),
            _spread([run.rate for run in runs[row]]),
            f"{median(run.took.first_s for run in runs[row]):.1f}",
            f"{median(run.took.cpu_s / run.took.recordings for run in runs[row]):.3f}",
            f"{max(run.peak_bytes for run in runs[row]) / 1e9:.2f}",
        ]
        for row in ROWS
    ]
    head = ["", "cores", "recordings a second", "first after, s", "CPU s each", "memory, GB"]
    goals = [_judge(goal, runs[goal.row], runs[goal.than]) for goal in GOALS]
    heads = ["times as fast", "goal", "measured", "", "without start-up"]
    return [markdown(head, took), markdown(heads, goals)]


def _judge(goal: Goal, runs: Sequence[Run], than: Sequence[Run]) -> list[str]:
    """Compare medians; the spread is that of the runs that followed each other."""
    ratio = median(run.rate for run in runs) / median(run.rate for run in than)
    each = [own.rate / other.rate for own, other in zip(runs, than, strict=True)]
    # What is published has its start-up left out already.
    beyond = median(run.running_rate for run in runs) / median(
        run.running_rate if goal.than == DECODE else run.rate for run in than
    )
    return [
        f"{goal.row.name} : {goal.than.name}",
        f"{goal.wanted:g}",
        f"{ratio:.2f} ({min(each):.2f} to {max(each):.2f})",
        "met" if ratio >= goal.wanted else "**missed**",
        f"{beyond:.2f}",
    ]


def _spread(rates: Sequence[float]) -> str:
    return f"{median(rates):.2f} ({min(rates):.2f} to {max(rates):.2f})"


if __name__ == "__main__":
    cyclopts.run(main)
