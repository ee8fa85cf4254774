"""Augmentation of clips in training: one draw for all frames of a clip."""

import torch
from torch import Tensor

from stallscan.recipe import AugmentSettings


def apply(clip: Tensor, settings: AugmentSettings, generator: torch.Generator) -> Tensor:
    """Change a clip at random.

    Parameters
    ----------
    clip : Tensor
        uint8 (T, S, S, C); with 2 channels the second is a mask and keeps its values.
    settings : AugmentSettings
        The chances.
    generator : torch.Generator
        All draws come from it.

    Returns
    -------
    Tensor
        uint8 (T, S, S, C).
    """

    def draw() -> float:
        return float(torch.rand((), generator=generator))

    def choose(count: int) -> int:
        return int(torch.randint(count, (), generator=generator))

    if draw() < settings.rotate:
        clip = torch.rot90(clip, 1 + choose(3), dims=(1, 2))
    if draw() < settings.flip:
        clip = torch.flip(clip, dims=((1,), (2,), (1, 2))[choose(3)])
    if draw() < settings.reverse:
        clip = torch.flip(clip, dims=(0,))
    if settings.gamma or settings.noise:
        clip = _change_levels(clip, settings, generator)
    return clip


def _change_levels(clip: Tensor, settings: AugmentSettings, generator: torch.Generator) -> Tensor:
    picture = clip[..., :1] if clip.shape[-1] == 2 else clip
    strength = 2 * torch.rand((), generator=generator) - 1
    power = (1 + settings.gamma) ** strength
    deviation = settings.noise * torch.rand((), generator=generator)
    levels = (picture.float() / 255) ** power
    levels = levels + deviation * torch.randn(levels.shape, generator=generator)
    changed = (levels * 255).round().clamp(0, 255).to(torch.uint8)
    return torch.cat([changed, clip[..., 1:]], dim=-1) if clip.shape[-1] == 2 else changed
