"""The features of the baseline (`nets.features`), computed from clips in torch."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# Name and description of each feature, in the order of `compute`.
FEATURES: tuple[tuple[str, str], ...] = (
    ("dark_in_all", "the share of the vessel that is dark in every frame in focus"),
    ("dark_stays", "the share of the dark pixels that are still dark in the next frame"),
    ("dark_in_mean", "the share of the vessel that is dark in the mean of the frames in focus"),
    ("same_next", "the correlation of neighbouring frames"),
    ("same_second", "the correlation of frames two apart"),
    ("same_third", "the correlation of frames three apart"),
    ("same_lowest", "the lowest correlation of two neighbouring frames"),
    ("mean_contrast", "the contrast of the mean frame relative to that of single frames"),
    ("change", "the change in brightness along the vessel over the frames in focus"),
    ("flicker", "the change in brightness from frame to frame"),
    ("contrast", "the contrast along the vessel in single frames"),
    ("frames_in_focus", "the number of frames for which a point of the vessel is in focus"),
    ("length", "the length of the vessel"),
    ("width", "the width of the vessel"),
    ("brightness", "the brightness of the vessel above its surroundings"),
    ("inside_outside", "the share of the vessel's light that exceeds its surroundings"),
    ("grain", "the noise of the image relative to the brightness of the vessel"),
)
# All lengths are in pixels of a clip of 64 px and scale with the clip size. The lengths and the
# shares below were chosen by the ROC AUC of these features on 500 simulated clips.
CLIP_PX = 64
# Blur of each frame: half the width of a capillary, which removes noise and keeps cells.
_LIGHT_PX = 1.2
_RIDGE_PX = 1.5
# Stretch of the vessel over which the brightness is averaged: longer than a cell, shorter than a
# segment. Shorter ones (2.5, 4) remove the pattern of the cells, longer ones (10) change nothing.
_STRETCH_PX = 6.0
# Going in or out of focus takes about five frames.
_FOCUS_FRAMES = 0.7
# The outline is drawn around the segment, so the segment lies in its middle: keep pixels whose
# distance from the outline is at least this share of the largest within reach. Vessels that merely
# cross are cut to a stub.
_MIDDLE = 0.75
_REACH_PX = 8
# Averaged over a stretch, a ridge is brighter than this share of the cut between vessel and
# background. In a gap, where a cell is, it may be as dark as the second share.
_RIDGE_LIGHT = 0.8
_GAP_LIGHT = 0.2
_GAP_PX = 4.0
# Second derivative of a ridge relative to its brightness, per square pixel: 1 / 7**2 (with blurs).
_CURVED = 0.02
# In focus: the stretch is brighter than this share of its maximum over time.
_FOCUS_LIGHT = 0.7
# Background level: this quantile of the region, most of which the capillary does not fill.
_BACKGROUND = 0.25
# Dark: this much below the mean of the stretch, relative to it.
_DARK = -0.15
# The lowest correlation considers pairs of frames with at least this share of the largest overlap.
_OVERLAP = 0.25
TINY = 1e-6  # keeps denominators above 0


class _Vessel(NamedTuple):
    """Measurements of a clip that all features share."""

    light: Tensor  # (N, T, S, S): blurred grey level minus the background
    brightest: Tensor  # (N, 1, S, S): maximum of `light` over time
    background: Tensor  # (N, T, 1, 1)
    line: Tensor  # (N, 1, S, S): 1 on the ridge, else 0
    normal: tuple[Tensor, Tensor]  # (N, 1, S, S) each: unit vector across the ridge
    inside: Tensor  # (N, 1, S, S): the mask, 0 or 1


class _Profile(NamedTuple):
    """The pattern of cells along the vessel."""

    values: Tensor  # (N, T, S, S): light / mean of the stretch - 1; 0 out of focus
    focus: Tensor  # (N, T, S, S): 1 on the ridge in focus, else 0
    stretch: Tensor  # (N, T, S, S): mean light of the stretch around each ridge pixel


@torch.no_grad()
def compute(clips: Tensor) -> Tensor:
    """Compute the features of clips.

    Frames that are entirely black are ignored.

    Parameters
    ----------
    clips : Tensor
        float32 (N, 2, T, S, S): grey levels 0..1, and the mask (0 or 1).

    Returns
    -------
    Tensor
        float32 (N, len(FEATURES)), in the order of `FEATURES`, always finite. Correlations are
        -1..1, lengths in pixels of the clip.
    """
    # Half precision would change which pixels exceed a threshold.
    with torch.autocast(clips.device.type, enabled=False):
        grey = clips[:, 0].float()  # (N, T, S, S)
        inside = (clips[:, 1].float().amax(1, keepdim=True) > 0.5).float()  # (N, 1, S, S)
        vessel = _find_vessel(grey, inside)
        profile = _find_profile(vessel)
        values = {
            **_darkness(profile, vessel.line),
            **_similarity(profile),
            **_movement(profile),
            **_form(vessel),
            **_image(grey, vessel, profile),
        }
        return torch.stack([values[name] for name, _ in FEATURES], dim=1)


def _find_vessel(grey: Tensor, inside: Tensor) -> _Vessel:
    """Find the ridge of the outlined vessel in grey (N, T, S, S) and mask (N, 1, S, S)."""
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
    # On the flank of a vessel the image curves up across it and not along it: that is no ridge.
    ridge &= curvature < -_CURVED * smooth / unit**2
    for step in (-2.0, -1.0, 1.0, 2.0):
        ridge &= smooth >= _aside(smooth, normal, step * unit)
    # The ridge is dark where a cell stands, so require light in its neighbourhood only.
    line = ridge.float()
    around = _blur(line * brightest, _GAP_PX * unit) / _blur(line, _GAP_PX * unit).clamp(min=TINY)
    line = line * (around > _RIDGE_LIGHT * cut).float()
    return _Vessel(light, brightest, background, line, normal, inside)


def _find_profile(vessel: _Vessel) -> _Profile:
    # Averaging over ridge pixels only means averaging along the vessel. The fall-off of light to
    # the sides, which is the same in every frame, does not enter.
    sigma = _STRETCH_PX * vessel.light.shape[-1] / CLIP_PX
    near = _blur(vessel.line, sigma).clamp(min=TINY)
    stretch = _blur(vessel.light * vessel.line, sigma) / near * vessel.line
    steady = _over_time(stretch, _FOCUS_FRAMES, vessel.light)
    brightest = steady.amax(1, keepdim=True)
    focus = ((steady > _FOCUS_LIGHT * brightest) & (stretch > TINY)).float() * vessel.line
    values = vessel.light / stretch.clamp(min=TINY) - 1
    return _Profile(values.clamp(-1.5, 1.5) * focus, focus, stretch)


def _darkness(profile: _Profile, line: Tensor) -> dict[str, Tensor]:
    values, focus, _ = profile  # (N, T, S, S) each
    frames = focus.sum(1, keepdim=True)  # (N, 1, S, S): frames in focus of each pixel
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


def _similarity(profile: _Profile) -> dict[str, Tensor]:
    features = {}
    for name, lag in (("same_next", 1), ("same_second", 2), ("same_third", 3)):
        correlations, pixels = _correlations(profile, lag)  # (N, T - lag) each
        total = pixels.sum(1).clamp(min=TINY)
        features[name] = (correlations * pixels).sum(1) / total
    correlations, pixels = _correlations(profile, 1)
    large = (pixels >= _OVERLAP * pixels.amax(1, keepdim=True)) & (pixels > 0)
    lowest = torch.where(large, correlations, 1.0).amin(1)
    features["same_lowest"] = torch.where(large.any(1), lowest, 0.0)
    return features


def _correlations(profile: _Profile, lag: int) -> tuple[Tensor, Tensor]:
    """Correlate frames `lag` apart over the pixels in focus in both.

    Returns
    -------
    tuple of Tensor
        Correlation and number of pixels, (N, T - lag) each; (N, 1) zeros if T <= lag.
    """
    values, focus, _ = profile
    if values.shape[1] <= lag:
        empty = values.new_zeros(len(values), 1)
        return empty, empty
    both = focus[:, lag:] * focus[:, :-lag]  # (N, T - lag, S, S)
    later, earlier = values[:, lag:] * both, values[:, :-lag] * both
    product = (later * earlier).sum((2, 3))
    size = ((later**2).sum((2, 3)) * (earlier**2).sum((2, 3))).sqrt()
    return product / size.clamp(min=TINY), both.sum((2, 3))


def _movement(profile: _Profile) -> dict[str, Tensor]:
    values, focus, _ = profile
    frames = focus.sum(1, keepdim=True)
    mean = values.sum(1, keepdim=True) / frames.clamp(min=1)
    single = _share(values**2, focus).sqrt()
    # Second difference: going in and out of focus is smooth in time, moving blood is not.
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
    # Step outwards from the ridge on both sides until the light falls below half that on the ridge.
    widths = torch.zeros_like(vessel.line)
    for side in (-1.0, 1.0):
        still = vessel.line  # (N, 1, S, S): 1 where the half maximum has not been reached yet
        for step in range(1, 2 * reach + 1):
            seen = _aside(vessel.brightest, vessel.normal, side * step / 2)
            still = still * (seen > half).float()
            widths = widths + still / 2
    width = _share(widths, vessel.line)
    near = F.max_pool2d(vessel.line, 2 * reach + 1, 1, reach)
    area = ((vessel.brightest > half).float() * near * vessel.inside).sum((1, 2, 3))
    return {"width": width, "length": area / width.clamp(min=1)}


def _image(grey: Tensor, vessel: _Vessel, profile: _Profile) -> dict[str, Tensor]:
    bright = _share(profile.stretch * profile.focus, profile.focus)
    around = _share(vessel.background * profile.focus, profile.focus)
    unit = grey.shape[-1] / CLIP_PX
    fine = (grey - _blur(grey, _LIGHT_PX * unit)) * profile.focus
    return {
        # Laser and dye change brightness by a factor, so compare its logarithm.
        "brightness": torch.log(bright + 1 / 255),
        "inside_outside": bright / (bright + around).clamp(min=TINY),
        "grain": _share(fine**2, profile.focus).sqrt() / (bright + 1 / 255),
    }


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """Divide the sum of `part` (N, ...) by the sum of `whole`: (N,), 0 where both are 0."""
    return part.flatten(1).sum(1) / whole.flatten(1).sum(1).clamp(min=TINY)


def _background(grey: Tensor, inside: Tensor) -> Tensor:
    """Compute the background level of each frame, a quantile inside the mask: (N, T, 1, 1)."""
    # (N, T, S * S), pixels outside the mask at the end
    levels = torch.where(inside > 0, grey, torch.inf).flatten(2).sort(dim=2).values
    pixels = inside.flatten(1).sum(1)
    index = (pixels * _BACKGROUND).long().view(-1, 1, 1).expand(-1, grey.shape[1], 1)
    chosen = levels.gather(2, index)
    return torch.where(chosen.isfinite(), chosen, 0.0)[..., None]


def _otsu(light: Tensor, inside: Tensor, bins: int = 64) -> Tensor:
    """Compute Otsu's threshold of the light (N, 1, S, S) inside the mask: (N, 1, 1, 1).

    It maximises the variance between the two classes.
    """
    values, weight = light.flatten(1), inside.flatten(1)
    top = (values * weight).amax(1, keepdim=True).clamp(min=TINY)
    bin_of = (values / top * (bins - 1)).round().clamp(0, bins - 1).long()  # (N, S * S)
    counts = values.new_zeros(len(values), bins).scatter_add_(1, bin_of, weight)  # (N, bins)
    below = counts.cumsum(1)
    moment = (counts * torch.arange(bins, device=light.device)).cumsum(1)
    everything, whole = below[:, -1:], moment[:, -1:]
    between = (moment * everything - whole * below) ** 2
    between = between / (below * (everything - below)).clamp(min=TINY)
    best = between.argmax(1, keepdim=True)
    return ((best + 0.5) / (bins - 1) * top)[..., None, None]


def _depth(inside: Tensor) -> Tensor:
    """Compute the chessboard distance of each mask pixel from the edge, px: (N, 1, S, S)."""
    depth = left = inside
    for _ in range(inside.shape[-1] // 2):
        left = -F.max_pool2d(-F.pad(left, (1, 1, 1, 1)), 3, 1)  # erosion
        depth = depth + left
    return depth


def _across(smooth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the direction of the strongest downward curvature of an image (N, 1, S, S).

    Returns
    -------
    tuple of Tensor
        (N, 1, S, S) each: row and column component of the unit vector, and the second derivative
        in its direction, per square pixel.
    """
    # Second differences are the Hessian; the direction is its eigenvector of the lower eigenvalue.
    p = F.pad(smooth, (1, 1, 1, 1), mode="replicate")
    cols = p[..., 1:-1, 2:] - 2 * smooth + p[..., 1:-1, :-2]
    rows = p[..., 2:, 1:-1] - 2 * smooth + p[..., :-2, 1:-1]
    mixed = (p[..., 2:, 2:] - p[..., 2:, :-2] - p[..., :-2, 2:] + p[..., :-2, :-2]) / 4
    angle = torch.atan2(2 * mixed, cols - rows) / 2
    curvature = (cols + rows) / 2 - torch.hypot((cols - rows) / 2, mixed)
    return torch.cos(angle), -torch.sin(angle), curvature


def _aside(image: Tensor, direction: tuple[Tensor, Tensor], pixels: float) -> Tensor:
    """Sample an image (N, 1, S, S) `pixels` away from each pixel in that pixel's `direction`."""
    size = image.shape[-1]
    index = torch.arange(size, device=image.device, dtype=image.dtype)
    rows = index[:, None] + pixels * direction[0][:, 0]  # (N, S, S)
    cols = index[None, :] + pixels * direction[1][:, 0]
    # grid_sample wants x before y, on the scale -1..1: (N, S, S, 2)
    grid = torch.stack([cols, rows], dim=-1) * 2 / max(size - 1, 1) - 1
    return F.grid_sample(image, grid, padding_mode="border", align_corners=True)


def _kernel(sigma: float) -> list[float]:
    """Return Gaussian weights that sum to 1, out to three standard deviations."""
    reach = max(round(3 * sigma), 1)
    weights = [math.exp(-((step / sigma) ** 2) / 2) for step in range(-reach, reach + 1)]
    return [weight / sum(weights) for weight in weights]


def _blur(frames: Tensor, sigma: float) -> Tensor:
    """Blur rows and columns of (N, T or 1, S, S) by a Gaussian, with zeros beyond the edges."""
    # Sums of shifted images instead of a convolution: torch chooses the convolution algorithm by
    # batch size, and its rounding would move values across a threshold.
    return _smooth(_smooth(frames, sigma, 2), sigma, 3)


def _over_time(frames: Tensor, sigma: float, grey: Tensor) -> Tensor:
    """Average neighbouring frames with Gaussian weights, except those that are black in `grey`."""
    lit = (grey.flatten(2).abs().amax(2) > 0).to(frames.dtype)[..., None, None]  # (N, T, 1, 1)
    return _smooth(frames * lit, sigma, 1) / _smooth(lit, sigma, 1).clamp(min=TINY) * lit


def _smooth(frames: Tensor, sigma: float, dim: int) -> Tensor:
    weights = _kernel(sigma)
    reach, size = len(weights) // 2, frames.shape[dim]
    padded = F.pad(frames, [0, 0] * (frames.ndim - 1 - dim) + [reach, reach])
    total = torch.zeros_like(frames)
    for step, weight in enumerate(weights):
        total.add_(padded.narrow(dim, step, size), alpha=weight)
    return total
