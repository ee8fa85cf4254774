"""The plots of evaluations and training runs."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from stallscan.errors import InputError, TableError
from stallscan.report.figures import (
    CURVE_POINTS,
    WORDS,
    as_inline,
    evaluation,
    evaluation_figures,
    precision_recall,
    roc,
)
from stallscan.report.history import draw_history
from stallscan.report.style import as_svg
from stallscan.runs import HISTORY_COLUMNS
from stallscan.scores import metrics
from stallscan.scores.metrics import Scored


@pytest.fixture(scope="module")
def scored():
    rng = np.random.default_rng(0)
    labels = rng.random(3000) < 0.2
    scores = 1 / (1 + np.exp(-rng.normal(3.0 * labels - 1.5, 1.0)))
    return Scored.check(labels, scores, scores >= 0.5, [0.5])


@pytest.mark.slow
def test_plots_are_written_and_reproducible(scored, tmp_path):
    names = [
        *("confusion", "scores", "roc", "precision_recall", "thresholds"),
        *("reliability", "mcc_by_prevalence"),
    ]
    written = evaluation(scored, tmp_path / "one")
    expected = [f"{name}.{suffix}" for name in names for suffix in ("png", "svg")]
    assert [path.name for path in written] == expected
    assert list(WORDS) == names
    figures = evaluation_figures(scored)
    assert list(figures) == names
    plots = as_inline(figures)
    assert all(words in plot for words, plot in zip(WORDS.values(), plots, strict=True))
    assert max(map(len, plots)) < 60_000
    first, again = (as_svg(roc(scored, metrics.measure(scored))) for _ in range(2))
    assert first == again


def test_neither_pyplot_nor_torch_is_imported():
    code = (
        "import sys; from stallscan.report import figures, report; "
        "sys.exit('matplotlib.pyplot' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("separation", [0.3, 1.0, 3.0, 8.0])
def test_a_legend_hides_no_number_of_the_curve(separation):
    rng = np.random.default_rng(0)
    labels = rng.random(2000) < 0.3
    scores = 1 / (1 + np.exp(-rng.normal(separation * (labels - 0.5), 1.0)))
    scored = Scored.check(labels, scores, scores >= 0.5, [0.5])
    figure = evaluation_figures(scored)["mcc_by_prevalence"]
    figure.canvas.draw()
    (axes,) = figure.axes
    legend = axes.get_legend().get_window_extent()
    assert not any(legend.overlaps(text.get_window_extent()) for text in axes.texts)


def test_long_curves_are_thinned(scored):
    figure = precision_recall(scored, metrics.measure(scored))
    assert max(len(line.get_xdata()) for line in figure.axes[0].lines) <= CURVE_POINTS


def history_table(epochs):
    rows = np.linspace(0.1, 0.9, max(epochs, 1))[:epochs]
    return pd.DataFrame(dict.fromkeys(HISTORY_COLUMNS, rows)).assign(epoch=range(epochs))


@pytest.mark.parametrize("epochs", [1, 40])
def test_history(tmp_path, epochs):
    path = tmp_path / "history.csv"
    history_table(epochs).assign(val_mcc=np.nan).to_csv(path, index=False)
    written = draw_history(path, tmp_path)
    assert [file.name for file in written] == ["history.png", "history.svg"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (history_table(3).drop(columns="lr"), r"history\.csv.*\blr\b"),
        (history_table(0), r"history\.csv"),
        (history_table(3).assign(val_loss="high"), r"history\.csv.*val_loss"),
    ],
)
def test_wrong_history(tmp_path, table, message):
    path = tmp_path / "history.csv"
    table.to_csv(path, index=False)
    with pytest.raises(TableError, match=message):
        draw_history(path, tmp_path)
    with pytest.raises(InputError, match=r"none\.csv"):
        draw_history(tmp_path / "none.csv", tmp_path)
