"""The baseline predicts without torch and OpenVINO, alone and in an ensemble with nets."""

import functools
import subprocess
import sys

import numpy as np
import pytest
import torch

from stallscan.bundle import disk, ensemble
from stallscan.bundle.ensemble import EnsembleSettings
from stallscan.bundle.spec import BundleSpec
from stallscan.calls import predict
from stallscan.clips.clip import ClipSettings
from stallscan.engines import choose
from stallscan.engines.feature_engine import FeatureEngine
from stallscan.engines.openvino_engine import OpenVinoEngine
from stallscan.engines.torch_engine import TorchEngine
from stallscan.errors import BundleError
from stallscan.nets import features, measures
from stallscan.nets.settings import NetSettings
from stallscan.scores.calibration import Calibration
from stallscan.vessels.outline import OutlineSettings
from tests import drawing

WITHOUT = """
import sys
for name in ("torch", "openvino"):
    sys.modules[name] = None
from pathlib import Path
from stallscan.calls import predict
predict.predict([Path("videos")], Path("out"), Path("baseline"), processes=0)
"""


@functools.cache
def _fitted():
    """Fit a baseline to random features of which some predict stalled."""
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 2
    table = rng.normal(size=(240, len(measures.FEATURES))).astype(np.float32)
    table[:, 3:9] += labels[:, None]
    return features.fit(table, labels, seed=0)


def _save(folder, weights=None, **changes):
    """Save a baseline, and return its model."""
    model = _fitted()
    spec = BundleSpec(
        name="baseline",
        outline=OutlineSettings(),
        clip=ClipSettings(size=64, shape="pad", channels="grey+mask"),
        net=NetSettings(name="features", normalisation="running", mean=(0, 0), std=(1, 1)),
        calibration=Calibration(),
        threshold=0.5,
        prevalence=0.3,
        frames=(4, 100),
        simulated=True,
    )
    arrays = model.weights if weights is None else weights
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    disk.save(folder, spec.model_copy(update=changes), tensors, "# for tests\n")
    return model


@pytest.fixture
def videos(tmp_path):
    for seed in range(3):
        drawing.write(tmp_path / "videos" / f"{seed}.mp4", seed=seed)
    return tmp_path / "videos"


def test_the_logit_is_that_of_the_model_on_the_features(tmp_path):
    model = _save(tmp_path / "baseline")
    assert len(model.output) == 5  # nets are tested, too
    chosen = choose.choose(disk.load(tmp_path / "baseline"))
    assert chosen.name == "features"
    (engine,) = chosen.engines
    pixels = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 2), np.uint8)
    expected = model.score(measures.measure(pixels)[None])[0]
    assert engine.logit(pixels) == pytest.approx(expected, abs=1e-9)
    logit = engine.logit(pixels)
    assert list(engine.stream([pixels, None, pixels])) == [logit, None, logit]


@pytest.mark.parametrize("which", ["auto", "torch", "openvino", "openvino-int8"])
def test_it_runs_itself_whatever_engine_is_asked_for(tmp_path, which):
    _save(tmp_path / "baseline")
    assert choose.choose(disk.load(tmp_path / "baseline"), which).name == "features"


def test_it_predicts_where_neither_torch_nor_openvino_can_be_imported(tmp_path, videos):
    _save(tmp_path / "baseline")
    subprocess.run([sys.executable, "-c", WITHOUT], cwd=tmp_path, check=True, timeout=120)
    expected = predict.predict([videos], tmp_path / "here", tmp_path / "baseline", processes=0)
    assert (tmp_path / "out" / "predictions.csv").read_bytes() == expected.table.read_bytes()


@pytest.mark.parametrize(("which", "runs"), [("torch", TorchEngine), ("openvino", OpenVinoEngine)])
def test_in_an_ensemble_only_the_nets_run_on_the_chosen_engine(
    tmp_path, videos, bundle_dir, which, runs
):
    from stallscan.engines import export

    _save(tmp_path / "baseline")
    net = disk.copy(bundle_dir, tmp_path / "net")
    export.export(net)
    settings = EnsembleSettings(thresholds=(0.5,))
    ensemble.join([tmp_path / "baseline", net], tmp_path / "both", settings)
    chosen = choose.choose(disk.load_any(tmp_path / "both"), which)
    assert chosen.name == which
    assert [type(engine) for engine in chosen.engines] == [FeatureEngine, runs]
    summary = predict.predict([videos], tmp_path / which, tmp_path / "both", processes=0)
    assert summary.table.read_text().count(",ok,") == 3


@pytest.mark.parametrize("kind", ["17 features", "no mask"])
def test_bundles_of_another_kind_are_refused(tmp_path, kind):
    if kind == "no mask":
        _save(tmp_path / "baseline", clip=ClipSettings(channels="grey"))
    else:
        names = ("middle", "spread", "fc.weight", "fc.bias")
        _save(tmp_path / "baseline", {name: np.zeros(17, np.float32) for name in names})
    with pytest.raises(BundleError, match=r"baseline: its (weights|features)"):
        choose.choose(disk.load(tmp_path / "baseline"))
