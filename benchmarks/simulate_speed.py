"""How fast recordings are simulated: prepared clips, and whole videos."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import cyclopts
import pandas as pd
from common import HERE, machine, markdown, publish, say, version

from stallscan.recipes import recipe
from stallscan.simulate import SimulateSettings
from stallscan.simulate.corpus import simulate, simulate_clips

FRAMES = 56  # the median of the real recordings (docs/facts.md 4), for which speeds are stated


class Timed(NamedTuple):
    """One run."""

    seconds: float
    recordings: int
    frames: int


def main(
    *,
    clips: int = 400,
    videos: int = 60,
    processes: int = 2,
    repeats: int = 3,
    page: Path = HERE / "simulate_speed.md",
) -> None:
    """Time both ways of simulating, and write the table.

    Parameters
    ----------
    clips
        Clips of a run, 112 px as the third-place recipe makes them.
    videos
        Whole recordings of a run, 512 x 384.
    processes
        Processes that simulate.
    repeats
        Runs of each, on other recordings; the median is stated.
    page
        The table, a Markdown file.
    """
    third_place = recipe.read_recipe("third-place")
    size = third_place.clip.size

    def make_clips(out: Path, settings: SimulateSettings) -> None:
        simulate_clips(out, settings, third_place.outline, third_place.clip, processes)

    def make_videos(out: Path, settings: SimulateSettings) -> None:
        simulate(out, settings, processes)

    rows = [
        _row(f"{clips} clips of {size} px", [_time(make_clips, clips, n) for n in range(repeats)]),
        _row(f"{videos} whole videos", [_time(make_videos, videos, n) for n in range(repeats)]),
    ]
    lead = (
        f"Median of {repeats} runs with {processes} processes, everything included, from starting "
        f"the processes to writing the tables ({version()}; {machine()}). Recordings are as long "
        f"as the real ones; the last column is frames a second divided by {FRAMES}, the real "
        "median."
    )
    head = [
        "simulated", "s", "recordings a second", "frames, mean", "frames a second",
        f"a second, {FRAMES} frames each",
    ]  # fmt: skip
    publish(page, "Speed of the simulator", lead, [markdown(head, rows)])


def _time(make: Callable[[Path, SimulateSettings], None], count: int, seed: int) -> Timed:
    with tempfile.TemporaryDirectory(prefix="stallscan-") as temporary:
        out = Path(temporary) / "corpus"
        start = time.perf_counter()
        make(out, SimulateSettings(count=count, seed=seed))
        seconds = time.perf_counter() - start
        frames = int(pd.read_csv(out / "truth.csv")["frames"].sum())
    say(f"{count} recordings, {frames} frames in {seconds:.1f} s")
    return Timed(seconds, count, frames)


def _row(name: str, runs: list[Timed]) -> list[str]:
    frames_a_second = median(run.frames / run.seconds for run in runs)
    return [
        name,
        f"{median(run.seconds for run in runs):.1f}",
        f"{median(run.recordings / run.seconds for run in runs):.1f}",
        f"{sum(run.frames for run in runs) / sum(run.recordings for run in runs):.0f}",
        f"{frames_a_second:,.0f}",
        f"{frames_a_second / FRAMES:.1f}",
    ]


if __name__ == "__main__":
    cyclopts.run(main)
