"""The shift suite: families of **simulated** recordings that differ from a corpus in one respect.

    python benchmarks/shifts.py OUT --count 200

Writes for each family a folder of videos, `OUT/NAME/recordings`, and `OUT/NAME/labels.csv`;
`transfer.py` measures a bundle on them. The family `plain` is the simulator as it is, with seeds
that no training uses.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import common
import cv2
import numpy as np
import pandas as pd
import plain_renderer
import second_simulator
from numpy.typing import NDArray

from stallscan import files, runs, workers
from stallscan.catalog import tables
from stallscan.recordings.encode import write_video
from stallscan.recordings.recording import Frames
from stallscan.simulate import corpus, detector, imaging, recording
from stallscan.simulate.blood import MOVING_UM, STANDING_UM
from stallscan.simulate.contour import COLOUR, draw_outline
from stallscan.simulate.imaging import Window
from stallscan.simulate.look import LookSettings
from stallscan.simulate.projects import draw_project
from stallscan.simulate.recording import Plan
from stallscan.simulate.settings import SimulateSettings

Rng = np.random.Generator
Grey = NDArray[np.uint8]  # (T, h, w)
Mask = NDArray[np.bool_]  # (h, w)
# Changes grey frames, given the outlined region.
Change = Callable[[Grey, Mask, Rng], Grey]

# Away from the seeds of every training (1000, 2000, ...) and of every other benchmark.
SEED = 770_000
STALLED = 0.4  # of every family: enough of both for an interval
MARGIN_PX = 24  # of the recording around the outline, so that there is a surround to change
CRF = 15  # docs/facts.md 5
SUITE_S = 7200.0  # a family may take this long on a busy machine


def _keep_plan(plan: Plan) -> Plan:
    return plan


def _keep_grey(grey: Grey, _inside: Mask, _rng: Rng) -> Grey:
    return grey


@dataclass(frozen=True)
class Family:
    """Recordings that differ in one respect.

    Attributes
    ----------
    what : str
        The respect, in words.
    plan : callable
        Changes what is rendered.
    grey : callable
        Changes the rendered frames, uint8 (T, h, w), given the outlined region, bool (h, w), and a
        generator.
    step_um : float or None
        Depth between frames, if it is not the project's.
    scale : float
        Resizes the rendered frames.
    crf : int
        Of the codec.
    look : LookSettings
        Of the simulated microscope and scene.
    """

    what: str
    plan: Callable[[Plan], Plan] = _keep_plan
    grey: Change = _keep_grey
    step_um: float | None = None
    scale: float = 1.0
    crf: int = CRF
    look: LookSettings = field(default_factory=LookSettings)


def _speed(factor: float) -> Callable[[Plan], Plan]:
    """Let all that flows go faster or slower, but never near to a stall."""

    def change(plan: Plan) -> Plan:
        blood = plan.blood
        least, standing = MOVING_UM / blood.frame_s, STANDING_UM / blood.frame_s
        flows = np.abs(blood.speed_um_s) > standing
        speed = np.where(flows, blood.speed_um_s * factor, blood.speed_um_s)
        slow = flows & (np.abs(speed) < least)
        speed[slow] = np.sign(speed[slow]) * least
        # start_um is the sum of all movements before a frame: add what they gained.
        moved = np.cumsum(speed - blood.speed_um_s, axis=1) * blood.frame_s
        before = np.concatenate([np.zeros((len(moved), 1)), moved[:, :-1]], axis=1)
        return plan._replace(
            blood=replace(blood, speed_um_s=speed, start_um=blood.start_um + before)
        )

    return change


def _optics(lateral: float, axial: float) -> Callable[[Plan], Plan]:
    def change(plan: Plan) -> Plan:
        scope = plan.microscope
        wide = replace(scope, psf_xy_um=scope.psf_xy_um * lateral, psf_z_um=scope.psf_z_um * axial)
        return plan._replace(microscope=wide)

    return change


def _photons(factor: float) -> Callable[[Plan], Plan]:
    """Count more or fewer photons, displayed as bright as before."""

    def change(plan: Plan) -> Plan:
        scope = plan.microscope
        changed = replace(
            scope,
            photons=scope.photons * factor,
            black_photons=scope.black_photons * factor,
            grey_per_photon=scope.grey_per_photon / factor,
        )
        return plan._replace(microscope=changed)

    return change


def _unsmoothed(plan: Plan) -> Plan:
    """Leave each pixel its own noise, with the strong excess noise of another detector."""
    return plan._replace(
        microscope=replace(plan.microscope, blur_px=(0.0, 0.0), excess=1.2, read_noise=2.0)
    )


def _tight(plan: Plan) -> Plan:
    """Draw the outline close to the segment, with a thin line."""
    scene = plan.scene
    line_px = plan.truth.line_px[:, :2]
    outline = draw_outline(line_px, (scene.shape[1], scene.shape[2]), 8.0, 2.4)
    return plan._replace(scene=replace(scene, outline=outline))


def display(gain: float, gamma: float = 1.0) -> Change:
    """Return a change of the display: grey levels to the power of gamma, times gain, clipped."""
    table = np.clip(255 * (np.arange(256) / 255) ** gamma * gain, 0, 255).astype(np.uint8)
    return lambda grey, _inside, _rng: table[grey]


def _row_noise(grey: Grey, _inside: Mask, rng: Rng) -> Grey:
    """Add noise that is alike along each row, as a resonant scanner's and an amplifier's is."""
    rows = rng.normal(0, 9, (*grey.shape[:2], 1))
    fine = cv2.blur(rng.normal(0, 22, grey.shape[1:]).astype(np.float32), (5, 1))
    moved = np.stack([np.roll(fine, tuple(rng.integers(0, 40, 2)), (0, 1)) for _ in grey])
    return np.clip(grey + rows + moved, 0, 255).astype(np.uint8)


def _few_levels(grey: Grey, _inside: Mask, _rng: Rng) -> Grey:
    return (grey // 16 * 16 + 8 * (grey > 0)).astype(np.uint8)


def black_surround(grey: Grey, inside: Mask, _rng: Rng) -> Grey:
    """Set everything outside of the outline to black."""
    return grey * inside


def lose_frames(share: float) -> Change:
    """Return a change that leaves out about this share of the frames."""
    return lambda grey, _inside, rng: grey[rng.random(len(grey)) >= share]


def mean_of_three(grey: Grey, _inside: Mask, _rng: Rng) -> Grey:
    """Average each frame with the one before and the one after."""
    padded = np.pad(grey.astype(np.float32), ((1, 1), (0, 0), (0, 0)), mode="edge")
    return np.asarray((padded[:-2] + padded[1:-1] + padded[2:]) / 3, np.uint8)


FAMILIES = {
    "plain": Family("the simulator as it is"),
    "slow": Family("blood at a seventh of the speed", plan=_speed(0.15)),
    "fast": Family("blood three times as fast", plan=_speed(3.0)),
    "blurred": Family("point spread 1.6 times as wide and deep", plan=_optics(1.6, 1.6)),
    "sharp": Family("point spread 0.6 times as wide and deep", plan=_optics(0.6, 0.6)),
    "steps-2": Family("2 um between frames", step_um=2.0),
    "steps-0.5": Family("0.5 um between frames", step_um=0.5),
    "dim": Family("a quarter of the photons", plan=_photons(0.25)),
    "clean": Family("six times the photons", plan=_photons(6.0)),
    "detector": Family("unsmoothed noise of another detector", plan=_unsmoothed),
    "row-noise": Family("noise that is alike along rows", grey=_row_noise),
    "dark": Family("half the contrast, gamma 1.6", grey=display(0.55, 1.6)),
    "saturated": Family("2.5 times the gain, gamma 0.7", grey=display(2.5, 0.7)),
    "small": Family("resized to 0.6", scale=0.6),
    "large": Family("resized to 1.7", scale=1.7),
    "palette": Family("16 grey levels", grey=_few_levels),
    "crf-30": Family("compressed with crf 30", crf=30),
    "black": Family("black outside of the outline", grey=black_surround),
    "tight": Family("a thin outline close to the vessel", plan=_tight),
    "lossy": Family("three of ten frames lost", grey=lose_frames(0.3)),
    "averaged": Family("each frame the mean of three", grey=mean_of_three),
    "steep": Family("segments that run steeply through the planes", look=LookSettings(steep=1.0)),
    "clear": Family("hardly any cells", look=LookSettings(clear=1.0)),
    "crossed": Family("a wide vessel above or below the segment", look=LookSettings(crossed=1.0)),
}


# Families of other simulators, which share no code with ours. `second` is the examination: nothing
# is trained on it, and nothing is chosen by it.
OTHERS = {
    "renderer": ("a simulator written apart", plain_renderer.film),
    "second": ("a second one, only reported", second_simulator.film),
}


def film(name: str, row: int, share: float = STALLED) -> tuple[Frames, bool]:
    """Simulate one recording of a family of `FAMILIES` or `OTHERS`.

    Parameters
    ----------
    name : str
        The family.
    row : int
        Number of the recording.
    share : float
        Share of stalled recordings in `FAMILIES`; `OTHERS` have one of their own.

    Returns
    -------
    frames : ndarray
        uint8 (T, h, w, 3) RGB, h and w even, with the outline drawn in.
    stalled : bool
        The label.
    """
    if name in OTHERS:
        return OTHERS[name][1](row)
    family = FAMILIES[name]
    # Each family has recordings of its own: they are not the same scenes in another light.
    seed = SEED + list(FAMILIES).index(name)
    rng = np.random.default_rng([seed, row])
    stalled = bool(rng.random() < share)
    project = draw_project(rng, stalled)
    if family.step_um is not None:
        project = replace(project, step_um=family.step_um)
    settings = SimulateSettings(look=family.look)
    plan = family.plan(recording.make_plan(seed, row, stalled, settings, project))
    outline = plan.scene.outline
    window = _around(outline.line | outline.interior)
    light = imaging.render(plan.scene, plan.blood, plan.microscope, window)
    grey = detector.expose(light, plan.microscope, window, plan.rng)
    line, inside = (mask[window.rows, window.columns] for mask in (outline.line, outline.interior))
    if family.scale != 1:
        # (T, h, w), even as the codec wants it
        height, width = (2 * round(side * family.scale / 2) for side in grey.shape[1:])
        grey = np.stack(
            [cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in grey]
        )
        inside = cv2.resize(inside.astype(np.uint8), (width, height)) > 0
        contours = cv2.findContours(
            inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )[0]
        line = cv2.drawContours(np.zeros((height, width), np.uint8), contours, -1, 1, 3) > 0
    grey = family.grey(grey, inside, rng)
    frames = np.repeat(grey[..., None], 3, axis=3)
    frames[:, line] = COLOUR
    return frames, stalled


def _around(outlined: NDArray[np.bool_]) -> Window:
    """Return the window around the outline, with an even number of rows and columns."""
    sides = []
    for axis in (1, 0):
        places = np.flatnonzero(outlined.any(axis=axis))
        low = max(int(places[0]) - MARGIN_PX, 0) // 2 * 2
        high = min(int(places[-1]) + 1 + MARGIN_PX, outlined.shape[1 - axis]) // 2 * 2
        sides.append(slice(low, high))
    return Window(*sides)


def write_family(folder: Path, rows: range, name: str, share: float = STALLED) -> None:
    """Write a family's recordings and ``labels.csv``, unless they are there.

    Raises
    ------
    InputError
        If the folder holds those of another version of the simulator, of another share or of an
        unknown one. A change of a family itself is not noticed.
    """
    made_with = {"format": corpus.FORMAT, "first_row": rows.start, "stalled": share}
    note = files.make_folder(folder) / "family.json"
    runs.claim(note, made_with, "a family of the shift suite", ("labels.csv", "recordings"))
    table = folder / "labels.csv"
    if table.is_file() and len(pd.read_csv(table)) == len(rows):
        return
    show = common.show_progress(folder.name)
    labels = []
    for done, row in enumerate(rows, start=1):
        frames, stalled = film(name, row, share)
        path = folder / "recordings" / f"{row:04}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, frames, crf=FAMILIES[name].crf if name in FAMILIES else CRF)
        labels.append({"filename": path.name, "stalled": int(stalled)})
        show(done, len(rows))
    tables.write_table(pd.DataFrame(labels), table)


def write_suite(out: Path, count: int, processes: int | None = None) -> None:
    """Write all families."""
    names = [*FAMILIES, *OTHERS]
    task = partial(_write_one, out, range(count))
    for _ in workers.in_order(task, names, processes, limit_s=lambda _name: SUITE_S):
        pass


def _write_one(out: Path, rows: range, name: str) -> None:
    write_family(out / name, rows, name)


def main() -> None:
    """Write the suite."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "out", type=Path, help="folder; take a new one whenever a family has changed"
    )
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--processes", type=int, help="by default one per core")
    given = parser.parse_args()
    write_suite(given.out, given.count, given.processes)


if __name__ == "__main__":
    main()
