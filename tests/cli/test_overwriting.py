"""Commands replace only files that they wrote themselves."""

import pandas as pd
import pytest

from stallscan import files
from stallscan.bundle import ensemble
from stallscan.bundle.ensemble import EnsembleSettings
from stallscan.calls import decide
from stallscan.calls.settings import CallSettings
from stallscan.catalog import select
from stallscan.errors import InputError
from stallscan.evaluation import evaluate, present
from stallscan.rates import rates
from stallscan.rates.correction import CallAccuracy
from stallscan.rates.tables import write_rates
from stallscan.report import figures, report, style
from stallscan.simulate import SimulateSettings, sheet


def _decide(tables, out):
    decide.write_calls(decide.decide(tables[0], CallSettings(threshold=0.5)), out)


def _evaluate(tables, out):
    present.write_metrics(evaluate.evaluate(*tables, partial=True), out)


def _page(tables, out):
    present.write_page(evaluate.evaluate(*tables, partial=True), {}, out)


def _plot(_tables, out):
    style.save({"roc": figures.Figure(figsize=(1, 1))}, out)


def _rate(tables, out):
    groups = pd.read_csv(tables[1])[["filename"]].assign(mouse="m1")
    groups = groups[groups["filename"].isin(pd.read_csv(tables[0])["filename"])]
    groups.to_csv(out.parent / "groups.csv", index=False)
    result = rates.rate(tables[0], out.parent / "groups.csv", CallAccuracy.stated(0.9, 0.99))
    write_rates(result, out)


def _report(tables, out):
    report.write_report(tables[0], out / "report.html")


def _select(tables, out):
    metadata = pd.DataFrame({"filename": ["a.mp4", "b.mp4"], "url": "s3://x", "project_id": "P"})
    metadata = metadata.assign(num_frames=50, crowd_score=0.5, tier1=True, micro=True, nano=True)
    metadata.to_csv(out.parent / "metadata.csv", index=False)
    known = pd.DataFrame({"filename": ["a.mp4", "b.mp4"], "stalled": [0, 1]})
    known.to_csv(out.parent / "known.csv", index=False)
    for name in ("selected.csv", "selected.csv.gz"):
        where = (out.parent / "metadata.csv", out.parent / "known.csv", "all", 0)
        select.select_to_file(*where, out / name)


def _sheet(_tables, out):
    sheet.write_sheet(out / "sheet.png", SimulateSettings(count=2, stalled=0.5))


@pytest.mark.parametrize(
    ("write", "names"),
    [
        (_decide, ["predictions.csv", "chosen_on.csv", "submission.csv"]),
        (_evaluate, ["metrics.json"]),
        (_page, ["evaluation.html"]),
        (_plot, ["roc.png", "roc.svg"]),
        (_rate, ["rates_mice.csv", "comparison.csv"]),
        (_report, ["report.html"]),
        (_select, ["selected.csv", "selected.csv.gz"]),
        pytest.param(_sheet, ["sheet.png"], marks=pytest.mark.slow),
    ],
)
def test_only_what_the_command_wrote_is_replaced(tables, tmp_path, write, names):
    out = tmp_path / "new" / "out"
    write_again = [write, write]
    out.parent.mkdir()
    for each in write_again:
        each(tables, out)
    for name in names:
        folder = tmp_path / f"with {name}" / "out"
        folder.mkdir(parents=True)
        (folder / name).write_text("filename,what I saw\n1.mp4,much\n")
        with pytest.raises(InputError, match="-o") as raised:
            write(tables, folder)
        assert name in str(raised.value)
        assert (folder / name).read_text() == "filename,what I saw\n1.mp4,much\n"


def test_the_predictions_of_another_run_are_not_decided_over(tables, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "predictions.csv").write_bytes(tables[0].read_bytes())
    files.write_json(run / "run.json", {"bundle": "default", "threshold": 0.5})
    with pytest.raises(InputError, match=r"predictions\.csv, run\.json"):
        _decide(tables, run)
    assert (run / "predictions.csv").read_bytes() == tables[0].read_bytes()


def test_a_bundle_that_is_no_ensemble_is_not_replaced_by_one(
    bundle_dir, other_bundle_dir, tmp_path
):
    (tmp_path / "bundle.json").write_bytes((bundle_dir / "bundle.json").read_bytes())
    with pytest.raises(InputError, match="-o"):
        ensemble.join([bundle_dir, other_bundle_dir], tmp_path, EnsembleSettings(thresholds=(0.5,)))
