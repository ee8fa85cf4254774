"""One simulated recording: its random plan, its frames, and its ground truth."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stallscan.simulate.blood import Blood, draw_blood, stall
from stallscan.simulate.contour import COLOUR
from stallscan.simulate.detector import expose
from stallscan.simulate.imaging import Window, render, whole_field
from stallscan.simulate.look import draw_look, vary_project
from stallscan.simulate.microscope import Microscope, draw_microscope
from stallscan.simulate.projects import Project, draw_project
from stallscan.simulate.scene import F32, F64, Image, Rng, Scene, Vessel, draw_scene
from stallscan.simulate.settings import SimulateSettings
from stallscan.vessels.outline import DECODED_COLOUR


@dataclass(frozen=True)
class Truth:
    """The ground truth of one simulated recording.

    Attributes
    ----------
    stalled : bool
        The label.
    project : str
        Letter of the project.
    kind, motion : str
        Pattern and motion of the cells in the segment: see `blood`.
    shape : str
        Shape of the segment: a key of `scene.SHAPES`, or `scene.STEEP`.
    difficulty : str
        easy, medium or hard: 0, 1, or more of the adversities in `_count_adversities`.
    speed_um_s : float
        Mean absolute speed of the cells over the frames in focus.
    first_in_focus, last_in_focus, frames_in_focus : int
        First, last and number of the frames, counted from 0, in which any part of the segment is
        in focus (within the half width of the axial PSF); the nearest frame if none is.
    frames : int
        Number of frames.
    frame_s, line_s : float
        Seconds from frame to frame and from row to row.
    um_per_px, step_um : float
        Size of a pixel, and depth between frames.
    line_um : ndarray
        float64 (n, 3): centre line as x, y, z.
    offset_px : ndarray
        float32 (frames, rows, 2): displacement of each row in x and y.
    """

    stalled: bool
    project: str
    kind: str
    motion: str
    shape: str
    difficulty: str
    speed_um_s: float
    first_in_focus: int
    last_in_focus: int
    frames_in_focus: int
    frames: int
    frame_s: float
    line_s: float
    um_per_px: float
    step_um: float
    line_um: F64
    offset_px: F32

    @property
    def line_px(self) -> F64:
        """The centre line as column, row and frame: float64 (n, 3)."""
        return self.line_um / [self.um_per_px, self.um_per_px, self.step_um]


class Plan(NamedTuple):
    """Everything drawn for one recording before rendering; `rng` is the source of the noise."""

    scene: Scene
    blood: Blood
    microscope: Microscope
    truth: Truth
    rng: Rng


def one(
    seed: int, row: int, stalled: bool, settings: SimulateSettings, project: Project | None = None
) -> tuple[Image, Truth]:
    """Simulate one recording in memory.

    Parameters
    ----------
    seed, row : int
        They identify the recording; at least 0.
    stalled : bool
        Whether the outlined segment is stalled. Recordings with the same (seed, row, project) and
        different labels differ only in the segment's motion.
    settings : SimulateSettings
        Size of the field, and label stack; count, shares and seed are ignored.
    project : Project, optional
        By default, drawn by `draw_project`.

    Returns
    -------
    frames : ndarray
        uint8 (T, H, W, 3) RGB with the outline drawn in.
    truth : Truth
        The ground truth.
    """
    plan = make_plan(seed, row, stalled, settings, project)
    return film(plan, whole_field(plan.scene), COLOUR), plan.truth


def region(
    seed: int,
    row: int,
    stalled: bool,
    settings: SimulateSettings,
    margin_px: int = 10,
    project: Project | None = None,
) -> tuple[Image, Truth]:
    """Simulate only the surroundings of the outline, as in the recording of `one`.

    The differences: the noise is another draw, motion brings in only what lies within
    `imaging.PAD_PX`, and there are no codec artefacts. The outline has the colour that it has after
    decoding, because the published rules search for that colour.

    Parameters
    ----------
    seed, row, stalled, settings, project
        As in `one`.
    margin_px : int
        Pixels around the outline.

    Returns
    -------
    frames : ndarray
        uint8 (T, h, w, 3) RGB with the outline drawn in.
    truth : Truth
        As in `one`; positions refer to the whole field.
    """
    plan = make_plan(seed, row, stalled, settings, project)
    rows, columns = (
        np.flatnonzero((plan.scene.outline.line | plan.scene.outline.interior).any(axis=axis))
        for axis in (1, 0)
    )
    window = Window(
        slice(max(rows[0] - margin_px, 0), min(rows[-1] + 1 + margin_px, settings.height)),
        slice(max(columns[0] - margin_px, 0), min(columns[-1] + 1 + margin_px, settings.width)),
    )
    return film(plan, window, DECODED_COLOUR), plan.truth


def make_plan(
    seed: int, row: int, stalled: bool, settings: SimulateSettings, project: Project | None = None
) -> Plan:
    """Draw everything about one recording; the parameters are those of `one`.

    Only the segment's motion depends on `stalled`. A plan can be rendered once, because that
    advances its generator.
    """
    # A generator for each part, so that a change to one leaves the others' draws alone.
    of_scene, of_blood, of_scope, of_pixels, of_project, of_look = np.random.default_rng(
        np.random.SeedSequence([seed, row])
    ).spawn(6)
    look = draw_look(of_look, settings.look)
    project = vary_project(of_look, project or draw_project(of_project, stalled), look)
    scene = draw_scene(of_scene, settings, project, stalled, steep=look.steep, crossed=look.crossed)
    microscope = draw_microscope(of_scope, scene, project, look)
    in_focus = find_in_focus(scene.vessels[0], scene, microscope)
    focus = int(in_focus[0]), int(in_focus[-1])
    blood = draw_blood(of_blood, scene, microscope.frame_s, focus, look.clear)
    if stalled:
        blood = stall(blood, len(scene.vessels[0].line), focus, of_blood)
    truth = Truth(
        stalled=stalled,
        project=project.letter,
        kind=blood.kind,
        motion=blood.motion,
        shape=scene.shape_kind,
        difficulty=("easy", "medium", "hard")[
            min(_count_adversities(scene, blood, microscope, in_focus.size), 2)
        ],
        speed_um_s=float(np.abs(blood.speed_um_s[0, focus[0] : focus[1] + 1]).mean()),
        first_in_focus=focus[0],
        last_in_focus=focus[1],
        frames_in_focus=int(in_focus.size),
        frames=scene.shape[0],
        frame_s=microscope.frame_s,
        line_s=microscope.line_s,
        um_per_px=scene.um_per_px,
        step_um=scene.step_um,
        line_um=scene.vessels[0].line,
        offset_px=microscope.offset,
    )
    return Plan(scene, blood, microscope, truth, of_pixels)


def film(plan: Plan, window: Window, colour: tuple[int, int, int]) -> Image:
    """Render a window of a recording with its outline in an RGB colour; uint8 (T, h, w, 3) RGB."""
    light = render(plan.scene, plan.blood, plan.microscope, window)  # (T, h, w) float32
    grey = expose(light, plan.microscope, window, plan.rng)  # (T, h, w) uint8
    frames = np.repeat(grey[..., None], 3, axis=3)
    frames[:, plan.scene.outline.line[window.rows, window.columns]] = colour
    return frames


def find_in_focus(target: Vessel, scene: Scene, microscope: Microscope) -> NDArray[np.intp]:
    """Return the frames within the half width of the axial PSF of any part of a vessel.

    If the vessel lies between the depths of two frames, that may be none: then the nearest.
    """
    half = half_focus_um(float(target.radius_um.mean()), microscope)
    depth = np.arange(scene.shape[0]) * scene.step_um
    # (frames, points) distances in depth -> (frames,)
    away = np.abs(depth[:, None] - target.line[None, :, 2]).min(axis=1)
    return np.flatnonzero(away <= max(half, away.min()))


def half_focus_um(radius_um: float, microscope: Microscope) -> float:
    """Return how far above or below the plane a vessel of this radius is in focus, um."""
    # 1.18 standard deviations are half the width at half maximum. The vessel's own thickness adds.
    return 1.18 * math.hypot(microscope.psf_z_um, radius_um / 2)


def _count_adversities(
    scene: Scene, blood: Blood, microscope: Microscope, frames_in_focus: int
) -> int:
    """Count what makes a recording hard to judge (limits chosen).

    Fewer than seven frames in focus; a segment seen end-on; fewer than ten photons per pixel from
    its plasma; hardly any plasma between the cells; any motion but even flow and a full stall.
    """
    photons = microscope.photons * scene.vessels[0].brightness
    return sum(
        (
            frames_in_focus < 7,
            scene.shape_kind == "end_on",
            photons < 10,
            blood.kind == "packed",
            blood.motion not in ("flow", "stall"),
        )
    )
