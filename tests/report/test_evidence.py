import cv2
import numpy as np
import pytest

from stallscan.report import cards, evidence

SHAPE = (40, 80)


def _recording(moves):
    """Make a straight vessel with a gap that stays or moves, in focus in the middle frames."""
    random = np.random.default_rng(0)
    frames = np.empty((40, *SHAPE), np.float32)
    for number, frame in enumerate(frames):
        frame[:] = 20
        focus = np.exp(-(((number - 20) / 6) ** 2))
        frame[17:23, 5:75] += 120 * focus
        gap = 20 + 3 * (number - 12) if moves else 40
        frame[17:23, gap : gap + 6] -= 100 * focus
        frame += random.normal(0, 2, SHAPE)
    mask = np.zeros(SHAPE, bool)
    mask[8:32, 3:77] = True
    return frames.clip(0, 255).astype(np.uint8), mask


def _parts(picture):
    """Split a picture at its white gaps: mean, change, along the line."""
    height, width = SHAPE
    first = round(evidence.SIDE_PX * width / height)
    second = first + evidence.GAP_PX + first
    for start in (first, second):
        assert (picture[:, start : start + evidence.GAP_PX] == evidence.GROUND).all()
    third = second + evidence.GAP_PX
    return picture[:, :first], picture[:, first + evidence.GAP_PX : second], picture[:, third:]


def test_what_stands_still_is_a_stripe_and_what_moves_changes():
    darkest, changed = {}, {}
    for moves in (True, False):
        picture = evidence.draw(*_recording(moves))
        assert (picture.dtype, picture.shape[0]) == (np.uint8, evidence.SIDE_PX)
        _, change, along = _parts(picture)
        marks, shown = along[:, : evidence.MARK_PX], along[:, evidence.MARK_PX :, 0].astype(float)
        sharp = (marks[:, 0] == evidence.MARK_COLOUR).all(axis=1)
        assert sharp[evidence.SIDE_PX // 2]
        assert not sharp.all()
        darkest[moves] = shown[sharp].mean(axis=0).min() / shown[sharp].mean()
        middle = slice(int(evidence.SIDE_PX * 0.45), int(evidence.SIDE_PX * 0.55))
        changed[moves] = change[middle].mean()
    assert darkest[True] > 0.6 > darkest[False]
    assert changed[True] > 1.5 * changed[False]


def test_a_region_without_a_vessel_and_one_of_few_frames_have_a_picture():
    noise = np.random.default_rng(1).integers(90, 110, (3, *SHAPE), dtype=np.uint8)
    mask = np.zeros(SHAPE, bool)
    mask[10:14, 10:14] = True
    for frames in (noise, noise[:1], np.zeros_like(noise)):
        assert evidence.draw(frames, mask).shape[0] == evidence.SIDE_PX


def test_the_line_is_drawn_with_a_dot_where_it_starts():
    mean, _, _ = _parts(evidence.draw(*_recording(False)))
    blue = (mean[..., 0].astype(int) - mean[..., 2] > 120).astype(np.uint8)
    rows, columns = np.nonzero(blue)
    assert np.ptp(columns) > 0.6 * mean.shape[1]
    assert abs(rows.mean() - evidence.SIDE_PX / 2) < 5
    assert cv2.erode(blue, np.ones((3, 3))).any()


@pytest.mark.parametrize("shape", [(9, 512), (512, 9), (1, 300), (300, 1)])
def test_a_long_region_has_a_picture_that_fits_into_a_file(shape):
    grey = np.random.default_rng(0).integers(0, 255, (20, *shape), np.uint8)
    picture = cards.draw_masked(grey, np.ones(shape, bool))
    assert picture.shape[1] < 2000
    assert cards.as_webp(picture, 80)


def test_a_region_of_narrow_lines_has_a_picture():
    mask = np.zeros((600, 600), bool)
    mask[1], mask[:, 1] = True, True
    grey = np.random.default_rng(0).integers(0, 255, (5, 600, 600), np.uint8)
    assert cards.draw_masked(grey, mask).any()
