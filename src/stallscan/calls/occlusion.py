"""What a bundle looked at in a recording: how the logit changes where the clip is covered.

A square of the clip is replaced, in each frame, by its own mean, which takes away what stands still
or moves in it and leaves its light. Where that lowers the logit, the square spoke for a stall;
where that raises it, for flow (Zeiler & Fergus 2014, "Visualizing and understanding convolutional
networks").
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stallscan.bundle.bundle import Bundle, Ensemble
from stallscan.clips import prepare
from stallscan.engines import choose
from stallscan.engines.choose import Engine
from stallscan.errors import InputError
from stallscan.recordings.find import Source
from stallscan.recordings.recording import Frames

# Sides of the covered square and of the steps between squares, as shares of the clip's side:
# chosen, 16 and 8 px of 64, about two widths of a capillary.
SQUARE, STEP = 0.25, 0.125


class Looked(NamedTuple):
    """The result for one recording.

    Attributes
    ----------
    mean : ndarray
        float32 (S, S), 0..255: mean of the clip over time.
    mask : ndarray
        bool (S, S): inside the outline.
    change : ndarray
        float32 (S, S): by how much the logit falls when the place is covered, averaged over the
        squares that cover it; positive speaks for a stall. 0 where nothing was covered.
    """

    mean: NDArray[np.float32]
    mask: NDArray[np.bool_]
    change: NDArray[np.float32]


class Looker:
    """A bundle, or an ensemble, that says where it looked.

    Parameters
    ----------
    model : Bundle or Ensemble
        From `disk.load_any`.

    Raises
    ------
    BundleError
        If its nets cannot be loaded.
    InputError
        If members of an ensemble see different clips, or the clips have no mask: the outline itself
        would be covered, too.
    """

    def __init__(self, model: Bundle | Ensemble) -> None:
        views = {member.spec.view for member in model.members}
        if len(views) > 1:
            raise InputError(
                f"{model.path}: its members see different clips, so no one picture shows where "
                "they look. Use a single bundle"
            )
        (self._view,) = views
        if self._view.clip.channels != "grey+mask":
            raise InputError(
                f"{model.path}: its clips have the channels {self._view.clip.channels}, where the "
                "outline is drawn in. Only bundles for grey+mask can show where they look"
            )
        self._engines = choose.choose(model).engines

    def look(self, path: Path) -> Looked | None:
        """Find out where the bundle looks; None if the recording has no clip."""
        prepared = next(prepare.many([Source(path.name, path)], [self._view], 0))
        if prepared.clip is None:
            return None
        return look_at(self._engines, prepared.clip.pixels)


def look_at(engines: Sequence[Engine], pixels: Frames) -> Looked:
    """Cover a clip, uint8 (T, S, S, 2) of grey and mask, place by place.

    The change is the mean over the engines, one for each member of an ensemble.
    """
    mask = pixels[0, ..., 1] >= 128  # (S, S)
    squares = list(_squares(mask))
    total, count = np.zeros((2, *mask.shape), np.float32)
    for engine in engines:
        whole = engine.logit(pixels)
        logits = engine.stream(_covered(pixels, mask, square) for square in squares)
        for square, logit in zip(squares, logits, strict=True):
            if logit is not None:
                total[square] += whole - logit
                count[square] += 1
    change = np.where(mask, total / np.maximum(count, 1), 0)
    return Looked(pixels[..., 0].mean(axis=0, dtype=np.float32), mask, change.astype(np.float32))


def _squares(mask: NDArray[np.bool_]) -> Iterator[tuple[slice, slice]]:
    """Yield overlapping squares that contain a part of the mask."""
    side = mask.shape[0]
    size, step = max(round(SQUARE * side), 1), max(round(STEP * side), 1)
    starts = range(step - size, side, step)
    for top in starts:
        for left in starts:
            square = (
                slice(max(top, 0), min(top + size, side)),
                slice(max(left, 0), min(left + size, side)),
            )
            if mask[square].any():
                yield square


def _covered(pixels: Frames, mask: NDArray[np.bool_], square: tuple[slice, slice]) -> Frames:
    """Return a copy of a clip with a square replaced by its mean inside the mask, per frame."""
    covered = pixels.copy()
    inside = mask[square]  # (h, w)
    part = covered[:, square[0], square[1], 0]  # (T, h, w), a view
    part[:, inside] = part[:, inside].mean(axis=1, keepdims=True).round().astype(np.uint8)
    return covered
