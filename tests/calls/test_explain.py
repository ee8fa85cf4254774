import numpy as np
import pandas as pd
import pytest
import torch

from stallscan.bundle import disk
from stallscan.bundle.spec import BundleSpec
from stallscan.calls import explain
from stallscan.cli import calling
from stallscan.cli.commands import app
from stallscan.clips.clip import ClipSettings
from stallscan.errors import BundleError, InputError
from stallscan.nets import features, measures
from stallscan.nets.settings import NetSettings
from stallscan.scores.calibration import Calibration
from stallscan.vessels.outline import OutlineSettings
from tests import drawing


@pytest.fixture
def baseline(tmp_path):
    """A bundle of the baseline, fitted to random features of which one predicts stalled."""
    settings = NetSettings(name="features", normalisation="running", mean=(0, 0), std=(1, 1))
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    table = rng.normal(size=(80, len(measures.FEATURES))).astype(np.float32)
    table[:, 3] += 3 * labels
    model = features.fit(table, labels, seed=0)
    weights = {name: torch.from_numpy(array) for name, array in model.weights.items()}
    spec = BundleSpec(
        name="baseline",
        outline=OutlineSettings(),
        clip=ClipSettings(size=64, shape="pad", channels="grey+mask"),
        net=settings,
        calibration=Calibration(),
        threshold=0.5,
        prevalence=0.3,
        frames=(4, 100),
        simulated=True,
    )
    disk.save(tmp_path / "baseline", spec, weights, "# for tests\n")
    return tmp_path / "baseline"


def test_every_recording_gets_a_sentence(baseline, tmp_path):
    drawing.write(tmp_path / "videos" / "a.mp4", seed=0)
    drawing.write(tmp_path / "videos" / "b.mp4", seed=1, contours=0)
    first, second = explain.explain([tmp_path / "videos"], baseline, processes=0)
    assert first.filename == "a.mp4"
    assert first.words.startswith(("called stalled", "called flowing"))
    assert "usual" in first.words
    assert second.words.startswith("no call: ")


def test_the_call_is_that_of_prediction(baseline, tmp_path):
    from stallscan.calls import predict

    for seed in range(4):
        drawing.write(tmp_path / "videos" / f"{seed}.mp4", seed=seed)
    predict.predict([tmp_path / "videos"], tmp_path / "out", baseline, processes=0)
    rows = (tmp_path / "out" / "predictions.csv").read_text().splitlines()[1:]
    said = explain.explain([tmp_path / "videos"], baseline, processes=0)
    for row, (filename, words) in zip(rows, said, strict=True):
        assert row.startswith(filename)
        assert ("called stalled" in words) == (",stalled," in row)


def test_a_net_without_named_features_is_refused(bundle_dir, tmp_path):
    drawing.write(tmp_path / "a.mp4", seed=0)
    with pytest.raises(BundleError, match=r"stallnet.*stallscan train baseline"):
        next(explain.explain([tmp_path / "a.mp4"], bundle_dir))


def test_a_recording_without_a_call_is_not_explained(baseline, tmp_path):
    """It has a clip and a score, but is too dark to be called."""
    drawing.write_dark(tmp_path / "dark.mp4")
    (said,) = explain.explain([tmp_path / "dark.mp4"], baseline, processes=0)
    assert said.words.startswith("no call: ")
    assert "called" not in said.words


def test_the_command_prints_a_few_and_writes_all(baseline, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(calling, "MOST_SHOWN", 2)
    for seed in range(3):
        drawing.write(tmp_path / "videos" / f"{seed}.mp4", seed=seed, count=8)
    words = ["explain", tmp_path / "videos", "--bundle", baseline]
    app([*map(str, words)], result_action="return_value")
    shown = capsys.readouterr()
    assert [line[:5] for line in shown.out.splitlines()] == ["0.mp4", "1.mp4"]
    assert "-o" in shown.err
    app([*map(str, words), "-o", str(tmp_path / "all.csv")], result_action="return_value")
    table = pd.read_csv(tmp_path / "all.csv")
    assert table["filename"].tolist() == ["0.mp4", "1.mp4", "2.mp4"]
    assert table["explanation"].str.startswith("called").all()
    (tmp_path / "notes.csv").write_text("mine\n")
    with pytest.raises(InputError, match=r"notes\.csv"):
        app([*map(str, words), "-o", str(tmp_path / "notes.csv")], result_action="return_value")
