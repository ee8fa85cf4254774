"""Rows: from prepared recordings and engines to scores, calls and reasons.

Every row of ``predictions.csv`` is made here, whether by `predict`, by a shard of a plan, or from
Python.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from stallscan.bundle.bundle import Bundle, Ensemble
from stallscan.calls import changes
from stallscan.clips.prepare import Prepared
from stallscan.clips.traits import Traits
from stallscan.engines.choose import Engine
from stallscan.recordings.recording import Frames
from stallscan.scores import thresholds
from stallscan.stamps import Stamp
from stallscan.words import printable

# The logit of a clip, and of each of its changes; None where a recording has no clip.
Logits = tuple[float | None, ...]


class Answer(NamedTuple):
    """What is recorded about one recording."""

    row: dict[str, Any]  # by `runs.PREDICTION_COLUMNS`
    traits: Traits | None  # None without a clip
    stamp: Stamp | None  # None if it is unknown


def answer(
    todo: Iterable[Prepared],
    stamps: Mapping[str, Stamp],
    model: Bundle | Ensemble,
    engines: Sequence[Engine],
    consistency: bool,
) -> Iterator[Answer]:
    """Score and call prepared recordings, and yield an answer for each, in order.

    Parameters
    ----------
    stamps : mapping
        The stamp of each recording before it was read, by filename; it is sealed here.
    engines : sequence of Engine
        One for each of the model's members.
    consistency : bool
        Whether to score the changes of `changes`, too.
    """
    for prepared, logits in _score(todo, engines, model.members, consistency):
        row = make_row(prepared, logits, model)
        stamp = stamps.get(row["filename"])
        yield Answer(
            row,
            prepared.clip.traits if prepared.clip is not None else None,
            stamp and stamp.sealed(prepared.source.path),
        )


def _score(
    todo: Iterable[Prepared],
    engines: Sequence[Engine],
    members: Sequence[Bundle],
    consistency: bool,
) -> Iterator[tuple[Prepared, tuple[Logits, ...]]]:
    """Yield every recording with the logits of each engine.

    Each engine reads ahead by a batch, so `tee` holds a bounded number of recordings.
    """
    ours, *theirs = itertools.tee(todo, 1 + len(engines))
    logits: list[Iterator[Logits]] = []
    for place, (engine, member, each) in enumerate(zip(engines, members, theirs, strict=True)):
        clips = _pixels(each, place)
        if consistency:
            every = changes.with_changes(clips, member.spec.clip)
            logits.append(changes.group(engine.stream(every)))
        else:
            logits.append((logit,) for logit in engine.stream(clips))
    yield from zip(ours, zip(*logits, strict=True), strict=True)


def _pixels(every: Iterable[Prepared], place: int) -> Iterator[Frames | None]:
    for prepared in every:
        yield prepared.clips[place].pixels if prepared.clips else None


def make_row(
    prepared: Prepared, given: Sequence[Logits], model: Bundle | Ensemble
) -> dict[str, Any]:
    """Return the row of a recording, from the logits of each member of the bundle.

    The first logit of a member is that of the clip, and the others are those of the changes of
    `changes`, if they were made. A logit is None where the recording has no clip.
    """
    spec = model.spec
    status, reason, call, score = prepared.status, prepared.reason, "unscorable", ""
    if prepared.clips:
        logits = np.array(given, np.float64)  # (members, 1 + changes)
        if not np.isfinite(logits[:, 0]).all():
            status = "failed"
            reason = f"{prepared.source.path}: the net's output for this recording is not finite"
        else:
            scores = [round(float(value), 6) for value in model.score(logits)]
            score = f"{scores[0]:.6f}"
            # No call with frames missing: they may be the ones that show the stall.
            if status == "ok":
                call = thresholds.call(scores[0], spec.threshold)
                doubt = changes.doubt(scores, spec.threshold)
                if doubt:
                    call = "review"
                    doubt = f"{prepared.source.path}: {doubt}; check this recording yourself"
                reason = "; ".join(filter(None, [reason, doubt, _unlike(prepared, model)]))
    return {
        "filename": prepared.source.filename,
        "status": status,
        "reason": printable(reason),
        "frames": prepared.frames if prepared.frames is not None else "",
        "frames_declared": (
            prepared.frames_declared if prepared.frames_declared is not None else ""
        ),
        "score": score,
        "call": call,
        "threshold": f"{thresholds.on_grid(spec.threshold):.{thresholds.DIGITS}f}",
        "bundle": model.label,
    }


def _unlike(prepared: Prepared, model: Bundle | Ensemble) -> str:
    """Return a sentence on how a recording differs from the training data; empty if it does not."""
    differences = []
    fewest, most = model.spec.frames
    if prepared.frames is not None and not fewest <= prepared.frames <= most:
        differences.append(
            f"{prepared.frames} frames, the bundle was trained on recordings of {fewest} to {most}"
        )
    if model.spec.reference is not None and prepared.clip is not None:
        differences += filter(None, [model.spec.reference.outliers(prepared.clip.traits)])
    if not differences:
        return ""
    return f"{prepared.source.path}: {'; '.join(differences)}; check this recording yourself"
