import contextlib
import csv
import math
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from stallscan.errors import UnreadableError
from stallscan.recordings import recording, video
from stallscan.recordings.encode import write_video
from stallscan.recordings.recording import Box, Frames, from_array, to_grey
from tests import memory

COUNT, HEIGHT, WIDTH = 24, 48, 64


@pytest.fixture(scope="module")
def rgb() -> Frames:
    """Smooth moving colours with a little noise, which every codec preserves well."""
    t, y, x = np.mgrid[:COUNT, :HEIGHT, :WIDTH]
    red = 128 + 90 * np.sin((x + 2 * t) / 9)
    green = 128 + 90 * np.cos((y - t) / 7)
    colours = np.stack([red, green, 40 + 6 * t], axis=-1)
    noise = np.random.default_rng(0).normal(0, 6, colours.shape)
    return np.clip(colours + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def grey(rgb: Frames) -> Frames:
    return np.ascontiguousarray(rgb[..., 0])


def encode(path: Path, frames: Frames, codec: str, pixels: str, **options: str) -> None:
    """Write a video with any codec of PyAV, intra frames only."""
    with av.open(str(path), "w", options=options) as container:
        stream: Any = container.add_stream(codec, rate=15)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.gop_size = pixels, 1
        for index, array in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(array, format="rgb24")
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def write_mp4(path: Path, frames: Frames) -> None:
    write_video(path, frames)


def write_header_first(path: Path, frames: Frames) -> None:
    encode(path, frames, "libx264", "yuv420p", movflags="faststart")


def write_avi(path: Path, frames: Frames) -> None:
    encode(path, frames, "mjpeg", "yuvj420p")


def write_mkv(path: Path, frames: Frames) -> None:
    encode(path, frames, "ffv1", "bgr0")


def write_gif(path: Path, frames: Frames) -> None:
    encode(path, frames, "gif", "rgb8")


def write_tiff(path: Path, frames: Frames) -> None:
    tifffile.imwrite(path, frames, photometric="rgb")


def write_deflated_tiff(path: Path, frames: Frames) -> None:
    tifffile.imwrite(path, frames, photometric="rgb", compression="zlib")


def write_npy(path: Path, frames: Frames) -> None:
    np.save(path, frames)


Write = Callable[[Path, Frames], None]
WRITERS: dict[str, Write] = {
    "a.mp4": write_mp4,
    "header first.mp4": write_header_first,
    "a.mov": write_header_first,
    "a.avi": write_avi,
    "a.mkv": write_mkv,
    "a.gif": write_gif,
    "a.tif": write_tiff,
    "deflated.tiff": write_deflated_tiff,
    "a.npy": write_npy,
}
EXACT = {"a.mkv", "a.tif", "deflated.tiff", "a.npy"}
# A palette of 256 colours is coarse; other codecs lose little at these settings.
MEAN_ERROR = {"a.gif": 20.0}


def mean_error(first: Frames, second: Frames) -> float:
    return float(np.abs(first.astype(int) - second.astype(int)).mean())


# Every format, written and read back


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_read_as_it_was_written(tmp_path: Path, rgb: Frames, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path, rgb)
    recording = video.read_recording(path)
    assert recording.path == path
    assert len(recording) == COUNT
    assert recording.shape == rgb.shape == recording.frames.shape
    assert recording.frames.dtype == np.uint8
    # Matroska does not declare the number of frames.
    assert recording.frames_declared == (None if name == "a.mkv" else COUNT)
    assert recording.corrupt == ()
    assert not recording.is_damaged
    if name in EXACT:
        np.testing.assert_array_equal(recording.frames, rgb)
    else:
        assert mean_error(recording.frames, rgb) < MEAN_ERROR.get(name, 10.0)
        # Check the order of channels and frames: red moves, blue brightens.
        means = recording.frames.mean(axis=(1, 2))
        np.testing.assert_allclose(means, rgb.mean(axis=(1, 2)), atol=MEAN_ERROR.get(name, 4.0))


def test_suffixes_count_whatever_their_case(tmp_path: Path, rgb: Frames) -> None:
    write_mp4(tmp_path / "a.mp4", rgb)
    (tmp_path / "a.mp4").rename(tmp_path / "A.MP4")
    assert len(video.read_recording(tmp_path / "A.MP4")) == COUNT


def test_a_colon_in_a_name_is_no_address(
    tmp_path: Path, rgb: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mp4(tmp_path / "a.mp4", rgb)
    (tmp_path / "a.mp4").rename(tmp_path / "mouse:1.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(video.read_recording("mouse:1.mp4")) == COUNT


def test_written_videos_have_the_form_of_the_competition(tmp_path: Path, rgb: Frames) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, rgb)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.profile == "High"
        assert stream.pix_fmt == "yuv420p"
        assert stream.average_rate == 15
        assert all(packet.is_keyframe for packet in container.demux(stream) if packet.size)


def test_grey_frames_can_be_written(tmp_path: Path, grey: Frames) -> None:
    write_video(tmp_path / "a.mp4", iter(grey), keyframe_interval=8)
    frames = video.read_recording(tmp_path / "a.mp4").frames
    assert frames.shape == (COUNT, HEIGHT, WIDTH, 3)
    # 8-bit video holds 16..235 for black..white, so grey levels come back within a few.
    assert mean_error(to_grey(frames), grey) < 4


def test_a_failed_writing_leaves_the_older_file(tmp_path: Path, rgb: Frames) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, rgb)
    before = path.read_bytes()

    def broken() -> Iterator[Frames]:
        yield rgb[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(path, broken())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# TIFF


def save_pages(path: Path, frames: Frames) -> None:
    with tifffile.TiffWriter(path) as tiff:
        for frame in frames:
            tiff.write(frame, contiguous=False)


@pytest.mark.parametrize(
    "save",
    [
        tifffile.imwrite,
        save_pages,
        lambda path, frames: tifffile.imwrite(path, frames, imagej=True),
        lambda path, frames: tifffile.imwrite(path, frames, imagej=True, truncate=True),
        lambda path, frames: tifffile.imwrite(path, frames, byteorder=">", bigtiff=True),
        lambda path, frames: tifffile.imwrite(path, frames, ome=True, metadata={"axes": "ZYX"}),
        lambda path, frames: tifffile.imwrite(path, frames, compression="zlib", predictor=True),
        lambda path, frames: tifffile.imwrite(
            path, frames, volumetric=True, tile=(8, 16, 16), photometric="minisblack"
        ),
    ],
    ids=[
        "stack",
        "page by page",
        "ImageJ",
        "ImageJ, one header",
        "big-endian BigTIFF",
        "OME",
        "deflate",
        "volume",
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_stacks(
    tmp_path: Path, grey: Frames, save: Callable[[Path, Any], None], dtype: type
) -> None:
    path = tmp_path / "a.tif"
    save(path, grey.astype(dtype) * (1 if dtype is np.uint8 else 16))
    recording = video.read_recording(path)
    assert recording.shape == grey.shape
    assert recording.frames_declared == COUNT
    assert not recording.is_damaged
    if dtype is np.uint8:
        np.testing.assert_array_equal(recording.frames, grey)
    else:
        low, high = grey.min(), max(np.percentile(frame, 99.9) for frame in grey)
        stretched = np.clip((grey - float(low)) * 255 / (high - low), 0, 255)
        np.testing.assert_allclose(recording.frames, stretched, atol=0.51)


@pytest.mark.parametrize("compression", ["lzw", "zstd"])
def test_compressions_of_the_extra(tmp_path: Path, grey: Frames, compression: str) -> None:
    pytest.importorskip("imagecodecs")
    tifffile.imwrite(tmp_path / "a.tif", grey, compression=compression)
    np.testing.assert_array_equal(video.read_recording(tmp_path / "a.tif").frames, grey)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package"),
        ModuleNotFoundError("No module named 'compression'"),  # zstd before Python 3.14
    ],
)
def test_a_missing_codec_is_an_error_with_the_command_that_installs_it(
    tmp_path: Path, grey: Frames, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", grey)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(tifffile.TiffPage, "asarray", fail)
    with pytest.raises(UnreadableError, match=r"a\.tif: .*pip install '\.\[lab\]'"):
        video.read_recording(tmp_path / "a.tif")


def test_grey_levels_of_a_stack_are_stretched_alike_in_all_frames(tmp_path: Path) -> None:
    stack = np.full((3, 20, 20), 1000, np.uint16)
    stack[1] = 2000
    stack[2] = 3000
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    frames = video.read_recording(tmp_path / "a.tif").frames
    assert [np.unique(frame).tolist() for frame in frames] == [[0], [128], [255]]


@pytest.mark.parametrize(("top", "factor"), [(255, 1), (4080, 16), (65280, 256)])
def test_colours_of_a_stack_keep_their_meaning(
    tmp_path: Path, rgb: Frames, top: int, factor: int
) -> None:
    wide = rgb.astype(np.uint16) * factor
    wide[0, 0, 0] = top
    tifffile.imwrite(tmp_path / "a.tif", wide, photometric="rgb")
    recording = video.read_recording(tmp_path / "a.tif")
    assert recording.shape == rgb.shape
    np.testing.assert_allclose(recording.frames[1:], rgb[1:], atol=1)


def test_colours_plane_by_plane_and_with_opacity(tmp_path: Path, rgb: Frames) -> None:
    planes = rgb.transpose(0, 3, 1, 2)
    tifffile.imwrite(tmp_path / "planar.tif", planes, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(video.read_recording(tmp_path / "planar.tif").frames, rgb)
    opaque = np.concatenate([rgb, np.full_like(rgb[..., :1], 255)], axis=-1)
    tifffile.imwrite(tmp_path / "rgba.tif", opaque, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(video.read_recording(tmp_path / "rgba.tif").frames, rgb)


def test_a_single_page_is_one_frame(tmp_path: Path, grey: Frames) -> None:
    tifffile.imwrite(tmp_path / "a.tif", grey[0])
    assert video.read_recording(tmp_path / "a.tif").shape == (1, HEIGHT, WIDTH)


def test_small_copies_of_a_page_are_no_frames(tmp_path: Path, grey: Frames) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(grey[0], contiguous=False)
        tiff.write(grey[0, ::2, ::2], contiguous=False, subfiletype=1)
    assert video.read_recording(tmp_path / "a.tif").shape == (1, HEIGHT, WIDTH)


def test_pages_of_different_pixels_are_refused(tmp_path: Path, grey: Frames) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(grey[0], contiguous=False)
        tiff.write(grey[0].astype(np.uint16), contiguous=False)
    with pytest.raises(UnreadableError, match=r"a\.tif: .*uint8 and uint16"):
        video.read_recording(tmp_path / "a.tif")


@pytest.mark.parametrize("count", [1, COUNT, 150])
def test_a_circular_chain_of_pages_is_refused(tmp_path: Path, grey: Frames, count: int) -> None:
    path = tmp_path / "a.tif"
    save_pages(path, np.resize(grey, (count, *grey.shape[1:])))
    with tifffile.TiffFile(path) as tiff:
        pages: Any = tiff.pages
        first, last = pages[0], pages[-1]
        # A page is a count of 2 bytes, 12 bytes per tag, and the offset of the next page.
        place = last.offset + 2 + 12 * len(last.tags)
    content = bytearray(path.read_bytes())
    content[place : place + 4] = first.offset.to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match=r"a\.tif: .*circle"):
        video.read_recording(path)


@pytest.mark.parametrize("place", [10**6, 2**63 + 5, 2**64 - 1])
def test_a_chain_of_pages_that_breaks_costs_the_pages_after_it(
    tmp_path: Path, grey: Frames, place: int
) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for frame in grey:
            writer.write(frame, contiguous=False, metadata=None)
    with tifffile.TiffFile(path) as tiff:
        pages: Any = tiff.pages
        # A page is a count of 8 bytes, 20 bytes per tag, and the offset of the next page.
        pointer = pages[2].offset + 8 + 20 * len(pages[2].tags)
    content = bytearray(path.read_bytes())
    content[pointer : pointer + 8] = place.to_bytes(8, "little")
    path.write_bytes(content)
    read = video.read_recording(path)
    assert len(read) == 3
    assert read.corrupt


@pytest.mark.parametrize("dtype", ["bool", "complex64"])
def test_stacks_of_other_pixels_are_refused(tmp_path: Path, dtype: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 16, 16), dtype))
    with pytest.raises(UnreadableError, match=rf"a\.tif: .*{dtype}"):
        video.read_recording(tmp_path / "a.tif")


# Arrays


def test_grey_arrays_are_exact(tmp_path: Path, grey: Frames) -> None:
    np.save(tmp_path / "a.npy", grey)
    recording = video.read_recording(tmp_path / "a.npy")
    np.testing.assert_array_equal(recording.frames, grey)
    assert recording.frames_declared == COUNT


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32, np.float64, ">u2"])
def test_grey_arrays_of_other_types_are_stretched(
    tmp_path: Path, grey: Frames, dtype: type
) -> None:
    grey = np.sort(grey, axis=None).reshape(grey.shape)
    np.save(tmp_path / "a.npy", grey.astype(dtype) * np.dtype(dtype).type(16))
    frames = video.read_recording(tmp_path / "a.npy").frames
    assert (frames.min(), frames.max()) == (0, 255)
    assert (np.diff(frames.ravel().astype(int)) >= 0).all()


def test_values_that_are_not_finite_are_black_or_white(tmp_path: Path) -> None:
    array = np.tile(np.linspace(0, 1, 16, dtype=np.float32), (2, 16, 1))
    array[0, 0, :3] = np.nan, np.inf, -np.inf
    array[1] = np.nan
    np.save(tmp_path / "a.npy", array)
    frames = video.read_recording(tmp_path / "a.npy").frames
    assert frames[0, 0, :3].tolist() == [0, 255, 0]
    assert frames[0, 1].tolist() == list(range(0, 256, 17))
    assert not frames[1].any()


@pytest.mark.parametrize(
    ("array", "named"),
    [
        (np.zeros((3, 4, 4), bool), "bool"),
        (np.zeros((3, 4, 4), complex), "complex128"),
        (np.full((3, 4, 4), "a"), "<U1"),
        (np.array([None]), "numbers"),
        (np.zeros((4, 4), np.uint8), r"\(4, 4\).*\(frames, rows"),
        (np.zeros((4, 4, 4, 2), np.uint8), r"\(4, 4, 4, 2\).*\(frames, rows"),
        (np.zeros((0, 4, 4), np.uint8), r"\(0, 4, 4\).*\(frames, rows"),
    ],
)
def test_arrays_that_are_no_frames(tmp_path: Path, array: Any, named: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UnreadableError, match=rf"a\.npy: .*{named}"):
        video.read_recording(tmp_path / "a.npy")


def test_frames_in_memory_become_a_recording(rgb: Frames) -> None:
    recording = from_array(rgb)
    np.testing.assert_array_equal(recording.frames, rgb)
    assert recording.frames_declared is None
    assert not recording.is_damaged
    with pytest.raises(UnreadableError, match=r"<array>: .*float64.*uint8"):
        from_array(np.zeros((2, 4, 4)))  # type: ignore[arg-type]
    with pytest.raises(UnreadableError, match=r"<array>: .*\(4, 4\)"):
        from_array(np.zeros((4, 4), np.uint8))


# Damage


def test_headers_may_miscount_by_one(rgb: Frames) -> None:
    recording = from_array(rgb)
    declared_and_damaged = [(COUNT - 1, False), (COUNT, False), (COUNT + 1, False)]
    for declared, damaged in [*declared_and_damaged, (COUNT + 2, True)]:
        assert replace(recording, frames_declared=declared).is_damaged is damaged


@pytest.mark.parametrize("name", ["header first.mp4", "a.mov", "a.avi", "a.mkv", "a.gif"])
def test_a_video_cut_in_half_gives_its_first_frames(tmp_path: Path, rgb: Frames, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path, rgb)
    whole = video.read_recording(path).frames
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    recording = video.read_recording(path)
    assert COUNT // 4 < len(recording) < COUNT * 3 // 4
    assert recording.is_damaged
    np.testing.assert_array_equal(recording.frames[:-1], whole[: len(recording) - 1])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("header first.mp4", {"movflags": "faststart"}),
        ("fragmented.mp4", {"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
        ("a.mkv", {"cluster_time_limit": "300"}),
        ("live.mkv", {"live": "1"}),
        ("a.avi", {}),
        ("a.gif", {}),
    ],
)
def test_no_cut_loses_frames_unnoticed(
    tmp_path: Path, rgb: Frames, name: str, options: dict[str, str]
) -> None:
    path = tmp_path / name
    codecs = {".avi": ("mjpeg", "yuvj420p"), ".gif": ("gif", "rgb8")}
    encode(path, rgb, *codecs.get(path.suffix, ("libx264", "yuv420p")), **options)
    content = path.read_bytes()
    assert not video.read_recording(path).is_damaged
    for place in random.Random(name).sample(range(100, len(content)), 25):
        path.write_bytes(content[:place])
        with contextlib.suppress(UnreadableError):
            recording = video.read_recording(path)
            assert recording.is_damaged or len(recording) == COUNT


@pytest.mark.parametrize("name", ["a.mp4", "a.npy"])
def test_a_file_whose_needed_half_is_gone_is_unreadable(
    tmp_path: Path, rgb: Frames, name: str
) -> None:
    path = tmp_path / name
    WRITERS[name](path, rgb)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UnreadableError, match=f"{name}: .*download"):
        video.read_recording(path)


@pytest.mark.parametrize("name", ["a.tif", "deflated.tiff"])
def test_a_stack_cut_in_half_is_damaged(tmp_path: Path, rgb: Frames, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path, rgb)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    recording = video.read_recording(path)
    assert 0 < len(recording) < COUNT
    assert recording.is_damaged
    np.testing.assert_array_equal(recording.frames, rgb[: len(recording)])


def test_a_damaged_packet_is_noted_and_gives_no_frame(tmp_path: Path, rgb: Frames) -> None:
    path = tmp_path / "a.mp4"
    write_mp4(path, rgb)
    whole = video.read_recording(path).frames
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    packet = packets[5]
    assert packet.pos is not None
    for place in range(packet.pos + packet.size // 3, packet.pos + packet.size // 2):
        content[place] ^= 0x5A
    path.write_bytes(content)
    recording = video.read_recording(path)
    assert recording.corrupt == (5,)
    assert recording.is_damaged
    np.testing.assert_array_equal(recording.frames, np.delete(whole, 5, axis=0))


def test_a_damaged_page_is_noted_once_and_gives_no_frame(tmp_path: Path, grey: Frames) -> None:
    path = tmp_path / "a.tif"
    # 16-bit pages are decoded twice, first to find their range.
    tifffile.imwrite(path, grey.astype(np.uint16), compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        start = tiff.pages[7].dataoffsets[0]
    content = bytearray(path.read_bytes())
    content[start + 20 : start + 60] = bytes(40)
    path.write_bytes(content)
    recording = video.read_recording(path)
    assert recording.corrupt == (7,)
    assert len(recording) == COUNT - 1
    assert recording.is_damaged


@pytest.mark.parametrize("name", WRITERS)
def test_flipped_bytes_never_end_a_run(tmp_path: Path, rgb: Frames, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path, rgb[:12])
    content = path.read_bytes()
    rng = random.Random(name)
    # Anywhere, and among the headers at the beginning or end.
    ends = [*range(400), *range(len(content) - 400, len(content))]
    for place in [*rng.sample(range(len(content)), 10), *rng.sample(ends, 10)]:
        flipped = bytearray(content)
        flipped[place] ^= rng.randrange(1, 256)
        path.write_bytes(flipped)
        with contextlib.suppress(UnreadableError):
            recording = video.read_recording(path)
            assert recording.frames.shape == recording.shape
            # Codecs other than H.264 do not check what they decode, so a flip may just change the
            # image. A flip in an edit list is another edit.
            is_reported = recording.is_damaged or "edit list" in recording.note
            assert len(recording) >= 11 or is_reported or path.suffix not in {".mp4", ".mov"}


@pytest.mark.parametrize("name", WRITERS)
def test_an_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(UnreadableError, match=f"{name}: .*empty"):
        video.read_recording(tmp_path / name)


@pytest.mark.parametrize("name", WRITERS)
def test_a_text_under_the_name_of_a_recording(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("This is not a recording.\n" * 40, encoding="utf-8")
    with pytest.raises(UnreadableError, match=f"{name}: "):
        video.read_recording(tmp_path / name)


def test_a_list_of_other_files_is_no_recording(tmp_path: Path, rgb: Frames) -> None:
    write_mp4(tmp_path / "a.mp4", rgb)
    (tmp_path / "b.mp4").write_text("ffconcat version 1.0\nfile a.mp4\n", encoding="utf-8")
    with pytest.raises(UnreadableError, match=r"b\.mp4: .*mp4 video"):
        video.read_recording(tmp_path / "b.mp4")


@pytest.mark.skipif(os.name == "nt", reason="no such files there")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(UnreadableError, match=r"a\.mp4: .*file"):
        video.read_recording(tmp_path / "a.mp4")


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
@pytest.mark.parametrize("name", WRITERS)
def test_any_byte_may_be_in_a_name(tmp_path: Path, rgb: Frames, name: str) -> None:
    path = tmp_path / os.fsdecode(b"m\xfc:s\n" + name.encode())
    try:
        (tmp_path / name).touch()
        WRITERS[name](tmp_path / name, rgb)
        (tmp_path / name).rename(path)
    except OSError:
        pytest.skip("this file system takes no such name")
    assert len(video.read_recording(path)) == COUNT
    path.write_bytes(b"")
    with pytest.raises(UnreadableError) as error:
        video.read_recording(path)
    assert r"m\xfc:s" in str(error.value)


def test_missing_files_folders_and_other_formats(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match=r"a\.mp4: .*No such file or directory"):
        video.read_recording(tmp_path / "a.mp4")
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    with pytest.raises(UnreadableError, match=r"a\.txt: .*\.txt.*\.avi, .*\.tiff"):
        video.read_recording(tmp_path / "a.txt")
    (tmp_path / "a").write_text("text", encoding="utf-8")
    with pytest.raises(UnreadableError, match=r"a: .*suffix.*\.avi, .*\.tiff"):
        video.read_recording(tmp_path / "a")
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(UnreadableError, match=r"folder\.mp4: .*file"):
        video.read_recording(tmp_path / "folder.mp4")


def test_a_sound_without_pictures(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(UnreadableError, match=r"a\.mp4: .*no video track"):
        video.read_recording(path)


def test_a_video_without_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=15)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuvj420p"
        container.start_encoding()
    with pytest.raises(UnreadableError, match=r"a\.avi: .*download"):
        video.read_recording(path)


# Counts of frames


def copy(
    path: Path, new: Path, keep: Callable[[int], bool] = lambda _: True, tail: str = ""
) -> None:
    """Copy some packets of a video, with `tail` appended to each."""
    with av.open(str(path)) as source, av.open(str(new), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for index, packet in enumerate(source.demux(video=0)):
            if packet.dts is not None and keep(index):
                packed = av.Packet(bytes(packet) + bytes.fromhex(tail))
                packed.pts, packed.dts = packet.pts, packet.dts
                packed.time_base, packed.is_keyframe = packet.time_base, packet.is_keyframe
                packed.stream = stream
                container.mux(packed)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mkv", {}),
        ("live.mkv", {"live": "1"}),
        ("a.webm", {}),
        ("a.mp4", {}),
        ("fragmented.mp4", {"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    ],
)
def test_a_duration_says_nothing_about_the_number_of_frames(
    tmp_path: Path, rgb: Frames, name: str, options: dict[str, str]
) -> None:
    path = tmp_path / name
    with av.open(str(path), "w", options=options) as container:
        codec = "libvpx-vp9" if path.suffix == ".webm" else "libx264"
        stream: Any = container.add_stream(codec, rate=15, options={"cpu-used": "8"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        sound: Any = container.add_stream("libopus", rate=48000)
        for index, array in enumerate(rgb):
            picture = av.VideoFrame.from_ndarray(array, format="rgb24")
            picture.pts = index * (20 if index < 5 else 1) + 100 * (index >= 5)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
        for index in range(1000):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.float32), "fltp", "mono")
            silence.sample_rate, silence.pts = 48000, 960 * index
            container.mux(sound.encode(silence))
        container.mux(sound.encode())
    recording = video.read_recording(path)
    assert len(recording) == recording.frames_promised == COUNT
    assert not recording.is_damaged


@pytest.mark.parametrize("gop", [1, 48])
def test_an_edit_list_that_trims_is_no_damage(tmp_path: Path, rgb: Frames, gop: int) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, rgb, keyframe_interval=gop)
    whole = video.read_recording(path).frames
    content = bytearray(path.read_bytes())
    # The edit starts 8 frames of 1024 / 15360 s after the media.
    place = content.find(b"elst") + 12
    content[place + 4 : place + 8] = (
        int.from_bytes(content[place + 4 : place + 8]) + 8 * 1024
    ).to_bytes(4)
    path.write_bytes(content)
    recording = video.read_recording(path)
    np.testing.assert_array_equal(recording.frames, whole[8:])
    assert recording.frames_declared == COUNT
    assert "edit list" in recording.note
    assert f"8 of {COUNT}" in recording.note
    assert not recording.is_damaged


def test_frames_that_were_dropped_at_capture_are_no_damage(tmp_path: Path, rgb: Frames) -> None:
    write_avi(tmp_path / "whole.avi", rgb)
    copy(tmp_path / "whole.avi", tmp_path / "a.avi", lambda index: index % 6 != 5)
    recording = video.read_recording(tmp_path / "a.avi")
    kept = [index for index in range(COUNT) if index % 6 != 5]
    np.testing.assert_array_equal(
        recording.frames, video.read_recording(tmp_path / "whole.avi").frames[kept]
    )
    assert recording.frames_declared == COUNT - 1
    assert not recording.is_damaged


@pytest.mark.parametrize("count", [0, COUNT - 10, COUNT + 10])
def test_a_wrong_count_in_an_avi_header_is_no_damage(
    tmp_path: Path, rgb: Frames, count: int
) -> None:
    path = tmp_path / "a.avi"
    write_avi(path, rgb)
    content = bytearray(path.read_bytes())
    for place in (content.find(b"avih") + 24, content.find(b"strh") + 40):
        content[place : place + 4] = count.to_bytes(4, "little")
    path.write_bytes(content)
    recording = video.read_recording(path)
    assert len(recording) == COUNT
    assert recording.frames_declared == (count or None)
    assert not recording.is_damaged


@pytest.mark.parametrize("tail", [b"\0", b"\r\n", b"mdat" * 9])
@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv", "a.gif"])
def test_bytes_after_the_end_are_no_damage(
    tmp_path: Path, rgb: Frames, name: str, tail: bytes
) -> None:
    path = tmp_path / name
    WRITERS[name](path, rgb)
    path.write_bytes(path.read_bytes() + tail)
    assert len(video.read_recording(path)) == COUNT
    assert not video.read_recording(path).is_damaged


def write_rgba(path: Path, codec: str, opacity: NDArray[np.uint8], rgb: Frames) -> None:
    """Write frames with an opacity, uint8 (T, H, W)."""
    rgba = np.concatenate([rgb, opacity[..., None]], axis=-1)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=15)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "rgba"
        for array in rgba:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgba")))
        container.mux(stream.encode())


def test_transparent_pixels_have_no_colour(tmp_path: Path, rgb: Frames) -> None:
    opacity = np.full(rgb.shape[:3], 255, np.uint8)
    opacity[:, :8] = 0
    write_rgba(tmp_path / "a.mov", "png", opacity, rgb)
    # A GIF with a transparent colour (lowest bit after 21 F9 04), and images that do not fill it;
    # FFmpeg fills the rest with white.
    write_gif(tmp_path / "a.gif", rgb)
    content = bytearray((tmp_path / "a.gif").read_bytes().replace(b"!\xf9\4\4", b"!\xf9\4\5"))
    content[6:8] = (WIDTH + 16).to_bytes(2, "little")
    (tmp_path / "a.gif").write_bytes(content)
    for name in ("a.mov", "a.gif"):
        with pytest.raises(UnreadableError, match=f"{name}: .*transparent"):
            video.read_recording(tmp_path / name)


@pytest.mark.parametrize("level", [0, 255])
def test_an_opacity_that_says_nothing_is_ignored(tmp_path: Path, rgb: Frames, level: int) -> None:
    write_rgba(tmp_path / "a.mov", "png", np.full(rgb.shape[:3], level, np.uint8), rgb)
    np.testing.assert_array_equal(video.read_recording(tmp_path / "a.mov").frames, rgb)


def test_a_gif_needs_no_trailer(tmp_path: Path, rgb: Frames) -> None:
    path = tmp_path / "a.gif"
    write_gif(path, rgb)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert not video.read_recording(path).is_damaged
    path.write_bytes(content[:-2])
    assert video.read_recording(path).is_damaged


def test_jpeg_frames_padded_are_no_damage(tmp_path: Path, rgb: Frames) -> None:
    write_avi(tmp_path / "whole.avi", rgb)
    copy(tmp_path / "whole.avi", tmp_path / "a.avi", tail="00" * 37)
    assert not video.read_recording(tmp_path / "a.avi").is_damaged


def test_packets_that_are_never_shown_are_no_damage(tmp_path: Path, rgb: Frames) -> None:
    path = tmp_path / "a.webm"
    many = np.concatenate([rgb, rgb[::-1], rgb])
    with av.open(str(path), "w") as container:
        options = {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "5"}
        stream: Any = container.add_stream("libvpx", rate=15, options=options)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for index, array in enumerate(many):
            picture = av.VideoFrame.from_ndarray(array, format="rgb24")
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    recording = video.read_recording(path)
    assert len(recording) == len(many)
    assert not recording.is_damaged


def test_frames_before_the_first_whole_one_are_missed(tmp_path: Path, rgb: Frames) -> None:
    write_video(tmp_path / "whole.mp4", rgb, keyframe_interval=12)
    copy(tmp_path / "whole.mp4", tmp_path / "a.mkv", lambda index: index >= 4)
    recording = video.read_recording(tmp_path / "a.mkv")
    assert len(recording) < COUNT - 4
    assert recording.frames_promised == COUNT - 4
    assert recording.is_damaged


# Tracks


def write_tracks(path: Path, rgb: Frames, *tracks: tuple[int, int, int]) -> None:
    """Write tracks, each given by its number of frames, scale divisor and disposition."""
    with av.open(str(path), "w") as container:
        streams: list[Any] = []
        for _, divisor, disposition in tracks:
            stream: Any = container.add_stream("mjpeg", rate=15)
            stream.height, stream.width = HEIGHT // divisor, WIDTH // divisor
            stream.pix_fmt, stream.disposition = "yuvj420p", disposition
            streams.append(stream)
        for stream, (count, divisor, _) in zip(streams, tracks, strict=True):
            for index in range(count):
                small = np.ascontiguousarray(rgb[index, ::divisor, ::divisor])
                picture = av.VideoFrame.from_ndarray(small, format="rgb24")
                picture.pts = index
                container.mux(stream.encode(picture))
            container.mux(stream.encode())


DEFAULT, COVER = 1, 1024


@pytest.mark.parametrize("name", ["a.mkv", "a.mov"])
@pytest.mark.parametrize(
    ("tracks", "is_noted"),
    [
        ([(1, 4, DEFAULT), (COUNT, 1, DEFAULT)], False),
        ([(1, 1, DEFAULT), (COUNT, 2, DEFAULT)], False),
        ([(COUNT, 2, DEFAULT), (COUNT, 1, DEFAULT)], True),
        ([(4, 2, DEFAULT), (COUNT, 1, DEFAULT), (1, 1, DEFAULT)], True),
    ],
    ids=["thumbnail", "larger picture", "preview", "three"],
)
def test_the_track_with_most_frames_and_pixels_is_read(
    tmp_path: Path, rgb: Frames, name: str, tracks: list[tuple[int, int, int]], is_noted: bool
) -> None:
    path = tmp_path / name
    write_tracks(path, rgb, *tracks)
    recording = video.read_recording(path)
    _, divisor, _ = tracks[1]
    assert recording.shape == (COUNT, HEIGHT // divisor, WIDTH // divisor, 3)
    assert not recording.is_damaged
    assert ("track 2" in recording.note) is is_noted


def test_a_cover_is_no_recording(tmp_path: Path, rgb: Frames) -> None:
    write_tracks(tmp_path / "a.mp4", rgb, (1, 1, COVER), (COUNT, 2, DEFAULT))
    assert len(video.read_recording(tmp_path / "a.mp4")) == COUNT


@pytest.mark.parametrize(
    "tracks", [[(COUNT, 1, DEFAULT), (COUNT, 1, DEFAULT)], [(5, 1, DEFAULT), (COUNT, 2, DEFAULT)]]
)
def test_a_choice_between_two_similar_tracks_is_refused(
    tmp_path: Path, rgb: Frames, tracks: list[tuple[int, int, int]]
) -> None:
    write_tracks(tmp_path / "a.mkv", rgb, *tracks)
    with pytest.raises(UnreadableError, match=r"a\.mkv: .*track 1 .*track 2 "):
        video.read_recording(tmp_path / "a.mkv")


def test_a_change_of_the_frame_size_is_refused(tmp_path: Path, rgb: Frames) -> None:
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=15)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuvj420p"
        small: Any = av.CodecContext.create("mjpeg", "w")
        small.height, small.width, small.pix_fmt = 32, 40, "yuvj420p"
        small.time_base = Fraction(1, 15)
        for index, (encoder, array) in enumerate(
            [(stream, rgb[0]), (stream, rgb[1]), (small, rgb[2, :32, :40])]
        ):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
            picture.pts = index
            for packet in encoder.encode(picture):
                packet.stream = stream
                container.mux(packet)
    with pytest.raises(UnreadableError, match=r"a\.avi: .*40 x 32.*64 x 48"):
        video.read_recording(path)


def test_pages_of_different_size_are_refused(tmp_path: Path, grey: Frames) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(grey[0], contiguous=False)
        tiff.write(grey[0, :32], contiguous=False)
    with pytest.raises(UnreadableError, match=r"a\.tif: .*64 x 32.*64 x 48"):
        video.read_recording(tmp_path / "a.tif")


# Boxes of frames


def encode_as(path: Path, frames: Frames, pixels: str, matrix: int) -> list[Frames]:
    """Write H.264 with a given layout and colour matrix; return the decoded frames as RGB."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=15)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.codec_context.colorspace = pixels, matrix
        for index, array in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(array, format="rgb24").reformat(format=pixels)
            picture.pts, picture.colorspace = index, matrix
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize(
    ("pixels", "matrix"),
    [("yuv420p", 2), ("yuv420p", 1), ("yuv420p", 5), ("yuvj420p", 5), ("yuv444p", 1)],
)
def test_a_box_equals_that_of_the_converted_frame(
    tmp_path: Path, rgb: Frames, pixels: str, matrix: int
) -> None:
    expected = np.stack(encode_as(tmp_path / "a.mp4", rgb, pixels, matrix))
    read = video.read_recording(tmp_path / "a.mp4")
    np.testing.assert_array_equal(read.frames, expected)
    random = np.random.default_rng(1)
    for _ in range(20):
        rows = np.sort(random.choice(HEIGHT + 1, 2, replace=False))
        cols = np.sort(random.choice(WIDTH + 1, 2, replace=False))
        box = Box(*map(int, (*rows, *cols)))
        # Read the file each time: a box may also be cut from cached pixels.
        part = np.concatenate(list(video.read_recording(tmp_path / "a.mp4").chunks(box)))
        np.testing.assert_array_equal(part, expected[:, *box.slices])
        np.testing.assert_array_equal(np.concatenate(list(read.chunks(box))), part)


@pytest.mark.parametrize(("pixels", "matrix"), [("yuv420p", 2), ("yuv420p", 1), ("yuvj420p", 5)])
@pytest.mark.parametrize("every", [1, 4])
def test_outside_of_the_coloured_part_there_is_no_colour(
    tmp_path: Path, rgb: Frames, pixels: str, matrix: int, every: int
) -> None:
    frames = np.repeat(rgb[..., :1], 3, axis=-1)
    frames[4, 30:34, 50:56] = (255, 102, 0)
    frames[8, 12:15, 21:24] = (200, 120, 100)
    frames[9, 40:42, 2:4] = (255, 102, 0)
    expected = np.stack(encode_as(tmp_path / "a.mp4", frames, pixels, matrix)).astype(int)
    over = (expected[::every, ..., 0] - expected[::every, ..., 2]).max(axis=0)
    read = video.read_recording(tmp_path / "a.mp4")
    areas = []
    for least in (6, 30, 60, 100):
        part = read.coloured(least, every)
        assert part is not None
        inside = np.zeros(over.shape, bool)
        inside[part.slices] = True
        assert over[~inside].max(initial=0) < least
        assert (over[inside] >= least).any()
        areas.append(int(inside.sum()))
    assert areas == sorted(areas, reverse=True)
    assert areas[-1] < 0.6 * over.size
    assert read.coloured(300) is None


def test_without_chroma_planes_the_coloured_box_is_the_whole_frame(
    tmp_path: Path, rgb: Frames
) -> None:
    write_tiff(tmp_path / "a.tif", rgb)
    write_mkv(tmp_path / "a.mkv", rgb)
    for name in ("a.tif", "a.mkv"):
        assert video.read_recording(tmp_path / name).coloured(60) == Box(0, HEIGHT, 0, WIDTH)


# Recordings too large to hold in memory


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.gif", "a.tif", "16 bits.tif", "16 bits.npy"])
def test_frames_that_are_not_held_are_the_same(
    tmp_path: Path, rgb: Frames, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    many = np.concatenate([rgb, rgb[::-1], rgb])
    if name == "16 bits.tif":
        tifffile.imwrite(path, many[..., 0].astype(np.uint16) * 7)
    elif name == "16 bits.npy":
        np.save(path, many[..., 0].astype(np.uint16) * 7)
    else:
        WRITERS[name](path, many)
    held = video.read_recording(path)
    monkeypatch.setattr(recording, "CHUNK_BYTES", 32 * math.prod(held.shape[1:]) + 1)
    assert [len(chunk) for chunk in held.chunks()] == [32, 32, 8]
    streamed = video.read_recording(path, hold_bytes=10_000)
    assert streamed.shape == held.shape
    assert streamed.frames_declared == held.frames_declared
    for _ in range(2):  # chunks can be read repeatedly
        chunks = list(streamed.chunks())
        assert [len(chunk) for chunk in chunks] == [32, 32, 8]
        np.testing.assert_array_equal(np.concatenate(chunks), held.frames)
    np.testing.assert_array_equal(streamed.frames, held.frames)
    assert streamed.corrupt == ()


READ_TWICE = """
import sys
from stallscan.recordings import recording, video
recording = video.read_recording(sys.argv[1])
assert len(recording) == sum(len(chunk) for chunk in recording.chunks()) == 3000
"""


@pytest.mark.slow
@memory.needs_proc
def test_3000_frames_stay_within_a_gigabyte(tmp_path: Path) -> None:
    path = tmp_path / "long.mp4"
    y, x = np.mgrid[:384, :512]
    patterns = [((x + 5 * shift) ^ y).astype(np.uint8) for shift in range(8)]
    many = (patterns[index % 8] for index in range(3000))
    write_video(path, many, crf=35, preset="ultrafast", keyframe_interval=250)
    assert memory.peak_bytes(READ_TWICE, path) < 10**9


# Grey


def test_grey_is_the_luma_of_bt601(rgb: Frames, grey: Frames) -> None:
    luma = rgb @ np.array([0.299, 0.587, 0.114])
    result = to_grey(rgb)
    assert result.dtype == np.uint8
    np.testing.assert_allclose(result, luma, atol=0.51)
    assert to_grey(grey) is grey


# The real recordings


def test_real_clips_have_the_frames_and_sizes_listed(real_dir: Path) -> None:
    with (real_dir / "clips.csv").open(encoding="utf-8", newline="") as file:
        listed = list(csv.DictReader(file))
    assert listed
    for row in listed:
        recording = video.read_recording(real_dir / "clips" / row["file"])
        width, height = map(int, row["size"].split("x"))
        assert recording.shape == (int(row["frames_here"]), height, width, 3), row["file"]
        assert not recording.is_damaged, row["file"]


def test_a_real_clip_with_flipped_bytes_is_never_another_error(
    real_dir: Path, tmp_path: Path
) -> None:
    content = (real_dir / "clips" / "100750_flowing.mp4").read_bytes()
    rng = random.Random(0)
    path = tmp_path / "a.mp4"
    for place in rng.sample(range(len(content)), 5):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        with contextlib.suppress(UnreadableError):
            assert len(video.read_recording(path)) <= 63


def test_real_stacks_are_read(real_dir: Path) -> None:
    pytest.importorskip("imagecodecs")
    for path in sorted((real_dir / "stacks").glob("poon2015_BBB*.tif")):
        recording = video.read_recording(path)
        assert recording.shape == (25, 512, 512)
        assert not recording.is_damaged
