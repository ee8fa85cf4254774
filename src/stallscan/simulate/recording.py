"""One simulated recording: everything it is made of, its frames, and the truth about it."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from stallscan.simulate.blood import Blood, draw_blood, stall
from stallscan.simulate.contour import COLOUR
from stallscan.simulate.imaging import Window, expose, render, whole_field
from stallscan.simulate.microscope import Microscope, draw_microscope
from stallscan.simulate.projects import Project, draw_project
from stallscan.simulate.scene import F32, F64, Image, Rng, Scene, draw_scene
from stallscan.simulate.settings import SimulateSettings
from stallscan.vessels.outline import DECODED_COLOUR


@dataclass(frozen=True)
class Truth:
    """What is known about one simulated recording.

    Attributes
    ----------
    stalled : bool
        The label.
    project : str
        Letter of the project.
    kind, motion : str
        Pattern of the cells in the segment, and how they move: see `blood`.
    shape : str
        How the segment runs: see `scene`.
    difficulty : str
        easy, medium or hard: none, one, or more of the adversities that `_count_adversities` names.
    speed_um_s : float
        Mean speed of the cells in um/s without its sign, over the frames in focus.
    first_in_focus, last_in_focus, frames_in_focus : int
        First, last and number of the frames, counted from 0, in which any part of the segment is
        in focus (within the half width of the axial PSF).
    frames : int
        Frames of the recording.
    frame_s, line_s : float
        Seconds from frame to frame and from row to row.
    um_per_px, step_um : float
        Size of a pixel, and depth between frames.
    line_um : ndarray
        float64 (n, 3): centre line as x, y, z.
    offset_px : ndarray
        float32 (frames, rows, 2): by how much each row was displaced in x and y.
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
        """Centre line as column, row and frame: float64 (n, 3)."""
        return self.line_um / [self.um_per_px, self.um_per_px, self.step_um]


class Plan(NamedTuple):
    """Everything that is drawn for one recording before a pixel is rendered.

    Attributes
    ----------
    scene, blood, microscope
        What lies in the field, what flows in it, and how it is scanned.
    truth : Truth
        What is known about the recording.
    rng : Generator
        Source of the noise, used up by rendering.
    """

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
        Which recording, each at least 0.
    stalled : bool
        Whether the outlined segment is stalled. Both labels of the same (seed, row, project) share
        all but the segment's motion.
    settings : SimulateSettings
        Size of the field and label stack; count, fraction and seed in it are not used.
    project : Project, optional
        Default: drawn as often as the real recordings with this label come from each.

    Returns
    -------
    frames : ndarray
        uint8 (T, H, W, 3) RGB, the outline drawn in.
    truth : Truth
        What is known about it.
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
    """Simulate the surroundings of the outline only, as they are in the recording of `one`.

    Motion brings in what lies up to `imaging.PAD_PX` beyond; noise is drawn anew, and no codec has
    been at it. The outline has the colour that the codec would have left of it: rules that look for
    that colour do not find the one that is drawn.

    Parameters
    ----------
    seed, row, stalled, settings, project
        As in `one`.
    margin_px : int
        Pixels around the outline.

    Returns
    -------
    frames : ndarray
        uint8 (T, h, w, 3) RGB, the outline drawn in.
    truth : Truth
        As in `one`: its places are those of the whole field.
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
    """Draw all that one recording is made of; only the segment's motion depends on `stalled`.

    Parameters
    ----------
    seed, row, stalled, settings, project
        As in `one`.

    Returns
    -------
    Plan
        Ready to be rendered once, which uses up its generator.
    """
    of_scene, of_blood, of_scope, of_pixels, of_project = np.random.default_rng(
        np.random.SeedSequence([seed, row])
    ).spawn(5)
    project = project or draw_project(of_project, stalled)
    scene = draw_scene(of_scene, settings, project, stalled)
    microscope = draw_microscope(of_scope, scene, project)
    in_focus = _in_focus(scene, microscope)
    focus = int(in_focus[0]), int(in_focus[-1])
    blood = draw_blood(of_blood, scene, microscope.frame_s, focus)
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
    """Render a window of a recording, with the outline.

    Parameters
    ----------
    plan : Plan
        From `make_plan`; its generator is used up.
    window : Window
        Part of the field.
    colour : tuple of int
        Of the outline: R, G, B.

    Returns
    -------
    ndarray
        uint8 (T, h, w, 3) RGB.
    """
    light = render(plan.scene, plan.blood, plan.microscope, window)
    grey = expose(light, plan.microscope, window, plan.rng)
    frames = np.repeat(grey[..., None], 3, axis=3)
    frames[:, plan.scene.outline.line[window.rows, window.columns]] = colour
    return frames


def _in_focus(scene: Scene, microscope: Microscope) -> "np.ndarray[tuple[int], np.dtype[np.intp]]":
    """Frames within the half width of the axial PSF of any part of the segment."""
    target = scene.vessels[0]
    half = 1.18 * math.hypot(microscope.psf_z_um, float(target.radius_um.mean()) / 2)
    depth = np.arange(scene.shape[0]) * scene.step_um
    near = np.abs(depth[:, None] - target.line[None, :, 2]).min(axis=1) <= half
    return np.flatnonzero(near)


def _count_adversities(
    scene: Scene, blood: Blood, microscope: Microscope, frames_in_focus: int
) -> int:
    """Count what makes a recording hard to judge (the limits are chosen).

    Under seven frames in focus; seen end-on; fewer than ten photons a pixel from the segment's
    plasma; nothing but dark cells in it; moving otherwise than evenly or not at all.
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
