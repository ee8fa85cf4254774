"""Where a bundle looked."""

import json

import numpy as np
import pytest

from stallscan.bundle import disk, ensemble
from stallscan.bundle.ensemble import EnsembleSettings
from stallscan.calls.occlusion import Looker, look_at
from stallscan.cli.looking import looker
from stallscan.errors import InputError
from stallscan.report import evidence
from tests import drawing


class Stub:
    """An engine whose logit is the texture in one corner, minus that in another."""

    name = "stub"

    def logit(self, pixels):
        grey = pixels[..., 0].astype(float)
        return (
            grey[:, 8:16, 8:16].std(axis=(1, 2)).mean()
            - grey[:, 40:48, 40:48].std(axis=(1, 2)).mean()
        )

    def stream(self, clips):
        return (self.logit(clip) for clip in clips)


@pytest.fixture
def looked():
    pixels = np.zeros((6, 64, 64, 2), np.uint8)
    pixels[..., 0] = np.random.default_rng(0).integers(0, 255, pixels.shape[:3])
    pixels[:, 4:60, 4:60, 1] = 255
    before = pixels.copy()
    found = look_at([Stub()], pixels)
    assert np.array_equal(pixels, before)
    return found


def test_places_are_found_that_speak_for_a_stall_and_for_flow(looked):
    assert np.unravel_index(looked.change.argmax(), (64, 64)) == pytest.approx((12, 12), abs=4)
    assert np.unravel_index(looked.change.argmin(), (64, 64)) == pytest.approx((44, 44), abs=4)
    assert abs(looked.change[30, 10]) < looked.change.max() / 20
    assert not looked.change[~looked.mask].any()


def test_the_picture_is_orange_for_a_stall_and_blue_for_flow(looked):
    picture = evidence.draw_looked(*looked).astype(int)
    scale = len(picture) / 64
    for place, more, less in ((12, 2, 0), (44, 0, 2)):
        colour = picture[int(place * scale), int(place * scale)]
        assert colour[more] > colour[less] + 40


def test_a_bundle_looks_at_a_recording_and_not_at_one_without_an_outline(bundle_dir, tmp_path):
    looker = Looker(disk.load_any(bundle_dir))
    drawing.write(tmp_path / "a.mp4", seed=1, count=8, height=64, width=64)
    assert looker.look(tmp_path / "a.mp4").change.any()
    (tmp_path / "b.mp4").write_bytes(b"nothing")
    assert looker.look(tmp_path / "b.mp4") is None


def test_an_ensemble_looks_where_its_members_look(bundle_dir, other_bundle_dir, tmp_path):
    both = tmp_path / "both"
    ensemble.join([bundle_dir, other_bundle_dir], both, EnsembleSettings(needed=1))
    drawing.write(tmp_path / "a.mp4", seed=1, count=8, height=64, width=64)
    changes = [
        Looker(disk.load_any(each)).look(tmp_path / "a.mp4").change
        for each in (bundle_dir, other_bundle_dir, both)
    ]
    assert changes[2] == pytest.approx((changes[0] + changes[1]) / 2, abs=1e-4)


def test_another_bundle_in_the_place_of_the_one_that_predicted_is_not_asked(bundle_dir, tmp_path):
    (tmp_path / "predictions.csv").touch()
    run = {"bundle_path": str(bundle_dir), "paths": [], "bundle": disk.load(bundle_dir).label}
    (tmp_path / "run.json").write_text(json.dumps(run))
    looker(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(run | {"bundle": "earlier@00000000"}))
    with pytest.raises(InputError, match=r"another one by now.*--occlusion"):
        looker(tmp_path)
