"""Make calls as an earlier decision did, on other recordings: its calibration and threshold."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from stallscan.calls.decide import Calls, as_calls
from stallscan.calls.drafts import Draft, Floats, Step, steps_of
from stallscan.calls.predictions import Predictions, is_on_labels, read_chosen
from stallscan.calls.settings import CallSettings
from stallscan.errors import InputError
from stallscan.runs import PREDICTIONS_NAME
from stallscan.scores.calibration import log_odds, shift
from stallscan.scores.thresholds import rounded


def decide_like(predictions: str | Path, like: Path) -> Calls:
    """Make calls with the calibration and the threshold of an earlier decision.

    Parameters
    ----------
    predictions : str or Path
        ``predictions.csv``, as `predict` writes it.
    like : Path
        Folder that `decide.write_calls` wrote for scores of the same bundle.

    Raises
    ------
    InputError
        If the folder holds no decision, or the scores are of another bundle or already converted.
    TableError
        If a table is invalid.
    """
    new, old = Predictions.read(predictions), Predictions.read(like / PREDICTIONS_NAME)
    steps, decision = steps_of(old.run), old.run.get("decision")
    if not steps or not isinstance(decision, dict):
        raise InputError(
            f"{like}: holds no decision to repeat, or that of an older version. Make one with "
            "'stallscan decide ... --labels'"
        )
    threshold, low = decision.get("threshold"), decision.get("low")
    settings = CallSettings.parse({"threshold": threshold}, str(like))
    has_open = "review" in set(old.table["call"]) and not old.run.get("consistency")
    if settings.threshold is None or (has_open and not isinstance(low, float)):
        raise InputError(
            f"{like}: keeps calls of another decision, which cannot be repeated. Name the folder "
            "of that one"
        )
    if not new.has_score.any():
        raise InputError(f"{new.path}: no recording has a score, so there is nothing to call")
    if steps_of(new.run):
        raise InputError(
            f"{new.path}: these calls are a decision already. Give the table that 'stallscan "
            "predict' wrote"
        )
    here, there = (set(each.table["bundle"][each.has_score]) for each in (new, old))
    if here != there:
        raise InputError(
            f"{new.path}: its scores are of {_named(here)}, but {like} decided on scores of "
            f"{_named(there)}. Predict with the same bundle"
        )
    draft = Draft(rounded(_repeat(new, steps)))
    draft.threshold, draft.on_labels = settings.threshold, is_on_labels(decision)
    if isinstance(low, float):
        draft.low = low
        decided = np.where(draft.scores >= draft.threshold, "stalled", "review")
        draft.calls = np.where(draft.scores < draft.low, "flowing", decided)
    draft.how.append(f"as in {like}: {decision.get('how')}")
    chosen = pd.concat([read_chosen(new.path), read_chosen(old.path)])
    chosen = chosen[chosen["filename"].isin(new.table["filename"])].drop_duplicates("filename")
    if len(chosen):
        draft.doubts.append(
            f"{len(chosen):,} recordings have the name of one that chose the threshold. 'stallscan "
            "evaluate' leaves them out"
        )
    calls = as_calls(new, draft, chosen, settings, steps)
    calls.run["decision"]["like"] = {"name": like.name, "chosen_on": decision.get("chosen_on")}
    return calls


def _repeat(predictions: Predictions, steps: Sequence[Step]) -> Floats:
    """Do to the scores of a table what was done to those of another one."""
    scores: Floats = predictions.table["score"][predictions.has_score].to_numpy(float)
    before, first = predictions.prevalence, steps[0].before
    if before != first:
        if before is None or first is None:
            raise InputError(
                f"{predictions.path}: it is unknown for which prevalence the scores are "
                "calibrated. Predict again, with 'stallscan predict'"
            )
        scores = shift(scores, before, first)
    for step in steps:
        if step.calibration:
            scores = step.calibration.score(log_odds(scores))
        if step.to is not None and step.at is not None:
            scores = shift(scores, step.at, step.to)
    return scores


def _named(labels: set[str]) -> str:
    return " and ".join(sorted(labels)) or "no bundle"
