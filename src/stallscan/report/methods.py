"""The paragraph of a report that can be copied into the methods section of a paper."""

from typing import Any

import pandas as pd

from stallscan import __version__
from stallscan.calls.corrections import Corrected
from stallscan.calls.predictions import is_on_labels, is_simulated, stack_of
from stallscan.evaluation.evaluate import Evaluation
from stallscan.scores import resample
from stallscan.words import counted, enumerated, percent

# The figures to quote, with the words for them.
FIGURES = {
    "recall": "a sensitivity",
    "specificity": "a specificity",
    "roc_auc": "an area under the ROC curve",
    "mcc": "a Matthews correlation coefficient",
}
CALLS = {
    "stalled": "stalled",
    "flowing": "flowing",
    "review": "left for a person to decide",
    "unscorable": "without a reliable score",
    # Not a call of the table: `_results` sets it apart.
    "by people": "judged by people to be unscorable",
}


def describe(
    corrected: Corrected, run: dict[str, Any], evaluation: Evaluation | None = None
) -> tuple[str, ...]:
    """Describe how calls were made, in sentences for a paper.

    Parameters
    ----------
    corrected : Corrected
        The predictions, with the corrections of a review if there was one.
    run : dict
        From `predictions.read_run`. What it does not know is left out.
    evaluation : Evaluation, optional
        An evaluation of these predictions.

    Returns
    -------
    tuple of str
        Paragraphs: how the calls were made, how good they are (if there is an evaluation), and how
        to cite the software.
    """
    table = corrected.table
    calls = [*_regions(run), _model(table, run), *_threshold(table, run), *_review(corrected)]
    paragraphs = [" ".join([*calls, _results(corrected, run)])]
    if evaluation:
        paragraphs.append(" ".join(_accuracy(evaluation, bool(corrected.answered))))
    paragraphs.append(_citation(run))
    return tuple(paragraphs)


def _versions(run: dict[str, Any]) -> str:
    """Return the versions that made the predictions; empty if they are not recorded."""
    versions = run.get("versions") or [run.get("stallscan")]
    return enumerated([version for version in versions if isinstance(version, str)])


def name_regions(run: dict[str, Any]) -> str:
    """Name the raw stack, its regions, and where they are from; empty for other runs."""
    stack = stack_of(run)
    if not stack:
        return ""
    if stack["source"]:
        return f"{stack['name']}, {counted(stack['regions'], 'region')} from {stack['source']}"
    found = counted(stack["regions"], "capillary segment")
    return f"{stack['name']}, {found} that stallscan found in it"


def _regions(run: dict[str, Any]) -> list[str]:
    stack = stack_of(run)
    if not stack:
        return []
    along = "a z-stack" if stack["axis"] == "depth" else "a time series"
    return [
        f"The recordings are regions of {along}: {name_regions(run)}. Each region was cut out with "
        "its surroundings."
    ]


def _model(table: pd.DataFrame, run: dict[str, Any]) -> str:
    bundles = sorted(set(table["bundle"]) - {""})
    text = f"Recordings were scored for stalled capillaries with stallscan {_versions(run)}".strip()
    if bundles:
        text += f", using the model{'s' * (len(bundles) > 1)} {enumerated(bundles)}"
    if is_simulated(run):
        text += ", trained on simulated recordings only"
    return f"{text}."


def _threshold(table: pd.DataFrame, run: dict[str, Any]) -> list[str]:
    thresholds = sorted(set(table["threshold"].dropna()))
    sentences = []
    share, decision = run.get("prevalence"), run.get("decision")
    # A run of a model that states no share of stalled recordings is that of a vote.
    is_vote = "bundle" in run and run.get("prevalence", 0.0) is None
    if not (isinstance(share, float) and 0 < share < 1):
        share = None
    if thresholds and share:
        sentences.append(
            "The score estimates the probability that the outlined capillary is stalled."
        )
    elif thresholds and is_vote:
        sentences.append(
            "The score is the margin by which a vote of several models was decided; it ranks "
            "recordings and is not a probability."
        )
    decision = decision if isinstance(decision, dict) else {}
    if len(thresholds) == 1:
        low = decision.get("low")
        band = "" if low is None else f", and flowing if it was below {low:.3g}"
        sentences.append(
            f"A recording was called stalled if its score was at least {thresholds[0]:.3g}{band}."
        )
    elif thresholds:
        values = enumerated([f"{value:.3g}" for value in thresholds])
        sentences.append(f"The thresholds for calling a recording stalled were {values}.")
    if run.get("consistency"):
        sentences.append(
            "A recording was left to a person if another gain, some noise or other changes that "
            "leave the blood as it is changed its call."
        )
    if share:
        sentences.append(_share(share, run, decision))
    return [*sentences, *_choice(decision)]


def _share(share: float, run: dict[str, Any], decision: dict[str, Any]) -> str:
    """Say for which share of stalled recordings the scores are, and where it is from."""
    stated = f"{percent(share)} stalled recordings"
    what = "Scores" if decision else "Scores and threshold"
    if decision.get("prevalence") == "estimate":
        return f"{what} were converted to a share of {stated}, estimated from the scores."
    expected = run.get("expected_prevalence")
    for step in decision.get("steps", []):
        if step.get("calibration"):  # for the share of the labels, whatever was expected before
            expected = None
        expected = step.get("to") or expected
    if decision.get("prevalence") is not None or expected is not None:
        return f"{what} were converted to an expected share of {stated}."
    return f"{what} are calibrated for a share of {stated}."


def _choice(decision: dict[str, Any]) -> list[str]:
    """Say on which labels calibration and threshold were chosen; empty if on none."""
    like = decision.get("like")
    is_calibrated = any(step.get("calibration") for step in decision.get("steps", []))
    if not isinstance(like, dict) and not is_on_labels(decision):
        what = "The calibration was" if is_calibrated else ""
    else:
        what = "Calibration and threshold were" if is_calibrated else "The threshold was"
    if not what:
        return []
    if not isinstance(like, dict):
        on = _on_labels(decision)
        return [f"{what} chosen{on}."] if on else []
    text = f"{what} taken from an earlier decision on other recordings ({like.get('name')})"
    if on := _on_labels(like):
        text += f", which chose{on} of its own"
    return [f"{text}."]


def _on_labels(decision: dict[str, Any]) -> str:
    count = decision.get("chosen_on")
    return f" on {counted(count, 'labelled recording')}" if isinstance(count, int) and count else ""


def _review(corrected: Corrected) -> list[str]:
    """Describe the review; empty if there was none."""
    if not corrected.answered:
        return []
    confirmed, overturned, decided = corrected.verdicts
    parts = [f"confirmed {counted(confirmed, 'call')}", f"overturned {overturned:,}"]
    if decided:
        parts.append(f"decided {decided:,} that the model had left open")
    return [
        f"People reviewed {counted(corrected.answered, 'recording')}: they {enumerated(parts)}."
    ]


def _results(corrected: Corrected, run: dict[str, Any]) -> str:
    table = corrected.table
    counts = table["call"].mask(table["answer"] == "unscorable", "by people").value_counts()
    parts = [f"{counts[call]:,} {words}" for call, words in CALLS.items() if call in counts]
    after = " after the review" if corrected.answered else ""
    text = f"The calls for {counted(len(table), 'recording')}{after} were: {enumerated(parts)}."
    expected = run.get("recordings")
    if isinstance(expected, int) and expected > len(table):
        text += f" The remaining {expected - len(table):,} recordings were not scored."
    return text


def _accuracy(evaluation: Evaluation, is_reviewed: bool) -> list[str]:
    measured, group = evaluation.metrics, evaluation.group
    values = []
    for name, words in FIGURES.items():
        value, interval = evaluation.values[name], evaluation.intervals[name]
        if value is None:
            continue
        within = f" (95 % interval {interval.low:.3f} to {interval.high:.3f})" if interval else ""
        values.append(f"{words} of {value:.3f}{within}")
    unit = f"whole groups ({group.count:,} by {group.column})" if group.column else "recordings"
    whose = "the calls and scores"
    if is_reviewed:
        whose = "the model's own calls and scores, without the review,"
    sentences = [
        f"Compared with labels of {counted(measured.count, 'called recording')} "
        f"({percent(measured.prevalence)} labelled stalled), {whose} had "
        f"{enumerated(values)}.",
        f"Intervals are the central 95 % of {resample.BOOTSTRAP_DRAWS:,} bootstrap samples of "
        f"{unit}.",
    ]
    if not group.column:
        sentences.append("They do not account for recordings of the same animal being alike.")
    if evaluation.simulated:
        sentences.append("These recordings are simulated.")
    if evaluation.held_out:
        sentences.append(
            "The labelled recordings also chose the training epoch, the calibration and the "
            "threshold, so these figures are optimistic."
        )
    return sentences


def _citation(run: dict[str, Any]) -> str:
    commit, versions = run.get("git"), _versions(run)
    # The commit is that of the last version.
    has_one = versions == run.get("stallscan")
    source = f", commit {commit}" if isinstance(commit, str) and has_one else ""
    version = f", version {versions}" if versions else ""
    return f"Software to cite: stallscan{version}{source} (report: version {__version__})."
