import itertools
import re

import numpy as np
import pytest

from stallscan.clips import clip, traits
from stallscan.clips.clip import ClipSettings
from stallscan.clips.traits import Gatherer
from stallscan.recordings.recording import Recording, from_array
from stallscan.vessels import outline

SIZE = (40, 50)


def _gather(grey, chunk=None, mask=None):
    mask = np.ones(grey.shape[1:], bool) if mask is None else mask
    gatherer = Gatherer(mask, SIZE)
    for start in range(0, len(grey), chunk or len(grey)):
        gatherer.add(grey[start : start + (chunk or len(grey))])
    return gatherer.traits()


def _vessel(focus, count=30, light=180, noise=10, seed=0):
    """Frames (count, 40, 50) of noise, with a bright band in the frames of `focus`."""
    random = np.random.default_rng(seed)
    grey = random.integers(0, noise + 1, (count, *SIZE), dtype=np.uint8)
    grey[focus, 18:24] += np.uint8(light)
    return grey


def test_grey_levels_change_and_likeness_are_those_of_the_pixels():
    random = np.random.default_rng(1)
    grey = random.integers(0, 200, (9, *SIZE), dtype=np.uint8)
    measured = _gather(grey)
    low, middle, high = np.percentile(grey, [5, 50, 95])
    assert measured.grey_low == pytest.approx(low, abs=1)
    assert measured.grey_middle == pytest.approx(middle, abs=1)
    assert measured.grey_high == pytest.approx(high, abs=1)
    assert measured.change == pytest.approx(
        np.median(np.abs(np.diff(grey.astype(int), axis=0))), abs=1
    )
    pairs = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in itertools.pairwise(grey)]
    assert measured.likeness == pytest.approx(np.median(pairs), abs=1e-3)
    assert (measured.rows_px, measured.cols_px, measured.frames) == (*SIZE, 9)


@pytest.mark.parametrize("chunk", [1, 4, 7])
def test_frames_that_come_some_at_a_time_have_the_same_traits(chunk):
    grey = _vessel(slice(10, 20))
    assert _gather(grey, chunk) == _gather(grey)


def test_only_what_the_outline_encloses_counts():
    grey = _vessel(slice(0, 30))
    mask = np.zeros(SIZE, bool)
    mask[10:32, 10:40] = True
    outside = grey.copy()
    outside[:, ~mask] = 255
    # The rim is left to the contour's ringing and to the blur: what is farther out changes nothing.
    inner, other = _gather(grey, mask=mask), _gather(outside, mask=mask)
    assert inner.grey_high == other.grey_high
    assert inner.change == other.change


def test_frames_in_focus_are_counted():
    measured = _gather(_vessel(slice(10, 17)))
    assert measured.frames_in_focus == 7
    assert measured.contrast > 100
    assert traits.gradable(measured) == ("ok", "")


CASES = {
    "dark": (_vessel(slice(10, 20), light=15, noise=5), "too_dark", "grey level"),
    "empty": (_vessel([], noise=40) + np.uint8(60), "out_of_focus", "no vessel"),
    "a glimpse": (_vessel([3, 4]), "out_of_focus", r"\b2 frames.*\b3\b"),
    "a flash": (_vessel([12], noise=40), "out_of_focus", "one frame"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_judged_is_said_with_its_reason(name):
    grey, expected, words = CASES[name]
    status, reason = traits.gradable(_gather(grey))
    assert status == expected
    assert re.search(words, reason)


def test_a_region_outside_the_field_of_view_is_not_judged():
    grey = _vessel(slice(0, 30))
    grey[:, :, :38] = 0
    status, reason = traits.gradable(_gather(grey))
    assert status == "out_of_view"
    assert "every frame" in reason


def test_a_region_that_moves_out_of_view_is_not_judged():
    grey = _vessel(slice(0, 30))
    grey[8:27] = 0
    status, reason = traits.gradable(_gather(grey))
    assert status == "out_of_view"
    assert "63%" in reason


def test_black_before_and_after_the_vessel_is_no_fault():
    grey = _vessel(slice(12, 18))
    grey[:11] = 0
    grey[20:] = 0
    assert traits.gradable(_gather(grey)) == ("ok", "")


@pytest.mark.parametrize("frame", [0, 5, 29])
def test_a_flash_beside_a_vessel_is_no_fault(frame):
    grey = _vessel(slice(12, 20), light=60)
    grey[frame, 18:24] += np.uint8(190)
    measured = _gather(grey)
    assert traits.gradable(measured) == ("ok", "")
    assert measured.frames_in_focus == 9


def test_an_outline_that_encloses_nothing_is_taken_whole():
    grey = _vessel(slice(0, 30))
    assert _gather(grey, mask=np.zeros(SIZE, bool)) == _gather(grey)


def test_a_clip_has_the_traits_of_the_whole_recording_whatever_is_cut():
    grey = _vessel(slice(10, 20))
    frames = np.repeat(grey[..., None], 3, axis=-1)
    for frame in frames:
        frame[5, 5:45] = frame[35, 5:45] = frame[5:36, 5] = frame[5:36, 44] = (255, 102, 0)
    recording: Recording = from_array(frames)
    segment = outline.find_outline(recording)
    measured = [
        clip.make_clip(recording, segment, settings).traits
        for settings in (
            ClipSettings(size=32, channels="rgb"),
            ClipSettings(size=64, channels="grey+mask", shape="pad", frames=8, background="black"),
        )
    ]
    assert measured[0] == measured[1]
    assert measured[0].frames == 30
    assert measured[0].frames_in_focus == 10
    assert (measured[0].rows_px, measured[0].cols_px) == (31, 40)
