"""The demo: the whole workflow from recordings to a report, on a simulated corpus."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stallscan import simulate
from stallscan.calls import predict
from stallscan.evaluation import evaluate, present
from stallscan.evaluation.evaluate import Evaluation
from stallscan.report import figures, report

# Far from the seeds of the shipped bundles' training corpora, so that no recording repeats.
SEED = 20_000
COUNT = 60
STALLED = 0.3
NOTE = "All recordings here are simulated. The figures do not predict accuracy on real recordings."

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Demonstration:
    """The report (an HTML file), and the evaluation of the default bundle on the recordings."""

    report: Path
    evaluation: Evaluation


def run(out: Path, stage: Callable[[str], Progress]) -> Demonstration:
    """Simulate a small labelled corpus, predict, evaluate and report.

    An interrupted run resumes where it left off.

    Parameters
    ----------
    out : Path
        Output folder.
    stage : callable
        Called with the name of each long stage; returns its progress callback.
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
