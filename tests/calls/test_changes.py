import json
import shutil

import numpy as np
import pandas as pd
import pytest

from stallscan.bundle import disk, ensemble
from stallscan.bundle.ensemble import EnsembleSettings
from stallscan.calls import changes, decide, predict
from stallscan.calls.settings import CallSettings
from stallscan.clips.clip import ClipSettings
from stallscan.engines.torch_engine import TorchEngine
from stallscan.errors import InputError
from tests import drawing

MASKED = ClipSettings(size=32, channels="grey+mask")


def _clip(frames=45):
    pixels = np.random.default_rng(1).integers(20, 120, (frames, 32, 32, 2), dtype=np.uint8)
    pixels[..., 1] = 0
    pixels[:, 8:24, 4:20, 1] = 255
    return pixels


def _views(clip, settings=MASKED):
    first, *changed = changes.with_changes([clip], settings)
    return first, dict(zip(changes.CHANGES, changed, strict=True))


def test_a_clip_is_followed_by_each_of_its_changes():
    clip = _clip()
    before = clip.copy()
    first, changed = _views(clip)
    assert first is clip
    assert np.array_equal(clip, before)
    for name, pixels in changed.items():
        assert pixels.dtype == np.uint8
        assert np.array_equal(pixels[..., 1], clip[: len(pixels), ..., 1]), name
        assert not np.array_equal(pixels[..., 0], clip[: len(pixels), ..., 0]), name
    inside = clip[0, ..., 1] > 0
    assert np.array_equal(changed["a black surround"][:, inside, 0], clip[:, inside, 0])
    assert not changed["a black surround"][:, ~inside, 0].any()
    assert np.array_equal(changed["a blurred surround"][:, inside, 0], clip[:, inside, 0])
    assert len(changed["every twentieth frame left out"]) == 43
    assert changed["the mean of three frames"][3, 2, 2, 0] == clip[2:5, 2, 2, 0].sum() // 3


@pytest.mark.parametrize("channels", ["grey", "rgb"])
def test_clips_without_a_mask_have_no_surround_and_keep_a_fixed_length(channels):
    settings = ClipSettings(size=32, channels=channels, frames=45)
    clip = np.repeat(_clip()[..., :1], settings.channel_count, axis=-1)
    _, changed = _views(clip, settings)
    for name in ("a black surround", "a blurred surround", "every twentieth frame left out"):
        assert np.array_equal(changed[name], clip)
    noisy = changed["added noise"].astype(int) - clip
    assert (noisy == noisy[..., :1]).all()
    assert noisy.std() > 5


def test_black_frames_and_margins_stay_black():
    clip = _clip()
    clip[:5, ..., 0] = 0
    clip[:, 28:, :, 0] = 0
    _, changed = _views(clip)
    for name in ("added noise", "the mean of three frames"):
        assert not changed[name][:5, ..., 0].any()
        assert not changed[name][:, 28:, :, 0].any()
    assert changed["added noise"][5, :28, :, 0].std() > 5


def test_recordings_without_a_clip_stay_in_step():
    clip = _clip()
    each = [None if view is None else 1.0 for view in changes.with_changes([None, clip], MASKED)]
    many = 1 + len(changes.CHANGES)
    assert list(changes.group(each)) == [(None,) * many, (1.0,) * many]


def test_the_doubt_names_the_changes_that_change_the_call():
    scores = [0.8] * (1 + len(changes.CHANGES))
    assert changes.doubt(scores, 0.5) == ""
    scores[2] = 0.31
    assert changes.doubt(scores, 0.5) == "called stalled (0.80), but not with gain 1.8 (0.31)"
    assert changes.doubt([0.8], 0.5) == ""
    scores = [0.2] * len(scores)
    scores[-1] = float("nan")
    assert "every twentieth frame left out (nan)" in changes.doubt(scores, 0.5)


def _predict(folder, out, bundle_dir, monkeypatch, logit, **options):
    monkeypatch.setattr(TorchEngine, "logit", lambda _engine, pixels: logit(pixels))
    predict.predict([folder], out, bundle_dir, processes=0, engine="torch", **options)
    return pd.read_csv(out / "predictions.csv")


def test_a_call_that_depends_on_the_light_is_left_to_a_person(tmp_path, bundle_dir, monkeypatch):
    folder = tmp_path / "recordings"
    folder.mkdir()
    for index in range(2):
        drawing.write(folder / f"{index}.mp4", seed=index, count=8)
    (folder / "empty.mp4").touch()
    plain = _predict(folder, tmp_path / "a", bundle_dir, monkeypatch, lambda _: 4.0)
    sure = _predict(
        folder, tmp_path / "b", bundle_dir, monkeypatch, lambda _: 4.0, consistency=True
    )
    pd.testing.assert_frame_equal(plain, sure)
    assert json.loads((tmp_path / "b/run.json").read_text())["consistency"]

    level = []

    def light(pixels):
        mean = float(pixels[..., 0].mean())
        level.append(mean)
        return 9.0 if mean >= level[0] * 0.9 else -9.0

    moved = _predict(folder, tmp_path / "c", bundle_dir, monkeypatch, light, consistency=True)
    moved = moved.set_index("filename")
    assert moved.loc["0.mp4", "call"] == "review"
    assert moved.loc["0.mp4", "status"] == "ok"
    assert "gain 0.6" in moved.loc["0.mp4", "reason"]
    assert "gain 1.8" not in moved.loc["0.mp4", "reason"]
    assert moved.loc["empty.mp4", "call"] == "unscorable"
    # A run with the check cannot resume one without it, or the other way round.
    for name, check in (("a", True), ("c", False)):
        with pytest.raises(InputError, match="consistency"):
            _predict(folder, tmp_path / name, bundle_dir, monkeypatch, light, consistency=check)
    # No threshold makes such a call reliable.
    for settings in (CallSettings(threshold=0.3), CallSettings(rule="mcc", prevalence=0.02)):
        decided = decide.decide(tmp_path / "c/predictions.csv", settings).table.set_index(
            "filename"
        )
        assert decided.loc["0.mp4", "call"] == "review"


def test_an_ensemble_is_checked_as_a_whole(tmp_path, bundle_dir, monkeypatch):
    other = shutil.copytree(bundle_dir, tmp_path / "other")
    member = disk.load(other)
    weights = {name: value + 1 for name, value in member.weights.items()}
    disk.save(other, member.spec, weights, "card")
    settings = EnsembleSettings(needed=2, thresholds=(0.5, 0.5))
    ensemble.join([bundle_dir, other], tmp_path / "both", settings)
    folder = tmp_path / "recordings"
    folder.mkdir()
    drawing.write(folder / "0.mp4", count=8)
    seen = []

    def light(pixels):
        seen.append(float(pixels[..., 0].mean()))
        return 3.0 if seen[-1] < 1.2 * seen[0] else -3.0

    table = _predict(
        folder, tmp_path / "a", tmp_path / "both", monkeypatch, light, consistency=True
    )
    assert table["call"].tolist() == ["review"]
    assert "gain 1.8" in table["reason"][0]
    assert len(seen) == 2 * (1 + len(changes.CHANGES))
