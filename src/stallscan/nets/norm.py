"""Normalisation of each video by its own statistics, as in the third-place approach."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stallscan.errors import InputError


class VideoNorm3d(nn.BatchNorm3d):
    """BatchNorm that always uses the statistics of each single video.

    Parameter names are those of BatchNorm, so its state dicts load; the running statistics are
    carried along but never used. A batch of N gives the same result as N batches of 1, which is
    what BatchNorm in training mode computes for a batch of 1.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, T, H, W) over T, H, W, then apply the learned scale and shift."""
        return _normalised(input, self)


class VideoNorm2d(nn.BatchNorm2d):
    """The same for a net that sees one image per video."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, H, W) over H, W, then apply the learned scale and shift."""
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
            "the clips are so small that a layer of the net has one value left to normalise. Raise "
            "clip.size, or set net.normalisation to running"
        )
    return F.instance_norm(maps, weight=norm.weight, bias=norm.bias, eps=norm.eps)


def _normalised_in_steps(maps: Tensor, norm: nn.BatchNorm2d | nn.BatchNorm3d) -> Tensor:
    """Compute the same as `_normalised`, summing within each frame (or row) first."""
    inner = tuple(range(3, maps.dim()))  # H and W of a video, W of an image

    def mean(values: Tensor) -> Tensor:
        # A mean, then a sum divided by the count: OpenVINO would fuse two consecutive means.
        return values.mean(inner, keepdim=True).sum(2, keepdim=True) / values.shape[2]

    centred = maps - mean(maps)
    # (C,) -> (C, 1, 1, 1) or (C, 1, 1), to broadcast over (N, C, ...)
    scale, shift = (values.view(-1, 1, *[1] * len(inner)) for values in (norm.weight, norm.bias))
    return centred * (torch.rsqrt(mean(centred * centred) + norm.eps) * scale) + shift


def with_video_norm(net: nn.Module) -> nn.Module:
    """Replace every BatchNorm of a net by `VideoNorm3d` or `VideoNorm2d`, keeping its weights."""
    for module in net.modules():
        if type(module) is nn.BatchNorm3d:
            module.__class__ = VideoNorm3d
        elif type(module) is nn.BatchNorm2d:
            module.__class__ = VideoNorm2d
    return net


def with_stepped_norm(net: nn.Module) -> nn.Module:
    """Return a copy whose video norms stay accurate in runtimes with plain float32 sums.

    Such runtimes add up a whole video in float32, one value after the other, which costs three
    digits over 100,000 values. With OpenVINO's own normalisation the logits of the shipped bundle
    differ from torch's by up to 3e-4 of max(1, |logit|), with this one by 6e-6 (on simulated
    recordings).
    """
    net = copy.deepcopy(net)
    for module in net.modules():
        if type(module) is VideoNorm3d:
            module.__class__ = _SteppedNorm3d
        elif type(module) is VideoNorm2d:
            module.__class__ = _SteppedNorm2d
    return net
