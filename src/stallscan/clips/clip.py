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
    """How a recording becomes a clip. The defaults are the third-place crop (docs/facts.md 2).

    Attributes
    ----------
    size : int
        Rows and columns of the clip, pixels.
    margin : int
        Pixels added around the contour: rows (and columns) [min - margin, max + margin) of the
        contour's pixels, clipped to the frame, as published.
    shape : str
        ``stretch`` resizes the crop to a square, aspect not kept; ``pad`` keeps the aspect and
        fills the rest with zeros, the crop centred; ``scale`` is like it, but makes nothing
        larger, so that a pixel of most clips is one of their recording.
    channels : str
        ``rgb``, ``bgr`` and ``grey`` (the luma) leave the outline in; ``grey+mask`` has the luma
        with the outline painted out, and the enclosed mask (0 or 255) as a second channel.
    background : str
        ``keep``; ``black`` sets what the outline does not enclose to 0 (docs/facts.md 2: no gain).
    frames : int
        Frames of every clip: longer ones are cut, shorter ones filled with black frames, at both
        ends alike (docs/facts.md 3, first place: 96); 0 keeps the recording's.
    """

    size: int = Field(default=112, ge=16, le=1024)
    margin: int = Field(default=5, ge=0, le=200)
    shape: Literal["stretch", "pad", "scale"] = "stretch"
    channels: Literal["rgb", "bgr", "grey", "grey+mask"] = "rgb"
    background: Literal["keep", "black"] = "keep"
    frames: int = Field(default=0, ge=0, le=1000)

    @property
    def channel_count(self) -> int:
        """Channels of a clip: 1, 2 or 3."""
        return {"grey": 1, "grey+mask": 2}.get(self.channels, 3)


@dataclass(frozen=True)
class Clip:
    """What a net sees of a recording.

    Attributes
    ----------
    pixels : ndarray
        uint8 (T, S, S, C), C as the settings' `channel_count`.
    box : Box
        The part of the recording that was cropped.
    traits : Traits
        Of the recording inside its outline, all frames, before resizing.
    """

    pixels: Frames
    box: Box
    traits: Traits


def make_clip(recording: Recording, outline: Outline, settings: ClipSettings) -> Clip:
    """Crop and resize a recording around its outline.

    Parameters
    ----------
    recording : Recording
        Colour, (T, H, W, 3).
    outline : Outline
        Found in this recording.
    settings : ClipSettings
        What to make.

    Returns
    -------
    Clip
        uint8 (T, S, S, C).
    """
    box = crop_box(outline.box, settings.margin, (recording.shape[1], recording.shape[2]))
    rows, cols = box.slices
    place = _place(box, settings)
    pixels = np.zeros((len(recording), settings.size, settings.size, settings.channel_count), "u1")
    seen = outline.box
    gatherer = Gatherer(outline.mask[rows, cols], (seen.row1 - seen.row0, seen.col1 - seen.col0))
    start = 0
    for crop in recording.chunks(box):
        count = len(crop)
        grey = to_grey(np.ascontiguousarray(crop))
        gatherer.add(grey)
        target = pixels[start : start + count]
        if settings.channels in ("grey", "grey+mask"):
            crop = grey
            target = target[..., 0]
        if settings.channels == "grey+mask":
            crop = paint_out(crop, outline.contour[rows, cols])
        if settings.channels == "bgr":
            crop = crop[..., ::-1]
        if settings.background == "black":
            crop = crop.copy()
            crop[:, ~outline.mask[rows, cols]] = 0
        _resize_into(target, crop, place)
        start += count
    if settings.channels == "grey+mask":
        mask = outline.mask[rows, cols].astype(np.uint8) * np.uint8(255)
        square = np.zeros((1, settings.size, settings.size), np.uint8)
        _resize_into(square, mask[None], place)
        pixels[..., 1] = square
    return Clip(_fit_frames(pixels, settings.frames or len(pixels)), box, gatherer.traits())


def _fit_frames(pixels: Frames, frames: int) -> Frames:
    """Cut the clip, or fill it with black frames, at both ends alike."""
    if frames <= len(pixels):
        start = (len(pixels) - frames) // 2
        return pixels[start : start + frames]
    filled = np.zeros((frames, *pixels.shape[1:]), np.uint8)
    start = (frames - len(pixels)) // 2
    filled[start : start + len(pixels)] = pixels
    if pixels.shape[-1] == 2:
        filled[..., 1] = pixels[:1, ..., 1]  # the mask is the same in all frames
    return filled


def crop_box(box: Box, margin: int, frame_shape: tuple[int, int]) -> Box:
    """Widen a contour's box by the published rule, [min - margin, max + margin), in the frame.

    A half-open box ends at max + 1, so one pixel less is added at the end than at the start.

    Parameters
    ----------
    box : Box
        Around the contour's pixels.
    margin : int
        Pixels.
    frame_shape : tuple of int
        Rows and columns of the frame.
    """
    height, width = frame_shape
    # With no margin the published rule would cut the last row off, and a contour of one row away.
    after = max(margin - 1, 0)
    return Box(
        max(box.row0 - margin, 0),
        min(box.row1 + after, height),
        max(box.col0 - margin, 0),
        min(box.col1 + after, width),
    )


def paint_out(grey: Frames, contour: Mask) -> Frames:
    """Replace the contour's pixels by the mean of the pixels around it that are not contour.

    Parameters
    ----------
    grey : ndarray
        uint8 (T, h, w).
    contour : ndarray
        bool (h, w): what to replace. One pixel around it is replaced, too: the codec's ringing.

    Returns
    -------
    ndarray
        uint8 (T, h, w).
    """
    hidden = cv2.dilate(contour.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    weight = (~hidden).astype(np.float32)
    reach = 7
    while not (blurred := cv2.blur(weight, (reach, reach)))[hidden].all():
        if reach > max(hidden.shape):
            return grey  # a crop that is all contour: there is nothing to paint with
        reach += 4
    around = [cv2.blur(frame * weight, (reach, reach))[hidden] for frame in grey]
    painted = grey.copy()
    painted[:, hidden] = np.rint(np.stack(around) / blurred[hidden])
    return painted


def to_input(
    pixels: Frames, mean: tuple[float, ...], std: tuple[float, ...]
) -> NDArray[np.float32]:
    """Bring a clip into the form and range of a net's input.

    Parameters
    ----------
    pixels : ndarray
        uint8 (T, S, S, C).
    mean, std : tuple of float
        One of each for a channel, on the scale 0..1.

    Returns
    -------
    ndarray
        float32 (C, T, S, S): (pixels / 255 - mean) / std.
    """
    # One channel at a time: numpy is slow where the innermost axis is short.
    made = np.empty((len(mean), *pixels.shape[:-1]), np.float32)
    for channel, (middle, spread) in enumerate(zip(mean, std, strict=True)):
        gain = np.float32(1.0) / (np.float32(255.0) * np.float32(spread))
        np.multiply(pixels[..., channel], gain, out=made[channel])
        made[channel] -= np.float32(middle) / np.float32(spread)
    return made


def _place(box: Box, settings: ClipSettings) -> tuple[slice, slice]:
    """Rows and columns of the clip that the crop fills."""
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
