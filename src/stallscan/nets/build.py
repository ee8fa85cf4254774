"""The nets: clips in, one logit each out (positive speaks for stalled).

`NETS` names them. All take float32 (N, C, T, S, S) and give float32 (N,).

A net of one's own is code, and code runs only where the user gave its name: `import_net` puts it
among `NETS`, for this process. Names in bundles, stores, checkpoints and run folders are looked up
in `NETS` and nowhere else. To look into `sys.modules` would not be safe: `os` is there, and
``os:_exit`` takes a number, too.
"""

import importlib
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models import video as torchvision_video

from stallscan.errors import InputError, SettingsError
from stallscan.nets.features import FeatureNet
from stallscan.nets.norm import with_video_norm
from stallscan.nets.published import QuartersResNet18, densenet121_3d, resnet101_3d, torchvision_net
from stallscan.nets.settings import NetSettings
from stallscan.nets.stallnet import StallNet


def build(settings: NetSettings) -> nn.Module:
    """Make a net with random weights from torch's global generator.

    Raises
    ------
    InputError
        If the net does not take as many channels as the settings have means, or is one of the
        user's own that was not imported by `import_net`, or is no net.
    """
    if settings.name not in NETS:
        raise InputError(
            f"the net {settings.name} is not part of stallscan, and code is imported only for a "
            "recipe that 'stallscan train' is given, or for a bundle that is trusted (trust=True)"
        )
    net = NETS[settings.name](len(settings.mean))
    if not isinstance(net, nn.Module):
        raise InputError(
            f"{settings.name}: returned a {type(net).__name__}, expected a torch.nn.Module"
        )
    return with_video_norm(net) if settings.normalisation == "per-video" else net


def import_net(name: str) -> None:
    """Import a net of the user's own, so that this process can build it; none for one of ours.

    Only for names that the user gave: importing a module runs it.

    Parameters
    ----------
    name : str
        As in `NetSettings`.

    Raises
    ------
    SettingsError
        If there is no such module, or nothing callable of that name in it.
    """
    if name in NETS:
        return
    module, _, last = name.partition(":")
    try:
        make = getattr(importlib.import_module(module), last, None)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"net.name: {name} cannot be imported ({error}). Install its package, or add its "
            "folder to PYTHONPATH"
        ) from error
    if not callable(make):
        raise SettingsError(
            f"net.name: the module {module} has no class or function {last}. Name one that takes "
            "the number of channels and returns a torch.nn.Module"
        )
    NETS[name] = make


def forward(net: nn.Module, clips: Tensor) -> Tensor:
    """Return the logits of a batch, float32 (N,), of clips float32 (N, C, T, S, S).

    Raises
    ------
    InputError
        If the net returns another shape, as a net of the user's own may.
    """
    logits: Tensor = net(clips)
    if logits.shape != clips.shape[:1]:
        raise InputError(
            f"the net gave {tuple(logits.shape)} for clips {tuple(clips.shape)}; expected one "
            f"logit for each, ({len(clips)},)"
        )
    return logits


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


NETS: dict[str, Callable[[int], nn.Module]] = {
    "stallnet": StallNet,
    "features": FeatureNet,
    "r3d_18": torchvision_net(torchvision_video.r3d_18),
    "mc3_18": torchvision_net(torchvision_video.mc3_18),
    "r2plus1d_18": torchvision_net(torchvision_video.r2plus1d_18),
    "densenet121_3d": densenet121_3d,
    "resnet101_3d": resnet101_3d,
    "quarters_resnet18": QuartersResNet18,
}
