"""The demonstration: the whole way from recordings to a report, on a simulated corpus."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stallscan import simulate
from stallscan.calls import predict
from stallscan.evaluation import evaluate, present
from stallscan.evaluation.evaluate import Evaluation
from stallscan.report import figures, report

# The seed is far from those that shipped bundles are trained on: the recordings are new to them.
SEED = 20_000
COUNT = 60
STALLED = 0.3
NOTE = "All recordings here are simulated: the figures say nothing certain about real ones."

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Demonstration:
    """What the demonstration made.

    Attributes
    ----------
    report : Path
        The HTML file to open.
    evaluation : Evaluation
        Of the shipped bundle on the simulated recordings.
    """

    report: Path
    evaluation: Evaluation


def run(out: Path, stage: Callable[[str], Progress]) -> Demonstration:
    """Simulate a small labelled corpus, predict, evaluate and report.

    Run again on the same folder, it goes on where it was.

    Parameters
    ----------
    out : Path
        Folder for all that is made.
    stage : callable
        Called with the name of each long stage; returns what reports its progress.
    """
    corpus = out / "corpus"
    settings = simulate.SimulateSettings(count=COUNT, stalled=STALLED, seed=SEED)
    simulate.simulate(corpus, settings, progress=stage("simulating recordings"))
    summary = predict.predict([corpus / "train"], out, progress=stage("predicting"))
    evaluation = evaluate.evaluate(summary.table, corpus / "train_labels.csv")
    present.write_metrics(evaluation, out)
    figures.evaluation(evaluation.scored, out, evaluation.curve, evaluation.metrics)
    page = out / "report.html"
    report.write_report(
        summary.table, page, evaluation=evaluation, note=NOTE, progress=stage("writing the report")
    )
    return Demonstration(page, evaluation)
