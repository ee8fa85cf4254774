"""The published code that our speed is compared with does the same as ours: crop and nets.

And a shift suite of another version of the simulator is not reused.
"""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import published
from stallscan.bundle import disk
from stallscan.bundle.spec import BundleSpec
from stallscan.clips import prepare
from stallscan.clips.prepare import Preprocessing
from stallscan.engines.torch_engine import TorchEngine
from stallscan.errors import InputError
from stallscan.nets import build
from stallscan.recipes import recipe
from stallscan.recordings.find import Source
from stallscan.scores.calibration import Calibration
from stallscan.simulate import corpus
from tests import drawing

THIRD_PLACE = recipe.read_recipe("third-place")


def _pixels(path):
    view = Preprocessing(THIRD_PLACE.outline, THIRD_PLACE.clip)
    return prepare.one(Source(path.name, path), [view]).clips[0].pixels


def test_published_crop_is_our_third_place_clip(tmp_path):
    path = drawing.write(tmp_path / "a.mp4")
    ours, theirs = _pixels(path), np.stack(published.crop(path))
    # OpenCV and PyAV round differently when they convert the decoder's YUV to RGB.
    assert theirs.shape == ours.shape
    assert np.abs(theirs.astype(int) - ours).max() <= 3


def test_published_small_video_is_near_the_crop(tmp_path):
    path = drawing.write(tmp_path / "a.mp4")
    assert published.preprocess(path, tmp_path / "small.mp4")
    again = published.load(tmp_path / "small.mp4")
    exact = published.normalise(np.stack(published.crop(path)))
    assert again.shape == exact.shape == (1, 3, len(_pixels(path)), 112, 112)
    # Lossy, by some grey levels on average (docs/facts.md 2); a grey level is about 0.017.
    assert 0 < float((again - exact).abs().mean()) < 10 * 0.0175


def test_published_preprocessing_skips_what_has_no_orange(tmp_path):
    path = drawing.write(tmp_path / "a.mp4", contours=0)
    assert not published.preprocess(path, tmp_path / "small.mp4")
    assert not (tmp_path / "small.mp4").exists()


@pytest.mark.parametrize("name", ["mc3_18", pytest.param("r2plus1d_18", marks=pytest.mark.slow)])
def test_published_nets_give_our_logits(tmp_path, name):
    torch.manual_seed(0)
    net = published.build(name)
    settings = THIRD_PLACE.net.model_copy(update={"name": name})
    spec = BundleSpec(
        name="published",
        outline=THIRD_PLACE.outline,
        clip=THIRD_PLACE.clip,
        net=settings,
        calibration=Calibration(),
        threshold=0.5,
        prevalence=0.089,
        frames=(2, 500),
        simulated=True,
    )
    weights = build.build(settings).state_dict() | net.state_dict()
    disk.save(tmp_path / "bundle", spec, weights, "# random weights, for tests only\n")
    engine = TorchEngine(disk.load(tmp_path / "bundle"))
    pixels = np.random.default_rng(0).integers(0, 256, (6, 112, 112, 3), dtype=np.uint8)
    theirs = published.score(net, published.normalise(pixels))
    ours = 1 / (1 + np.exp(-engine.logit(pixels)))
    assert theirs == pytest.approx(ours, abs=1e-5)


def test_a_shift_suite_of_another_simulator_is_refused(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(published.__file__).parent))
    shifts = importlib.import_module("shifts")
    filmed = []

    def film(_name, row, _share):
        filmed.append(row)
        return np.zeros((3, 16, 16, 3), np.uint8), False

    monkeypatch.setattr(shifts, "film", film)
    for _ in range(2):
        shifts.write_family(tmp_path, range(2), "plain")
    assert filmed == [0, 1]
    monkeypatch.setattr(corpus, "FORMAT", corpus.FORMAT + 1)
    with pytest.raises(InputError, match="format"):
        shifts.write_family(tmp_path, range(2), "plain")
    (tmp_path / "family.json").unlink()
    with pytest.raises(InputError, match=r"labels\.csv"):
        shifts.write_family(tmp_path, range(2), "plain")
