"""What is measured of a clip for the baseline: the features of `nets.features`, in torch."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# Name and words of each feature, in the order of `compute`.
FEATURES: tuple[tuple[str, str], ...] = (
    ("dark_in_all", "the share of the vessel that is dark in every frame in focus"),
    ("dark_stays", "the share of what is dark that is dark in the next frame, too"),
    ("dark_in_mean", "the share of the vessel that is dark in the mean of the frames in focus"),
    ("same_next", "the likeness of neighbouring frames"),
    ("same_second", "the likeness of frames two apart"),
    ("same_third", "the likeness of frames three apart"),
    ("same_lowest", "the lowest likeness of two neighbouring frames"),
    ("mean_contrast", "the contrast of the mean frame against that of single frames"),
    ("change", "the change of the light along the vessel over the frames in focus"),
    ("flicker", "the change of the light from frame to frame"),
    ("contrast", "the contrast along the vessel in single frames"),
    ("frames_in_focus", "the number of frames that a place of the vessel is in focus"),
    ("length", "the length of the vessel"),
    ("width", "the width of the vessel"),
    ("brightness", "the brightness of the vessel above its surroundings"),
    ("inside_outside", "the share of the vessel's light that its surroundings lack"),
    ("grain", "the grain of the picture against the brightness of the vessel"),
)
# All lengths are in pixels of a clip of 64 px and grow with the clip. They, and the shares below,
# were chosen on 500 simulated clips by the ROC AUC of these features.
CLIP_PX = 64
# Blur of each frame: half a capillary's width, so that noise goes and cells stay.
_LIGHT_PX = 1.2
_RIDGE_PX = 1.5
# Stretch of the vessel whose mean the profile is divided by: longer than a cell, shorter than a
# segment. Shorter ones (2.5, 4) take the cells' own pattern away, longer ones (10) change nothing.
_STRETCH_PX = 6.0
# Going in and out of focus takes about five frames.
_FOCUS_FRAMES = 0.7
# The outline is drawn around the segment, so the segment runs in its middle: pixels as far from
# the outline as this share of the farthest in reach. Vessels that only cross are cut to a stub.
_MIDDLE = 0.75
_REACH_PX = 8
# A ridge is brighter than this share of the cut between vessel and background, in the mean of a
# stretch; in a gap, where a cell stands, it may be as dark as the second share.
_RIDGE_LIGHT = 0.8
_GAP_LIGHT = 0.2
_GAP_PX = 4.0
# A ridge's second derivative against its light, per square pixel: 1 / 7**2 (blurs included).
_CURVED = 0.02
# In focus: the light of the stretch is above this share of the brightest it ever is.
_FOCUS_LIGHT = 0.7
# The darkest this share of the region is its background: a capillary fills much less of it.
_BACKGROUND = 0.25
# Dark: this much below the mean of the stretch.
_DARK = -0.15
# A pair of frames counts for the lowest likeness when it shares so much of the largest overlap.
_OVERLAP = 0.25
TINY = 1e-6


class _Vessel(NamedTuple):
    """What is found once a clip, for every feature."""

    light: Tensor  # (N, T, S, S): blurred grey above the background
    brightest: Tensor  # (N, 1, S, S): the light's maximum over time
    background: Tensor  # (N, T, 1, 1)
    line: Tensor  # (N, 1, S, S): 1 on the ridge, else 0
    normal: tuple[Tensor, Tensor]  # (N, 1, S, S) each: rows and columns across the ridge
    inside: Tensor  # (N, 1, S, S): the mask, 0 or 1


class _Profile(NamedTuple):
    """The pattern of cells along the vessel."""

    values: Tensor  # (N, T, S, S): light / its mean over a stretch - 1; 0 out of focus
    focus: Tensor  # (N, T, S, S): 1 on the ridge in focus, else 0
    stretch: Tensor  # (N, T, S, S): that mean


@torch.no_grad()
def compute(clips: Tensor) -> Tensor:
    """Measure the features of clips.

    Frames that are black throughout, as at the end of a padded clip, are left out.

    Parameters
    ----------
    clips : Tensor
        float32 (N, 2, T, S, S): grey on the scale 0..1, and the mask (0 or 1).

    Returns
    -------
    Tensor
        float32 (N, len(FEATURES)), in the order of `FEATURES`, finite whatever the clip. Likeness
        is a correlation, -1..1; lengths are in pixels of the clip.
    """
    # Half precision would move the thresholds.
    with torch.autocast(clips.device.type, enabled=False):
        grey = clips[:, 0].float()
        inside = (clips[:, 1].float().amax(1, keepdim=True) > 0.5).float()
        vessel = _find_vessel(grey, inside)
        profile = _find_profile(vessel)
        found = {
            **_darkness(profile, vessel.line),
            **_likeness(profile),
            **_movement(profile),
            **_form(vessel),
            **_picture(grey, vessel, profile),
        }
        return torch.stack([found[name] for name, _ in FEATURES], dim=1)


def _find_vessel(grey: Tensor, inside: Tensor) -> _Vessel:
    unit = grey.shape[-1] / CLIP_PX
    background = _background(grey, inside)
    light = _blur(grey, _LIGHT_PX * unit) - background
    brightest = _over_time(light, _FOCUS_FRAMES, grey).amax(1, keepdim=True).clamp(min=0) * inside
    depth = _depth(inside)
    reach = round(_REACH_PX * unit)
    middle = depth >= _MIDDLE * F.max_pool2d(depth, 2 * reach + 1, 1, reach).clamp(min=1)
    smooth = _blur(brightest, _RIDGE_PX * unit)
    rows, cols, curvature = _across(smooth)
    normal = (rows, cols)
    cut = _otsu(brightest, inside)
    ridge = middle & (brightest > (_GAP_LIGHT * cut).clamp(min=TINY))
    # On a flank the picture is curved up across and straight along: no ridge.
    ridge &= curvature < -_CURVED * smooth / unit**2
    for step in (-2.0, -1.0, 1.0, 2.0):
        ridge &= smooth >= _aside(smooth, normal, step * unit)
    # Where a cell stands the ridge is dark, so it is the light of a stretch that has to suffice.
    line = ridge.float()
    around = _blur(line * brightest, _GAP_PX * unit) / _blur(line, _GAP_PX * unit).clamp(min=TINY)
    line = line * (around > _RIDGE_LIGHT * cut).float()
    return _Vessel(light, brightest, background, line, normal, inside)


def _find_profile(vessel: _Vessel) -> _Profile:
    # A mean over ridge pixels alone is one along the vessel: how its light falls off to the sides,
    # which is the same in every frame, does not enter.
    sigma = _STRETCH_PX * vessel.light.shape[-1] / CLIP_PX
    near = _blur(vessel.line, sigma).clamp(min=TINY)
    stretch = _blur(vessel.light * vessel.line, sigma) / near * vessel.line
    steady = _over_time(stretch, _FOCUS_FRAMES, vessel.light)
    brightest = steady.amax(1, keepdim=True)
    focus = ((steady > _FOCUS_LIGHT * brightest) & (stretch > TINY)).float() * vessel.line
    values = vessel.light / stretch.clamp(min=TINY) - 1
    return _Profile(values.clamp(-1.5, 1.5) * focus, focus, stretch)


def _darkness(profile: _Profile, line: Tensor) -> dict[str, Tensor]:
    values, focus, _ = profile
    frames = focus.sum(1, keepdim=True)
    seen = (frames > 0).float() * line
    brightest = torch.where(focus > 0, values, -torch.inf).amax(1, keepdim=True)
    mean = values.sum(1, keepdim=True) / frames.clamp(min=1)
    dark = (values < _DARK).float() * focus
    both = focus[:, 1:] * focus[:, :-1]
    return {
        "dark_in_all": _share((brightest < _DARK).float() * seen, seen),
        "dark_stays": _share(dark[:, 1:] * dark[:, :-1], dark[:, :-1] * both),
        "dark_in_mean": _share((mean < _DARK).float() * seen, seen),
    }


def _likeness(profile: _Profile) -> dict[str, Tensor]:
    made = {}
    for name, lag in (("same_next", 1), ("same_second", 2), ("same_third", 3)):
        each, weight = _correlations(profile, lag)
        made[name] = (each * weight).sum(1) / weight.sum(1).clamp(min=TINY)
    each, weight = _correlations(profile, 1)
    large = (weight >= _OVERLAP * weight.amax(1, keepdim=True)) & (weight > 0)
    lowest = torch.where(large, each, 1.0).amin(1)
    made["same_lowest"] = torch.where(large.any(1), lowest, 0.0)
    return made


def _correlations(profile: _Profile, lag: int) -> tuple[Tensor, Tensor]:
    """Correlate frames `lag` apart where both are in focus: (N, T'), and over how many pixels."""
    values, focus, _ = profile
    if values.shape[1] <= lag:
        empty = values.new_zeros(len(values), 1)
        return empty, empty
    both = focus[:, lag:] * focus[:, :-lag]
    later, earlier = values[:, lag:] * both, values[:, :-lag] * both
    product = (later * earlier).sum((2, 3))
    size = ((later**2).sum((2, 3)) * (earlier**2).sum((2, 3))).sqrt()
    return product / size.clamp(min=TINY), both.sum((2, 3))


def _movement(profile: _Profile) -> dict[str, Tensor]:
    values, focus, _ = profile
    frames = focus.sum(1, keepdim=True)
    mean = values.sum(1, keepdim=True) / frames.clamp(min=1)
    single = _share(values**2, focus).sqrt()
    # Second difference: going in and out of focus is smooth in time, blood that moves is not.
    three = focus[:, 2:] * focus[:, 1:-1] * focus[:, :-2]
    bend = (values[:, 1:-1] - (values[:, 2:] + values[:, :-2]) / 2) * three
    return {
        "mean_contrast": _share(mean**2 * frames, focus).sqrt() / single.clamp(min=1e-3),
        "change": _share((values - mean) ** 2 * focus, focus).sqrt(),
        "flicker": _share(bend**2, three).sqrt(),
        "contrast": single,
        "frames_in_focus": _share(frames, (frames > 0).float()),
    }


def _form(vessel: _Vessel) -> dict[str, Tensor]:
    size = vessel.line.shape[-1]
    unit = size / CLIP_PX
    sigma, reach = _STRETCH_PX * unit, round(_REACH_PX * unit)
    half = _blur(vessel.brightest * vessel.line, sigma)
    half = half / _blur(vessel.line, sigma).clamp(min=TINY) / 2
    # From the ridge outwards to both sides, until the light is less than half that on the ridge.
    widths = torch.zeros_like(vessel.line)
    for side in (-1.0, 1.0):
        still = vessel.line
        for step in range(1, 2 * reach + 1):
            seen = _aside(vessel.brightest, vessel.normal, side * step / 2)
            still = still * (seen > half).float()
            widths = widths + still / 2
    width = _share(widths, vessel.line)
    near = F.max_pool2d(vessel.line, 2 * reach + 1, 1, reach)
    area = ((vessel.brightest > half).float() * near * vessel.inside).sum((1, 2, 3))
    return {"width": width, "length": area / width.clamp(min=1)}


def _picture(grey: Tensor, vessel: _Vessel, profile: _Profile) -> dict[str, Tensor]:
    bright = _share(profile.stretch * profile.focus, profile.focus)
    around = _share(vessel.background * profile.focus, profile.focus)
    unit = grey.shape[-1] / CLIP_PX
    fine = (grey - _blur(grey, _LIGHT_PX * unit)) * profile.focus
    return {
        # Brightness differs by factors, from laser and dye: its logarithm is what compares.
        "brightness": torch.log(bright + 1 / 255),
        "inside_outside": bright / (bright + around).clamp(min=TINY),
        "grain": _share(fine**2, profile.focus).sqrt() / (bright + 1 / 255),
    }


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """Sum of (N, ...) `part` over that of `whole`: (N,), 0 where there is nothing."""
    return part.flatten(1).sum(1) / whole.flatten(1).sum(1).clamp(min=TINY)


def _background(grey: Tensor, inside: Tensor) -> Tensor:
    """Quantile of the grey levels inside the mask, frame by frame: (N, T, 1, 1)."""
    levels = torch.where(inside > 0, grey, torch.inf).flatten(2).sort(dim=2).values
    pixels = inside.flatten(1).sum(1)
    index = (pixels * _BACKGROUND).long().view(-1, 1, 1).expand(-1, grey.shape[1], 1)
    chosen = levels.gather(2, index)
    return torch.where(chosen.isfinite(), chosen, 0.0)[..., None]


def _otsu(light: Tensor, inside: Tensor, bins: int = 64) -> Tensor:
    """Cut that parts the light inside the mask best in two classes: (N, 1, 1, 1).

    Otsu's rule: the highest variance between the classes.
    """
    values, weight = light.flatten(1), inside.flatten(1)
    top = (values * weight).amax(1, keepdim=True).clamp(min=TINY)
    places = (values / top * (bins - 1)).round().clamp(0, bins - 1).long()
    counts = values.new_zeros(len(values), bins).scatter_add_(1, places, weight)
    below = counts.cumsum(1)
    moment = (counts * torch.arange(bins, device=light.device)).cumsum(1)
    everything, whole = below[:, -1:], moment[:, -1:]
    between = (moment * everything - whole * below) ** 2
    between = between / (below * (everything - below)).clamp(min=TINY)
    best = between.argmax(1, keepdim=True)
    return ((best + 0.5) / (bins - 1) * top)[..., None, None]


def _depth(inside: Tensor) -> Tensor:
    """How many pixels each pixel of the mask is from its edge, diagonal steps counting 1."""
    depth = left = inside
    for _ in range(inside.shape[-1] // 2):
        left = -F.max_pool2d(-F.pad(left, (1, 1, 1, 1)), 3, 1)
        depth = depth + left
    return depth


def _across(smooth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Direction in which a picture (N, 1, S, S) is curved down most, and how much.

    Returns
    -------
    tuple of Tensor
        (N, 1, S, S) each: the direction's part along the rows' and the columns' number, and the
        second derivative in it, per pixel squared.
    """
    p = F.pad(smooth, (1, 1, 1, 1), mode="replicate")
    cols = p[..., 1:-1, 2:] - 2 * smooth + p[..., 1:-1, :-2]
    rows = p[..., 2:, 1:-1] - 2 * smooth + p[..., :-2, 1:-1]
    mixed = (p[..., 2:, 2:] - p[..., 2:, :-2] - p[..., :-2, 2:] + p[..., :-2, :-2]) / 4
    angle = torch.atan2(2 * mixed, cols - rows) / 2
    curvature = (cols + rows) / 2 - torch.hypot((cols - rows) / 2, mixed)
    return torch.cos(angle), -torch.sin(angle), curvature


def _aside(picture: Tensor, direction: tuple[Tensor, Tensor], pixels: float) -> Tensor:
    """Read a picture (N, 1, S, S) so many pixels away from each pixel, in its own direction."""
    size = picture.shape[-1]
    place = torch.arange(size, device=picture.device, dtype=picture.dtype)
    rows = place[:, None] + pixels * direction[0][:, 0]
    cols = place[None, :] + pixels * direction[1][:, 0]
    grid = torch.stack([cols, rows], dim=-1) * 2 / max(size - 1, 1) - 1
    return F.grid_sample(picture, grid, padding_mode="border", align_corners=True)


def _kernel(sigma: float) -> list[float]:
    reach = max(round(3 * sigma), 1)
    weights = [math.exp(-((step / sigma) ** 2) / 2) for step in range(-reach, reach + 1)]
    return [weight / sum(weights) for weight in weights]


def _blur(frames: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of rows and columns, black beyond the edges."""
    # Sums of shifted pictures, not a convolution: torch chooses that one's method by the batch's
    # size, and what is on the edge of a threshold would change sides with it.
    return _smooth(_smooth(frames, sigma, 2), sigma, 3)


def _over_time(frames: Tensor, sigma: float, grey: Tensor) -> Tensor:
    """Gaussian mean over the neighbouring frames that are not black throughout in `grey`."""
    lit = (grey.flatten(2).abs().amax(2) > 0).to(frames.dtype)[..., None, None]
    return _smooth(frames * lit, sigma, 1) / _smooth(lit, sigma, 1).clamp(min=TINY) * lit


def _smooth(frames: Tensor, sigma: float, dim: int) -> Tensor:
    weights = _kernel(sigma)
    reach, size = len(weights) // 2, frames.shape[dim]
    padding = [0, 0] * (frames.ndim - 1 - dim) + [reach, reach]
    padded = F.pad(frames, padding)
    total = torch.zeros_like(frames)
    for step, weight in enumerate(weights):
        total.add_(padded.narrow(dim, step, size), alpha=weight)
    return total
