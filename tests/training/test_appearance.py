import numpy as np
import pandas as pd
import pytest
import torch

from stallscan.errors import SettingsError
from stallscan.recipes import recipe
from stallscan.recipes.settings import AugmentSettings, StageSettings
from stallscan.training import appearance, augment, loaders
from stallscan.training.data import TrainValidation


def _clip(frames=30, size=48, level=90):
    clip = np.zeros((frames, size, size, 2), np.uint8)
    random = np.random.default_rng(0)
    clip[..., 0] = random.normal(level, 4, clip.shape[:3]).clip(0, 255)
    clip[:, 10:40, 8:42, 1] = 255
    return clip


def test_the_same_generator_gives_the_same_clip_and_leaves_the_original_alone():
    clip = _clip()
    before = clip.copy()
    first, second = (appearance.change(clip, np.random.default_rng(3)) for _ in range(2))
    assert (first == second).all()
    assert (clip == before).all()
    assert first.dtype == np.uint8


def test_appearances_span_light_noise_and_surround():
    clips = [appearance.change(_clip(), np.random.default_rng(seed)) for seed in range(300)]
    inside = [clip[..., 0][clip[..., 1] > 0] for clip in clips]
    levels = np.array([pixels.mean() for pixels in inside])
    noise = np.array([pixels.std() for pixels in inside])
    assert levels.min() < 45
    assert levels.max() > 200
    assert np.percentile(noise, 5) < 5
    assert np.percentile(noise, 95) > 15
    outside = [clip[..., 0][clip[..., 1] == 0] for clip in clips]
    black = np.mean([pixels.max(initial=0) == 0 for pixels in outside])
    assert 0.08 < black < 0.25
    frames = np.array([len(clip) for clip in clips])
    assert set(frames) > {15, 30}
    assert frames.min() >= 10


def test_the_mask_stays_binary_and_the_same_in_every_frame():
    for seed in range(20):
        mask = appearance.change(_clip(), np.random.default_rng(seed))[..., 1]
        assert set(np.unique(mask)) == {0, 255}
        assert (mask == mask[0]).all()


@pytest.mark.parametrize("frames", [1, 2, 9, 23])
def test_short_clips_keep_their_frames_or_at_least_ten(frames):
    for seed in range(30):
        changed = appearance.change(_clip(frames), np.random.default_rng(seed))
        assert min(frames, 10) <= len(changed) <= frames


def test_augment_applies_it_with_the_chance_given():
    clip = torch.from_numpy(_clip())
    settings = AugmentSettings(rotate=0, flip=0, appearance=0.5)
    generator = torch.Generator().manual_seed(0)
    changed = [augment.apply(clip, settings, generator) for _ in range(60)]
    same = np.mean([each.shape == clip.shape and bool((each == clip).all()) for each in changed])
    assert 0.3 < same < 0.7


@pytest.mark.parametrize(
    "changes",
    [
        {"augment": {"appearance": 0.5}, "net": {"mean": [0.2], "std": [0.2]}},
        {"training": {"stages": [{}, {"appearance": 0.5}]}, "net": {"mean": [0.2], "std": [0.2]}},
        {"net": {"name": "features", "mean": [0], "std": [1]}},
    ],
)
def test_what_needs_the_mask_is_refused_without_it(changes):
    with pytest.raises(SettingsError, match=r"needs the mask.*grey\+mask"):
        recipe.Recipe.parse({"name": "a", "clip": {"channels": "grey"}} | changes, "test")


class _Store:
    def frames(self, _name):
        return 30

    def read(self, _name):
        return _clip()


@pytest.mark.parametrize(("chance", "changes"), [(None, True), (0.0, False), (1.0, True)])
def test_a_stage_has_its_own_chance(chance, changes):
    settings = {"rotate": 0, "flip": 0, "appearance": 1.0}
    clips = {"size": 48, "channels": "grey+mask"}
    net = {"mean": [0, 0], "std": [1, 1]}
    made = recipe.Recipe.parse(
        {"name": "a", "clip": clips, "net": net, "augment": settings}, "test"
    )
    rows = pd.DataFrame({"filename": ["a", "b"], "stalled": [0, 1]})
    parts = TrainValidation.of(_Store(), rows, rows)
    stage = StageSettings(appearance=chance)
    batches = loaders.training_loader(made, stage, parts, loaders.training_sampler(made, parts, 0))
    same = torch.from_numpy(_clip()[..., 0]) / 255
    for batch in batches:
        shown = batch.inputs[0, 0]
        assert (shown.shape == same.shape and torch.allclose(shown, same)) != changes
