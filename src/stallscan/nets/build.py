"""Build nets by name and compute their logits.

A net maps clips, float32 (N, C, T, S, S), to logits, float32 (N,); a positive logit means stalled.
`NETS` lists the available nets.

A user's own net is code, and code is only imported where the user named it: `import_net` adds it to
`NETS` for the current process. Names found in bundles, stores, checkpoints and run folders are
looked up in `NETS` only. Looking them up in `sys.modules` would be unsafe: ``os:_exit``, for
example, is a callable that takes a number.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models import video as torchvision_video

from stallscan.errors import InputError
from stallscan.nets.focusnet import FocusNet
from stallscan.nets.norm import with_video_norm
from stallscan.nets.own import find_net
from stallscan.nets.published import QuartersResNet18, densenet121_3d, resnet101_3d, torchvision_net
from stallscan.nets.settings import BUILT_IN, NetSettings
from stallscan.nets.stallnet import StallNet

# chosen: about the mean of the competition's recordings, 59 frames (docs/facts.md 4)
TRIED_FRAMES = 64


def build(settings: NetSettings) -> nn.Module:
    """Build a net with random weights, drawn from torch's global generator.

    Raises
    ------
    InputError
        If the net does not accept the number of channels that the settings have means for, or if
        it is a user's net that was not imported by `import_net` or is not a module.
    """
    if settings.name not in NETS:
        raise InputError(
            f"the net {settings.name} is not part of stallscan. Its code is imported only for a "
            "recipe passed to 'stallscan train', or for a bundle opened with trust=True. In your "
            "own code, call nets.build.import_net first"
        )
    net = NETS[settings.name](len(settings.mean))
    if not isinstance(net, nn.Module):
        raise InputError(
            f"{settings.name}: returned a {type(net).__name__}, expected a torch.nn.Module"
        )
    return with_video_norm(net) if settings.normalisation == "per-video" else net


def import_net(name: str) -> None:
    """Import a user's own net, so that this process can build it; built-in names do nothing.

    Importing a module runs it, so call this only for names that the user gave.

    Parameters
    ----------
    name : str
        As in `NetSettings`.

    Raises
    ------
    SettingsError
        As `own.find_net`.
    """
    if name not in NETS and (make := find_net(name)) is not None:
        NETS[name] = make


@torch.inference_mode()
def try_net(settings: NetSettings, frames: int, size: int) -> None:
    """Import a user's own net, and compute logits of random clips; built-in nets do nothing.

    Parameters
    ----------
    settings : NetSettings
        The net.
    frames, size : int
        Shape of a clip; with 0 frames, `TRIED_FRAMES`.

    Raises
    ------
    InputError
        As `import_net`, `build` and `forward`.
    """
    if settings.name in BUILT_IN:
        return
    import_net(settings.name)
    with torch.random.fork_rng(devices=[]):
        net = build(settings).eval()
        for count in (1, 2):  # a net that squeezes all axes is wrong for one clip only
            forward(net, torch.rand(count, len(settings.mean), frames or TRIED_FRAMES, size, size))


def forward(net: nn.Module, clips: Tensor) -> Tensor:
    """Compute the logits, float32 (N,), of clips, float32 (N, C, T, S, S).

    Raises
    ------
    InputError
        If the net returns another shape, as a user's own net may.
    """
    logits: Tensor = net(clips)
    if logits.shape != clips.shape[:1]:
        raise InputError(
            f"the net returned shape {tuple(logits.shape)} for clips of shape "
            f"{tuple(clips.shape)}, expected one logit per clip: ({len(clips)},)"
        )
    return logits


def lay_out(net: nn.Module) -> None:
    """Store the kernels of a net with channels last, in which convolutions are fastest.

    Their output has the same layout then, and the net's logits do not change.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
        elif isinstance(module, nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)


def score(net: nn.Module, clips: Tensor, settings: NetSettings) -> Tensor:
    """Compute the logits used in prediction, averaged over views as the settings say.

    Parameters
    ----------
    net : Module
        From `build`, in evaluation mode.
    clips : Tensor
        float32 (N, C, T, S, S).
    settings : NetSettings
        ``views: flips`` averages over all eight flips of rows, columns and time.

    Returns
    -------
    Tensor
        float32 (N,).
    """
    if settings.views == "one":
        return forward(net, clips)
    # Axes 2, 3 and 4 are T, rows and columns; the bits of `view` choose those that are flipped.
    flips = [[axis for bit, axis in enumerate((2, 3, 4)) if view >> bit & 1] for view in range(8)]
    return torch.stack([forward(net, clips.flip(axes)) for axes in flips]).mean(dim=0)


NETS: dict[str, Callable[[int], nn.Module]] = {
    "focusnet": functools.partial(FocusNet, frames=24),
    "focusnet40": functools.partial(FocusNet, frames=40),
    "stallnet": StallNet,
    "r3d_18": torchvision_net(torchvision_video.r3d_18),
    "mc3_18": torchvision_net(torchvision_video.mc3_18),
    "r2plus1d_18": torchvision_net(torchvision_video.r2plus1d_18),
    "densenet121_3d": densenet121_3d,
    "resnet101_3d": resnet101_3d,
    "quarters_resnet18": QuartersResNet18,
}
