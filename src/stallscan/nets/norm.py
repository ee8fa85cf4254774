"""Normalisation of each video by its own statistics, as the third place had it."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stallscan.errors import InputError


class VideoNorm3d(nn.BatchNorm3d):
    """BatchNorm with the statistics of each video by itself, always.

    Parameters have BatchNorm's names, so its state dicts load; the running statistics are kept
    with them but never used. A batch of N gives the same as N batches of 1, which in turn is what
    BatchNorm in training mode gives.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, T, H, W) over T, H, W; affine as trained."""
        return _normalised(input, self)


class VideoNorm2d(nn.BatchNorm2d):
    """The same for a net that sees one picture of each video."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, H, W) over H, W; affine as trained."""
        return _normalised(input, self)


class _SteppedNorm3d(VideoNorm3d):
    def forward(self, input: Tensor) -> Tensor:
        return _normalised_in_steps(input, self)


class _SteppedNorm2d(VideoNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return _normalised_in_steps(input, self)


def _normalised(maps: Tensor, norm: nn.BatchNorm2d | nn.BatchNorm3d) -> Tensor:
    if maps[0, 0].numel() == 1:
        raise InputError(
            "the clips are so small that the net has one value left to normalise; raise clip.size "
            "or set net.normalisation to running"
        )
    return F.instance_norm(maps, weight=norm.weight, bias=norm.bias, eps=norm.eps)


def _normalised_in_steps(maps: Tensor, norm: nn.BatchNorm2d | nn.BatchNorm3d) -> Tensor:
    """Do as `_normalised` does, with sums over each frame (or row) first, then over those."""
    inner = tuple(range(3, maps.dim()))

    def mean(values: Tensor) -> Tensor:
        # Not two means in a row: OpenVINO would make one of them again.
        return values.mean(inner, keepdim=True).sum(2, keepdim=True) / values.shape[2]

    centred = maps - mean(maps)
    scale, shift = (values.view(-1, 1, *[1] * len(inner)) for values in (norm.weight, norm.bias))
    return centred * (torch.rsqrt(mean(centred * centred) + norm.eps) * scale) + shift


def with_video_norm(net: nn.Module) -> nn.Module:
    """Turn every BatchNorm of a net into `VideoNorm3d` or `VideoNorm2d`, keeping its weights."""
    for module in net.modules():
        if type(module) is nn.BatchNorm3d:
            module.__class__ = VideoNorm3d
        elif type(module) is nn.BatchNorm2d:
            module.__class__ = VideoNorm2d
    return net


def with_stepped_norm(net: nn.Module) -> nn.Module:
    """Copy a net for runtimes that add up a whole video in float32, one value after the other.

    Over 100,000 values that costs three digits: OpenVINO's normalisation puts logits of the shipped
    bundle up to 3e-4 off, this one 6e-6 (of max(1, |logit|), on simulated recordings). The copy
    normalises as `VideoNorm3d` and `VideoNorm2d` do.
    """
    net = copy.deepcopy(net)
    for module in net.modules():
        if type(module) is VideoNorm3d:
            module.__class__ = _SteppedNorm3d
        elif type(module) is VideoNorm2d:
            module.__class__ = _SteppedNorm2d
    return net
