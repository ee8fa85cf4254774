"""Every page that is written: wide and on a phone, light and dark."""

import pytest

from stallscan.catalog import tables
from stallscan.evaluation import evaluate, present
from stallscan.evaluation.comparison import compare
from stallscan.rates import rates
from stallscan.rates.correction import PUBLISHED
from stallscan.report import figures, rate_page, report
from stallscan.review import improved
from tests import drawing
from tests.browsing import MARKS, refuse_unreadable
from tests.predicted import prediction, write_tables
from tests.rates.test_rates import MICE, write_study

pytestmark = MARKS


@pytest.fixture
def measured(study):
    new, old = (
        evaluate.evaluate(study / name / "predictions.csv", study / "labels.csv")
        for name in ("new", "old")
    )
    return new, compare(old, new)


def test_the_evaluation_and_the_comparison(measured, tmp_path):
    new, comparison = measured
    plots = figures.as_inline(figures.evaluation_figures(new.scored, new.curve, new.metrics))
    page = present.write_page(new, plots, tmp_path / "out", comparison)
    refuse_unreadable(page.as_uri(), 200)


def test_the_rates(tmp_path):
    result = rates.rate(*write_study(tmp_path, MICE), PUBLISHED)
    page = rate_page.write_page(result, tmp_path / "out", {"Calls": "a/" * 60 + "predictions.csv"})
    refuse_unreadable(page.as_uri(), 60)


def test_what_an_improved_bundle_changed(tmp_path):
    paths = []
    for folder, call in (("before", "flowing"), ("after", "stalled")):
        (tmp_path / folder).mkdir()
        rows = [prediction("m1/" + "long" * 20 + f"{number}.mp4", call=call) for number in range(9)]
        paths.append(write_tables(tmp_path / folder, rows, [(rows[0]["filename"], 1)]))
    labels = tables.read_labels(paths[0][1])
    change = improved.Improved.read(paths[0][0], paths[1][0], labels, set(labels["filename"]))
    page = improved.write(change, tmp_path / "out", [("MCC", "0.1 (0.0 to 0.2)", "0.2")])
    refuse_unreadable(page.as_uri(), 30)


def test_the_report(tmp_path):
    rows = []
    for number, call in enumerate(("stalled", "flowing", "review", "unscorable", "stalled")):
        name = "long" * 20 * (number % 2) + f"{number}.mp4"
        if number:
            drawing.write(tmp_path / name, seed=number, count=6)
        reason = f"{name}: the decoder says that " + "this" * 30
        rows.append(prediction(name, score=number / 5, call=call) | {"reason": reason})
    labels = [(row["filename"], int(number % 2)) for number, row in enumerate(rows)]
    predictions, known = write_tables(tmp_path, rows, labels)
    out = tmp_path / "report.html"
    report.write_report(
        predictions,
        out,
        evaluation=evaluate.evaluate(predictions, known),
        recordings=[tmp_path],
        look=lambda _path: b"",
        processes=0,
        note="A note " * 20,
    )
    refuse_unreadable(out.as_uri(), 80)
