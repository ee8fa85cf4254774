"""States of single segments, drawn with a known stall."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from stallscan.series import brightness, pattern
from stallscan.series.pattern import NoiseLaw, measure_noise
from stallscan.series.stallogram import FLOWING, STALLED, UNKNOWN
from stallscan.series.traces import Trace, find_bad_frames

POINTS, FRAMES = 40, 120
LEVEL, TISSUE, NOISE = 100.0, 10.0, 4.0


def draw_vessel(
    standing: slice | None,
    seed: int = 0,
    contrast: float = 0.3,
    flowing: float = 1.0,
    frames: int = FRAMES,
) -> np.ndarray:
    """Return a vessel along its line: a fixed part, cells, and noise; cells may stand."""
    rng = np.random.default_rng(seed)
    fixed = LEVEL * (1 + 0.2 * gaussian_filter1d(rng.normal(0, 3, POINTS), 5))
    cells = gaussian_filter1d(rng.normal(0, 1, (frames, POINTS)), 2, axis=1)
    cells *= contrast * LEVEL / cells.std() * flowing
    if standing is not None:
        cells[standing] = cells[standing.start] / flowing
    return (fixed + cells + rng.normal(0, NOISE, (frames, POINTS))).astype(np.float32)


def noise_lines(seed: int = 1) -> list[np.ndarray]:
    """Return lines in tissue and in still vessels, with the noise of `draw_vessel`."""
    rng = np.random.default_rng(seed)
    levels = rng.uniform(TISSUE, LEVEL, 60)
    return [(level + rng.normal(0, NOISE, (60, 30))).astype(np.float32) for level in levels]


@pytest.fixture(scope="module")
def law() -> NoiseLaw:
    return measure_noise(noise_lines(), 1.0)


def find(values: np.ndarray, law: NoiseLaw, least: int = 3, longest: int = 30) -> pattern.Found:
    return pattern.find_states(values, TISSUE, law, 1.0, least, longest)


def test_the_noise_is_that_of_still_lines(law: NoiseLaw) -> None:
    rng = np.random.default_rng(2)
    noise = rng.normal(0, NOISE, (4000, 30)).astype(np.float32)
    true = float(pattern.extract_pattern(noise, 1.0).var())
    assert 0.8 * true < law.variance(50.0) < 1.05 * true


def test_damaged_frames_do_not_count_as_noise(law: NoiseLaw) -> None:
    lines = noise_lines()
    for line in lines:
        line[[3, 40]] = np.nan
    assert measure_noise(lines, 1.0).variance(50.0) == pytest.approx(law.variance(50.0), rel=0.1)
    for line in lines:
        line[:30] = np.nan
    found = find(draw_vessel(slice(30, 50)), measure_noise(lines, 1.0))
    assert (found.states == UNKNOWN).all()


def test_noise_that_grows_with_the_light_is_followed() -> None:
    rng = np.random.default_rng(3)
    levels = rng.uniform(20, 200, 200)
    lines = [rng.poisson(level, (60, 30)).astype(np.float32) for level in levels]
    law = measure_noise(lines, 1.0)
    for level in (40.0, 200.0):
        noise = rng.poisson(level, (4000, 30)).astype(np.float32)
        true = float(pattern.extract_pattern(noise, 1.0).var())
        assert law.variance(level) == pytest.approx(true, rel=0.2)


@pytest.mark.parametrize("standing", [slice(30, 50), slice(0, 25), slice(100, 120), slice(20, 110)])
def test_a_stall_is_found_where_it_is(law: NoiseLaw, standing: slice) -> None:
    found = find(draw_vessel(standing), law)
    assert not found.reason
    true = np.full(FRAMES, FLOWING)
    true[standing] = STALLED
    assert np.count_nonzero(found.states != true) <= 2


def test_flow_is_flow(law: NoiseLaw) -> None:
    stalled = [find(draw_vessel(None, seed), law).states == STALLED for seed in range(10)]
    assert np.mean(stalled) < 0.01


def test_two_stalls_are_told_apart(law: NoiseLaw) -> None:
    values = draw_vessel(slice(20, 40))
    values[70:90] = draw_vessel(slice(70, 90), seed=0)[70:90]
    states = find(values, law).states
    assert (states[22:38] == STALLED).all()
    assert (states[45:65] == FLOWING).all()
    assert (states[72:88] == STALLED).all()


def test_a_vessel_without_moving_blood_is_unknown(law: NoiseLaw) -> None:
    # Standing throughout, or without visible cells: nobody can tell from the movie alone.
    for values in (draw_vessel(slice(0, FRAMES)), draw_vessel(None, contrast=0.001)):
        found = find(values, law)
        assert (found.states == UNKNOWN).all()
        assert "no moving blood" in found.reason


def test_a_vessel_as_dark_as_the_tissue_is_unknown(law: NoiseLaw) -> None:
    found = find(draw_vessel(None) - LEVEL, law)
    assert (found.states == UNKNOWN).all()
    assert found.reason


def test_damaged_frames_are_unknown_and_the_others_are_not(law: NoiseLaw) -> None:
    values = draw_vessel(slice(30, 50))
    values[[5, 35, 80]] = np.nan
    states = find(values, law).states
    assert np.flatnonzero(states == UNKNOWN).tolist() == [5, 35, 80]
    assert np.count_nonzero(states == STALLED) == pytest.approx(19, abs=2)


def test_noise_makes_only_longer_stalls_visible() -> None:
    quiet, loud = (NoiseLaw(variance, 0.0) for variance in (1.0, 200.0))
    values = draw_vessel(None)
    assert find(values, quiet, least=2).shortest < find(values, loud, least=2).shortest


def test_no_stall_is_shorter_than_the_least(law: NoiseLaw) -> None:
    values = draw_vessel(slice(30, 36))
    assert (find(values, law, least=3).states[31:35] == STALLED).all()
    assert (find(values, law, least=12).states != STALLED).all()


@pytest.mark.parametrize("least", [200, 300])
def test_the_least_stall_may_be_of_hundreds_of_frames(law: NoiseLaw, least: int) -> None:
    # 300 frames are 10 s at 30 frames per second.
    values = draw_vessel(slice(300, 690), frames=1300)
    values[1000:1150] = draw_vessel(slice(0, 150), seed=3, frames=150)
    found = find(values, law, least, longest=900)
    assert (found.shortest, found.reason) == (least, "")
    true = np.full(1300, FLOWING)
    true[300:690] = STALLED
    assert np.count_nonzero(found.states != true) <= 4


def test_frames_in_which_many_vessels_darken_are_bad() -> None:
    drawn = [draw_angiogram(slice(30, 50) if number == 0 else None) for number in range(10)]
    for values in drawn[:4]:
        values[70] = TISSUE  # smeared: four of ten vessels darken in this frame alone
    bad = find_bad_frames([Trace(values, TISSUE) for values in drawn])
    # The stall of one vessel is none of that.
    assert np.flatnonzero(bad).tolist() == [70]
    # Of a few vessels, one that stalls would be many.
    assert not find_bad_frames([Trace(values, TISSUE) for values in drawn[:4]]).any()
    assert not find_bad_frames([]).any()


def test_damaged_frames_are_bad_however_few_the_vessels() -> None:
    drawn = [draw_angiogram(None) for _ in range(10)]
    for values in drawn:
        values[[5, 40, 41]] = np.nan
    for count in (1, 10):
        bad = find_bad_frames([Trace(values, TISSUE) for values in drawn[:count]])
        assert np.flatnonzero(bad).tolist() == [5, 40, 41]


def draw_angiogram(dark: slice | None, noise: float = 5.0) -> np.ndarray:
    rng = np.random.default_rng(4)
    values = np.full((FRAMES, POINTS), LEVEL)
    if dark is not None:
        values[dark] = TISSUE + 5
    return (values + rng.normal(0, noise, values.shape)).astype(np.float32)


@pytest.mark.parametrize("dark", [slice(50, 51), slice(30, 50), slice(10, 110), slice(0, 8)])
def test_a_vessel_that_darkens_is_stalled(dark: slice) -> None:
    states = brightness.find_states(draw_angiogram(dark), TISSUE).states
    true = np.full(FRAMES, FLOWING)
    true[dark] = STALLED
    assert states.tolist() == true.tolist()


def test_bright_vessels_flow_and_dark_ones_are_unknown() -> None:
    assert (brightness.find_states(draw_angiogram(None), TISSUE).states == FLOWING).all()
    always = brightness.find_states(draw_angiogram(slice(0, FRAMES)), TISSUE + 5)
    assert (always.states == UNKNOWN).all()
    assert always.reason
    noisy = brightness.find_states(draw_angiogram(slice(30, 50), noise=400), TISSUE)
    assert (noisy.states == UNKNOWN).all()
