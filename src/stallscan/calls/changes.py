"""Changes of a clip that leave the blood as it is, and whether its call stays the same under them.

Another gain, some noise or a few lost frames do not make a vessel flow. A call that changes with
them rests on something else than the blood, and is left to a person. No labels are needed.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from stallscan.clips.clip import ClipSettings
from stallscan.recordings.recording import Frames
from stallscan.scores import thresholds

Mask = NDArray[np.bool_]
# Changes frames, uint8 (T, S, S, image channels), given the enclosed region (S, S).
Change = Callable[[Frames, Mask], Frames]

# Of the added noise, grey levels; about that of real recordings (docs/facts.md 9).
NOISE = 10.0
BLUR_PX = 4.0  # of the surround
LOST = 20  # every twentieth frame is left out


def _display(gain: float, gamma: float) -> Change:
    levels = np.clip(255 * (np.arange(256) / 255) ** gamma * gain, 0, 255).astype(np.uint8)
    return lambda frames, _mask: levels[frames]


def _noise(frames: Frames, _mask: Mask) -> Frames:
    # The same noise in all channels of an image, and for every recording; none where a clip is
    # filled up with black frames and margins.
    noise = np.random.default_rng(0).normal(0, NOISE, (*frames.shape[:3], 1))
    noise *= _is_lit(frames) & np.asarray(frames.any(axis=(0, 3), keepdims=True))
    return np.clip(frames + noise, 0, 255).astype(np.uint8)


def _mean_of_three(frames: Frames, _mask: Mask) -> Frames:
    padded = np.pad(frames.astype(np.uint16), ((1, 1), (0, 0), (0, 0), (0, 0)), mode="edge")
    return ((padded[:-2] + padded[1:-1] + padded[2:]) // 3).astype(np.uint8) * _is_lit(frames)


def _black_around(frames: Frames, mask: Mask) -> Frames:
    return frames * mask[..., None]


def _blurred_around(frames: Frames, mask: Mask) -> Frames:
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), BLUR_PX) for frame in frames])
    return np.where(mask[..., None], frames, blurred.reshape(frames.shape))


def _lose_frames(frames: Frames, _mask: Mask) -> Frames:
    return np.delete(frames, np.s_[LOST // 2 :: LOST], axis=0)


def _is_lit(frames: Frames) -> NDArray[np.bool_]:
    """Return whether each frame is not black, (T, 1, 1, 1)."""
    return np.asarray(frames.any(axis=(1, 2, 3), keepdims=True))


# The strengths are chosen: smaller than the differences between microscopes.
CHANGES: dict[str, Change] = {
    "gain 0.6": _display(0.6, 1.0),
    "gain 1.8": _display(1.8, 1.0),
    "gamma 0.7": _display(1.0, 0.7),
    "gamma 1.4": _display(1.0, 1.4),
    "added noise": _noise,
    "the mean of three frames": _mean_of_three,
    "a black surround": _black_around,
    "a blurred surround": _blurred_around,
    "every twentieth frame left out": _lose_frames,
}


def with_changes(clips: Iterable[Frames | None], settings: ClipSettings) -> Iterator[Frames | None]:
    """Yield each clip, uint8 (T, S, S, C), and then each of its `CHANGES`; None as often for None.

    Clips of a fixed number of frames keep it, and clips without a mask have no surround to change:
    they are then repeated as they are.
    """
    has_mask = settings.channels == "grey+mask"
    for clip in clips:
        yield clip
        for change in CHANGES.values():
            yield None if clip is None else _changed(clip, change, has_mask, settings.frames)


def _changed(clip: Frames, change: Change, has_mask: bool, frames: int) -> Frames:
    if change is _lose_frames and frames:
        return clip
    if not has_mask:
        return change(clip, np.ones(clip.shape[1:3], np.bool_))
    image = change(clip[..., :1], clip[0, ..., 1] > 0)
    return np.concatenate([image, clip[: len(image), ..., 1:]], axis=-1)


def group(logits: Iterable[float | None]) -> Iterator[tuple[float | None, ...]]:
    """Group the logits of `with_changes` by clip: that of the clip itself, then of each change."""
    each = iter(logits)
    return zip(*[each] * (1 + len(CHANGES)), strict=True)


def doubt(scores: Sequence[float], threshold: float) -> str:
    """Say which changes of a recording change its call; empty if none does.

    Parameters
    ----------
    scores : sequence of float
        Scores, 0..1, of the clip and of each change; of the clip alone if none was made.
    threshold : float
        Of the call.
    """
    calls = [thresholds.call(score, threshold) for score in scores]
    turned = [
        f"{change} ({score:.2f})"
        for change, score, call in zip(CHANGES, scores[1:], calls[1:], strict=False)
        if call != calls[0] or math.isnan(score)
    ]
    if not turned:
        return ""
    return f"called {calls[0]} ({scores[0]:.2f}), but not with {', '.join(turned)}"
