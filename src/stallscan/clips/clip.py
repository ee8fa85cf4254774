"""The clip: the cropped, resized recording that a net sees."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stallscan.clips.traits import Gatherer, Traits
from stallscan.recordings.recording import Box, Frames, Recording, to_grey
from stallscan.settings import Settings
from stallscan.vessels.enclosure import Mask
from stallscan.vessels.outline import Outline


class ClipSettings(Settings):
    """How to cut a clip from a recording. Defaults: the third-place crop (docs/facts.md 2).

    Attributes
    ----------
    size : int
        Height and width of the clip, pixels.
    margin : int
        Pixels added around the contour: rows (and columns) [min - margin, max + margin) of the
        contour's pixels, clipped to the frame, as published.
    shape : str
        ``stretch`` resizes the crop to a square without keeping its aspect ratio; ``pad`` keeps the
        aspect ratio, centres the crop and fills the rest with zeros; ``scale`` is like ``pad`` but
        never enlarges, so in most clips a pixel is a pixel of the recording.
    channels : str
        ``rgb``, ``bgr`` and ``grey`` (the luma) keep the drawn outline; ``grey+mask`` has the luma
        with the outline painted out, and the enclosed mask (0 or 255) as a second channel.
    background : str
        ``keep``, or ``black`` to set everything outside the outline to 0 (docs/facts.md 2: no
        gain).
    frames : int
        Frames of every clip: longer ones are cut and shorter ones padded with black frames, equally
        at both ends (docs/facts.md 3, first place: 96). 0 keeps the number of the recording.
    """

    size: int = Field(default=112, ge=16, le=1024)
    margin: int = Field(default=5, ge=0, le=200)
    shape: Literal["stretch", "pad", "scale"] = "stretch"
    channels: Literal["rgb", "bgr", "grey", "grey+mask"] = "rgb"
    background: Literal["keep", "black"] = "keep"
    frames: int = Field(default=0, ge=0, le=1000)

    @property
    def channel_count(self) -> int:
        """Number of channels, 1 to 3."""
        return {"grey": 1, "grey+mask": 2}.get(self.channels, 3)


@dataclass(frozen=True)
class Clip:
    """What a net sees of a recording, with the box of the crop and the recording's traits."""

    pixels: Frames  # uint8 (T, S, S, C), C as in `ClipSettings.channel_count`
    box: Box
    traits: Traits  # measured inside the outline, in all frames, before resizing


def make_clip(recording: Recording, outline: Outline, settings: ClipSettings) -> Clip:
    """Crop and resize a recording (T, H, W, 3) around its outline."""
    box = crop_box(outline.box, settings.margin, (recording.shape[1], recording.shape[2]))
    rows, cols = box.slices
    place = _place(box, settings)
    mask, contour = outline.mask[rows, cols], outline.contour[rows, cols]  # (h, w) bool
    pixels = np.zeros((len(recording), settings.size, settings.size, settings.channel_count), "u1")
    gatherer = Gatherer(mask, outline.box.shape)
    start = 0
    for crop in recording.chunks(box):  # (n, h, w, 3) uint8
        count = len(crop)
        grey = to_grey(np.ascontiguousarray(crop))  # (n, h, w)
        gatherer.add(grey)
        target = pixels[start : start + count]
        if settings.channels in ("grey", "grey+mask"):
            crop = grey
            target = target[..., 0]
        if settings.channels == "grey+mask":
            crop = paint_out(crop, contour)
        if settings.channels == "bgr":
            crop = crop[..., ::-1]
        if settings.background == "black":
            crop = crop.copy()
            crop[:, ~mask] = 0
        _resize_into(target, crop, place)
        start += count
    if settings.channels == "grey+mask":
        square = np.zeros((1, settings.size, settings.size), np.uint8)
        _resize_into(square, mask[None] * np.uint8(255), place)
        pixels[..., 1] = square  # the same mask in every frame
    return Clip(_fit_frames(pixels, settings.frames or len(pixels)), box, gatherer.traits())


def _fit_frames(pixels: Frames, frames: int) -> Frames:
    """Cut a clip (T, S, S, C), or pad it with black frames, equally at both ends."""
    if frames <= len(pixels):
        start = (len(pixels) - frames) // 2
        return pixels[start : start + frames]
    padded = np.zeros((frames, *pixels.shape[1:]), np.uint8)
    start = (frames - len(pixels)) // 2
    padded[start : start + len(pixels)] = pixels
    if pixels.shape[-1] == 2:
        padded[..., 1] = pixels[:1, ..., 1]  # the mask channel, also in the black frames
    return padded


def crop_box(box: Box, margin: int, frame_shape: tuple[int, int]) -> Box:
    """Widen a contour's box by the published rule, [min - margin, max + margin).

    A half-open box ends at max + 1, so one pixel less is added at the end than at the start. The
    result is clipped to the frame, whose shape is (rows, columns).
    """
    height, width = frame_shape
    # With a margin of 0 the published rule would cut off the contour's last row and column.
    after = max(margin - 1, 0)
    return Box(
        max(box.row0 - margin, 0),
        min(box.row1 + after, height),
        max(box.col0 - margin, 0),
        min(box.col1 + after, width),
    )


def paint_out(grey: Frames, contour: Mask) -> Frames:
    """Replace the contour's pixels by the mean of nearby pixels outside the contour.

    Parameters
    ----------
    grey : ndarray
        uint8 (T, h, w).
    contour : ndarray
        bool (h, w). The pixels next to it are replaced too, because the codec rings there.

    Returns
    -------
    ndarray
        uint8 (T, h, w).
    """
    hidden = cv2.dilate(contour.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    visible = (~hidden).astype(np.float32)
    # The smallest box filter in which every hidden pixel has a visible neighbour.
    reach = 7
    while not (weight := cv2.blur(visible, (reach, reach)))[hidden].all():
        if reach > max(hidden.shape):
            return grey  # the crop is all contour, so there is nothing to paint with
        reach += 4
    # Box filter of the visible pixels only: the mean with hidden ones as 0, over their share.
    blurred = [cv2.blur(frame * visible, (reach, reach))[hidden] for frame in grey]
    painted = grey.copy()
    painted[:, hidden] = np.rint(np.stack(blurred) / weight[hidden])  # (T, hidden pixels)
    return painted


def to_input(
    pixels: Frames, mean: tuple[float, ...], std: tuple[float, ...]
) -> NDArray[np.float32]:
    """Convert a clip to a net's input: (pixels / 255 - mean) / std, channels first.

    Parameters
    ----------
    pixels : ndarray
        uint8 (T, S, S, C).
    mean, std : tuple of float
        One per channel, for pixels in 0..1.

    Returns
    -------
    ndarray
        float32 (C, T, S, S).
    """
    # One channel at a time, because numpy is slow when the innermost axis is short.
    normalised = np.empty((len(mean), *pixels.shape[:-1]), np.float32)
    for channel, (centre, spread) in enumerate(zip(mean, std, strict=True)):
        gain = np.float32(1.0) / (np.float32(255.0) * np.float32(spread))
        np.multiply(pixels[..., channel], gain, out=normalised[channel])
        normalised[channel] -= np.float32(centre) / np.float32(spread)
    return normalised


def _place(box: Box, settings: ClipSettings) -> tuple[slice, slice]:
    """Return the rows and columns of the clip that the crop fills."""
    height, width = box.row1 - box.row0, box.col1 - box.col0
    if settings.shape == "stretch":
        return slice(0, settings.size), slice(0, settings.size)
    scale = settings.size / max(height, width)
    if settings.shape == "scale":
        scale = min(scale, 1.0)
    rows, cols = max(round(height * scale), 1), max(round(width * scale), 1)
    row, col = (settings.size - rows) // 2, (settings.size - cols) // 2
    return slice(row, row + rows), slice(col, col + cols)


def _resize_into(target: Frames, frames: Frames, place: tuple[slice, slice]) -> None:
    rows, cols = place
    size = (cols.stop - cols.start, rows.stop - rows.start)
    for into, frame in zip(target, frames, strict=True):
        into[place] = cv2.resize(np.ascontiguousarray(frame), size, interpolation=cv2.INTER_AREA)
