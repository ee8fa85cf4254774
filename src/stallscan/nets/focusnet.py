"""FocusNet, the default net."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stallscan.errors import InputError

FINE, COARSE = 3, 9  # px: windows of the band-pass, against noise and against the background
# Levels are 0..1. Half a grey level is rounding, and says nothing.
ROUNDING = 0.5 / 255
# Share of the structure of the whole clip that is added to that of a place before it is divided by
# it, so that noise is not amplified to full contrast. Chosen.
FLOOR = 0.3


class FocusNet(nn.Module):
    """A small net that looks at the frames in focus, inside the outline, and at nothing else.

    Its input is the grey clip, standardised inside the mask, the same with the local background
    taken out and the local contrast made even, the first and second difference in time, and the
    mask. Gain, surround and frames out of focus therefore change nothing or little. Four blocks
    follow, each with a spatial and a temporal convolution. Their output is pooled inside the mask
    in four ways, because a stall may fill the outline or be a small part of it.

    Parameters
    ----------
    channels : int
        2: grey and mask, as `clip` makes them with ``grey+mask``, both on the scale 0..1.
    frames : int
        Frames that it looks at. A segment in the image plane is in focus for 6 to 12 of 1 um
        (docs/facts.md 5), an oblique one, or one in steps of 0.5 um, for more.
    """

    # (channels, spatial kernel, spatial stride). The first block halves rows and columns before
    # there are many channels: at full size, memory traffic costs more than all the arithmetic.
    BLOCKS: tuple[tuple[int, int, int], ...] = ((16, 5, 2), (32, 3, 2), (48, 3, 1), (64, 3, 2))

    def __init__(self, channels: int, frames: int) -> None:
        super().__init__()
        if channels != 2:
            raise InputError(
                f"the net focusnet takes 2 channels (grey, mask), not {channels}. Set "
                "clip.channels to grey+mask"
            )
        self.frames = frames
        before, blocks = 5, []
        for width, kernel, stride in self.BLOCKS:
            blocks.append(_Block(before, width, kernel, stride))
            before = width
        self.blocks = nn.ModuleList(blocks)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(4 * before, 1)
        # Two-dimensional convolutions are fastest with channels innermost in memory, on any device.
        self.to(memory_format=torch.channels_last)

    def forward(self, clips: Tensor) -> Tensor:
        """Compute the logits (N,) of clips (N, 2, T, S, S), grey and mask in 0..1."""
        # The mask is the same in every frame: (N, 1, S, S). Resizing blurs its edge, and a pixel
        # that is half inside would show the black level.
        mask = (clips[:, 1, :1] >= 0.5).to(clips.dtype)
        # Frames that were appended to a shorter clip of a batch have no mask. (N,)
        length = (clips[:, 1].amax(dim=(-2, -1)) > 0).sum(dim=1)
        # In full precision whatever the blocks compute in: differences of grey levels are small.
        with torch.autocast(clips.device.type, enabled=False):
            # (N, F, S, S), (N, F)
            grey, shown = in_focus(clips[:, 0], mask, length, self.frames)
            seen = _channels(grey, mask, shown)
        features = self._features(seen)  # (N, F, 64, h, w)
        height, width = features.shape[-2:]
        share = F.adaptive_avg_pool2d(mask, (height, width))[:, None]  # (N, 1, 1, h, w)
        share = share / share.sum(dim=(-2, -1), keepdim=True).clamp(min=1e-6)
        # A frame that only fills up a short clip has no weight: (N, F, 1)
        weight = (shown / shown.sum(dim=1, keepdim=True))[..., None]
        inside = (features * share).sum(dim=(-2, -1))  # (N, F, 64)
        features = features * (share > 0)
        peak = features.amax(dim=(-2, -1))  # (N, F, 64)
        stays = (features * weight[..., None, None]).sum(dim=1)  # (N, 64, h, w)
        pooled = torch.cat(
            [
                (inside * weight).sum(dim=1),
                (inside * shown[..., None]).amax(dim=1),
                (peak * weight).sum(dim=1),
                stays.amax(dim=(-2, -1)),
            ],
            dim=1,
        )
        logits: Tensor = self.fc(self.dropout(pooled)).squeeze(1)  # (N, 256) -> (N,)
        return logits

    def _features(self, seen: list[Tensor]) -> Tensor:
        """Compute the features (N, F, 64, h, w) of the last block from five of (N, F, S, S)."""
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            # For export: OpenVINO takes half the time in three dimensions, torch in two.
            volume = torch.stack(seen, dim=1)  # (N, 5, F, S, S)
            for block in self.blocks:
                assert isinstance(block, _Block)
                volume = block.volume(volume)
            return volume.transpose(1, 2)
        # Channels innermost: the blocks then need no copies between space and time.
        features = torch.stack(seen, dim=-1).flatten(0, 1).permute(0, 3, 1, 2)  # (N * F, 5, S, S)
        for block in self.blocks:
            features = block(features, self.frames)
        return features.reshape(-1, self.frames, *features.shape[1:])


def in_focus(grey: Tensor, mask: Tensor, length: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Return the consecutive frames in which there is most structure inside the mask.

    Parameters
    ----------
    grey : Tensor
        (N, T, S, S), 0..1.
    mask : Tensor
        (N, 1, S, S), 0 or 1.
    length : Tensor
        (N,): frames of each clip, 1 to T; black frames follow.
    frames : int
        F, the number of frames wanted.

    Returns
    -------
    grey : Tensor
        (N, F, S, S), 0 outside of the mask; a clip with fewer frames repeats its last one.
    shown : Tensor
        (N, F): 1, or 0 where a frame is repeated.
    """
    grey = grey * mask
    # At half the size: it finds the same frames in a quarter of the time.
    energy = _band(F.avg_pool2d(grey, 2), F.avg_pool2d(mask, 2), COARSE // 2 | 1)
    energy = energy.square().mean(dim=(-2, -1))  # (N, T)
    # The sum from each frame on, over as many frames as are taken: (N, T)
    ahead = F.avg_pool1d(F.pad(energy, (0, frames - 1))[:, None], frames, stride=1)[:, 0]
    last = (length - 1).clamp(min=0)[:, None]  # (N, 1)
    first = torch.minimum(ahead.argmax(dim=1)[:, None], (last - frames + 1).clamp(min=0))  # (N, 1)
    wanted = first + torch.arange(frames, device=grey.device)  # (N, F)
    index = torch.minimum(wanted, last)[..., None, None].expand(-1, -1, *grey.shape[-2:])
    return grey.gather(1, index), (wanted <= last).to(grey.dtype)


def _band(grey: Tensor, mask: Tensor, size: int) -> Tensor:
    """Subtract the mean of what is around each pixel inside the mask: (N, T, S, S)."""
    return (grey - _box(grey, size) / (_box(mask, size) + 1e-6)) * mask


def _channels(grey: Tensor, mask: Tensor, shown: Tensor) -> list[Tensor]:
    """Return the five channels that the first block sees, (N, F, S, S) each; 0 outside the mask."""
    # Weights that sum to 1 over F, S, S: (N, F, S, S)
    weight = mask * shown[..., None, None]
    weight = weight / weight.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)
    mean = (grey * weight).sum(dim=(1, 2, 3), keepdim=True)  # (N, 1, 1, 1)
    variance = ((grey - mean).square() * weight).sum(dim=(1, 2, 3), keepdim=True)
    standard = (grey - mean) * mask * torch.rsqrt(variance + ROUNDING**2)
    band = _box(_band(grey, mask, COARSE), FINE)
    square = (band.square() * weight).sum(dim=1, keepdim=True)  # (N, 1, S, S)
    whole = square.sum(dim=(2, 3), keepdim=True)  # (N, 1, 1, 1)
    around = _box(square, COARSE) / (_box(weight.sum(dim=1, keepdim=True), COARSE) + 1e-9)
    even = band * mask * torch.rsqrt(around + FLOOR**2 * whole + ROUNDING**2)
    change = F.pad(standard[:, 1:] - standard[:, :-1], (0, 0, 0, 0, 0, 1))
    # Second difference: going in and out of focus is smooth in time, moving blood is not.
    flicker = F.pad(change[:, 1:] - change[:, :-1], (0, 0, 0, 0, 1, 0))
    return [standard, change, flicker, mask.expand_as(grey), even]


def _box(images: Tensor, size: int) -> Tensor:
    """Average over a square window: (N, T, S, S), and 0 outside the image."""
    pixels = torch.arange(images.shape[-1], device=images.device)
    near = (pixels[:, None] - pixels).abs() <= size // 2  # (S, S)
    window = near.to(images.dtype) / size
    # Two matrix products take a quarter of the time of pooling on a CPU.
    return window @ images @ window


class _Block(nn.Module):
    """A spatial and a temporal convolution: (N * F, before, H, W) to (N * F, width, H', W').

    Both are two-dimensional, over (H, W) and over (F, H' * W'): a quarter of the time that
    three-dimensional ones take on a CPU.
    """

    def __init__(self, before: int, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.space = nn.Sequential(
            nn.Conv2d(before, width, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.time = nn.Sequential(
            nn.Conv2d(width, width, (3, 1), padding=(1, 0), bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )

    def forward(self, features: Tensor, frames: int) -> Tensor:
        """Compute features of `frames` frames a clip."""
        features = self.space(features)
        count, channels, height, width = features.shape  # of N * F images
        # (N * F, C, h, w) -> (N, C, F, h * w)
        by_clip = features.reshape(count // frames, frames, channels, height * width)
        after: Tensor = self.time(by_clip.transpose(1, 2))
        return after.transpose(1, 2).reshape(count, channels, height, width)

    def volume(self, features: Tensor) -> Tensor:
        """Compute the same in three dimensions: (N, before, F, H, W) to (N, width, F, H', W')."""
        return _convolve(_convolve(features, self.space, axis=0), self.time, axis=2)


def _convolve(features: Tensor, layers: nn.Sequential, axis: int) -> Tensor:
    """Apply the layers of a block to (N, C, F, H, W); their kernels lack one of F, H and W."""
    convolution, norm, _ = layers
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    stride, padding = list(convolution.stride), [int(size) for size in convolution.padding]
    stride.insert(axis, 1)
    padding.insert(axis, 0)
    features = F.conv3d(features, convolution.weight.unsqueeze(2 + axis), None, stride, padding)
    # BatchNorm2d itself takes four axes only.
    return F.batch_norm(
        features, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
    ).relu()
