"""Sentences on what limits a rate."""

import pandas as pd

from stallscan.calls import corrections
from stallscan.calls.predictions import SIMULATED
from stallscan.rates import reviewed
from stallscan.rates.correction import CallAccuracy, Rate, origin, resolves_from
from stallscan.rates.reviewed import ReviewedAccuracy
from stallscan.scores.intervals import jeffreys, subtract
from stallscan.words import percent

# Chosen: a larger share of recordings left to a person gets a note.
MOST_OPEN = 0.05


def on_review(table: pd.DataFrame, errors: CallAccuracy) -> str:
    """Say how many calls were reviewed, and what that means; empty if none was.

    `table` is that of `corrections.apply`, and `errors` the accuracy of the calls before.
    """
    verdicts, counts = corrections.count(table), reviewed.tally(table)
    if not verdicts.answered:
        return ""
    said = [
        f"{verdicts.answered:,} of {len(table):,} recordings were answered in the review: "
        f"{verdicts}."
    ]
    if counts.reviewed < counts.scored:
        said.append(
            "They are known; the rates are corrected for the wrong calls that are expected to "
            "remain."
        )
    else:
        said.append(
            "These are all that are scored, so the rates are those of the answers, and nothing is "
            "corrected."
        )
    unscorable = int((table["answer"] == "unscorable").sum())
    if unscorable:
        said.append(f"{unscorable:,} answered recordings cannot be scored and are left out.")
    for kind, found, expected in reviewed.surprises(errors, counts):
        said.append(
            f"The review found {found:,} {kind}, but all calls together should have about "
            f"{expected:.3g}. Sensitivity and specificity do not hold for these recordings: "
            "evaluate on a random sample of them."
        )
    return " ".join(said)


def on_groups(errors: CallAccuracy) -> str:
    """Say what recordings of the same mouse mean for the accuracy; empty if it is not known."""
    if not errors.grouped_by or errors.stalled is None or errors.flowing is None:
        return ""
    if errors.effective is None:
        return (
            "The intervals take sensitivity and specificity for those of independent recordings, "
            f"but they are grouped by {errors.grouped_by}, so the intervals are too narrow. "
            "Evaluate again, with this version."
        )
    stalled, flowing = (round(count) for count in errors.effective)
    if stalled >= errors.stalled and flowing >= errors.flowing:
        return ""
    return (
        f"Evaluated recordings with the same {errors.grouped_by} are alike: the {errors.stalled:,} "
        f"stalled and {errors.flowing:,} flowing ones count as {stalled:,} and {flowing:,} "
        "independent ones."
    )


def on_simulated(errors: CallAccuracy, is_training: bool, are_recordings: bool) -> list[str]:
    """Say what simulated recordings do not tell about real ones.

    Parameters
    ----------
    errors : CallAccuracy
        Where the correction comes from.
    is_training : bool
        Whether the model has learned from simulated recordings only.
    are_recordings : bool
        Whether the recordings of the rates are simulated.
    """
    if are_recordings:
        return ["The recordings are simulated, so the rates are not those of any mouse."]
    if errors.simulated:
        return [
            "Sensitivity and specificity were measured on simulated recordings, so they correct "
            "only those. Evaluate on labelled recordings like these."
        ]
    if is_training and errors.stalled is None:
        return [
            f"{SIMULATED}, so the stated sensitivity and specificity may not hold for these "
            "recordings. Evaluate on labelled recordings like these."
        ]
    if is_training:
        return [f"{SIMULATED}, so the rates are right only for recordings like the labelled ones."]
    return []


def on_learned(count: int) -> list[str]:
    """Say that the accuracy does not hold for recordings that the model has learned from."""
    if not count:
        return []
    return [
        f"The model has learned from {count:,} of these recordings. Its calls are better there "
        "than sensitivity and specificity say, so the correction is too large: review them, or "
        "predict them with a bundle that has not learned from them."
    ]


def left_open(review: int, scored: int) -> str:
    """Return a note if many recordings are called review and nobody has answered them."""
    if review <= MOST_OPEN * (review + scored):
        return ""
    return (
        f"{review:,} of {review + scored:,} recordings are left out because they are called review."
        " They are not like the others, so the rate depends on how many were answered: review all "
        "of them."
    )


def on_left_out(errors: CallAccuracy, count: int) -> str:
    """Say that stalled recordings are left out more often, or less, than flowing ones.

    `count` is the number of recordings without a call. Empty if there are none, or the evaluation
    does not show a difference.
    """
    if not count or errors.left_out is None or errors.stalled is None or errors.flowing is None:
        return ""
    stalled, flowing = errors.left_out
    of_stalled, of_flowing = stalled + errors.stalled, flowing + errors.flowing
    more = subtract(jeffreys(flowing, of_flowing), jeffreys(stalled, of_stalled))
    if more.low <= 0 <= more.high:
        return ""
    return (
        f"In the evaluation, {stalled:,} of {of_stalled:,} stalled and {flowing:,} of "
        f"{of_flowing:,} flowing recordings had no call. {count:,} recordings without one are left "
        f"out here, so the rates are too {'low' if more.value > 0 else 'high'}: review them."
    )


def without_mice(scored: int) -> str:
    """Return the note on recordings whose mice are unknown."""
    return (
        f"No column names the mouse, so the {scored:,} recordings are treated as "
        "independent. The interval is too narrow, and groups are not tested."
    )


def impossible(rate: Rate, errors: CallAccuracy) -> str:
    """Return a note if the errors rule out this number of stalled calls, otherwise nothing."""
    if not rate.impossible:
        return ""
    if rate.estimate <= 0:
        limit = (
            f"fewer than the false calls expected at a specificity of {percent(errors.specificity)}"
        )
    else:
        limit = f"more than possible at a sensitivity of {percent(errors.sensitivity)}"
    return (
        f"{rate.stalled:,} of {rate.scored:,} called stalled is {limit}. Sensitivity and "
        "specificity do not hold for these recordings, so they cannot correct the rate. Evaluate "
        "on a random sample of them."
    )


def unresolved(rate: Rate, errors: CallAccuracy) -> str:
    """Return a note if the rate is not distinguishable from 0, otherwise nothing."""
    if rate.resolvable:
        return ""
    if rate.stalled == 0:
        return f"None of {rate.scored:,} recordings is called stalled."
    source = f"at a specificity of {percent(errors.specificity)}"
    source += f" ({origin(errors.flowing, 'flowing')})"
    note = (
        f"{rate.stalled:,} of {rate.scored:,} called stalled cannot be distinguished from the "
        f"{rate.scored * (1 - errors.specificity):.3g} false calls expected "
        f"{'after the review' if isinstance(errors, ReviewedAccuracy) else source}."
    )
    lowest = resolves_from(rate.scored, errors)
    if lowest is not None:
        note += f" {rate.scored:,} recordings can resolve rates from {percent(lowest)}."
    return note
