"""Features of clips whose answer is known: a rigid pattern, a moving one, noise, an even tube."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stallscan.nets.measures import DESCRIPTIONS, FEATURES, measure

SIZE, FRAMES, PERIOD = 64, 20, 16


def draw(moving=False, dark=6, noise=0.0, focus=4.0, upright=False, seed=0, gain=1.0):
    """Draw a tube along the rows with a dark body of `dark` px in every 16 px.

    Returns uint8 (T, S, S, 2). A moving pattern is elsewhere in every frame.
    """
    random = np.random.default_rng(seed)
    rows, cols = np.arange(SIZE)[:, None], np.arange(SIZE)[None, :]
    tube = (abs(rows - 31.5) < 3) & (cols >= 4) & (cols < 60)
    inside = (abs(rows - 31.5) < 10) & (cols >= 1) & (cols < 63)
    start, moves = random.integers(PERIOD), random.integers(PERIOD, size=FRAMES)
    frames = []
    for frame in range(FRAMES):
        pattern = np.where((cols + start + moves[frame] * moving) % PERIOD < dark, 0.2, 1.0)
        light = 0.8 * np.exp(-(((frame - 9.5) / focus) ** 2) / 2)
        grey = 0.1 + light * pattern * tube + noise * random.standard_normal((SIZE, SIZE))
        frames.append(np.stack([255 * (gain * grey).clip(0, 1), 255 * inside], axis=-1))
    clip = np.stack(frames).astype(np.uint8)
    return clip.swapaxes(1, 2) if upright else clip


def by_name(clip):
    return dict(zip(FEATURES, measure(clip).tolist(), strict=True))


def test_every_feature_has_a_description_of_its_own():
    assert len(set(DESCRIPTIONS.values())) == len(FEATURES)


def test_a_rigid_pattern_stays_and_a_moving_one_does_not():
    still, moving = by_name(draw(noise=0.02)), by_name(draw(moving=True, noise=0.02))
    for lag in (1, 2, 3, 4):
        assert still[f"same_5_{lag}"] > 0.85
        assert moving[f"same_5_{lag}"] < still[f"same_5_{lag}"] - 0.2
        assert still[f"pattern_{lag}"] > moving[f"pattern_{lag}"] + 0.4
    for name in ("dark_in_all", "dim_in_all", "own_dark_1", "own_dark_2", "own_stays_1"):
        assert still[name] > moving[name] + 0.1
    for name in ("change_space", "change_noise", "flicker_space", "own_ratio_2"):
        assert moving[name] > still[name] + 0.7
    assert moving["dark_once"] > still["dark_once"] + 0.2


@pytest.mark.parametrize("dark", [3, 4])
def test_the_dark_share_is_the_one_drawn(dark):
    still = by_name(draw(dark=dark))
    # Blur and rounded ends make a dark body shorter than drawn.
    assert dark / PERIOD / 2 < still["dark_in_all"] < dark / PERIOD
    assert by_name(draw(dark=dark, moving=True))["dark_in_all"] < 0.03


def test_noise_alone_shows_no_structure_that_stays():
    random = np.random.default_rng(0)
    clip = np.empty((FRAMES, SIZE, SIZE, 2), np.uint8)
    clip[..., 0] = random.normal(60, 12, clip.shape[:3]).clip(0, 255)
    clip[..., 1] = 255
    noise = by_name(clip)
    for name in ("same_5_1", "same_9_1", "same_5_4", "pattern_1", "pattern_3", "same_p50"):
        assert noise[name] == pytest.approx(0, abs=0.1)
    assert noise["noise"] > by_name(draw(noise=0.02))["noise"] + 1


def test_a_bright_tube_without_cells_stays_but_is_nowhere_dark():
    even = by_name(draw(dark=0, noise=0.02))
    assert even["same_5_1"] > 0.8
    assert even["dark_in_all"] < 0.02
    assert even["own_dark_1"] < 0.1
    assert even["bright_in_all"] > by_name(draw(noise=0.02))["bright_in_all"]


def test_the_frames_in_focus_follow_the_depth_of_focus():
    short, long = (np.exp(by_name(draw(focus=focus))["frames_in_focus"]) for focus in (2.5, 4.0))
    # The energy exp(-x**2) is above half its range for |x| < 0.83, so 1.67 times the deviation.
    assert short == pytest.approx(5, abs=1)
    assert long == pytest.approx(1.67 * 4.0, abs=1.5)


@pytest.mark.parametrize("moving", [False, True])
def test_gain_and_surround_hardly_change_the_features(moving):
    clip = draw(moving=moving, noise=0.03)
    expected = measure(clip)
    dimmer = measure(draw(moving=moving, noise=0.03, gain=0.6))
    assert np.abs(dimmer - expected).mean() < 0.05
    black = clip.copy()
    black[..., 0][clip[..., 1] == 0] = 0
    assert np.abs(measure(black) - expected).mean() < 0.05


def test_a_rotated_clip_has_the_same_features_but_those_of_rows():
    level = by_name(draw(moving=True, noise=0.02))
    upright = by_name(draw(moving=True, noise=0.02, upright=True))
    for name in set(FEATURES) - {"streaks", "rows"}:
        assert upright[name] == pytest.approx(level[name], abs=0.02)
    for name in ("streaks", "rows"):
        assert upright[name] == pytest.approx(-level[name], abs=0.02)


def test_black_frames_and_copies_change_nothing():
    clip = draw(moving=True, noise=0.05, focus=8)
    expected = measure(clip)
    black = np.zeros_like(clip[:7])
    black[..., 1] = clip[0, ..., 1]
    np.testing.assert_allclose(measure(np.concatenate([clip, black])), expected, atol=1e-5)
    twice = np.repeat(clip, 2, axis=0)
    np.testing.assert_allclose(measure(twice), expected, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12),
    st.sampled_from([16, 33, 64]),
    st.sampled_from(["black", "white", "noise", "one frame lit"]),
    st.sampled_from(["all", "none", "one pixel", "corner"]),
)
def test_features_are_finite_for_any_clip(frames, size, kind, mask):
    random = np.random.default_rng(0)
    clip = np.zeros((frames, size, size, 2), np.uint8)
    if kind == "white":
        clip[..., 0] = 255
    if kind == "noise":
        clip[..., 0] = random.integers(0, 256, clip.shape[:3])
    if kind == "one frame lit":
        clip[0, ..., 0] = random.integers(0, 256, clip.shape[1:3])
    where = {"all": np.s_[:, :], "none": np.s_[:0, :0], "one pixel": np.s_[7:8, 9:10]}
    clip[:, *where.get(mask, np.s_[:6, :6]), 1] = 255
    features = measure(clip)
    assert features.shape == (len(FEATURES),)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()


def test_long_clips_are_filtered_in_parts():
    clip = draw(noise=0.05)
    shifted = np.concatenate([clip[:1]] * 1 + [draw(noise=0.05, seed=n) for n in range(8)])
    assert np.isfinite(measure(shifted)).all()
