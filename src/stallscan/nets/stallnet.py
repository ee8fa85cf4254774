"""StallNet, an earlier default net."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stallscan.errors import InputError


class StallNet(nn.Module):
    """A small net that looks for dark cells which stay in place inside the vessel.

    Its input is the grey clip (standardised inside the mask), the first and second difference in
    time, and the mask. Four blocks follow, each with a spatial and a temporal convolution. Their
    output is pooled inside the mask. A segment is in focus in only a few frames, so the maximum
    over time is used as well as the mean.

    Parameters
    ----------
    channels : int
        2: grey and mask, as `clip` makes them with ``grey+mask``.
    """

    # (channels, spatial kernel, spatial stride). The first block halves rows and columns before
    # there are many channels: at full size, memory traffic costs more than all the arithmetic.
    BLOCKS: tuple[tuple[int, int, int], ...] = ((16, 5, 2), (32, 3, 2), (48, 3, 1), (64, 3, 2))

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels != 2:
            raise InputError(
                f"the net stallnet takes 2 channels (grey, mask), the settings have {channels}. "
                "Set clip.channels to grey+mask, and net.mean and net.std to two values each"
            )
        before, blocks = 4, []
        for width, kernel, stride in self.BLOCKS:
            blocks.append(_Block(before, width, kernel, stride))
            before = width
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(3 * before, 1)

    def forward(self, clips: Tensor) -> Tensor:
        """Compute the logits (N,) of clips (N, 2, T, S, S)."""
        grey, mask = clips[:, :1], clips[:, 1:]  # (N, 1, T, S, S) each
        grey = _standardised(grey, mask[:, :, :1])
        change = frame_change(grey)
        # Second difference: going in and out of focus is smooth in time, moving blood is not.
        flicker = F.pad(change[:, :, 1:] - change[:, :, :-1], (0, 0, 0, 0, 1, 0))
        # (N, 4, T, S, S) -> (N, 64, T, S / 8, S / 8)
        features = self.blocks(torch.cat([grey, change, flicker, mask], dim=1))
        # The mask is the same in every frame, so the first one weights the pixels: (N, 1, h, w).
        weight = F.adaptive_avg_pool2d(mask[:, :, 0].clamp(min=0), features.shape[-2:])
        weight = weight / weight.sum(dim=(-2, -1), keepdim=True).clamp(min=1e-6)
        inside = (features * weight[:, :, None]).sum(dim=(-2, -1))  # (N, 64, T)
        peak = features.amax(dim=(-2, -1))  # (N, 64, T)
        pooled = torch.cat([inside.mean(dim=2), inside.amax(dim=2), peak.mean(dim=2)], dim=1)
        logits: Tensor = self.fc(self.dropout(pooled)).squeeze(1)  # (N, 192) -> (N,)
        return logits


def _standardised(grey: Tensor, mask: Tensor) -> Tensor:
    """Scale the grey levels inside the mask to mean 0 and variance 1 over the whole clip.

    The brightness of a recording depends on laser and detector and says nothing about flow.

    Parameters
    ----------
    grey : Tensor
        (N, 1, T, S, S).
    mask : Tensor
        (N, 1, 1, S, S), 0..1.
    """
    # Weights that sum to 1 over T, S, S: (N, 1, 1, S, S)
    weight = mask / (mask.sum(dim=(-2, -1), keepdim=True) * grey.shape[2]).clamp(min=1e-6)
    mean = (grey * weight).sum(dim=(-3, -2, -1), keepdim=True)  # (N, 1, 1, 1, 1)
    variance = ((grey - mean) ** 2 * weight).sum(dim=(-3, -2, -1), keepdim=True)
    return (grey - mean) * torch.rsqrt(variance + 1e-4)


def frame_change(grey: Tensor) -> Tensor:
    """Compute the difference to the next frame, 0 for the last one: (N, 1, T, S, S)."""
    return F.pad(grey[:, :, 1:] - grey[:, :, :-1], (0, 0, 0, 0, 0, 1))


class _Block(nn.Sequential):
    """A spatial and a temporal convolution: (N, before, T, H, W) to (N, width, T, H', W')."""

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
