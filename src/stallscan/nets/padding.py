"""Padded clips: layers that leave out what was added behind a clip's last frame.

Clips of different length share a batch when the shorter ones are filled up with frames. `prepare`
makes a net's layers heed, in `padded`, how many frames of each clip are valid, so that a clip gets
the logit it has alone. Outside of `padded` they are the layers of torch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import conv, pooling

from stallscan.errors import InputError


class Lengths:
    """Valid frames of each clip of a batch, at every temporal resolution of a net.

    A layer with a stride over time shortens the whole batch and every clip by the same rule. So
    the frames of a feature map tell at which resolution it is: two maps of equal length hold
    equally many valid frames, else `step` says that the net is none for padded clips.

    Parameters
    ----------
    counts : sequence of int
        Valid frames of each clip, 1..length.
    length : int
        Frames of the padded clips.
    """

    def __init__(self, counts: Sequence[int], length: int) -> None:
        self._counts = {length: tuple(counts)}
        self._beyond: dict[tuple[int, torch.device], Tensor] = {}
        self._rows: dict[tuple[int, torch.device], Tensor] = {}

    def at(self, length: int) -> tuple[int, ...]:
        """Give the valid frames of each clip in a feature map of so many frames."""
        return self._counts[length]

    def step(self, before: int, after: int, shorten: Callable[[int], int]) -> None:
        """Note that a layer made `after` frames of `before`, by the rule `shorten`."""
        counts = tuple(shorten(count) for count in self.at(before))
        if min(counts) < 1:
            raise InputError(
                f"a clip of {min(next(iter(self._counts.values())))} frames is too short for this "
                "net; leave out the shortest recordings"
            )
        if self._counts.setdefault(after, counts) != counts:
            raise RuntimeError(
                f"feature maps of {after} frames hold {self._counts[after]} and {counts} valid ones"
            )

    def beyond(self, length: int, device: torch.device) -> Tensor:
        """Give what lies behind the valid frames: bool (N, 1, length, 1, 1)."""
        if (length, device) not in self._beyond:
            counts = torch.tensor(self.at(length))
            beyond = torch.arange(length) >= counts[:, None]
            self._beyond[length, device] = beyond[:, None, :, None, None].to(device)
        return self._beyond[length, device]

    def rows(self, length: int, device: torch.device) -> Tensor:
        """Give the places of the valid frames among all frames of the batch: int64 (M,)."""
        if (length, device) not in self._rows:
            valid = ~self.beyond(length, torch.device("cpu"))
            self._rows[length, device] = valid.flatten().nonzero().squeeze(1).to(device)
        return self._rows[length, device]


# Of the forward pass at hand; a context variable, so that threads do not disturb each other.
_LENGTHS: ContextVar[Lengths | None] = ContextVar("stallscan.nets.padding", default=None)


@contextmanager
def padded(frames: Tensor | None, length: int) -> Iterator[None]:
    """Have prepared nets leave out the frames behind each clip's last one.

    Parameters
    ----------
    frames : Tensor or None
        Integers (N,), valid frames of each clip, 1..length, best on the CPU. None, or `length`
        for all clips, is no padding and costs nothing.
    length : int
        Frames of the padded clips.

    Raises
    ------
    ValueError
        If a number of frames is out of range.
    """
    counts = [] if frames is None else [int(count) for count in frames.tolist()]
    if counts and not 1 <= min(counts) <= max(counts) <= length:
        raise ValueError(f"valid frames must be from 1 to {length}, not {counts}")
    lengths = Lengths(counts, length) if counts and min(counts) < length else None
    token = _LENGTHS.set(lengths)
    try:
        yield
    finally:
        _LENGTHS.reset(token)


def counts(length: int) -> tuple[int, ...] | None:
    """Give the valid frames of each clip in a map of `length` frames; None where none is padded."""
    lengths = _LENGTHS.get()
    return None if lengths is None else lengths.at(length)


def fill(maps: Tensor, value: float = 0.0) -> Tensor:
    """Set the frames behind each clip's last one in maps (N, C, T, H, W) to a value."""
    lengths = _LENGTHS.get()
    if lengths is None:
        return maps
    return maps.masked_fill(lengths.beyond(maps.shape[2], maps.device), value)


def by_clip(maps: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function that keeps the shape to the valid frames of each clip by itself.

    Parameters
    ----------
    maps : Tensor
        (N, C, T, H, W).
    function : callable
        Gets (N, C, T, H, W) where nothing is padded, else N times (1, C, frames, H, W).

    Returns
    -------
    Tensor
        (N, C, T, H, W); 0 behind each clip's last frame.
    """
    valid = counts(maps.shape[2])
    if valid is None:
        return function(maps)
    done = [
        F.pad(function(one[None, :, :count]), (0, 0, 0, 0, 0, maps.shape[2] - count))
        for one, count in zip(maps, valid, strict=True)
    ]
    return torch.cat(done)


def mean_over_time(maps: Tensor) -> Tensor:
    """Mean over the valid frames of (N, C, T): (N, C)."""
    valid = counts(maps.shape[2])
    if valid is None:
        return maps.mean(dim=2)
    total = fill(maps[..., None, None]).sum(dim=(2, 3, 4))
    return total / torch.tensor(valid, device=maps.device)[:, None]


def max_over_time(maps: Tensor) -> Tensor:
    """Highest of the valid frames of (N, C, T): (N, C)."""
    return fill(maps[..., None, None], -torch.inf).amax(dim=(2, 3, 4))


class MaskedConv3d(nn.Conv3d):
    """Conv3d to which the frames behind a clip's last one are the zeros it pads with."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (N, C, T, H, W)."""
        lengths = _LENGTHS.get()
        if lengths is None:
            return super().forward(input)
        if isinstance(self.padding, str) or self.padding_mode != "zeros":
            raise TypeError("padded clips need convolutions padded with a number of zeros")
        # A kernel of one frame sees no neighbours: what lies behind the end stays there.
        output: Tensor = super().forward(fill(input) if self.kernel_size[0] > 1 else input)
        window = (self.kernel_size[0], self.stride[0], self.padding[0], self.dilation[0])
        lengths.step(input.shape[2], output.shape[2], lambda count: _windows(count, *window))
        return output


class MaskedMaxPool3d(nn.MaxPool3d):
    """MaxPool3d that looks at valid frames only."""

    def forward(self, input: Tensor) -> Tensor:
        """Pool (N, C, T, H, W)."""
        lengths = _LENGTHS.get()
        output: Tensor
        if lengths is None:
            output = super().forward(input)
            return output
        if self.ceil_mode or self.return_indices:
            raise TypeError("padded clips need max pooling without ceil_mode and return_indices")
        output = super().forward(fill(input, -torch.inf))
        window = (
            _over_time(self.kernel_size),
            _over_time(self.stride),
            _over_time(self.padding),
            _over_time(self.dilation),
        )
        lengths.step(input.shape[2], output.shape[2], lambda count: _windows(count, *window))
        # Minus infinity must not stay behind the end: times a gradient of 0 it is not a number.
        return fill(output)


class MaskedAdaptiveAvgPool3d(nn.AdaptiveAvgPool3d):
    """AdaptiveAvgPool3d to one value, that of the valid frames."""

    def forward(self, input: Tensor) -> Tensor:
        """Pool (N, C, T, H, W) to (N, C, 1, 1, 1)."""
        if _LENGTHS.get() is None:
            return super().forward(input)
        if self.output_size not in (1, (1, 1, 1), [1, 1, 1]):
            raise TypeError("padded clips can be pooled to one value only")
        return mean_over_time(input.mean(dim=(3, 4)))[:, :, None, None, None]


class Halve(nn.Module):
    """AvgPool3d(2) that leaves a single frame as it is, where torch refuses it.

    As with torch, of an odd number of frames the last one is left out.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Pool (N, C, T, H, W) to (N, C, max(T // 2, 1), H // 2, W // 2)."""
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return _halved_by_constants(input)
        frames = input.shape[2]
        output = F.avg_pool3d(fill(input), (min(frames, 2), 2, 2))
        lengths = _LENGTHS.get()
        if lengths is None or frames == 1:
            return output
        lengths.step(frames, output.shape[2], lambda count: max(count // 2, 1))
        # A clip's only frame was averaged with a zero.
        share = [2.0 if count == 1 else 1.0 for count in lengths.at(frames)]
        return output * output.new_tensor(share)[:, None, None, None, None]


def _halved_by_constants(maps: Tensor) -> Tensor:
    """Do as `Halve` where nothing is padded, for converters that take constant kernels only."""
    flat = F.avg_pool3d(maps, (1, 2, 2))
    # A frame more, so that a single one finds a second; an odd number then gives one too many.
    pooled = F.avg_pool3d(torch.cat([flat, flat[:, :, -1:]], dim=2), (2, 1, 1))
    half = maps.shape[2] // 2
    # max(half, 1) in arithmetic, which a tracer can follow.
    return pooled[:, :, : (half + 1 + abs(half - 1)) // 2]


class MaskedBatchNorm3d(nn.BatchNorm3d):
    """BatchNorm3d with the statistics of the valid frames of the batch."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, T, H, W)."""
        lengths = _LENGTHS.get()
        if lengths is None or not self.training:
            return super().forward(input)
        rows = lengths.rows(input.shape[2], input.device)
        # All frames in a row, without those behind the ends: to torch, a batch of M pictures.
        frames = input.movedim(1, 4).flatten(0, 1)
        pictures = frames[rows].movedim(3, 1)[:, :, None]
        normal: Tensor = super().forward(pictures)[:, :, 0].movedim(1, 3)
        restored = torch.zeros_like(frames, dtype=normal.dtype).index_copy(0, rows, normal)
        return restored.view(len(input), input.shape[2], *frames.shape[1:]).movedim(4, 1)


# What each layer that looks along time becomes.
_MASKED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv3d: MaskedConv3d,
    nn.MaxPool3d: MaskedMaxPool3d,
    nn.AdaptiveAvgPool3d: MaskedAdaptiveAvgPool3d,
    nn.BatchNorm3d: MaskedBatchNorm3d,
}
# Layers of these kinds mix frames, so one that is not in the table would spoil the result.
_MIXING = (
    conv._ConvNd,
    pooling._MaxPoolNd,
    pooling._AvgPoolNd,
    pooling._AdaptiveMaxPoolNd,
    pooling._AdaptiveAvgPoolNd,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RNNBase,
    nn.MultiheadAttention,
)


def prepare(net: nn.Module) -> nn.Module:
    """Make a net's layers leave out padded frames, in place, keeping its weights.

    Raises
    ------
    TypeError
        If a layer mixes frames and is not known here.
    """
    for module in net.modules():
        for plain, masked in _MASKED.items():
            # torchvision's convolutions are subclasses that only construct Conv3d differently.
            if isinstance(module, plain) and type(module).forward is plain.forward:
                module.__class__ = masked
        if isinstance(module, _MIXING) and not isinstance(module, tuple(_MASKED.values())):
            raise TypeError(f"{type(module).__name__} is not known to leave out padded frames")
    return net


def is_prepared(net: nn.Module) -> bool:
    """Whether a net leaves out padded frames: one of ours in which any layer does."""
    return not getattr(net, "is_own", False) and any(
        isinstance(module, tuple(_MASKED.values())) for module in net.modules()
    )


def _windows(count: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Output frames of a convolution or pooling over `count` frames, as torch defines them."""
    return (count + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _over_time(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[0]
