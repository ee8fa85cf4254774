"""Augmentation of clips in training: one draw for all frames, except in jitter and noise."""

import math

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from stallscan.recipes.settings import AugmentSettings
from stallscan.scores import intervals

# `drop` leaves at least this many frames: about as long as a segment in the plane is in focus
# (docs/facts.md 5).
FEWEST_FRAMES = 8
# The warp is noise smoothed by a Gaussian of this share of the clip's size. Chosen so that the
# default 2 px turn the parts of a clip of 64 px by 10 degrees (standard deviation; 5 at 112 px) and
# fold none of it (measured on 300 warps).
ELASTIC_SMOOTH_SHARE = 1 / 8
# Frames that are moved at a time: their floats stay in the processor's cache, which halves the time
# at 112 px (measured: 4, 8 and 16 frames do equally well).
BLOCK_FRAMES = 8


class _Draws:
    """Random numbers, all from one generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def share(self) -> float:
        """Draw from [0, 1)."""
        return float(torch.rand((), generator=self.generator))

    def either_way(self, most: float) -> float:
        """Draw evenly from [-most, most)."""
        return most * (2 * self.share() - 1)

    def choose(self, count: int) -> int:
        """Draw one of 0 .. count - 1."""
        return int(torch.randint(count, (), generator=self.generator))

    def happens(self, chance: float) -> bool:
        """Draw whether; what is certain or impossible takes no draw and so moves no later one."""
        return chance >= 1 or (chance > 0 and self.share() < chance)

    def normal(self, *shape: int) -> Tensor:
        """Draw float32 values with mean 0 and standard deviation 1."""
        return torch.randn(shape, generator=self.generator)


def apply(clip: Tensor, settings: AugmentSettings, generator: torch.Generator) -> Tensor:
    """Change a clip at random.

    The order is rotate, flip, reverse, drop, the changes of place (tilt, rescale, shift, elastic,
    crop, jitter: joined, so that the picture is interpolated once only), blur, brightness, gamma,
    noise.

    Parameters
    ----------
    clip : Tensor
        uint8 (T, S, S, C), 0..255; with 2 channels the second is a mask of 0 and 255. It is left
        as it is.
    settings : AugmentSettings
        The chances and strengths.
    generator : torch.Generator
        All draws come from it.

    Returns
    -------
    Tensor
        uint8 (T, S, S, C), 0..255. With `drop` T may be smaller, but not below 8 frames. A mask
        keeps its values, is moved with the picture, and stands still in jitter, as the outlines of
        real recordings do. What comes from outside the picture is black.
    """
    draws = _Draws(generator)
    if draws.share() < settings.rotate:
        clip = torch.rot90(clip, 1 + draws.choose(3), dims=(1, 2))
    if draws.share() < settings.flip:
        clip = torch.flip(clip, dims=((1,), (2,), (1, 2))[draws.choose(3)])
    if draws.share() < settings.reverse:
        clip = torch.flip(clip, dims=(0,))
    places = _draw_places(clip.shape[1], settings, draws)
    if draws.happens(settings.drop):
        clip = _drop(clip, settings.drop_share, draws)
    offsets = None
    if draws.happens(settings.jitter):
        offsets = _draw_offsets(len(clip), settings.jitter_px * draws.share(), draws)
    if places is not None or offsets is not None:
        clip = _move(clip, places, offsets)
    has_levels = settings.brightness or settings.gamma or settings.blur or settings.noise
    if has_levels and draws.happens(settings.levels):
        clip = _change_levels(clip, settings, draws)
    return clip


def _draw_places(size: int, settings: AugmentSettings, draws: _Draws) -> Tensor | None:
    """Draw from where each pixel of the changed picture is taken.

    Returns
    -------
    Tensor or None
        float32 (S, S, 2), column before row, -1 and 1 being the picture's outer edges, as
        `grid_sample` wants it; None if every pixel stays in its place.
    """
    angle, scale, shift = 0.0, 1.0, torch.zeros(2)
    part, middle, warp = torch.ones(2), torch.zeros(2), None
    if draws.happens(settings.tilt):
        angle = math.radians(draws.either_way(settings.tilt_degrees))
    if draws.happens(settings.rescale):
        scale = 1 + draws.either_way(settings.rescale_share)
    if draws.happens(settings.shift):
        # the picture is 2 wide in these units
        shift = torch.tensor([draws.either_way(2 * settings.shift_share) for _ in range(2)])
    if draws.happens(settings.crop):
        cut = [settings.crop_share * draws.share() for _ in range(2)]
        part = 1 - torch.tensor(cut)
        middle = torch.tensor([draws.either_way(share) for share in cut])
    if draws.happens(settings.elastic):
        warp = _draw_warp(size, settings.elastic_px * draws.share(), draws)
    stays = angle == 0 and scale == 1 and not shift.any() and bool((part == 1).all())
    if stays and warp is None:
        return None
    # From the changed picture back to the original: the crop came last and so goes first. It takes
    # away some of the black that the others bring in.
    places = _identity(size) * part + middle
    if warp is not None:
        places = places + warp
    cosine, sine = math.cos(angle) / scale, math.sin(angle) / scale
    return (places - shift) @ torch.tensor([[cosine, -sine], [sine, cosine]])


def _identity(size: int) -> Tensor:
    """Give the place of each pixel's middle: float32 (S, S, 2), column before row, in (-1, 1)."""
    middles = (2 * torch.arange(size) + 1) / size - 1
    return torch.stack(torch.meshgrid(middles, middles, indexing="xy"), dim=-1)


def _draw_warp(size: int, deviation_px: float, draws: _Draws) -> Tensor:
    """Draw smooth random displacements: float32 (S, S, 2) in the units of the places."""
    pixels = torch.arange(size)
    distance = (pixels[:, None] - pixels) / (size * ELASTIC_SMOOTH_SHARE)
    smooth = torch.exp(-0.5 * distance**2)
    # Rows of unit length keep the noise's variance, at the borders as well.
    smooth = F.normalize(smooth, dim=1)
    warp = smooth @ draws.normal(2, size, size) @ smooth.T
    return warp.permute(1, 2, 0) * (deviation_px * 2 / size)


def _draw_offsets(frames: int, most_px: float, draws: _Draws) -> Tensor:
    """Draw how far each frame moves by itself: float32 (T, 2), px, even in both directions."""
    return most_px * (2 * torch.rand((frames, 2), generator=draws.generator) - 1)


def _drop(clip: Tensor, most_share: float, draws: _Draws) -> Tensor:
    """Leave out at least one frame, if the share and the fewest frames allow one."""
    frames = len(clip)
    most = min(math.floor(intervals.portion(most_share, frames)), frames - FEWEST_FRAMES)
    if most < 1:
        return clip
    kept = frames - 1 - draws.choose(most)
    order = torch.randperm(frames, generator=draws.generator)
    return clip[order[:kept].sort().values]


def _move(clip: Tensor, places: Tensor | None, offsets: Tensor | None) -> Tensor:
    """Take each pixel from its place.

    Parameters
    ----------
    clip : Tensor
        uint8 (T, S, S, C).
    places : Tensor or None
        float32 (S, S, 2) as `_draw_places` gives them.
    offsets : Tensor or None
        float32 (T, 2), px, columns before rows: how far each frame moves by itself, its mask not.
    """
    picture, mask = _split(clip)
    size = clip.shape[1]
    shared = _identity(size) if places is None else places
    each = shared[None]
    if offsets is not None:
        # in pixels of the original, as if the recording had been registered badly
        each = each - (offsets * (2 / size))[:, None, None]
    # Black is decided without the offsets: a jittered frame repeats its edge, because the recording
    # goes on there.
    seen = None if places is None else (places.abs().amax(-1) <= 1).float()
    each = each.expand(len(clip), -1, -1, -1)
    blocks = [slice(at, at + BLOCK_FRAMES) for at in range(0, len(clip), BLOCK_FRAMES)]
    moved = torch.cat([_sample(picture[block], each[block], seen) for block in blocks])
    if mask is None or places is None:
        return _join(moved, mask)
    # All frames as channels of one image: they share their places.
    frames = F.grid_sample(
        mask[None, ..., 0].float(), places[None], mode="nearest", align_corners=False
    )
    return _join(moved, frames[0, ..., None].to(torch.uint8))


def _sample(picture: Tensor, places: Tensor, seen: Tensor | None) -> Tensor:
    """Interpolate frames, uint8 (T, S, S, C), at their places, (T, S, S, 2); `seen` is 0 or 1."""
    sampled = F.grid_sample(
        picture.permute(0, 3, 1, 2).float(), places, padding_mode="border", align_corners=False
    )
    if seen is not None:
        sampled *= seen
    return sampled.add_(0.5).to(torch.uint8).permute(0, 2, 3, 1)


def _change_levels(clip: Tensor, settings: AugmentSettings, draws: _Draws) -> Tensor:
    """Blur, then brightness, gamma and noise: the order in which a microscope brings them in."""
    brightness = draws.either_way(1) if settings.brightness else 0.0
    deviation_px = settings.blur * draws.share() if settings.blur else 0.0
    power = (1 + settings.gamma) ** draws.either_way(1)
    deviation = settings.noise * draws.share()
    picture, mask = _split(clip)
    values = np.ascontiguousarray(picture.numpy())
    if deviation_px > 0:
        values = _blur(values, deviation_px)
    gain = (1 + settings.brightness) ** brightness
    table = ((gain * np.arange(256) / 255) ** power * 255).astype(np.float32)
    # OpenCV wants two axes, and looks up a clip of 112 px in a third of numpy's time.
    levels = torch.from_numpy(cv2.LUT(values.reshape(-1, values[0].size), table))
    levels = levels.view(picture.shape)
    if deviation > 0:
        # Recordings are grey: red, green and blue hold the same noise.
        noise = draws.normal(*levels.shape[:-1], 1)
        levels += noise.mul_(255 * deviation)
    # Saturation comes last: what is far too bright is white, whatever the noise.
    return _join(levels.clamp_(0, 255).add_(0.5).to(torch.uint8), mask)


def _blur(values: NDArray[np.uint8], deviation_px: float) -> NDArray[np.uint8]:
    """Blur every frame of uint8 (T, S, S, C) by a Gaussian."""
    # OpenCV: torchvision's blur of 56 frames of 112 x 112 x 3 takes 18 to 30 times as long.
    blurred = np.empty_like(values)
    for source, target in zip(values, blurred, strict=True):
        cv2.GaussianBlur(source, (0, 0), deviation_px, dst=target)
    return blurred


def _split(clip: Tensor) -> tuple[Tensor, Tensor | None]:
    """Part the picture from the mask, which is the second of two channels."""
    return (clip[..., :1], clip[..., 1:]) if clip.shape[-1] == 2 else (clip, None)


def _join(picture: Tensor, mask: Tensor | None) -> Tensor:
    return picture.contiguous() if mask is None else torch.cat([picture, mask], dim=-1)
