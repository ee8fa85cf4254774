"""The nets of the published approaches."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock

from stallscan.errors import InputError
from stallscan.nets.stallnet import frame_change


class QuartersResNet18(ResNet):  # type: ignore[misc]
    """ResNet-18 on one image: the time averages of the four quarters of a clip, tiled 2 by 2.

    The first two quarters form the upper row: four tiles of 112 px fill the 224 px that ResNet-18
    is made for (MATLAB prize, docs/facts.md 3). The published code also has a dropout of 0.1 before
    the last layer. If the frames do not divide by four, the earlier quarters have one more.

    Parameters
    ----------
    channels : int
        3, or 1, which is repeated three times.
    """

    def __init__(self, channels: int) -> None:
        if channels not in (1, 3):
            raise InputError(
                f"the net quarters_resnet18 takes 1 or 3 channels, the settings have {channels}. "
                "Set clip.channels to rgb, bgr or grey, and net.mean and net.std to as many values"
            )
        super().__init__(BasicBlock, [2, 2, 2, 2])
        self.fc = nn.Sequential(nn.Dropout(0.1), nn.Linear(512, 1))

    def forward(self, clips: Tensor) -> Tensor:
        """Compute the logits (N,) of clips (N, 1 or 3, T, S, S)."""
        images = _quarters(clips).expand(-1, 3, -1, -1)  # (N, 3, 2 S, 2 S)
        logits: Tensor = super().forward(images).squeeze(1)
        return logits


def _quarters(clips: Tensor) -> Tensor:
    """Average four quarters in time and tile them: (N, C, T, S, S) to (N, C, 2 S, 2 S)."""
    if clips.shape[2] < 4:
        raise InputError(
            f"the net quarters_resnet18 needs 4 frames, and a clip has {clips.shape[2]}. Leave out "
            "such short recordings"
        )
    # The bounds of tensor_split, in arithmetic that a tracer can follow: the last term is
    # min(q, rest) without a comparison.
    each, rest = clips.shape[2] // 4, clips.shape[2] % 4
    bounds = [q * each + (q + rest - abs(q - rest)) // 2 for q in range(5)]
    a, b, c, d = (clips[:, :, i:j].mean(dim=2) for i, j in itertools.pairwise(bounds))
    return torch.cat([torch.cat([a, b], dim=3), torch.cat([c, d], dim=3)], dim=2)


def torchvision_net(make: Callable[..., Any]) -> Callable[[int], nn.Module]:
    """Return a function that builds one of torchvision's video nets with a single logit."""

    def build_net(channels: int) -> nn.Module:
        if channels not in (2, 3):
            raise InputError(
                "torchvision's video nets take 3 channels, or 2 (grey and mask), the settings "
                f"have {channels}. Set clip.channels to rgb, bgr or grey+mask, and net.mean and "
                "net.std to as many values"
            )
        net: nn.Module = make(weights=None)
        net.fc = nn.Linear(512, 1)
        if channels == 2:
            net.register_forward_pre_hook(_insert_change)
        net.register_forward_hook(_one_logit)
        return net

    return build_net


class Halve(nn.Module):
    """AvgPool3d(2) that also accepts a single frame, of which it halves only rows and columns.

    torch's own refuses a single frame. As in torch, the last of an odd number of frames is dropped.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Pool (N, C, T, H, W) to (N, C, max(T // 2, 1), H // 2, W // 2)."""
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return _halved_by_constants(input)
        return F.avg_pool3d(input, (min(input.shape[2], 2), 2, 2))


def _halved_by_constants(maps: Tensor) -> Tensor:
    """Compute the same as `Halve` for converters, which accept constant kernels only."""
    flat = F.avg_pool3d(maps, (1, 2, 2))
    # Repeat the last frame, so that a single frame has a second one to be averaged with; an odd
    # number of frames then yields one frame too many.
    pooled = F.avg_pool3d(torch.cat([flat, flat[:, :, -1:]], dim=2), (2, 1, 1))
    half = maps.shape[2] // 2
    # max(half, 1) in arithmetic, which a tracer can follow.
    return pooled[:, :, : (half + 1 + abs(half - 1)) // 2]


# Smallest rows and columns of which DenseNet-121's five halvings, two of which round up, leave one.
DENSENET_SMALLEST_PX = 29


def densenet121_3d(channels: int) -> nn.Module:
    """Build DenseNet-121 in 3-D with the head of the first place (docs/facts.md 3)."""
    # MONAI takes seconds to import, and only two nets need it.
    from monai.networks.nets.densenet import DenseNet121

    net: nn.Module = DenseNet121(spatial_dims=3, in_channels=channels, out_channels=1)
    for number in (1, 2, 3):
        # A clip of fewer than 29 frames has only one left before the third of these poolings.
        net.get_submodule(f"features.transition{number}").add_module("pool", Halve())
    head = nn.Sequential(nn.Linear(1024, 512), nn.Sigmoid(), nn.Dropout(0.5), nn.Linear(512, 1))
    net.get_submodule("class_layers").add_module("out", head)
    net.register_forward_pre_hook(_refuse_small)
    net.register_forward_hook(_one_logit)
    return net


def resnet101_3d(channels: int) -> nn.Module:
    """Build ResNet-101 in 3-D as in the second-place approach (docs/facts.md 3).

    Unlike MONAI's defaults, the published code halves rows and columns but not time in the first
    layer, and has no bias in the shortcuts.
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
    return net


# Hooks are named functions instead of lambdas, so that a net can be pickled.
def _one_logit(_net: nn.Module, _inputs: Any, logits: Tensor) -> Tensor:
    return logits.squeeze(1)  # (N, 1) -> (N,)


def _insert_change(_net: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
    """Insert the difference to the next frame between grey and mask: (N, 3, T, S, S)."""
    grey, mask = inputs[0][:, :1], inputs[0][:, 1:]
    return (torch.cat([grey, frame_change(grey), mask], dim=1),)


def _refuse_small(_net: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    size = min(inputs[0].shape[-2:])
    if size < DENSENET_SMALLEST_PX:
        raise InputError(
            f"the net densenet121_3d needs clips of at least {DENSENET_SMALLEST_PX} px, not "
            f"{size}. Raise clip.size"
        )
