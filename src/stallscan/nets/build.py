"""The nets: clips in, one logit each out (positive speaks for stalled).

`NETS` names them. All take float32 (N, C, T, S, S) and give float32 (N,).
"""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import ResNet
from torchvision.models import video as torchvision_video
from torchvision.models.resnet import BasicBlock

from stallscan.errors import InputError
from stallscan.nets import padding
from stallscan.nets.settings import NetSettings


class VideoNorm3d(padding.MaskedBatchNorm3d):
    """BatchNorm with the statistics of each video by itself, always.

    Parameters have BatchNorm's names, so its state dicts load; the running statistics are kept
    with them but never used. A batch of N gives the same as N batches of 1, which in turn is what
    BatchNorm in training mode gives.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, T, H, W) over T, H, W; affine as trained."""
        return padding.by_clip(input, lambda maps: _normalised(maps, self))


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


def build(settings: NetSettings) -> nn.Module:
    """Make a net with random weights from torch's global generator.

    Raises
    ------
    InputError
        If the net does not take as many channels as the settings have means.
    """
    net = NETS[settings.name](len(settings.mean))
    return with_video_norm(net) if settings.normalisation == "per-video" else net


def with_video_norm(net: nn.Module) -> nn.Module:
    """Turn every BatchNorm of a net into `VideoNorm3d` or `VideoNorm2d`, keeping its weights."""
    for module in net.modules():
        if type(module) in (nn.BatchNorm3d, padding.MaskedBatchNorm3d):
            module.__class__ = VideoNorm3d
        elif type(module) is nn.BatchNorm2d:
            module.__class__ = VideoNorm2d
    return net


def with_stepped_norm(net: nn.Module) -> nn.Module:
    """Copy a net for runtimes that add up a whole video in float32, one value after the other.

    Over 100,000 values that costs three digits: OpenVINO's normalisation puts logits of the shipped
    bundle up to 3e-4 off, this one 6e-6 (of max(1, |logit|), on simulated recordings). The copy is
    for clips that are not padded, and normalises as `VideoNorm3d` and `VideoNorm2d` do.
    """
    net = copy.deepcopy(net)
    for module in net.modules():
        if type(module) is VideoNorm3d:
            module.__class__ = _SteppedNorm3d
        elif type(module) is VideoNorm2d:
            module.__class__ = _SteppedNorm2d
    return net


def forward(net: nn.Module, clips: Tensor, frames: Tensor | None = None) -> Tensor:
    """Give the logits of clips that may be padded at their end.

    Parameters
    ----------
    net : Module
        From `build`.
    clips : Tensor
        float32 (N, C, T, S, S).
    frames : Tensor or None
        int64 (N,), frames of each clip that are its own, 1..T; None where none is padded.

    Returns
    -------
    Tensor
        float32 (N,): for each clip what it gets alone and not padded. Only BatchNorm in training
        mode sees the whole batch, of which it leaves out the padding.
    """
    if frames is None or padding.is_prepared(net) or isinstance(net, QuartersResNet18):
        with padding.padded(frames, clips.shape[2]):
            logits: Tensor = net(clips)
        return logits
    alone = [net(clip[None, :, :count]) for clip, count in zip(clips, frames.tolist(), strict=True)]
    return torch.cat(alone)


def score(net: nn.Module, clips: Tensor, settings: NetSettings) -> Tensor:
    """Give the logits that predictions are made from, in as many views as the settings say.

    Parameters
    ----------
    net : Module
        From `build`, in evaluation mode.
    clips : Tensor
        float32 (N, C, T, S, S).
    settings : NetSettings
        With ``views: flips`` the mean over all eight flips of rows, columns and time.

    Returns
    -------
    Tensor
        float32 (N,).
    """
    if settings.views == "one":
        return forward(net, clips)
    flips = [[axis for bit, axis in enumerate((2, 3, 4)) if view >> bit & 1] for view in range(8)]
    return torch.stack([forward(net, clips.flip(axes)) for axes in flips]).mean(dim=0)


class StallNet(nn.Module):
    """Our small net, which looks whether what is dark in the vessel stays where it is.

    Four blocks of a spatial and a temporal convolution. It sees the grey clip (its levels made
    comparable), its first and second difference in time, and the mask. What it finds is pooled
    inside the mask: a segment is in focus in a few frames only, so the maximum over time counts
    beside the mean.

    Parameters
    ----------
    channels : int
        2: grey and mask, as `clip` makes them with ``grey+mask``.
    """

    # (width, spatial kernel, spatial stride). Rows and columns are halved at once, before the
    # many channels: at full size the memory traffic costs more than all the arithmetic.
    BLOCKS: tuple[tuple[int, int, int], ...] = ((16, 5, 2), (32, 3, 2), (48, 3, 1), (64, 3, 2))

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels != 2:
            raise InputError(
                f"the net stallnet takes 2 channels (grey, mask), the settings have {channels}; "
                "set clip.channels to grey+mask and net.mean and net.std to two values each"
            )
        before, blocks = 4, []
        for width, kernel, stride in self.BLOCKS:
            blocks.append(_Block(before, width, kernel, stride))
            before = width
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(3 * before, 1)

    def forward(self, clips: Tensor) -> Tensor:
        """Give the logits (N,) of clips (N, 2, T, S, S)."""
        grey, mask = clips[:, :1], clips[:, 1:]
        grey = _standardised(grey, mask[:, :, :1])
        change = padding.by_clip(grey, _change)
        # Going in and out of focus is smooth in time; blood that moves is not.
        flicker = F.pad(change[:, :, 1:] - change[:, :, :-1], (0, 0, 0, 0, 1, 0))
        features = self.blocks(torch.cat([grey, change, flicker, mask], dim=1))
        # The mask is the same in all frames: one is enough to weigh the pixels with.
        weight = F.adaptive_avg_pool2d(mask[:, :, 0].clamp(min=0), features.shape[-2:])
        weight = weight / weight.sum(dim=(-2, -1), keepdim=True).clamp(min=1e-6)
        inside = (features * weight[:, :, None]).sum(dim=(-2, -1))
        peak = features.amax(dim=(-2, -1))
        pooled = [
            padding.mean_over_time(inside),
            padding.max_over_time(inside),
            padding.mean_over_time(peak),
        ]
        logits: Tensor = self.fc(self.dropout(torch.cat(pooled, dim=1))).squeeze(1)
        return logits


def _standardised(grey: Tensor, mask: Tensor) -> Tensor:
    """Bring the grey levels inside the mask to mean 0 and variance 1 over a whole clip.

    How bright a recording is depends on laser and detector, and says nothing about flow.

    Parameters
    ----------
    grey : Tensor
        (N, 1, T, S, S).
    mask : Tensor
        (N, 1, 1, S, S), 0..1.
    """
    frames = padding.counts(grey.shape[2])
    if frames is None:
        weight = mask / (mask.sum(dim=(-2, -1), keepdim=True) * grey.shape[2]).clamp(min=1e-6)
    else:
        count = torch.tensor(frames, device=grey.device)[:, None, None, None, None]
        weight = mask / (mask.sum(dim=(-2, -1), keepdim=True) * count).clamp(min=1e-6)
        weight = padding.fill(weight.expand_as(grey))
    mean = (grey * weight).sum(dim=(-3, -2, -1), keepdim=True)
    variance = ((grey - mean) ** 2 * weight).sum(dim=(-3, -2, -1), keepdim=True)
    return (grey - mean) * torch.rsqrt(variance + 1e-4)


def _change(grey: Tensor) -> Tensor:
    """Difference to the next frame, 0 at the last one; (N, 1, T, S, S)."""
    return F.pad(grey[:, :, 1:] - grey[:, :, :-1], (0, 0, 0, 0, 0, 1))


class _Block(nn.Sequential):
    def __init__(self, before: int, width: int, kernel: int, stride: int) -> None:
        super().__init__(
            nn.Conv3d(
                before,
                width,
                (1, kernel, kernel),
                stride=(1, stride, stride),
                padding=(0, kernel // 2, kernel // 2),
                bias=False,
            ),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
            nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0), bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
        )


class QuartersResNet18(ResNet):  # type: ignore[misc]
    """ResNet-18 on one picture: the means over the four quarters of a clip in time.

    They stand two by two, the first two above: four tiles of 112 px fill the 224 px that the net
    is made for (MATLAB prize, FACTS 3; its published code has a dropout of 0.1 before the last
    layer, too). Quarters are as equal as possible, earlier ones have a frame more.

    Parameters
    ----------
    channels : int
        3, or 1, which is repeated.
    """

    def __init__(self, channels: int) -> None:
        if channels not in (1, 3):
            raise InputError(
                f"the net quarters_resnet18 takes 1 or 3 channels, the settings have {channels}; "
                "set clip.channels to rgb, bgr or grey and net.mean and net.std to as many values"
            )
        super().__init__(BasicBlock, [2, 2, 2, 2])
        self.fc = nn.Sequential(nn.Dropout(0.1), nn.Linear(512, 1))

    def forward(self, clips: Tensor) -> Tensor:
        """Give the logits (N,) of clips (N, 1 or 3, T, S, S)."""
        frames = padding.counts(clips.shape[2])
        if frames is None:
            pictures = _quarters(clips)
        else:
            pictures = torch.cat(
                [
                    _quarters(clip[None, :, :count])
                    for clip, count in zip(clips, frames, strict=True)
                ]
            )
        logits: Tensor = super().forward(pictures.expand(-1, 3, -1, -1)).squeeze(1)
        return logits

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move or convert; the fast layout of videos is for pictures the one without time."""
        if kwargs.get("memory_format") is torch.channels_last_3d:
            kwargs["memory_format"] = torch.channels_last
        return super().to(*args, **kwargs)


def _quarters(clips: Tensor) -> Tensor:
    """Means over four quarters in time, two by two: (N, C, T, S, S) to (N, C, 2 S, 2 S)."""
    if clips.shape[2] < 4:
        raise InputError(
            f"the net quarters_resnet18 needs 4 frames, and a clip has {clips.shape[2]}; leave out "
            "such short recordings"
        )
    # As tensor_split does it, but in arithmetic that a tracer can follow: the last term is
    # min(q, rest) without a comparison.
    each, rest = clips.shape[2] // 4, clips.shape[2] % 4
    bounds = [q * each + (q + rest - abs(q - rest)) // 2 for q in range(5)]
    a, b, c, d = (clips[:, :, i:j].mean(dim=2) for i, j in itertools.pairwise(bounds))
    return torch.cat([torch.cat([a, b], dim=3), torch.cat([c, d], dim=3)], dim=2)


def _stallnet(channels: int) -> nn.Module:
    return padding.prepare(StallNet(channels))


def _features(channels: int) -> nn.Module:
    from stallscan.nets.features import FeatureNet

    net: nn.Module = FeatureNet(channels)
    return net


def _torchvision(make: Callable[..., Any]) -> Callable[[int], nn.Module]:
    def build_net(channels: int) -> nn.Module:
        if channels not in (2, 3):
            raise InputError(
                f"torchvision's video nets take 3 channels, or 2 (grey and mask), the settings "
                f"have {channels}; set clip.channels to rgb, bgr or grey+mask and net.mean and "
                "net.std to as many values"
            )
        net: nn.Module = make(weights=None)
        net.fc = nn.Linear(512, 1)
        if channels == 2:
            net.register_forward_pre_hook(_put_change_between)
        net.register_forward_hook(_one_logit)
        return padding.prepare(net)

    return build_net


# Rows and columns that DenseNet-121 halves five times, rounding up twice, to at least one.
DENSENET_SMALLEST_PX = 29


def _densenet121_3d(channels: int) -> nn.Module:
    """DenseNet-121 in 3-D with the head of the first place (FACTS 3)."""
    # MONAI takes seconds to import, and only two nets need it.
    from monai.networks.nets.densenet import DenseNet121

    net: nn.Module = DenseNet121(spatial_dims=3, in_channels=channels, out_channels=1)
    for number in (1, 2, 3):
        # A clip of less than 29 frames has one left before the last of these.
        net.get_submodule(f"features.transition{number}").add_module("pool", padding.Halve())
    head = nn.Sequential(nn.Linear(1024, 512), nn.Sigmoid(), nn.Dropout(0.5), nn.Linear(512, 1))
    net.get_submodule("class_layers").add_module("out", head)
    net.register_forward_pre_hook(_refuse_small)
    net.register_forward_hook(_one_logit)
    return padding.prepare(net)


def _resnet101_3d(channels: int) -> nn.Module:
    """ResNet-101 in 3-D as the second place had it (FACTS 3).

    Its published code halves rows and columns in the first layer, not time, and has no bias in the
    shortcuts; MONAI's defaults differ.
    """
    from monai.networks.nets.resnet import resnet101

    net: nn.Module = resnet101(
        spatial_dims=3,
        n_input_channels=channels,
        num_classes=1,
        conv1_t_stride=(1, 2, 2),
        bias_downsample=False,
    )
    net.register_forward_hook(_one_logit)
    return padding.prepare(net)


# Functions by name, not lambdas: a net must be picklable.
def _one_logit(_net: nn.Module, _inputs: Any, logits: Tensor) -> Tensor:
    return logits.squeeze(1)


def _put_change_between(_net: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
    """Make (N, 3, T, S, S) of grey and mask: grey, its difference to the next frame, mask."""
    grey, mask = inputs[0][:, :1], inputs[0][:, 1:]
    return (torch.cat([grey, padding.by_clip(grey, _change), mask], dim=1),)


def _refuse_small(_net: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    size = min(inputs[0].shape[-2:])
    if size < DENSENET_SMALLEST_PX:
        raise InputError(
            f"the net densenet121_3d needs clips of at least {DENSENET_SMALLEST_PX} px, not "
            f"{size}; raise clip.size"
        )


NETS: dict[str, Callable[[int], nn.Module]] = {
    "stallnet": _stallnet,
    "features": _features,
    "r3d_18": _torchvision(torchvision_video.r3d_18),
    "mc3_18": _torchvision(torchvision_video.mc3_18),
    "r2plus1d_18": _torchvision(torchvision_video.r2plus1d_18),
    "densenet121_3d": _densenet121_3d,
    "resnet101_3d": _resnet101_3d,
    "quarters_resnet18": QuartersResNet18,
}
