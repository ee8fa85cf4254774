"""Augment clips in training: one draw for all frames, except for jitter and noise."""

import math

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from stallscan.recipes.settings import AugmentSettings
from stallscan.scores import intervals
from stallscan.training import appearance

# `drop` keeps at least this many frames: about as many as an in-plane segment is in focus for
# (docs/facts.md 5).
FEWEST_FRAMES = 8
# The warp is noise smoothed by a Gaussian whose deviation is this share of the clip's size. Chosen
# so that the default of 2 px locally rotates a 64 px clip by 10 degrees (standard deviation; 5
# degrees at 112 px) without folding it (measured on 300 warps).
ELASTIC_SMOOTH_SHARE = 1 / 8
# Frames interpolated at a time. Their floats then fit in the CPU cache, which halves the time at
# 112 px (measured: 4, 8 and 16 frames are equally fast).
BLOCK_FRAMES = 8


class _Draws:
    """Random numbers from one generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def share(self) -> float:
        """Draw from [0, 1)."""
        return float(torch.rand((), generator=self.generator))

    def symmetric(self, most: float) -> float:
        """Draw uniformly from [-most, most)."""
        return most * (2 * self.share() - 1)

    def choose(self, count: int) -> int:
        """Draw an integer from 0 to count - 1."""
        return int(torch.randint(count, (), generator=self.generator))

    def happens(self, chance: float) -> bool:
        """Return True with the given chance; chances of 0 and 1 consume no random number."""
        return chance >= 1 or (chance > 0 and self.share() < chance)

    def normal(self, *shape: int) -> Tensor:
        """Draw float32 values from the standard normal distribution."""
        return torch.randn(shape, generator=self.generator)


def apply(clip: Tensor, settings: AugmentSettings, generator: torch.Generator) -> Tensor:
    """Return a randomly augmented copy of a clip.

    The order is rotate, flip, reverse, drop, the geometric changes (tilt, rescale, shift, elastic,
    crop, jitter: combined, so that the image is interpolated only once), blur, brightness, gamma,
    noise, appearance.

    Parameters
    ----------
    clip : Tensor
        uint8 (T, S, S, C), 0..255; with 2 channels the second is a mask of 0 and 255.
    settings : AugmentSettings
        The chances and strengths.
    generator : torch.Generator
        Source of all random numbers.

    Returns
    -------
    Tensor
        uint8 (T, S, S, C), 0..255. `drop` may reduce T, but not below 8 frames. A mask stays
        binary and moves with the image, except that it ignores jitter, as the outlines of real
        recordings do. Pixels from outside the image are black.
    """
    draws = _Draws(generator)
    if draws.share() < settings.rotate:
        clip = torch.rot90(clip, 1 + draws.choose(3), dims=(1, 2))
    if draws.share() < settings.flip:
        clip = torch.flip(clip, dims=((1,), (2,), (1, 2))[draws.choose(3)])
    if draws.share() < settings.reverse:
        clip = torch.flip(clip, dims=(0,))
    grid = _draw_grid(clip.shape[1], settings, draws)  # (S, S, 2)
    if draws.happens(settings.drop):
        clip = _drop(clip, settings.drop_share, draws)
    offsets = None
    if draws.happens(settings.jitter):
        offsets = _draw_offsets(len(clip), settings.jitter_px * draws.share(), draws)
    if grid is not None or offsets is not None:
        clip = _resample(clip, grid, offsets)
    has_levels = settings.brightness or settings.gamma or settings.blur or settings.noise
    if has_levels and draws.happens(settings.levels):
        clip = _change_levels(clip, settings, draws)
    if draws.happens(settings.appearance):
        seed = draws.choose(2**62)
        clip = torch.from_numpy(appearance.change(clip.numpy(), np.random.default_rng(seed)))
    return clip


def _draw_grid(size: int, settings: AugmentSettings, draws: _Draws) -> Tensor | None:
    """Draw the sampling grid: the position in the original of each pixel of the result.

    Returns
    -------
    Tensor or None
        float32 (S, S, 2), column before row, with the image's outer edges at -1 and 1, as
        `grid_sample` takes it; None if no pixel moves.
    """
    angle, scale, shift = 0.0, 1.0, torch.zeros(2)
    kept, centre, warp = torch.ones(2), torch.zeros(2), None
    if draws.happens(settings.tilt):
        angle = math.radians(draws.symmetric(settings.tilt_degrees))
    if draws.happens(settings.rescale):
        scale = 1 + draws.symmetric(settings.rescale_share)
    if draws.happens(settings.shift):
        # the image is 2 wide in grid units
        shift = torch.tensor([draws.symmetric(2 * settings.shift_share) for _ in range(2)])
    if draws.happens(settings.crop):
        cut = [settings.crop_share * draws.share() for _ in range(2)]
        kept = 1 - torch.tensor(cut)
        centre = torch.tensor([draws.symmetric(share) for share in cut])
    if draws.happens(settings.elastic):
        warp = _draw_warp(size, settings.elastic_px * draws.share(), draws)
    is_identity = angle == 0 and scale == 1 and not shift.any() and bool((kept == 1).all())
    if is_identity and warp is None:
        return None
    # The grid maps the result back to the original, so the crop, which is applied last, is undone
    # first. It crops some of the black that the other changes bring in.
    grid = _identity_grid(size) * kept + centre
    if warp is not None:
        grid = grid + warp
    cosine, sine = math.cos(angle) / scale, math.sin(angle) / scale
    return (grid - shift) @ torch.tensor([[cosine, -sine], [sine, cosine]])


def _identity_grid(size: int) -> Tensor:
    """Return the positions of the pixel centres: float32 (S, S, 2), column first, in (-1, 1)."""
    centres = (2 * torch.arange(size) + 1) / size - 1
    return torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1)


def _draw_warp(size: int, deviation_px: float, draws: _Draws) -> Tensor:
    """Draw smooth random displacements: float32 (S, S, 2) in grid units."""
    pixels = torch.arange(size)
    distance = (pixels[:, None] - pixels) / (size * ELASTIC_SMOOTH_SHARE)  # (S, S)
    smooth = torch.exp(-0.5 * distance**2)
    # Rows of unit length preserve the variance of the noise, at the borders as well.
    smooth = F.normalize(smooth, dim=1)
    warp = smooth @ draws.normal(2, size, size) @ smooth.T  # (2, S, S)
    return warp.permute(1, 2, 0) * (deviation_px * 2 / size)


def _draw_offsets(frames: int, most_px: float, draws: _Draws) -> Tensor:
    """Draw the displacement of each frame: float32 (T, 2), px, uniform in both directions."""
    return most_px * (2 * torch.rand((frames, 2), generator=draws.generator) - 1)


def _drop(clip: Tensor, most_share: float, draws: _Draws) -> Tensor:
    """Drop at least one frame, unless the share or the minimum number of frames forbids it."""
    frames = len(clip)
    most = min(math.floor(intervals.portion(most_share, frames)), frames - FEWEST_FRAMES)
    if most < 1:
        return clip
    kept = frames - 1 - draws.choose(most)
    order = torch.randperm(frames, generator=draws.generator)
    return clip[order[:kept].sort().values]


def _resample(clip: Tensor, grid: Tensor | None, offsets: Tensor | None) -> Tensor:
    """Interpolate a clip, uint8 (T, S, S, C), at the positions of a grid.

    `grid` is as `_draw_grid` returns it. `offsets`, float32 (T, 2) in px, column before row, move
    each frame by its own displacement but leave its mask in place.
    """
    image, mask = _split(clip)
    size = clip.shape[1]
    grids = (_identity_grid(size) if grid is None else grid)[None]  # (1, S, S, 2)
    if offsets is not None:
        # in pixels of the original, as if the recording had been registered badly: (T, S, S, 2)
        grids = grids - (offsets * (2 / size))[:, None, None]
    # What is outside, and so black, is decided without the offsets: a jittered frame repeats its
    # edge, because the real recording continues there.
    inside = None if grid is None else (grid.abs().amax(-1) <= 1).float()  # (S, S)
    grids = grids.expand(len(clip), -1, -1, -1)  # (T, S, S, 2)
    blocks = [slice(start, start + BLOCK_FRAMES) for start in range(0, len(clip), BLOCK_FRAMES)]
    moved = torch.cat([_interpolate(image[block], grids[block], inside) for block in blocks])
    if mask is None or grid is None:
        return _join(moved, mask)
    # All frames share the grid, so sample them as the channels of one image: (1, T, S, S).
    frames = F.grid_sample(
        mask[None, ..., 0].float(), grid[None], mode="nearest", align_corners=False
    )
    return _join(moved, frames[0, ..., None].to(torch.uint8))


def _interpolate(image: Tensor, grids: Tensor, inside: Tensor | None) -> Tensor:
    """Interpolate frames, uint8 (T, S, S, C), at (T, S, S, 2); black where `inside` is 0."""
    sampled = F.grid_sample(  # (T, C, S, S)
        image.permute(0, 3, 1, 2).float(), grids, padding_mode="border", align_corners=False
    )
    if inside is not None:
        sampled *= inside
    return sampled.add_(0.5).to(torch.uint8).permute(0, 2, 3, 1)


def _change_levels(clip: Tensor, settings: AugmentSettings, draws: _Draws) -> Tensor:
    """Apply blur, brightness, gamma and noise, in the order in which a microscope adds them."""
    brightness = draws.symmetric(1) if settings.brightness else 0.0
    deviation_px = settings.blur * draws.share() if settings.blur else 0.0
    power = (1 + settings.gamma) ** draws.symmetric(1)
    deviation = settings.noise * draws.share()
    image, mask = _split(clip)
    values = np.ascontiguousarray(image.numpy())
    if deviation_px > 0:
        values = _blur(values, deviation_px)
    gain = (1 + settings.brightness) ** brightness
    table = ((gain * np.arange(256) / 255) ** power * 255).astype(np.float32)  # (256,)
    # cv2.LUT takes two axes, here (T, S * S * C), and needs a third of numpy's time at 112 px.
    levels = torch.from_numpy(cv2.LUT(values.reshape(-1, values[0].size), table))
    levels = levels.view(image.shape)
    if deviation > 0:
        # Recordings are grey: red, green and blue get the same noise, (T, S, S, 1).
        noise = draws.normal(*levels.shape[:-1], 1)
        levels += noise.mul_(255 * deviation)
    # Clip last: pixels far above the range stay white whatever the noise.
    return _join(levels.clamp_(0, 255).add_(0.5).to(torch.uint8), mask)


def _blur(values: NDArray[np.uint8], deviation_px: float) -> NDArray[np.uint8]:
    """Blur each frame of uint8 (T, S, S, C) with a Gaussian."""
    # OpenCV, because torchvision's blur takes 18 to 30 times as long on 56 frames of 112 x 112 x 3.
    blurred = np.empty_like(values)
    for source, target in zip(values, blurred, strict=True):
        cv2.GaussianBlur(source, (0, 0), deviation_px, dst=target)
    return blurred


def _split(clip: Tensor) -> tuple[Tensor, Tensor | None]:
    """Split a clip into image and mask; the mask is the second of two channels."""
    return (clip[..., :1], clip[..., 1:]) if clip.shape[-1] == 2 else (clip, None)


def _join(image: Tensor, mask: Tensor | None) -> Tensor:
    return image.contiguous() if mask is None else torch.cat([image, mask], dim=-1)
