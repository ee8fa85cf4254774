"""What simulated stacks and time series have in common: their field, and their files.

Nothing is outlined or converted to grey levels: the values are counts of a detector, 16 bits.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray

from stallscan import files
from stallscan.simulate.contour import Outline
from stallscan.simulate.detector import detect
from stallscan.simulate.imaging import PAD_PX, Window
from stallscan.simulate.look import LookSettings, draw_look, vary_project
from stallscan.simulate.microscope import Microscope, draw_microscope
from stallscan.simulate.projects import draw_project
from stallscan.simulate.scene import F32, Rng, Scene, draw_scene
from stallscan.simulate.settings import SimulateSettings

NOTE_NAME = "simulation.json"
# Detector counts without light, and for a photon; chosen.
OFFSET_COUNTS, COUNTS_PER_PHOTON = 100.0, 20.0
# Side of the tiles that are rendered at once, pixels: 100 frames of one take 26 MB.
TILE_PX = 256

Counts = NDArray[np.uint16]
Progress = Callable[[int, int], None]


class Streams(NamedTuple):
    """Random numbers for each part of a simulation, so that no part changes those of another."""

    scene: Rng
    blood: Rng
    microscope: Rng
    pixels: Rng
    project: Rng
    look: Rng
    stalls: Rng
    rows: Rng

    @classmethod
    def of(cls, seed: int, kind: int) -> "Streams":
        """Return those of a seed; each kind of simulation has others."""
        sequence = np.random.SeedSequence(seed, spawn_key=(kind,))
        return cls(*np.random.default_rng(sequence).spawn(len(cls._fields)))


class Specimen(NamedTuple):
    """A scene, and the microscope that films it."""

    scene: Scene
    microscope: Microscope
    look: LookSettings  # with the values that were drawn


def draw_specimen(
    streams: Streams,
    settings: LookSettings,
    shape: tuple[int, int, int],
    planes: int,
    crop: Callable[[Scene], Scene] = lambda scene: scene,
) -> Specimen:
    """Draw a scene, and its microscope.

    Parameters
    ----------
    shape : tuple of int
        Frames, rows and columns.
    planes : int
        Planes in which vessels are drawn.
    crop : callable
        Returns the part of these that is filmed.
    """
    frames, height, width = shape
    look = draw_look(streams.look, settings)
    project = vary_project(streams.look, draw_project(streams.project, stalled=False), look)
    field = SimulateSettings(height=height + height % 2, width=width + width % 2)
    # `stalled` only keeps large vessels from being the segment that the network grows around.
    whole = draw_scene(streams.scene, field, project, stalled=True, frames=planes)
    line, interior = (
        mask[:height, :width] for mask in (whole.outline.line, whole.outline.interior)
    )
    whole = replace(whole, shape=(planes, height, width), outline=Outline(line, interior))
    scene = crop(whole)
    scene = replace(scene, shape=(frames, height, width))
    microscope = draw_microscope(streams.microscope, scene, project, look)
    return Specimen(scene, _without_display(microscope), look)


def _without_display(microscope: Microscope) -> Microscope:
    """Return a microscope without the black areas of registered videos, and without their jumps.

    Tiles are rendered with `PAD_PX` around them, so rows must not be shifted by more.
    """
    return replace(
        microscope,
        offset=np.clip(microscope.offset, 2 - PAD_PX, PAD_PX - 2),
        static_black=np.zeros_like(microscope.static_black),
        edges=np.zeros_like(microscope.edges),
    )


def longest_run(inside: NDArray[np.bool_]) -> slice:
    """Return the longest run of True in bool (n,); empty without any."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]])))
    starts, stops = edges[::2], edges[1::2]
    if not len(starts):
        return slice(0, 0)
    longest = int((stops - starts).argmax())
    return slice(int(starts[longest]), int(stops[longest]))


def draw_row_noise(rng: Rng, scene: Scene, microscope: Microscope) -> F32:
    """Draw the noise that a row shares in all tiles, in photons, float32 (T, H, 1)."""
    return rng.normal(0, microscope.row_noise, (*scene.shape[:2], 1)).astype(np.float32)


def to_counts(light: F32, microscope: Microscope, rng: Rng, row_noise: F32 | None = None) -> Counts:
    """Convert light, float32 (T, h, w), to detector counts with noise, uint16 (T, h, w).

    `row_noise` as in `detect`.
    """
    counts = np.empty(light.shape, np.uint16)
    frames = detect(light, microscope, rng, row_noise)
    for frame, photons in zip(counts, frames, strict=True):
        frame[:] = np.clip(OFFSET_COUNTS + COUNTS_PER_PHOTON * photons, 0, 65535)
    return counts


def write_frames(
    path: Path,
    scene: Scene,
    frame_s: float,
    film: Callable[[Window], Counts],
    progress: Progress,
) -> None:
    """Film a scene tile by tile, and write it as a TIFF file in ImageJ's form.

    `film` renders a window, uint16 (T, h, w). A scene whose frames are all at one depth is written
    as a time series.
    """
    along = {"axes": "ZYX", "spacing": scene.step_um} if scene.step_um else {"axes": "TYX"}
    tiles = list(tiles_of(scene))
    with files.atomic_path(path) as temporary:
        stack: np.memmap[tuple[int, ...], np.dtype[np.uint16]] = tifffile.memmap(
            temporary,
            shape=scene.shape,
            dtype=np.uint16,
            imagej=True,
            resolution=(1 / scene.um_per_px, 1 / scene.um_per_px),
            metadata={**along, "unit": "um", "finterval": frame_s},
        )
        for index, window in enumerate(tiles):
            stack[:, window.rows, window.columns] = film(window)
            progress(index + 1, len(tiles))
        stack.flush()
        del stack


def tiles_of(scene: Scene) -> Iterator[Window]:
    """Yield the windows that are rendered at once, which cover the field."""
    _, height, width = scene.shape
    for top in range(0, height, TILE_PX):
        for left in range(0, width, TILE_PX):
            yield Window(
                slice(top, min(top + TILE_PX, height)), slice(left, min(left + TILE_PX, width))
            )
