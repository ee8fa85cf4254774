from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from stallscan.simulate.blood import (
    FLOWING,
    FLOWING_SHARE,
    KINDS,
    MOVING_UM,
    PATTERN_LENGTH,
    PATTERN_STEP_UM,
    STALLED,
    STALLED_SHARE,
    STANDING_UM,
    draw_blood,
    draw_patterns,
    stall,
)

LENGTH_UM = 70
SHARED = ("dark", "pattern", "contrast", "pulse")


def make_scene(vessels=40, frames=56, radius_um=3.0):
    vessel = SimpleNamespace(radius_um=np.full(50, radius_um))
    return SimpleNamespace(vessels=(vessel,) * vessels, shape=(frames, 160, 192))


@pytest.fixture(scope="module")
def pairs():
    """Frame time, focus, and blood with either label, for each recording."""
    drawn = []
    for row in range(300):
        rng = np.random.default_rng([7, row])
        frames = int(rng.integers(17, 120))
        # Small fields are scanned faster than whole ones; at times hardly any frame is in focus.
        frame_s = rng.uniform(0.2, 1)
        in_focus = int(rng.integers(1, 25))
        first = int(rng.integers(0, max(frames - in_focus, 1)))
        focus = first, min(first + in_focus, frames) - 1
        flowing = draw_blood(rng, make_scene(8, frames), frame_s, focus)
        drawn.append((frame_s, focus, flowing, stall(flowing, LENGTH_UM, focus, rng)))
    return drawn


def steps_um(blood, focus):
    """Return the signed displacement of the outlined cells between frames in focus."""
    moved = blood.start_um[0]
    after_last = moved[-1] + blood.speed_um_s[0, -1] * blood.frame_s
    return np.diff(np.append(moved, after_last))[focus[0] : focus[1] + 1]


def runs_um(dark, least_gap_um=0.0):
    """Return the lengths of the dark bodies of a pattern, and of the plasma between them."""
    edges = np.flatnonzero(np.diff((dark > 0.5).astype(int), prepend=0))
    starts, ends = edges[::2], edges[1::2]
    starts = starts[: len(ends)]
    gaps = (starts[1:] - ends[:-1]) * PATTERN_STEP_UM
    apart = gaps > least_gap_um
    starts, ends = starts[np.append(True, apart)], ends[np.append(apart, True)]
    # The last run is cut short where the pattern ends.
    return (ends - starts)[:-1] * PATTERN_STEP_UM, gaps[apart]


def many_runs(kind, least_gap_um=0.0):
    found = [
        runs_um(dark, least_gap_um)
        for dark in draw_patterns(np.random.default_rng(1), [kind] * 100)
    ]
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))


def test_single_cells_have_the_measured_length_and_hematocrit():
    patterns = draw_patterns(np.random.default_rng(0), ["cells"] * 200)
    assert patterns.shape == (200, PATTERN_LENGTH)
    assert patterns.dtype == np.float32
    assert patterns.min() == 0
    assert 0.95 < patterns.max() <= 1
    filled = (patterns > 0.5).mean(axis=1)
    # A pattern holds 35 to 75 cells, so that its hematocrit strays from what was drawn.
    assert 0.3 < filled.mean() < 0.35
    assert np.percentile(filled, 2) > 0.17
    assert np.percentile(filled, 98) < 0.48
    assert np.ptp(np.percentile(filled, (5, 95))) > 0.15
    cells, gaps = many_runs("cells")
    assert 5.7 < cells.mean() < 6.4
    assert (np.abs(cells - 6) <= 2.5).mean() > 0.98
    assert 1 < np.std(cells[cells < 8.5]) < 1.3  # 4 / sqrt(12) when even
    assert gaps.min() < 2
    assert gaps.max() > 40


def test_runs_plugs_and_packed_cells_have_their_lengths():
    runs, plasma = many_runs("train", 4)
    assert runs.min() >= 7.5
    assert runs.max() <= 8 * 8.8
    assert plasma.min() >= 7.5
    assert plasma.max() <= 30.5
    plugs, plasma = many_runs("plug")
    assert 7.5 <= plugs.min() < 9
    assert 31 < plugs.max() <= 32.5
    assert 9.5 <= plasma.min() < 12
    assert 38 < plasma.max() <= 40.5
    packed, plasma = many_runs("packed", 1.3)
    assert 30 <= packed.min() < 50
    assert 125 < packed.max() < 160
    assert 2.5 <= plasma.min() < 4
    assert 11 < plasma.max() <= 12.5


def test_a_pattern_repeats_without_a_seam():
    patterns = draw_patterns(np.random.default_rng(3), list(KINDS) * 10)
    assert np.abs(patterns[:, -1] - patterns[:, 0]).max() < 0.1


def test_the_rule_for_the_label_holds_for_both_labels_and_every_motion(pairs):
    seen = set()
    for frame_s, focus, *both in pairs:
        for blood, stalled in zip(both, (False, True), strict=True):
            step = np.abs(steps_um(blood, focus))
            share = (step < STANDING_UM).mean()
            assert not ((step >= STANDING_UM) & (step < MOVING_UM - 0.3)).any()
            mean = np.abs(blood.speed_um_s[0]) * frame_s
            assert not ((mean >= STANDING_UM) & (mean < MOVING_UM - 1e-9)).any()
            assert share >= STALLED_SHARE if stalled else share <= FLOWING_SHARE
            assert blood.motion in (STALLED if stalled else FLOWING)
            seen.add(blood.motion)
    assert seen == {*STALLED, *FLOWING}


def test_every_motion_is_what_its_name_says(pairs):
    for frame_s, focus, *both in pairs:
        for blood in both:
            step = steps_um(blood, focus)
            still = np.abs(step) < STANDING_UM
            turns = np.count_nonzero(np.diff(np.sign(blood.speed_um_s[0])))
            match blood.motion:
                case "flow":
                    assert not still.any()
                    assert turns == 0
                case "crawl":
                    assert (np.abs(step) > MOVING_UM - 1e-9).all()
                    assert (np.abs(step) < 6 + 1e-9).all()
                case "pause":
                    assert 0.1 - 1e-9 <= still.mean() <= FLOWING_SHARE
                case "reverse":
                    assert 1 <= turns <= 4
                    assert len(step) == 1 or len(set(np.sign(step))) == 2
                case "stall":
                    assert np.ptp(blood.start_um[0]) < 0.5
                case "creep":
                    mean = np.abs(blood.speed_um_s[0]) * frame_s
                    assert np.ptp(mean) == 0
                    assert 0.1 <= mean[0] <= 0.5
                case "starts":
                    assert not still[0]
                    assert still[-int(np.ceil(0.6 * len(still))) :].all()
                    assert (blood.speed_um_s[0, focus[1] :] == 0).all()
                case "ends":
                    assert still[: int(np.ceil(0.6 * len(still)))].all()
                    assert not still[-1]
                    assert (blood.speed_um_s[0, : focus[0]] == 0).all()


def test_motions_and_patterns_come_as_often_as_stated(pairs):
    plain = np.mean([flowing.motion == "flow" for *_, flowing, _ in pairs])
    held = np.mean([still.motion == "stall" for *_, still in pairs])
    cells = np.mean([flowing.kind == "cells" for *_, flowing, _ in pairs])
    assert 0.72 < plain < 0.9
    assert 0.62 < held < 0.85
    assert 0.3 < cells < 0.5
    assert {flowing.kind for *_, flowing, _ in pairs} == set(KINDS) - {"clear"}


def test_clear_blood_has_few_cells_and_a_stall_in_it_shows_at_least_one():
    length = 100.0  # um
    for row in range(40):
        rng = np.random.default_rng([12, row])
        blood = draw_blood(rng, make_scene(), 0.7, (20, 31), clear=1.0)
        assert blood.kind == "clear"
        assert (blood.dark[0] > 0.5).mean() < 0.3
        still = stall(blood, length, (20, 31), rng)
        at = {"starts": 31, "ends": 20}.get(still.motion, 25)
        places = np.arange(0, length, PATTERN_STEP_UM) - still.start_um[0, at]
        shown = still.dark[0, np.floor(places / PATTERN_STEP_UM).astype(int) % PATTERN_LENGTH]
        assert shown.max() > 0.5


def test_both_labels_share_everything_but_the_motion_of_the_outlined_segment(pairs):
    for _, _, flowing, still in pairs[:50]:
        assert flowing.kind == still.kind
        assert all(np.array_equal(getattr(flowing, n), getattr(still, n)) for n in SHARED)
        assert np.array_equal(flowing.speed_um_s[1:], still.speed_um_s[1:])
        assert np.array_equal(flowing.start_um[1:], still.start_um[1:])
        assert not np.array_equal(flowing.speed_um_s[0], still.speed_um_s[0])


def test_the_same_seed_gives_the_same_blood():
    first, second = (
        draw_blood(np.random.default_rng(4), make_scene(), 0.7, (20, 31)) for _ in range(2)
    )
    assert np.array_equal(first.dark, second.dark)
    assert np.array_equal(first.start_um, second.start_um)


def test_cells_come_to_rest_where_a_stall_can_be_seen(pairs):
    for _, focus, flowing, still in pairs:
        if still.motion == "stall":
            moved = still.start_um[0, (focus[0] + focus[1]) // 2]
            at = np.floor((np.arange(0, LENGTH_UM, 0.25) - moved) / PATTERN_STEP_UM).astype(int)
            share = (flowing.dark[0, at % PATTERN_LENGTH] > 0.5).mean()
            # Jitter moves a border by one value or two.
            if still.kind == "packed":
                assert share > 0.89
            else:
                assert 0.13 < share < 0.87


def speeds_of(radius_um, recordings):
    """Signed speeds (n, frames) of the other vessels in many recordings."""
    drawn = [
        draw_blood(np.random.default_rng([9, row]), make_scene(60, 56, radius_um), 0.7, (20, 31))
        for row in range(recordings)
    ]
    return drawn, np.concatenate([blood.speed_um_s[1:] for blood in drawn])


def test_speeds_have_the_measured_median_and_range():
    drawn, speed = speeds_of(3.0, 300)
    still = (speed == 0).all(axis=1)
    assert 0.006 < still.mean() < 0.015
    steady = (np.sign(speed) == np.sign(speed[:, :1])).all(axis=1) & ~still
    mean = np.abs(speed[steady]).mean(axis=1)
    assert 850 < np.median(mean) < 1150
    assert 0.8 < np.log(mean).std() < 1
    assert mean.min() > 90
    assert 4500 < mean.max() < 9700
    varied = speed[steady].std(axis=1) / mean
    assert 0.1 < np.median(varied) < 0.14
    # Vessels of one recording are more alike than those of two.
    within = [np.log(np.abs(blood.speed_um_s[:, 0]) + 1e-9) for blood in drawn]
    assert np.median([np.ptp(np.percentile(log, (16, 84))) / 2 for log in within]) < 0.75
    hertz = [blood.pulse[:, 1] for blood in drawn]
    assert all(np.ptp(each) == 0 and 6 <= each[0] <= 10 for each in hertz)


def test_large_vessels_are_fast():
    _, speed = speeds_of(9.0, 10)
    mean = np.abs(speed).mean(axis=1)
    # Reversing ones slow down while they turn.
    assert 2500 < np.median(mean) < 7500
    assert mean.min() > 500
    assert mean.max() < 21_600


def test_some_neighbours_change_direction_slowly():
    _, speed = speeds_of(3.0, 60)
    turns = np.count_nonzero(np.diff(np.sign(speed), axis=1), axis=1)
    assert 0.035 < (turns > 0).mean() < 0.065
    assert set(turns) == {0, 1, 2, 3, 4}
    once = speed[turns == 1]
    slowest = np.abs(once).min(axis=1) / np.abs(once).max(axis=1)
    assert np.median(slowest) < 0.15


def test_a_frame_starts_where_the_one_before_ended(pairs):
    for frame_s, _, flowing, _ in pairs[:20]:
        moving = flowing.speed_um_s.any(axis=1)
        ends = flowing.start_um + flowing.speed_um_s * frame_s
        assert np.allclose(flowing.start_um[moving, 1:], ends[moving, :-1])


def test_cells_are_darker_in_narrow_vessels():
    contrast = {
        radius: draw_blood(
            np.random.default_rng(2), make_scene(300, radius_um=radius), 0.7, (20, 31)
        ).contrast
        for radius in (2.5, 3.5, 5.0, 5.9, 9.0)
    }
    assert contrast[2.5].dtype == np.float32
    assert all(0.3 <= contrast[r].min() <= contrast[r].max() <= 0.95 for r in (2.5, 3.5))
    assert np.median(contrast[2.5]) > 0.5
    medians = [np.median(each) for each in contrast.values()]
    assert all(narrow >= wide for narrow, wide in pairwise(medians[:-1]))
    # In a large vessel each file of cells has its own contrast.
    assert medians[-2] < medians[-1] < 0.35 * 0.95


def test_the_outlined_segment_has_a_pattern_of_its_own():
    blood = draw_blood(np.random.default_rng(2), make_scene(300), 0.7, (20, 31))
    assert blood.pattern[0] == 0
    assert blood.pattern[1:].min() == 1
    assert blood.pattern.max() == len(blood.dark) - 1
