import cv2
import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stallscan.errors import NoOutlineError, RecordingError, SeveralOutlinesError
from stallscan.recordings import encode, video
from stallscan.recordings.recording import from_array
from stallscan.vessels import outline
from stallscan.vessels.outline import OutlineSettings
from tests import drawing, third_place


def test_a_drawn_ellipse_is_found_with_its_interior():
    found = outline.find_outline(from_array(drawing.frames()))
    assert found.is_closed
    assert found.frames_outlined == 8
    assert found.box == pytest.approx((24, 57, 10, 55), abs=2)
    filled = cv2.ellipse(np.zeros((96, 128), np.uint8), (32, 40), (20, 14), 0, 0, 360, 1, -1) > 0
    assert np.array_equal(found.mask, filled & ~found.contour)
    assert not (found.mask & found.contour).any()


@pytest.mark.parametrize(("rule", "px"), [("contour", 4), ("third-place", 4), ("first-place", 8)])
def test_every_rule_finds_the_same_place_after_encoding(tmp_path, rule, px):
    recording = video.read_recording(drawing.write(tmp_path / "a.mp4"))
    found = outline.find_outline(recording, OutlineSettings(rule=rule))
    # The first place's colour range includes what the codec spreads over a block of 8 px.
    assert found.box == pytest.approx((24, 57, 10, 55), abs=px)
    assert found.is_closed


def test_the_published_rule_by_name_equals_the_rule_written_down(tmp_path):
    for seed in range(20):
        path = drawing.write(tmp_path / f"{seed}.mp4", count=3, seed=seed)
        recording = video.read_recording(path)
        found = outline.find_outline(recording, OutlineSettings(rule="third-place"))
        assert found.box == third_place.box(recording.frames[0])


def test_a_recording_without_an_outline_is_refused():
    with pytest.raises(NoOutlineError, match=r"a\.mp4: .* 8 frames.*\(255, 102, 0\)"):
        outline.find_outline(from_array(drawing.frames(contours=0), "a.mp4"))


def test_a_grey_recording_has_no_outline():
    with pytest.raises(NoOutlineError, match=r"a\.tif: .*grey.*\(255, 102, 0\)"):
        outline.find_outline(from_array(np.zeros((5, 40, 40), np.uint8), "a.tif"))


def test_two_outlines_are_refused():
    with pytest.raises(SeveralOutlinesError, match=r"a\.mp4: 2 segments"):
        outline.find_outline(from_array(drawing.frames(contours=2), "a.mp4"))


def test_the_published_rule_takes_two_outlines_together():
    found = outline.find_outline(
        from_array(drawing.frames(contours=2)), OutlineSettings(rule="third-place")
    )
    assert found.box.col1 > 100


def test_specks_of_colour_do_not_matter():
    recording = drawing.frames()
    recording[:, 80:83, 110:113] = drawing.ORANGE
    assert outline.find_outline(from_array(recording)).box.row1 < 60


def test_a_faint_specks_only_recording_has_no_outline():
    recording = drawing.frames(contours=0)
    recording[:, 80:83, 110:113] = drawing.ORANGE
    with pytest.raises(NoOutlineError):
        outline.find_outline(from_array(recording))


@pytest.mark.parametrize("centre", [(5, 40), (64, 4), (124, 50), (2, 2)])
def test_the_image_border_closes_an_outline(centre):
    recording = drawing.frames(contours=0)
    inside = np.zeros(recording.shape[1:3], np.uint8)
    for frame in recording:
        cv2.ellipse(frame, centre, (22, 15), 0, 0, 360, drawing.ORANGE, 3)
    cv2.ellipse(inside, centre, (20, 13), 0, 0, 360, 1, -1)
    found = outline.find_outline(from_array(recording))
    assert found.is_closed
    overlap = (found.mask & (inside > 0)).sum() / (found.mask | (inside > 0)).sum()
    assert overlap > 0.85


def test_an_outline_cut_by_the_border_into_two_arcs_is_one():
    recording = drawing.frames(contours=0, height=60)
    for frame in recording:
        cv2.ellipse(frame, (60, 30), (30, 40), 0, 0, 360, drawing.ORANGE, 3)
    found = outline.find_outline(from_array(recording))
    assert found.is_closed
    assert found.mask[30, 60]
    assert not found.mask[30, 5]


def test_a_tight_crop_has_no_corners_in_its_mask():
    recording = drawing.frames()[:, 24:57, 10:55]
    found = outline.find_outline(from_array(recording))
    assert found.mask[16, 22]
    assert not found.mask[0, 0]
    assert not found.mask[-1, -1]


def test_an_open_contour_is_filled_over_a_small_gap_and_hulled_over_a_large_one():
    recording = drawing.frames()
    recording[:, 22:32, 30:34] = 50
    small = outline.find_outline(from_array(recording))
    assert small.is_closed
    recording[:, 20:40, 30:60] = 50
    large = outline.find_outline(from_array(recording))
    assert not large.is_closed
    assert large.mask.any()


def test_the_box_is_the_union_over_frames():
    recording = drawing.frames(contours=0)
    for index, frame in enumerate(recording):
        cv2.ellipse(frame, (32 + 3 * (index % 2), 40), (20, 14), 0, 0, 360, drawing.ORANGE, 3)
    both = outline.find_outline(from_array(recording)).box
    one = outline.find_outline(from_array(recording[::2])).box
    assert both.col1 == one.col1 + 3
    assert both.col0 == one.col0


@pytest.mark.parametrize("hold", [0, 10**9])
def test_chunks_make_no_difference(tmp_path, hold):
    path = drawing.write(tmp_path / "a.mp4", count=70)
    found = outline.find_outline(video.read_recording(path, hold_bytes=hold))
    assert found.frames_outlined == 70
    assert found.box == outline.find_outline(video.read_recording(path)).box


def test_the_original_file_has_one_closed_outline_in_each_frame(real_dir):
    recording = video.read_recording(real_dir / "clips" / "104611.mp4")
    found = outline.find_outline(recording)
    assert len(recording) == found.frames_outlined == 52
    assert found.is_closed
    for frame in recording.frames:
        alone = outline.find_outline(from_array(frame[None]))
        assert alone.is_closed
        assert alone.box == pytest.approx(found.box, abs=2)


def test_the_same_region_at_two_sizes(real_dir):
    small = outline.find_outline(video.read_recording(real_dir / "clips" / "105668_2.gif")).box
    large = outline.find_outline(
        video.read_recording(real_dir / "clips" / "105668_stalled_from320.mp4")
    ).box
    assert np.array(small) * 1.6 == pytest.approx(np.array(large), abs=3)


@pytest.mark.slow
def test_where_a_contour_lies_in_a_large_frame_makes_no_difference(tmp_path):
    """Video is searched near the contour only, with the same result as for whole frames."""
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
        encode.write_video(path, recording)
        planes = video.read_recording(path)
        for rule in ("contour", "third-place", "first-place"):
            settings = OutlineSettings(rule=rule)
            found = [_what_is_found(each, settings) for each in (planes, from_array(planes.frames))]
            assert found[0] == found[1], (number, rule)


def _what_is_found(recording, settings):
    try:
        found = outline.find_outline(recording, settings)
    except RecordingError as error:
        return error.status
    return (found.box, found.contour.tobytes(), found.mask.tobytes(), found.is_closed)


def _canvas(colour=drawing.ORANGE, thickness=3, count=4, axes=(40, 24)):
    """Grey noise, 160 x 220, and one ellipse."""
    recording = drawing.frames(count, 160, 220, contours=0)
    for frame in recording:
        cv2.ellipse(frame, (90, 80), axes, 0, 0, 360, colour, thickness)
    return recording


def _each(recording, draw):
    for frame in recording:
        draw(frame)
    return recording


def _text(content, place, colour=drawing.ORANGE, size=0.6):
    return lambda frame: cv2.putText(
        frame, content, place, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 2, cv2.LINE_AA
    )


@pytest.mark.parametrize("colour", [drawing.ORANGE, (255, 0, 0)])
@pytest.mark.parametrize(
    "draw",
    [
        lambda colour: _text("mouse 08, O 12:36", (5, 20), colour),
        lambda colour: lambda frame: cv2.rectangle(frame, (150, 150), (210, 154), colour, -1),
        lambda colour: lambda frame: cv2.arrowedLine(frame, (150, 20), (180, 60), colour, 2),
        lambda colour: lambda frame: cv2.circle(frame, (20, 130), 8, colour, -1),
        lambda colour: lambda frame: cv2.line(frame, (180, 0), (200, 159), colour, 2),
    ],
    ids=["stamp", "scale bar", "arrow", "dot", "line across the frame"],
)
def test_drawings_that_enclose_nothing_change_neither_box_nor_mask(draw, colour):
    alone = outline.find_outline(from_array(_canvas()))
    found = outline.find_outline(from_array(_each(_canvas(), draw(colour))))
    assert found.box == alone.box
    assert np.array_equal(found.mask, alone.mask)


@given(seed=st.integers(0, 2**32 - 1), strokes=st.integers(1, 6))
@hypothesis.settings(max_examples=10, deadline=None)
def test_clutter_that_encloses_nothing_makes_no_difference(seed, strokes):
    random = np.random.default_rng(seed)
    alone = outline.find_outline(from_array(_canvas(count=2)))
    recording = _canvas(count=2)
    for number in range(strokes):  # side by side, so that they enclose nothing together
        ends = random.integers([150, 5 + 25 * number], [210, 20 + 25 * number], (2, 2)).tolist()
        kind, width = random.integers(3), int(random.integers(1, 5))
        for frame in recording:
            if kind == 0:
                cv2.line(frame, ends[0], ends[1], drawing.ORANGE, width)
            elif kind == 1:
                cv2.rectangle(frame, ends[0], ends[1], (255, 40, 0), -1)
            else:
                _text("08", (ends[0][0] - 4, ends[0][1] + 5), size=0.4)(frame)
    found = outline.find_outline(from_array(recording))
    assert found.box == alone.box
    assert np.array_equal(found.mask, alone.mask)


def test_a_label_that_touches_the_outline_is_no_part_of_it():
    alone = outline.find_outline(from_array(_canvas()))
    found = outline.find_outline(from_array(_each(_canvas(), _text("8", (128, 90), size=1.0))))
    assert tuple(found.box) == pytest.approx(tuple(alone.box), abs=8)
    assert (found.mask & ~alone.mask).sum() == 0


@pytest.mark.parametrize(
    "draw",
    [
        lambda frame: cv2.ellipse(frame, (180, 80), (20, 24), 0, 0, 360, (255, 0, 0), 3),
        lambda frame: cv2.ellipse(frame, (90, 80), (22, 12), 0, 0, 360, drawing.ORANGE, 2),
        lambda frame: cv2.ellipse(frame, (157, 80), (26, 24), 0, 0, 360, drawing.ORANGE, 3),
        lambda frame: cv2.line(frame, (90, 50), (90, 110), drawing.ORANGE, 3),
        lambda frame: cv2.rectangle(frame, (150, 100), (215, 150), drawing.ORANGE, 2),
        lambda frame: cv2.rectangle(frame, (1, 1), (218, 158), drawing.ORANGE, 2),
    ],
    ids=["another red", "nested", "touching", "shared edge", "legend box", "frame round the image"],
)
@pytest.mark.parametrize("encoded", [False, True])
def test_every_enclosing_contour_counts(tmp_path, draw, encoded):
    with pytest.raises(SeveralOutlinesError):
        outline.find_outline(_maybe_encoded(tmp_path, _each(_canvas(), draw), encoded))


def _maybe_encoded(tmp_path, recording, encoded):
    if not encoded:
        return from_array(recording)
    encode.write_video(tmp_path / "a.mp4", recording)
    return video.read_recording(tmp_path / "a.mp4")


def test_a_second_outline_in_few_frames_counts():
    recording = _canvas(count=24, axes=(30, 20))
    for frame in recording[:2]:
        cv2.ellipse(frame, (180, 80), (20, 24), 0, 0, 360, drawing.ORANGE, 3)
    with pytest.raises(SeveralOutlinesError):
        outline.find_outline(from_array(recording))


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize(
    "table",
    [
        lambda x: np.stack([x, 0 * x, 0 * x], -1),
        lambda x: np.stack([np.clip(2.2 * x, 0, 1), np.clip(2 * x - 0.6, 0, 1), 0 * x], -1),
        lambda x: np.stack([0 * x, x, 0 * x], -1),
    ],
    ids=["red", "fire", "green"],
)
@pytest.mark.parametrize("outlined", [False, True])
def test_a_coloured_recording_is_refused(tmp_path, table, outlined, encoded):
    recording = (table(drawing.frames(contours=0)[..., 0] / 255) * 255).astype(np.uint8)
    for frame in recording:
        if outlined:
            cv2.ellipse(frame, (60, 40), (30, 20), 0, 0, 360, drawing.ORANGE, 3)
    with pytest.raises(NoOutlineError, match="coloured"):
        outline.find_outline(_maybe_encoded(tmp_path, recording, encoded))


def test_a_warm_white_balance_is_not_a_coloured_recording():
    alone = outline.find_outline(from_array(_canvas()))
    recording = np.clip(_canvas() * [1.15, 1, 0.75], 0, 255).astype(np.uint8)
    found = outline.find_outline(from_array(recording))
    assert found.box == alone.box


@pytest.mark.parametrize("contour", [False, True])
@pytest.mark.parametrize("alpha", [0.2, 0.3, 0.5, 1.0])
def test_a_filled_outline_is_refused(alpha, contour):
    recording = _canvas(thickness=3)
    filled = _canvas(thickness=-1)
    blended = np.rint((1 - alpha) * drawing.frames(4, 160, 220, contours=0) + alpha * filled)
    inside = (filled == drawing.ORANGE).all(axis=-1)
    if not contour:
        recording = drawing.frames(4, 160, 220, contours=0)
    line = (recording == drawing.ORANGE).all(axis=-1)
    recording[inside & ~line] = blended.astype(np.uint8)[inside & ~line]
    with pytest.raises(NoOutlineError):
        outline.find_outline(from_array(recording))


def test_a_thick_contour_counts():
    assert outline.find_outline(from_array(_canvas(thickness=12))).is_closed


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize(("dash", "step"), [(6, 12), (5, 18), (2, 9)])
def test_dashes_are_joined(tmp_path, dash, step, encoded):
    alone = outline.find_outline(from_array(_canvas()))
    recording = drawing.frames(4, 160, 220, contours=0)
    for frame in recording:
        for angle in range(0, 360, step):
            cv2.ellipse(frame, (90, 80), (40, 24), 0, angle, angle + dash, drawing.ORANGE, 3)
    found = outline.find_outline(_maybe_encoded(tmp_path, recording, encoded))
    assert (found.mask & alone.mask).sum() / alone.mask.sum() > 0.9
    assert found.box == pytest.approx(alone.box, abs=4)


@pytest.mark.parametrize(
    "draw",
    [
        _text("mouse 08", (10, 30)),
        lambda frame: cv2.ellipse(frame, (90, 80), (40, 24), 0, 0, 200, drawing.ORANGE, 3),
        lambda frame: cv2.rectangle(frame, (90, 80), (150, 90), drawing.ORANGE, -1),
        lambda frame: cv2.ellipse(frame, (90, 80), (8, 6), 0, 0, 360, drawing.ORANGE, 2),
    ],
    ids=["text only", "wide open", "bar only", "smaller than a segment"],
)
def test_drawings_that_enclose_no_segment_are_refused(draw):
    with pytest.raises(NoOutlineError, match="encloses"):
        outline.find_outline(from_array(_each(drawing.frames(4, 160, 220, contours=0), draw)))


@pytest.mark.parametrize(
    ("shown", "frames"), [(lambda t: t == 0, 1), (lambda t: t == 23, 1), (lambda t: t % 4 == 1, 6)]
)
def test_an_outline_in_few_frames_is_found_and_remarked(shown, frames):
    alone = outline.find_outline(from_array(_canvas()))
    recording = drawing.frames(24, 160, 220, contours=0)
    for index, frame in enumerate(recording):
        if shown(index):
            cv2.ellipse(frame, (90, 80), (40, 24), 0, 0, 360, drawing.ORANGE, 3)
    found = outline.find_outline(from_array(recording))
    assert found.box == alone.box
    assert f"{frames} of 24 frames" in found.remark


@pytest.mark.parametrize(("px", "is_refused"), [(0, False), (4, False), (20, True), (60, True)])
def test_an_outline_that_moves_is_remarked_or_refused(px, is_refused):
    recording = drawing.frames(24, 160, 220, contours=0)
    for index, frame in enumerate(recording):
        centre = (80 + round(px * index / 23), 80)
        cv2.ellipse(frame, centre, (40, 24), 0, 0, 360, drawing.ORANGE, 3)
    if is_refused:
        with pytest.raises(NoOutlineError, match="moves"):
            outline.find_outline(from_array(recording))
    else:
        assert ("moves" in outline.find_outline(from_array(recording)).remark) == (px > 0)


@pytest.mark.parametrize(
    "colour",
    [(255, 0, 0), (214, 39, 40), (165, 42, 42), (255, 127, 14), (255, 215, 0), (255, 255, 0)],
)
def test_the_codec_does_not_decide_whether_a_colour_counts(tmp_path, colour):
    found = [
        outline.find_outline(_maybe_encoded(tmp_path, _canvas(colour), encoded))
        for encoded in (False, True)
    ]
    both, either = found[0].mask & found[1].mask, found[0].mask | found[1].mask
    assert all(each.is_closed for each in found)
    assert found[0].box == pytest.approx(found[1].box, abs=2)
    assert both.sum() / either.sum() > 0.9


@pytest.mark.parametrize("colour", [(0, 255, 0), (0, 0, 255), (255, 0, 255), (255, 255, 255)])
@pytest.mark.parametrize("encoded", [False, True])
def test_other_colours_are_no_outline(tmp_path, colour, encoded):
    with pytest.raises(NoOutlineError, match="orange"):
        outline.find_outline(_maybe_encoded(tmp_path, _canvas(colour), encoded))


def test_a_double_line_is_one_outline():
    recording = _each(
        _canvas(),
        lambda frame: cv2.ellipse(frame, (92, 82), (40, 24), 0, 0, 360, drawing.ORANGE, 3),
    )
    assert outline.find_outline(from_array(recording)).is_closed


def test_an_outline_of_the_whole_frame_is_found():
    recording = drawing.frames(4, 160, 220, contours=0)
    _each(recording, lambda frame: cv2.rectangle(frame, (2, 2), (217, 157), drawing.ORANGE, 3))
    assert outline.find_outline(from_array(recording)).mask.mean() > 0.8
