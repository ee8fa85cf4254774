"""One simulated recording: everything it is made of, its frames, and the truth about it."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from stallscan.simulate.blood import Blood, draw_blood, hold
from stallscan.simulate.imaging import expose, render
from stallscan.simulate.microscope import Microscope, draw_microscope
from stallscan.simulate.scene import COLOUR, F32, F64, Image, Rng, Scene, draw_scene
from stallscan.simulate.settings import SimulateSettings


@dataclass(frozen=True)
class Truth:
    """What is known about one simulated recording.

    Attributes
    ----------
    stalled : bool
        The label.
    kind : str
        stall, crawl or flow, then the pattern of cells: ``stall-plug``, ``flow-cells``.
    shape : str
        How the segment runs: plane, oblique, end_on, horseshoe, arch.
    speed_um_s : float
        Mean speed of the cells in um/s without its sign, 0 when stalled.
    first_in_focus, last_in_focus, frames_in_focus : int
        First, last and number of the frames, counted from 0, in which any part of the segment is
        in focus (within the half width of the axial PSF).
    frames : int
        Frames of the recording.
    frame_s, line_s : float
        Seconds from frame to frame and from row to row.
    line_um : ndarray
        float64 (n, 3): centre line as x, y, z; x and y are pixels, z is the frame.
    offset_px : ndarray
        float32 (frames, rows, 2): by how much each row was displaced in x and y.
    """

    stalled: bool
    kind: str
    shape: str
    speed_um_s: float
    first_in_focus: int
    last_in_focus: int
    frames_in_focus: int
    frames: int
    frame_s: float
    line_s: float
    line_um: F64
    offset_px: F32


class Plan(NamedTuple):
    """Everything that is drawn for one recording before a pixel is rendered.

    Attributes
    ----------
    scene, blood, microscope
        What lies in the field, what flows in it, and how it is scanned.
    truth : Truth
        What is known about the recording.
    rng : Generator
        Source of what is still to be drawn while pixels are rendered.
    """

    scene: Scene
    blood: Blood
    microscope: Microscope
    truth: Truth
    rng: Rng


def one(seed: int, row: int, stalled: bool, settings: SimulateSettings) -> tuple[Image, Truth]:
    """Simulate one recording in memory.

    Parameters
    ----------
    seed, row : int
        Which recording, each at least 0; both labels of the same (seed, row) share all but the
        segment's motion.
    stalled : bool
        Whether the outlined segment is stalled.
    settings : SimulateSettings
        Size of the field; count, fraction and seed in it are not used.

    Returns
    -------
    frames : ndarray
        uint8 (T, H, W, 3) RGB, the outline drawn in.
    truth : Truth
        What is known about it.
    """
    plan = make_plan(seed, row, stalled, settings)
    light = render(plan.scene, plan.blood, plan.microscope, plan.rng)
    grey = expose(light, plan.microscope, plan.rng)
    frames = np.repeat(grey[..., None], 3, axis=3)
    frames[:, plan.scene.outline.line] = COLOUR
    return frames, plan.truth


def make_plan(seed: int, row: int, stalled: bool, settings: SimulateSettings) -> Plan:
    """Draw all that one recording is made of; only the segment's motion depends on `stalled`.

    Parameters
    ----------
    seed, row, stalled, settings
        As in `one`.

    Returns
    -------
    Plan
        Ready to be rendered once, which uses up its generator.
    """
    of_scene, of_blood, of_scope, of_pixels = np.random.default_rng(
        np.random.SeedSequence([seed, row])
    ).spawn(4)
    scene = draw_scene(of_scene, settings)
    microscope = draw_microscope(of_scope, scene)
    blood = draw_blood(of_blood, scene, microscope.frame_s)
    if stalled:
        blood = hold(blood, len(scene.vessels[0].line), of_blood)
    return Plan(scene, blood, microscope, _tell(scene, blood, microscope, stalled), of_pixels)


def _tell(scene: Scene, blood: Blood, microscope: Microscope, stalled: bool) -> Truth:
    target = scene.vessels[0]
    half = 1.18 * math.hypot(microscope.psf_z_um, target.radius_um / 2)
    depth = np.arange(scene.shape[0])
    seen = np.abs(depth[:, None] - target.line[None, :, 2]).min(axis=1) <= half
    in_focus = np.flatnonzero(seen)
    motion = "stall" if stalled else "crawl" if blood.crawls else "flow"
    return Truth(
        stalled=stalled,
        kind=f"{motion}-{blood.kind}",
        shape=scene.shape_kind,
        speed_um_s=float(np.abs(blood.speed_um_s[0]).mean()),
        first_in_focus=int(in_focus[0]),
        last_in_focus=int(in_focus[-1]),
        frames_in_focus=int(in_focus.size),
        frames=scene.shape[0],
        frame_s=microscope.frame_s,
        line_s=microscope.line_s,
        line_um=target.line,
        offset_px=microscope.offset,
    )
