import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stallscan.clips import clip
from stallscan.clips.clip import ClipSettings
from stallscan.errors import SettingsError
from stallscan.recordings import video
from stallscan.recordings.recording import Box, from_array, to_grey
from stallscan.vessels import outline
from stallscan.vessels.outline import OutlineSettings
from tests import drawing, third_place


def _make(frames, /, **settings):
    recording = from_array(frames)
    return clip.make_clip(recording, outline.find_outline(recording), ClipSettings(**settings))


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_published_rule_to_the_pixel(tmp_path, seed):
    recording = video.read_recording(drawing.write(tmp_path / "a.mp4", seed=seed))
    segment = outline.find_outline(recording, OutlineSettings(rule="third-place"))
    cut = clip.make_clip(recording, segment, ClipSettings())
    assert np.array_equal(cut.pixels, third_place.clip(recording.frames))


def test_bgr_is_rgb_reversed():
    frames = drawing.frames()
    rgb, bgr = _make(frames, channels="rgb"), _make(frames, channels="bgr")
    assert np.array_equal(rgb.pixels, bgr.pixels[..., ::-1])


def test_padding_keeps_the_aspect():
    cut = _make(drawing.frames(), size=64, shape="pad")
    height, width = cut.box.row1 - cut.box.row0, cut.box.col1 - cut.box.col0
    filled = np.flatnonzero(cut.pixels.any(axis=(0, 2, 3)))
    assert width > height
    assert filled[-1] - filled[0] + 1 == pytest.approx(64 * height / width, abs=1)
    assert (filled[0] + filled[-1]) / 2 == pytest.approx(31.5, abs=1)


def test_painted_out_clips_do_not_show_the_outline():
    plain, outlined = drawing.frames(contours=0), drawing.frames()
    recording = from_array(outlined)
    segment = outline.find_outline(recording)
    cut = clip.make_clip(recording, segment, ClipSettings(size=64, channels="grey+mask"))
    assert cut.pixels.shape == (8, 64, 64, 2)
    contour = segment.contour
    painted = clip.paint_out(to_grey(outlined), contour)
    # luma of the outline is 136; the noise around it has mean 60
    assert painted[:, contour].mean() == pytest.approx(plain[..., 0][:, contour].mean(), abs=8)
    far = ~(cv2.dilate(contour.astype(np.uint8), np.ones((3, 3))) > 0)
    assert np.array_equal(painted[:, far], to_grey(outlined)[:, far])


def test_the_mask_is_the_same_in_every_frame_and_fits_the_outline():
    cut = _make(drawing.frames(), size=64, channels="grey+mask")
    masks = cut.pixels[..., 1]
    assert (masks == masks[0]).all()
    assert masks.max() == 255
    assert masks[0, 32, 32] == 255
    assert masks[0, 0, 0] == 0


def test_a_crop_of_contour_only_is_left_as_it_is():
    grey = np.full((2, 4, 4), 90, np.uint8)
    assert np.array_equal(clip.paint_out(grey, np.ones((4, 4), bool)), grey)


def test_chunked_recordings_give_the_same_clip(tmp_path):
    path = drawing.write(tmp_path / "a.mp4", count=70)
    held, streamed = video.read_recording(path), video.read_recording(path, hold_bytes=0)
    for channels in ("rgb", "grey+mask"):
        settings = ClipSettings(size=32, channels=channels)
        clips = [
            clip.make_clip(r, outline.find_outline(r), settings).pixels for r in (held, streamed)
        ]
        assert np.array_equal(*clips)


@given(
    st.integers(0, 90),
    st.integers(1, 40),
    st.integers(0, 120),
    st.integers(1, 40),
    st.integers(0, 30),
)
def test_a_crop_box_stays_in_the_frame_and_is_never_empty(row, height, col, width, margin):
    box = Box(row, min(row + height, 96), col, min(col + width, 128))
    grown = clip.crop_box(box, margin, (96, 128))
    assert 0 <= grown.row0 < grown.row1 <= 96
    assert 0 <= grown.col0 < grown.col1 <= 128
    assert grown.row0 <= box.row0
    assert grown.row1 >= box.row1


def test_to_input_scales_and_moves_the_channels():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 5, 3), dtype=np.uint8)
    cut = clip.to_input(pixels, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    assert cut.shape == (3, 4, 5, 5)
    assert cut.dtype == np.float32
    assert cut[2, 1, 3, 4] == pytest.approx((pixels[1, 3, 4, 2] / 255 - 0.3) / 0.7, abs=1e-6)


def test_unknown_settings_name_the_nearest():
    with pytest.raises(SettingsError, match=r"unknown setting chanels \(did you mean channels\?\)"):
        ClipSettings.parse({"chanels": "rgb"}, "a.yaml")


def test_grey_is_the_luma_with_the_outline_left_in():
    frames = drawing.frames()
    grey, rgb = _make(frames, channels="grey"), _make(frames, channels="rgb")
    assert grey.pixels.shape == (*rgb.pixels.shape[:3], 1)
    luma = to_grey(rgb.pixels)
    assert np.abs(grey.pixels[..., 0].astype(int) - luma).max() <= 2


def test_nothing_is_enlarged_where_the_scale_is_kept():
    cut = _make(drawing.frames(), size=200, shape="scale", margin=0)
    height, width = cut.box.row1 - cut.box.row0, cut.box.col1 - cut.box.col0
    assert np.flatnonzero(cut.pixels.any(axis=(0, 2, 3))).size == height
    assert np.flatnonzero(cut.pixels.any(axis=(0, 1, 3))).size == width
    small = _make(drawing.frames(), size=32, shape="scale")
    assert np.array_equal(small.pixels, _make(drawing.frames(), size=32, shape="pad").pixels)


def test_a_black_background_leaves_what_the_outline_encloses():
    frames = drawing.frames()
    plain = _make(frames, channels="grey+mask", size=64)
    black = _make(frames, channels="grey+mask", size=64, background="black")
    mask = plain.pixels[0, ..., 1] > 0
    core = cv2.erode(mask.astype(np.uint8), np.ones((3, 3))) > 0
    around = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5))) > 0
    assert np.array_equal(black.pixels[:, core, 0], plain.pixels[:, core, 0])
    assert not black.pixels[:, ~around, 0].any()


@pytest.mark.parametrize(("frames", "first"), [(5, 1), (6, 1), (8, 0), (11, -1), (12, -2)])
def test_clips_of_a_number_of_frames_are_cut_or_filled_at_both_ends(frames, first):
    whole = _make(drawing.frames(), channels="grey+mask").pixels
    cut = _make(drawing.frames(), channels="grey+mask", frames=frames).pixels
    assert len(whole) == 8
    assert len(cut) == frames
    kept = slice(max(first, 0), max(first, 0) + min(frames, 8))
    assert np.array_equal(cut[max(-first, 0) :][:8, ..., 0], whole[kept, ..., 0])
    assert (cut[..., 1] == whole[0, ..., 1]).all()
