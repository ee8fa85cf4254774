"""The nets: clips in, one logit each out (positive speaks for stalled).

`NETS` names them. All take float32 (N, C, T, S, S) and give float32 (N,).
"""

import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import video as torchvision_video

from stallscan.errors import InputError
from stallscan.recipe import NetSettings, PretrainedSettings


class VideoNorm3d(nn.BatchNorm3d):
    """BatchNorm with the statistics of each video by itself, always.

    Parameters have BatchNorm's names, so its state dicts load; the running statistics are kept
    with them but never used. A batch of N gives the same as N batches of 1, which in turn is what
    BatchNorm in training mode gives.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, T, H, W) over T, H, W; affine as trained."""
        return F.instance_norm(input, weight=self.weight, bias=self.bias, eps=self.eps)


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
    """Turn every BatchNorm3d of a net into `VideoNorm3d`, in place, keeping its weights."""
    for module in net.modules():
        if type(module) is nn.BatchNorm3d:
            module.__class__ = VideoNorm3d
    return net


def load_pretrained(net: nn.Module, name: str, settings: PretrainedSettings) -> None:
    """Load pretrained weights into a net; the head keeps its random weights.

    Raises
    ------
    InputError
        If there are none for this net, the download fails, or names or shapes differ.
    """
    if settings.source == "none":
        return
    if settings.source == "kinetics":
        state, origin = _kinetics(name), f"the Kinetics-400 weights of {name}"
    else:
        state, origin = _read_state(settings.file), str(settings.file)
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    wanted = {key: value for key, value in net.state_dict().items() if not key.startswith("fc.")}
    wrong = sorted(
        key
        for key in wanted.keys() | state.keys()
        if key not in wanted or key not in state or wanted[key].shape != state[key].shape
    )
    if wrong:
        raise InputError(
            f"{origin} do not fit the net {name}: {', '.join(wrong[:5])}"
            f"{' and more' if len(wrong) > 5 else ''} missing or of another shape"
        )
    net.load_state_dict(state, strict=False)


def _kinetics(name: str) -> dict[str, Tensor]:
    if name not in KINETICS:
        raise InputError(f"there are no Kinetics-400 weights for {name}; use source: none")
    try:
        weights = KINETICS[name]
        state: dict[str, Tensor] = weights.get_state_dict(progress=True, check_hash=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise InputError(
            f"the Kinetics-400 weights of {name} could not be downloaded ({error}); download "
            f"{KINETICS[name].url} elsewhere and give it as 'source: file' with 'file: PATH', or "
            "start from random weights with 'source: none'"
        ) from error
    return state


def _read_state(path: Path | None) -> dict[str, Tensor]:
    if path is None or not path.is_file():
        raise InputError(f"pretrained weights: no file at {path}; set 'file' to a state dict")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{path}: not readable as a state dict ({error})") from error
    return state


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
    BLOCKS = ((16, 5, 2), (32, 3, 2), (48, 3, 1), (64, 3, 2))

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
        change = F.pad(grey[:, :, 1:] - grey[:, :, :-1], (0, 0, 0, 0, 0, 1))
        # Going in and out of focus is smooth in time; blood that moves is not.
        flicker = F.pad(change[:, :, 1:] - change[:, :, :-1], (0, 0, 0, 0, 1, 0))
        features = self.blocks(torch.cat([grey, change, flicker, mask], dim=1))
        # The mask is the same in all frames: one is enough to weigh the pixels with.
        weight = F.adaptive_avg_pool2d(mask[:, :, 0].clamp(min=0), features.shape[-2:])
        weight = weight / weight.sum(dim=(-2, -1), keepdim=True).clamp(min=1e-6)
        inside = (features * weight[:, :, None]).sum(dim=(-2, -1))
        peak = features.amax(dim=(-2, -1))
        pooled = [inside.mean(dim=-1), inside.amax(dim=-1), peak.mean(dim=-1)]
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
    weight = mask / (mask.sum(dim=(-2, -1), keepdim=True) * grey.shape[2]).clamp(min=1e-6)
    mean = (grey * weight).sum(dim=(-3, -2, -1), keepdim=True)
    variance = ((grey - mean) ** 2 * weight).sum(dim=(-3, -2, -1), keepdim=True)
    return (grey - mean) * torch.rsqrt(variance + 1e-4)


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


def _torchvision(make: Callable[..., Any]) -> Callable[[int], nn.Module]:
    def build_net(channels: int) -> nn.Module:
        if channels != 3:
            raise InputError(
                f"torchvision's video nets take 3 channels, the settings have {channels}; "
                "set clip.channels to rgb or bgr and net.mean and net.std to three values each"
            )
        net: nn.Module = make(weights=None)
        net.fc = nn.Linear(512, 1)
        net.register_forward_hook(lambda _module, _inputs, logits: logits.squeeze(1))
        return net

    return build_net


NETS: dict[str, Callable[[int], nn.Module]] = {
    "stallnet": StallNet,
    "r3d_18": _torchvision(torchvision_video.r3d_18),
    "mc3_18": _torchvision(torchvision_video.mc3_18),
    "r2plus1d_18": _torchvision(torchvision_video.r2plus1d_18),
}

KINETICS: dict[str, Any] = {
    "r3d_18": torchvision_video.R3D_18_Weights.KINETICS400_V1,
    "mc3_18": torchvision_video.MC3_18_Weights.KINETICS400_V1,
    "r2plus1d_18": torchvision_video.R2Plus1D_18_Weights.KINETICS400_V1,
}
