"""How many true segments of a simulated stack are found, and how right its calls and rate are.

    python benchmarks/stacks.py OUT_DIR

Stacks are simulated one by one; one whose result OUT_DIR has is not repeated.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# One core, so that the times compare.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import cyclopts
import numpy as np
import pandas as pd
from common import HERE, machine, markdown, publish, say, version
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from sklearn.metrics import roc_auc_score

from stallscan import files
from stallscan.calls.predictions import DECIDED, read_predictions
from stallscan.calls.stacks import field_of, predict_stack
from stallscan.rates.correction import CallAccuracy, corrected
from stallscan.recordings.raw import Stack, StackSettings, open_stack
from stallscan.scores.intervals import wilson
from stallscan.simulate.look import LookSettings
from stallscan.simulate.stack import RawSettings, draw_stack, simulate_stack
from stallscan.vessels.region_files import read_regions
from stallscan.vessels.regions import Regions, outline_line
from stallscan.vessels.segment import SegmentSettings
from stallscan.vessels.segment_files import find_in_stack

# Standard deviations of the point spread function across and in depth (um), and photons per pixel
# from plasma. Chosen: the ends and the middle of what the simulator draws for known microscopes.
OPTICS = {"sharp": (0.8, 1.4), "middle": (1.1, 2.0), "blurred": (1.5, 2.9)}
NOISE = {"low": 100.0, "high": 15.0}
# The laboratory whose rates are measured.
LABORATORY = ("middle", "low")
# Stalled share of stacks on which calls are measured, so that enough are stalled; and the true
# rates of the others, with the number of stacks of each.
RICH, RATES, STACKS, MEASURED_ON = 0.1, (0.005, 0.02), 20, 6
FRAMES, SIDE = 100, 448
# A true segment is found with a line within 3 um over 80 % of its length, and a found segment is
# false if less than half of its line is that close to a true vessel.
NEAR_UM, COMPLETE, TRUE = 3.0, 0.8, 0.5
# No stack that was used to choose settings has these seeds.
FIRST_SEED = 5000

F64 = NDArray[np.float64]
Result = dict[str, Any]


class Job(NamedTuple):
    """A stack to measure: its look, the true stalled share, its seed, and what is called in it."""

    optics: str
    noise: str
    stalled: float
    seed: int
    find: bool  # also find the segments, and call these

    @property
    def name(self) -> str:
        """Of the file with its result."""
        return f"{self.optics}-{self.noise}-{self.stalled:g}-{self.seed}"


def jobs() -> dict[str, list[Job]]:
    """Return the stacks of each table, the quickest to be complete first."""
    grid = [
        Job(optics, noise, RICH, FIRST_SEED + index, True)
        for index, (optics, noise) in enumerate((o, n) for o in OPTICS for n in NOISE)
    ]
    accuracy = [Job(*LABORATORY, RICH, FIRST_SEED + 100 + at, False) for at in range(MEASURED_ON)]
    rates = [
        Job(*LABORATORY, rate, FIRST_SEED + 200 + 100 * place + at, False)
        for at in range(STACKS)
        for place, rate in enumerate(RATES)
    ]
    return {"grid": grid, "accuracy": accuracy, "rates": rates}


def main(out_dir: Path, *, most: int = 1000) -> None:
    """Measure the stacks that OUT_DIR has no result of, and write stacks.md.

    Parameters
    ----------
    out_dir
        Folder for results.
    most
        Measure at most so many, and write the page of what is there.
    """
    every = jobs()
    todo = [job for part in every.values() for job in part if not _path(out_dir, job).is_file()]
    for job in todo[:most]:
        result = measure(job, out_dir / job.name)
        files.write_json(_path(out_dir, job), result)
        say(f"{job.name}: {result['true']} segments, {result['seconds']}")
    _publish(
        {
            part: [
                (job, json.loads(_path(out_dir, job).read_text()))
                for job in of
                if _path(out_dir, job).is_file()
            ]
            for part, of in every.items()
        }
    )


def _path(out_dir: Path, job: Job) -> Path:
    return out_dir / f"{job.name}.json"


def measure(job: Job, folder: Path) -> Result:
    """Simulate a stack, find its segments, call them, and compare with the truth."""
    xy_um, z_um = OPTICS[job.optics]
    look = LookSettings(
        um_per_px=(1, 1),
        step_um=(1, 1),
        psf_xy_um=(xy_um, xy_um),
        psf_z_um=(z_um, z_um),
        photons=(NOISE[job.noise],) * 2,
    )
    settings = RawSettings(
        seed=job.seed, stalled=job.stalled, frames=FRAMES, height=SIDE, width=SIDE, look=look
    )
    seconds: dict[str, float] = {}
    result: Result = {"seconds": seconds}
    with _timed(seconds, "simulate"):
        simulate_stack(folder, settings)
    truth = pd.read_csv(folder / "segments.csv", index_col="segment")
    lines = {
        int(str(number)): rows[["z", "y", "x"]].to_numpy()
        for number, rows in pd.read_csv(folder / "centrelines.csv").groupby("segment")
    }
    with open_stack(folder / "stack.tif", StackSettings(along="depth")) as stack:
        with _timed(seconds, "read"):
            for index in range(len(stack)):
                stack.frame(index)
        field = field_of(stack)
        at_truth = read_regions(folder / "centrelines.csv", field)
        with _timed(seconds, "call"):
            given = _call(stack, at_truth, folder / "given")
        result |= {
            "true": len(truth),
            "stalled": int(truth["stalled"].sum()),
            "given": given | {"stalled": truth["stalled"].tolist()},
        }
        if job.find:
            with _timed(seconds, "find"):
                found = find_in_stack(stack, SegmentSettings(), folder / "found")
            segments = [each.line for each in found.capillaries]
            regions = [outline_line(f"{at}", line, field) for at, line in enumerate(segments)]
            calls = _call(stack, regions, folder / "called")
            # The vessels of the truth are those that are long enough inside the stack.
            vessels = [
                vessel.line[:, ::-1] / stack.voxel_um
                for vessel in draw_stack(settings).scene.vessels
            ]
            result |= _compare(lines, segments, np.array(stack.voxel_um), vessels)
            stalled = [
                int(truth.loc[owner, "stalled"]) if owner in lines else None
                for owner in result["owner"]
            ]
            result["found"] = calls | {"stalled": stalled}
    shutil.rmtree(folder)
    return result


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Write the processor time of a block into a table."""
    start = time.process_time()
    yield
    seconds[name] = round(time.process_time() - start, 2)


def _call(stack: Stack, regions: Regions, out: Path) -> Result:
    summary = predict_stack(stack, regions, out)
    table = read_predictions(summary.table)
    return {
        "call": table["call"].tolist(),
        "score": [None if score != score else score for score in table["score"]],
    }


def _compare(
    lines: dict[int, F64], segments: Sequence[F64], sides_um: F64, vessels: Sequence[F64]
) -> Result:
    """Compare found segments with the true ones, and with all vessels.

    `owner` has for each found segment the number of the true one that it follows, 0 for a vessel
    that is none of them, and -1 for no vessel.
    """
    numbers = np.repeat(list(lines), [len(line) for line in lines.values()])
    tree = cKDTree(np.concatenate(list(lines.values())) * sides_um)
    every = cKDTree(np.concatenate(vessels) * sides_um)
    owner: list[int] = []
    at_face = 0
    for line in segments:
        away_um, nearest = tree.query(line * sides_um)
        near = away_um <= NEAR_UM
        if near.mean() >= TRUE:
            owner.append(int(np.bincount(numbers[nearest[near]]).argmax()))
            continue
        is_vessel = (every.query(line * sides_um)[0] <= NEAR_UM).mean() >= TRUE
        owner.append(0 if is_vessel else -1)
        depth = np.median(line[:, 0])
        at_face += not is_vessel and min(depth, FRAMES - 1 - depth) * sides_um[0] <= NEAR_UM
    found = cKDTree(np.concatenate(segments) * sides_um)
    reached = [(found.query(line * sides_um)[0] <= NEAR_UM).mean() for line in lines.values()]
    return {
        "complete": int((np.array(reached) >= COMPLETE).sum()),
        "owner": owner,
        "false_at_face": int(at_face),
    }


class Counted(NamedTuple):
    """Calls against the truth, of those that have both."""

    right_stalled: int
    stalled: int
    right_flowing: int
    flowing: int
    auc: float

    def __str__(self) -> str:
        return (
            f"{self.right_stalled} of {self.stalled} | "
            f"{self.right_flowing / self.flowing:.3f} | {self.auc:.3f}"
        )


def _count(results: Sequence[Result]) -> Counted:
    rows = pd.concat([pd.DataFrame(result) for result in results])
    rows = rows[rows["call"].isin(DECIDED) & rows["stalled"].notna()]
    called, stalled = rows["call"] == "stalled", rows["stalled"] == 1
    return Counted(
        int((called & stalled).sum()),
        int(stalled.sum()),
        int((~called & ~stalled).sum()),
        int((~stalled).sum()),
        float(roc_auc_score(stalled, rows["score"].astype(float))),
    )


def _publish(measured: dict[str, list[tuple[Job, Result]]]) -> None:
    tables = [_segment_table(measured["grid"]), _call_table(measured["grid"])]
    tables.append(_say_false(measured["grid"]))
    if measured["accuracy"] and measured["rates"]:
        tables += _rate_tables(measured["accuracy"], measured["rates"])
    tables.append(_time_sentence(measured["grid"]))
    publish(
        HERE / "stacks.md",
        "Simulated raw stacks",
        LEAD.format(version=version(), machine=machine()),
        tables,
    )


def _segment_table(grid: Sequence[tuple[Job, Result]]) -> str:
    head = ["optics, noise", "true segments", "found", "share"]
    head += ["lines", "of other vessels", "of none", "at a face"]
    rows = [
        [
            f"{job.optics}, {job.noise}",
            f"{of['true']}",
            f"{of['complete']}",
            f"{of['complete'] / of['true']:.3f}",
            f"{len(of['owner'])}",
            f"{of['owner'].count(0)}",
            f"{of['owner'].count(-1)}",
            f"{of['false_at_face']}",
        ]
        for job, of in grid
    ]
    return markdown(head, rows)


def _call_table(grid: Sequence[tuple[Job, Result]]) -> str:
    head = ["optics, noise", "regions", "stalled called so", "specificity", "ROC AUC"]
    rows = [
        [f"{job.optics}, {job.noise}", of_what, *str(_count([of[key]])).split(" | ")]
        for job, of in grid
        for key, of_what in (("given", "true lines"), ("found", "found segments"))
    ]
    for key, of_what in (("given", "true lines"), ("found", "found segments")):
        rows.append(["all", of_what, *str(_count([of[key] for _, of in grid])).split(" | ")])
    return markdown(head, rows)


def _say_false(grid: Sequence[tuple[Job, Result]]) -> str:
    """Say how many of the lines without a true segment are called stalled."""
    calls = [
        (owner, call)
        for _, of in grid
        for owner, call in zip(of["owner"], of["found"]["call"], strict=True)
        if call in DECIDED
    ]
    said = []
    for number, what in ((0, "of other vessels"), (-1, "of none")):
        of_these = [call for owner, call in calls if owner == number]
        said.append(f"{of_these.count('stalled')} of {len(of_these):,} lines {what}")
    return f"Called stalled, without a truth to compare with: {' and '.join(said)}.\n"


def _rate_tables(
    accuracy: Sequence[tuple[Job, Result]], rates: Sequence[tuple[Job, Result]]
) -> list[str]:
    counted = _count([of["given"] for _, of in accuracy])
    errors = CallAccuracy.counted(*counted[:4])
    said = (
        f"The accuracy of these calls was measured on regions of {len(accuracy)} other simulated "
        f"stacks: {counted.right_stalled} of {counted.stalled} stalled and "
        f"{counted.right_flowing:,} of {counted.flowing:,} flowing ones were called so.\n"
    )
    rows = []
    for rate in RATES:
        of_rate = [of for job, of in rates if job.stalled == rate]
        if not of_rate:
            continue
        true = np.array([of["stalled"] / of["true"] for of in of_rate])
        called = [of["given"]["call"] for of in of_rate]
        stalled = [calls.count("stalled") for calls in called]
        scored = [sum(call in DECIDED for call in calls) for calls in called]
        results = [corrected(*each, errors) for each in zip(stalled, scored, strict=True)]
        raw = wilson(stalled, scored)
        for what, share, low, high in (
            ("not corrected", raw.value, raw.low, raw.high),
            (
                "corrected",
                np.array([each.estimate for each in results]),
                np.array([each.interval.low for each in results if each.interval]),
                np.array([each.interval.high for each in results if each.interval]),
            ),
        ):
            rows.append(
                [
                    f"{rate:.1%}, {what}",
                    f"{len(true)}",
                    f"{min(of['true'] for of in of_rate)} to {max(of['true'] for of in of_rate)}",
                    f"{true.mean():.2%}",
                    f"{share.mean():.2%}",
                    f"{np.abs(share - true).mean():.2%}",
                    f"{np.sqrt(((share - true) ** 2).mean()):.2%}",
                    f"{((low <= true) & (true <= high)).sum()} of {len(true)}",
                    f"{np.median(high - low):.2%}",
                ]
            )
        pooled = corrected(sum(stalled), sum(scored), errors)
        assert pooled.interval is not None
        rows.append(
            [
                f"{rate:.1%}, pooled and corrected",
                "1",
                f"{sum(of['true'] for of in of_rate):,}",
                f"{true.mean():.2%}",
                f"{pooled.estimate:.2%}",
                f"{abs(pooled.estimate - true.mean()):.2%}",
                "-",
                f"{pooled.interval.low:.2%} to {pooled.interval.high:.2%}",
                f"{pooled.interval.high - pooled.interval.low:.2%}",
            ]
        )
    head = ["true rate", "stacks", "true segments", "true, mean", "estimate, mean"]
    head += ["mean absolute error", "root mean square", "95 % interval holds it"]
    head += ["its width, median"]
    return [said, markdown(head, rows)]


def _time_sentence(grid: Sequence[tuple[Job, Result]]) -> str:
    """Say the processor time per 100 segments, beside that of reading the stack once."""

    def median(values: Iterable[float]) -> float:
        return float(np.median(list(values)))

    results = [of for _, of in grid]
    read, find = (median(of["seconds"][name] for of in results) for name in ("read", "find"))
    find_100 = median(100 * of["seconds"]["find"] / len(of["owner"]) for of in results)
    call_100 = median(100 * of["seconds"]["call"] / of["true"] for of in results)
    return (
        f"**Time** (processor, medians of {len(results)} stacks of "
        f"{FRAMES * SIDE**2 / 1e6:.0f} million voxels, 16 bits, uncompressed, in the cache of the "
        f"system): reading the stack once as grey levels takes {read:.2f} s, and finding its "
        f"segments {find:.0f} s. For each 100 segments, finding takes {find_100:.1f} s and cutting "
        f"and calling {call_100:.1f} s, together {(find_100 + call_100) / read:.0f} times as long "
        "as reading the stack once.\n"
    )


LEAD = """\
{version}, {machine}. **Everything here is simulated.** Stacks of 100 x 448 x 448 voxels of 1 um,
called with the shipped bundle and the default settings of `stallscan stack`, for an expected share
of 2 % stalled. No seed here was used to choose the frames and pixels of a region: see
[stacks_tried.md](stacks_tried.md). The stacks with sharp and middle optics and low noise showed
that steps of the laser power added false lines, which was mended before these were measured again.

Optics: standard deviations of the point spread function of 0.8 and 1.4 um (across and in depth;
sharp), 1.1 and 2.0 (middle), 1.5 and 2.9 (blurred). Noise: 100 (low) or 15 (high) photons per pixel
from plasma. *Found*: a true segment with a line within 3 um over 80 % of its length. *Lines*: the
segments that were found. *Of other vessels*: lines with less than half of their length within 3 um
of a true segment, but more of another vessel: one that has less than 25 um in the stack, or is
large. *Of none*: false; of these, *at a face*: on the first or last planes. Calls on found segments
are compared with the true segment that they follow. In the first tables 10 % are stalled, in the
last as many as it says; its stacks have middle optics and low noise, and the regions are those of
the true lines."""


if __name__ == "__main__":
    cyclopts.run(main)
