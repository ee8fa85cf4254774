import cv2
import numpy as np
import pytest

from stallscan import outline, video
from stallscan.errors import NoOutlineError, RecordingError, SeveralOutlinesError
from stallscan.outline import OutlineSettings
from stallscan.recording import from_array
from tests import drawing, published


def test_a_drawn_ellipse_is_found_with_its_interior():
    found = outline.find(from_array(drawing.frames()))
    assert found.is_closed
    assert found.frames_outlined == 8
    assert found.box == pytest.approx((24, 57, 10, 55), abs=2)
    filled = cv2.ellipse(np.zeros((96, 128), np.uint8), (32, 40), (20, 14), 0, 0, 360, 1, -1) > 0
    assert np.array_equal(found.mask, filled & ~found.contour)
    assert not (found.mask & found.contour).any()


@pytest.mark.parametrize(("rule", "px"), [("contour", 4), ("third-place", 4), ("first-place", 8)])
def test_every_rule_finds_the_same_place_after_encoding(tmp_path, rule, px):
    recording = video.read(drawing.write(tmp_path / "a.mp4"))
    found = outline.find(recording, OutlineSettings(rule=rule))
    # The first place's range of colours takes in what the codec spreads over a block of 8 px.
    assert found.box == pytest.approx((24, 57, 10, 55), abs=px)
    assert found.is_closed


def test_the_published_rule_by_name_equals_the_rule_written_down(tmp_path):
    for seed in range(20):
        path = drawing.write(tmp_path / f"{seed}.mp4", count=3, seed=seed)
        recording = video.read(path)
        found = outline.find(recording, OutlineSettings(rule="third-place"))
        assert found.box == published.box(recording.frames[0])


def test_no_outline_is_said():
    with pytest.raises(NoOutlineError, match="no outline found in any of its 8 frames"):
        outline.find(from_array(drawing.frames(contours=0), "a.mp4"))


def test_a_grey_recording_has_no_outline():
    with pytest.raises(NoOutlineError, match=r"a\.tif: the recording is grey"):
        outline.find(from_array(np.zeros((5, 40, 40), np.uint8), "a.tif"))


def test_two_outlines_are_said():
    with pytest.raises(SeveralOutlinesError, match="2 segments are outlined"):
        outline.find(from_array(drawing.frames(contours=2)))


def test_the_published_rule_takes_two_outlines_together():
    found = outline.find(
        from_array(drawing.frames(contours=2)), OutlineSettings(rule="third-place")
    )
    assert found.box.col1 > 100


def test_specks_of_colour_do_not_matter():
    recording = drawing.frames()
    recording[:, 80:83, 110:113] = drawing.ORANGE
    assert outline.find(from_array(recording)).box.row1 < 60


def test_a_faint_specks_only_recording_has_no_outline():
    recording = drawing.frames(contours=0)
    recording[:, 80:83, 110:113] = drawing.ORANGE
    with pytest.raises(NoOutlineError):
        outline.find(from_array(recording))


@pytest.mark.parametrize("centre", [(5, 40), (64, 4), (124, 50), (2, 2)])
def test_the_image_border_closes_an_outline(centre):
    recording = drawing.frames(contours=0)
    inside = np.zeros(recording.shape[1:3], np.uint8)
    for frame in recording:
        cv2.ellipse(frame, centre, (22, 15), 0, 0, 360, drawing.ORANGE, 3)
    cv2.ellipse(inside, centre, (20, 13), 0, 0, 360, 1, -1)
    found = outline.find(from_array(recording))
    assert found.is_closed
    overlap = (found.mask & (inside > 0)).sum() / (found.mask | (inside > 0)).sum()
    assert overlap > 0.85


def test_an_outline_cut_by_the_border_into_two_arcs_is_one():
    recording = drawing.frames(contours=0, height=60)
    for frame in recording:
        cv2.ellipse(frame, (60, 30), (30, 40), 0, 0, 360, drawing.ORANGE, 3)
    found = outline.find(from_array(recording))
    assert found.is_closed
    assert found.mask[30, 60]
    assert not found.mask[30, 5]


def test_a_tight_crop_has_no_corners_in_its_mask():
    recording = drawing.frames()[:, 24:57, 10:55]
    found = outline.find(from_array(recording))
    assert found.mask[16, 22]
    assert not found.mask[0, 0]
    assert not found.mask[-1, -1]


def test_an_open_contour_is_filled_over_a_small_gap_and_hulled_over_a_large_one():
    recording = drawing.frames()
    recording[:, 22:32, 30:34] = 50
    small = outline.find(from_array(recording))
    assert small.is_closed
    recording[:, 20:40, 30:60] = 50
    large = outline.find(from_array(recording))
    assert not large.is_closed
    assert large.mask.any()


def test_the_box_is_the_union_over_frames():
    recording = drawing.frames(contours=0)
    for index, frame in enumerate(recording):
        cv2.ellipse(frame, (32 + 3 * (index % 2), 40), (20, 14), 0, 0, 360, drawing.ORANGE, 3)
    both = outline.find(from_array(recording)).box
    one = outline.find(from_array(recording[::2])).box
    assert both.col1 == one.col1 + 3
    assert both.col0 == one.col0


@pytest.mark.parametrize("hold", [0, 10**9])
def test_chunks_make_no_difference(tmp_path, hold):
    path = drawing.write(tmp_path / "a.mp4", count=70)
    found = outline.find(video.read(path, hold_bytes=hold))
    assert found.frames_outlined == 70
    assert found.box == outline.find(video.read(path)).box


def test_the_original_file_has_one_closed_outline_in_each_frame(real_dir):
    recording = video.read(real_dir / "clips" / "104611.mp4")
    found = outline.find(recording)
    assert len(recording) == found.frames_outlined == 52
    assert found.is_closed
    for frame in recording.frames:
        alone = outline.find(from_array(frame[None]))
        assert alone.is_closed
        assert alone.box == pytest.approx(found.box, abs=2)


def test_the_same_region_at_two_sizes(real_dir):
    small = outline.find(video.read(real_dir / "clips" / "105668_2.gif")).box
    large = outline.find(video.read(real_dir / "clips" / "105668_stalled_from320.mp4")).box
    assert np.array(small) * 1.6 == pytest.approx(np.array(large), abs=3)


def test_where_a_contour_lies_in_a_large_frame_makes_no_difference(tmp_path):
    """Only what is near the contour is looked at; the same pixels in full must give the same."""
    random = np.random.default_rng(4)
    for number in range(30):
        recording = drawing.frames(count=5, contours=0, height=192, width=256, seed=number)
        centre = [int(random.integers(0, side)) for side in (256, 192)]
        axes = [int(each) for each in random.integers(14, 60, 2)]
        turn, end = int(random.integers(0, 180)), int(random.choice([360, 360, 345, 250]))
        for frame in recording:
            cv2.ellipse(frame, centre, axes, turn, 0, end, drawing.ORANGE, 3)
            if number % 5 == 0:
                cv2.circle(frame, (8 * number, 20), 3, drawing.ORANGE, -1)
        path = tmp_path / f"{number}.mp4"
        video.write(path, recording)
        planes = video.read(path)
        for rule in ("contour", "third-place", "first-place"):
            settings = OutlineSettings(rule=rule)
            found = [_what_is_found(each, settings) for each in (planes, from_array(planes.frames))]
            assert found[0] == found[1], (number, rule)


def _what_is_found(recording, settings):
    try:
        found = outline.find(recording, settings)
    except RecordingError as error:
        return error.status
    return (found.box, found.contour.tobytes(), found.mask.tobytes(), found.is_closed)
