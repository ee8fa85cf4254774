"""Doubts about a raw stack: values that are no grey levels, an order that looks wrong."""

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np

from stallscan.errors import UnreadableError
from stallscan.recordings import levels
from stallscan.recordings.colours import Array
from stallscan.recordings.planes import Place, Planes
from stallscan.words import percent

# Frames and values per frame from which the grey levels are chosen.
SAMPLED_FRAMES, SAMPLED_VALUES = 64, 65_536
# A stack with more values that are not numbers is refused.
MOST_NOT_NUMBERS = 0.5
# Correlation of the first and last quarter of a stack, see `say_unlikely`. Chosen: five simulated
# z-stacks of 80 um had 0.11 to 0.47, time series of the same scenes 0.97 to 1.00.
SAME_PLACE, OTHER_PLACE = 0.9, 0.7
# Steps and pixels of the recordings that the shipped model was trained on (the look `wide`).
STEP_UM, COARSEST_UM = (0.5, 2.0), 1.5
# Chosen: in a thinner z-stack, the same vessels stay in focus.
THICK_UM = 40.0


def sample(found: Planes, places: Sequence[Place]) -> tuple[Array, list[Array]]:
    """Read values from frames spread over the stack.

    Returns
    -------
    values, small
        The values, (n,); and every sampled frame, reduced to about 64 x 64 by averaging, float32.
    """
    rows, columns = found.shape
    step = max(int(np.sqrt(rows * columns / SAMPLED_VALUES)), 1)
    chosen = np.unique(np.linspace(0, len(places) - 1, SAMPLED_FRAMES).round().astype(int))
    values, small = list[Array](), list[Array]()
    for index in chosen.tolist():
        plane = found.read(places[index])
        if plane is not None:
            values.append(plane[::step, ::step].ravel())
            finite = np.nan_to_num(plane.astype(np.float32), posinf=0, neginf=0)
            small.append(cv2.resize(finite, (64, 64), interpolation=cv2.INTER_AREA))
    if not values:
        raise UnreadableError(f"{found.path}: no frame can be decoded. Copy or export it again")
    return np.concatenate(values), small


def check_values(found: Planes, sample: Array) -> list[str]:
    """Return notes on values that are no grey levels; refuse a stack that has hardly any others."""
    if sample.dtype.kind != "f":
        return []
    odd = float(1 - np.isfinite(sample).mean())
    if odd > MOST_NOT_NUMBERS:
        raise UnreadableError(
            f"{found.path}: {percent(odd)} of its values are NaN or infinite. Export the stack "
            "again"
        )
    notes = []
    if odd:
        notes.append(f"{percent(odd)} of its values are NaN or infinite, and count as black")
    lowest = float(np.nanmin(np.where(np.isfinite(sample), sample, np.nan)))
    if lowest < 0:
        notes.append(
            f"has values below 0 (down to {lowest:g}), which only shift the grey levels; after a "
            "background subtraction this is expected"
        )
    return notes


def say_unlikely(
    along: Literal["depth", "time"],
    extent_um: float,
    small: Sequence[Array],
    scale: levels.Scale,
) -> list[str]:
    """Return a note if a z-stack looks like a time series, or the other way round.

    Along depth, other vessels come into focus; along time, the same stay.
    """
    if len(small) < 8:
        return []
    frames = np.stack([scale(frame) for frame in small]).astype(np.float32)  # (n, 64, 64)
    quarter = len(frames) // 4
    first, last = (part.mean(axis=0) for part in (frames[:quarter], frames[-quarter:]))
    # Vessels, not the uneven illumination of the field, which is the same at all depths.
    first, last = (part - cv2.GaussianBlur(part, (0, 0), 8) for part in (first, last))
    if not first.std() or not last.std():
        return []
    alike = float(np.corrcoef(first.ravel(), last.ravel())[0, 1])
    if along == "depth" and extent_um >= THICK_UM and alike > SAME_PLACE:
        return [
            "is declared as a z-stack, but its last frames show the same vessels as its first "
            f"(correlation {alike:.2f}), as in a time series. Check the order of its axes"
        ]
    if along == "time" and alike < OTHER_PLACE:
        return [
            "is declared as a time series, but its last frames show other vessels than its first "
            f"(correlation {alike:.2f}), as in a z-stack. Check the order of its axes"
        ]
    return []


def say_unlike(voxel_um: tuple[float, float, float]) -> list[str]:
    """Return notes on steps (0 along time) and pixels unlike those of the training recordings."""
    step_um, *sides_um = voxel_um
    notes = []
    if step_um and not STEP_UM[0] <= step_um <= STEP_UM[1]:
        number = "fewer" if step_um > STEP_UM[1] else "more"
        notes.append(
            f"has frames {step_um:g} um apart, the training recordings about 1 um, so vessels are "
            f"in focus in {number} frames. Check some calls yourself"
        )
    if max(sides_um) > COARSEST_UM:
        notes.append(
            f"has pixels of {max(sides_um):g} um, the training recordings about 1 um, so blood "
            "cells may not show. Check some calls yourself"
        )
    return notes
