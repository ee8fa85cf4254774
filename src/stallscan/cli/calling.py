"""Commands that call recordings: predict, explain, decide."""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from stallscan.cli.terminal import (
    EXIT_FAILED_ROWS,
    FEW_SHOWN,
    MOST_SHOWN,
    Out,
    With,
    command,
    predictions_in,
    print_calls,
    print_line,
    say,
    show_progress,
    trust_nets,
)
from stallscan.words import counted

if TYPE_CHECKING:
    from stallscan.calls.predict import PredictionSummary

log = logging.getLogger("stallscan")


@command
def predict(
    *paths: Path,
    out: Out,
    bundle: str = "default",
    prevalence: float | None = None,
    engine: Literal["auto", "torch", "openvino", "openvino-bf16", "openvino-int8"] = "auto",
    consistency: bool = False,
    strict: bool = False,
    processes: int | None = None,
    trust: bool = False,
) -> None:
    """Call each recording flowing or stalled; an interrupted run resumes where it left off.

    Example: stallscan predict my_recordings/ -o results --prevalence 0.02

    Parameters
    ----------
    paths
        Recordings (mp4, avi, mov, mkv, webm, gif, tif, npy) and folders of recordings, or one
        store of clips.
    out
        Folder for predictions.csv, run.json, traits.csv and sources.csv.
    bundle
        Name of a shipped bundle, or the folder of a bundle or ensemble.
    prevalence
        Expected share of stalled recordings (0.02). Scores and threshold are adapted to it. By
        default, the prevalence that the bundle was trained for. To estimate it from the scores, run
        'stallscan decide OUT --prevalence estimate' afterwards.
    engine
        What runs the nets. auto: torch if there is a GPU, otherwise OpenVINO in f32 if it is
        installed and the bundle has an export, otherwise torch. A resumed run keeps its engine.
    consistency
        Score each recording also with nine changes that leave the blood as it is: gain, gamma,
        noise, averaged or lost frames, surround. Where the call changes, it becomes 'review' and
        the reason says with which change. Scoring takes ten times as long.
    strict
        Exit with code 1 if any recording is unscorable; 'review' does not count. Without it, only
        if all are.
    processes
        Number of decoding processes. By default, one per core, or none for one or two recordings.
    trust
        Import the custom nets that the bundle names. This runs their code.
    """
    from stallscan.calls import predict
    from stallscan.errors import InputError

    if not paths:
        raise InputError(
            "no recordings given. Name files or folders: stallscan predict PATH... -o OUT"
        )
    if trust:
        trust_nets(bundle)
    with show_progress("predicting") as progress:
        summary = predict.predict(
            paths, out, bundle, processes, prevalence, progress, engine, consistency=consistency
        )
    few = sum(summary.calls.values()) <= FEW_SHOWN
    if few:
        print_calls(summary.table)
    print_summary(summary, say_remarks=not few)
    log.info("look at the calls: stallscan report %s -o %s", out, out / "report.html")
    if summary.failed and strict:
        sys.exit(EXIT_FAILED_ROWS)


def print_summary(summary: "PredictionSummary", say_remarks: bool = True) -> None:
    """Print how many recordings got which call, and what to doubt; exit 1 if none got one."""
    from stallscan.calls.predictions import SIMULATED

    counts = ", ".join(f"{number} {call}" for call, number in sorted(summary.calls.items()))
    print_line(f"{counts} -> {summary.table}")
    if summary.is_simulated:
        say(
            f"{SIMULATED}. How many of these calls are right is unknown until some are compared "
            "with your own labels (stallscan review, stallscan evaluate)."
        )
    if summary.learned:
        say(
            f"The bundle has learned from {summary.learned:,} of these recordings, so their calls "
            "say nothing about others. 'stallscan evaluate' leaves them out."
        )
    if summary.remarks and say_remarks:
        say(f"{counted(summary.remarks, 'call')} with a remark. The column 'reason' has it.")
    for doubt in summary.doubts:
        say(f"unlike the bundle's training recordings: {doubt}")
    if summary.doubts:
        say(
            "Label some of these recordings and measure the calls (stallscan evaluate). If too "
            "many are wrong, train the bundle further on your labels (stallscan fine-tune)."
        )
    if summary.failed:
        failed = counted(summary.failed, "recording")
        print_line(f"{failed} without a call. The column 'reason' says why")
        if summary.failed == sum(summary.calls.values()):
            sys.exit(EXIT_FAILED_ROWS)


@command
def explain(
    recordings: list[Path],
    /,
    *,
    bundle: str,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
) -> None:
    """Explain in words why the baseline calls each recording as it does.

    Example: stallscan explain my_recordings/ --bundle run/bundle

    Parameters
    ----------
    recordings
        Recordings and folders of recordings.
    bundle
        Folder of a bundle from 'stallscan train baseline'.
    out
        Table (CSV) of all explanations. Without it, they are printed, at most 50.
    """
    import itertools

    from stallscan.calls import explain

    explanations = explain.explain(recordings, bundle)
    if out is not None:
        print_line(f"{explain.write(explanations, out):,} recordings explained -> {out}")
        return
    for filename, words in itertools.islice(explanations, MOST_SHOWN):
        print_line(f"{filename}: {words}")
    if next(explanations, None) is not None:
        say(f"only the first {MOST_SHOWN} recordings are explained. -o TABLE.csv explains all")


@command
def decide(
    predictions: list[Path],
    /,
    *,
    out: Out,
    rule: Literal["mcc", "specificity", "load", "limits", "keep"] | None = None,
    labels: Path | None = None,
    threshold: float | None = None,
    prevalence: float | Literal["estimate"] | None = None,
    specificity: Annotated[float, With("--rule specificity")] = 0.999,
    load: Annotated[float, With("--rule load")] = 0.05,
    missed: Annotated[float, With("--rule limits")] = 0.05,
    false: Annotated[float, With("--rule limits")] = 0.01,
    confidence: Annotated[float, With("--rule limits")] = 0.95,
    calibrated_at: float | None = None,
    calibrate: Annotated[bool, With("--labels")] = False,
    like: Path | None = None,
    submission: Path | None = None,
) -> None:
    """Compute new calls from existing scores, without predicting again.

    Example: stallscan decide results -o rare --prevalence 0.02

    Parameters
    ----------
    predictions
        predictions.csv, or the folder that holds it.
    out
        Folder for the new predictions.csv.
    rule
        How to choose the threshold: mcc (highest MCC; the default with --labels or --prevalence),
        specificity, load, limits (calls with guaranteed error rates, and 'review' between them), or
        keep (the threshold of the table).
    labels
        Labels of some recordings, to choose the threshold. 'stallscan evaluate' leaves these
        recordings out.
    threshold
        A threshold that you choose.
    prevalence
        Share of stalled ones among these recordings (0.02), or 'estimate' from the scores.
    specificity
        For --rule specificity: the specificity to reach.
    load
        For --rule load: the share of recordings to call stalled.
    missed
        For --rule limits: maximum share of stalled recordings that are called flowing.
    false
        For --rule limits: maximum share of flowing recordings that are called stalled.
    confidence
        For --rule limits: confidence level of both guarantees.
    calibrated_at
        Prevalence that the scores are calibrated for; needed only without run.json.
    calibrate
        Also calibrate the scores again, on --labels.
    like
        Folder of an earlier decision on scores of the same bundle, such as one with --labels: its
        calibration and threshold are applied to these scores.
    submission
        The competition's submission_format.csv: also write a submission.csv in this format.
    """
    from stallscan.calls import decide
    from stallscan.calls.like import decide_like
    from stallscan.calls.settings import CallSettings
    from stallscan.calls.submission import submit
    from stallscan.errors import InputError

    if len(predictions) != 1:
        raise InputError(
            f"decide takes one table of predictions, {len(predictions)} given. To combine several "
            "models, join their bundles with 'stallscan ensemble' and predict with the result"
        )
    default = "mcc" if labels is not None or prevalence is not None else "keep"
    given = {
        "threshold": threshold,
        "prevalence": prevalence,
        "rule": rule or ("keep" if threshold is not None else default),
        "specificity": specificity,
        "load": load,
        "missed": missed,
        "false": false,
        "confidence": confidence,
        "calibrate": calibrate,
    }
    settings = CallSettings.parse(given, "decide")
    if labels is not None and settings.rule in ("keep", "load") and not calibrate:
        raise InputError(
            "--labels has no effect here: the threshold is not chosen on labels. Add --calibrate, "
            "choose it by another --rule, or leave out --labels"
        )
    table = predictions_in(predictions[0])
    if like is None:
        calls = decide.decide(table, settings, labels, calibrated_at)
    elif calibrated_at is None and labels is None and settings == CallSettings():
        if out.resolve() == like.resolve():
            raise InputError(f"{out}: holds the decision itself. Choose another folder with -o")
        calls = decide_like(table, like)
    else:
        raise InputError(
            "--like takes calibration and threshold from an earlier decision. Leave out the "
            "options that choose others"
        )
    table = decide.write_calls(calls, out)
    doubts = list(calls.doubts)
    if submission is not None:
        path, doubt = submit(calls, submission, out)
        doubts += [doubt] if doubt else []
        print_line(f"submission -> {path}")
    for doubt in doubts:
        say(doubt)
    print_line(f"{calls} -> {table}")
