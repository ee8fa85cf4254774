"""TIFF and npy: what their headers declare, conversion to 8 bits, and which files are refused."""

import contextlib
import logging
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from stallscan.clips import prepare
from stallscan.clips.clip import ClipSettings
from stallscan.clips.prepare import Preprocessing
from stallscan.errors import UnreadableError
from stallscan.recordings import video
from stallscan.recordings.array import read_npy
from stallscan.recordings.find import Source
from stallscan.recordings.limits import FRAME_PX, Limits
from stallscan.recordings.planes import open_tiff
from stallscan.recordings.recording import Frames
from stallscan.recordings.stack import read_tiff
from stallscan.vessels.outline import OutlineSettings
from tests import drawing, memory

COUNT, HEIGHT, WIDTH = 6, 32, 48
Save = Callable[[Path, Frames], None]


@pytest.fixture(scope="module")
def rgb() -> Frames:
    """Noise of all levels, 255 included."""
    frames = np.random.default_rng(0).integers(0, 256, (COUNT, HEIGHT, WIDTH, 3), dtype=np.uint8)
    frames[:, 0, 0] = drawing.ORANGE
    return frames


def read(path: Path) -> Frames:
    recording = video.read_recording(path)
    assert not recording.is_damaged
    assert recording.frames_declared == len(recording)
    return recording.frames


def planes(rgb: Frames) -> Frames:
    return np.ascontiguousarray(np.moveaxis(rgb, -1, 1))


def pages(path: Path, frames: Any, **options: Any) -> None:
    with tifffile.TiffWriter(path, ome=options.pop("ome", None)) as tiff:
        for frame in frames:
            tiff.write(frame, contiguous=False, **options)


# The same picture gives the same levels, whatever its type

TYPES: dict[str, Callable[[Frames], Any]] = {
    "uint16": lambda rgb: rgb.astype(np.uint16),
    "int16": lambda rgb: rgb.astype(np.int16),
    "int64": lambda rgb: rgb.astype(np.int64),
    "big-endian": lambda rgb: rgb.astype(">u2"),
    "float16": lambda rgb: rgb.astype(np.float16),
    "float32": lambda rgb: rgb.astype(np.float32),
    "float32 of 0..1": lambda rgb: (rgb / 255).astype(np.float32),
    "float64 of 0..1": lambda rgb: rgb / 255,
    "float32, resampled": lambda rgb: rgb.astype(np.float32) + 0.2,
    "16 bits": lambda rgb: rgb.astype(np.uint16) * 257,
    "32 bits": lambda rgb: rgb.astype(np.uint32) * 16843009,
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("dim", [1, 4])
def test_a_picture_of_any_type_is_the_same(
    tmp_path: Path, rgb: Frames, kind: str, dim: int
) -> None:
    # Dim except for the outline, whose pixels are fewer than the 0.1 % that a stretch clips.
    frames = rgb // dim
    frames[:, 0, 0] = drawing.ORANGE
    array = TYPES[kind](frames)
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(read(tmp_path / "a.npy"), frames)
    if array.dtype != np.int64:
        tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb")
        np.testing.assert_array_equal(read(tmp_path / "a.tif"), frames)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_the_bits_of_colours_follow_from_their_highest_value(
    tmp_path: Path, rgb: Frames, bits: int
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", rgb.astype(np.uint16) << (bits - 8), photometric="rgb")
    np.testing.assert_allclose(read(tmp_path / "a.tif"), rgb, atol=1)


def test_the_bits_that_a_file_declares_are_taken(tmp_path: Path, rgb: Frames) -> None:
    dark = (rgb // 8).astype(np.uint16) << 4
    metadata = {"axes": "TYXS", "SignificantBits": 12}
    tifffile.imwrite(tmp_path / "a.ome.tif", dark, photometric="rgb", metadata=metadata)
    np.testing.assert_allclose(read(tmp_path / "a.ome.tif"), rgb // 8, atol=1)


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(lambda rgb: rgb.astype(np.uint16) * 6, id="1530 of 2047 or 4095"),
        pytest.param(lambda rgb: rgb.astype(np.int16) - 128, id="signed"),
        pytest.param(lambda rgb: rgb.view(np.int8), id="wrapped"),
        pytest.param(lambda rgb: rgb * 1e9, id="beyond 32 bits"),
    ],
)
def test_colours_of_unknown_range_are_refused(
    tmp_path: Path, rgb: Frames, array: Callable[[Frames], Any]
) -> None:
    np.save(tmp_path / "a.npy", array(rgb))
    with pytest.raises(UnreadableError, match=r"a\.npy: .*8-bit RGB"):
        video.read_recording(tmp_path / "a.npy")


def test_colours_that_are_not_finite_are_black_or_bright(tmp_path: Path, rgb: Frames) -> None:
    array = rgb.astype(np.float32)
    array[1, 1:4, 0] = np.array([np.nan, np.inf, -np.inf])[:, np.newaxis]
    np.save(tmp_path / "a.npy", array)
    frames = read(tmp_path / "a.npy")
    assert frames[1, 1:4, 0].tolist() == [[0] * 3, [255] * 3, [0] * 3]
    np.testing.assert_array_equal(frames[2:], rgb[2:])


# Colours


def composite(path: Path, rgb: Frames, **metadata: Any) -> None:
    metadata = {"axes": "TCYX", "mode": "composite"} | metadata
    tifffile.imwrite(path, planes(rgb), imagej=True, metadata=metadata)


RED, GREEN, BLUE = (np.outer(primary, np.arange(256)).astype(np.uint8) for primary in np.eye(3))


def ome_channels(path: Path, rgb: Frames, colours: list[int]) -> None:
    metadata = {"axes": "TCYX", "Channel": {"Color": colours}}
    tifffile.imwrite(path, planes(rgb), ome=True, photometric="minisblack", metadata=metadata)


COLOURS: dict[str, Save] = {
    "ImageJ composite": composite,
    "with display range": lambda path, rgb: composite(path, rgb, Ranges=(0.0, 255.0) * 3),
    "in another order": lambda path, rgb: composite(path, rgb[..., ::-1], LUTs=[BLUE, GREEN, RED]),
    "OME channels": lambda path, rgb: ome_channels(path, rgb, [-16776961, 16711935, 65535]),
    "OME, blue first": lambda path, rgb: ome_channels(
        path, rgb[..., ::-1], [65535, 16711935, -16776961]
    ),
    "ImageJ, one header": lambda path, rgb: tifffile.imwrite(
        path,
        planes(rgb),
        imagej=True,
        truncate=True,
        metadata={"axes": "TCYX", "mode": "composite"},
    ),
    "unspecified fourth": lambda path, rgb: tifffile.imwrite(
        path,
        np.concatenate([rgb, rgb[..., :1]], axis=-1),
        photometric="rgb",
        extrasamples=["unspecified"],
    ),
}


@pytest.mark.parametrize("name", COLOURS)
def test_colours_are_read_as_they_are_shown(tmp_path: Path, rgb: Frames, name: str) -> None:
    COLOURS[name](tmp_path / "a.tif", rgb)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), rgb)


@pytest.mark.parametrize("unit", [256, 257, 1])  # ImageJ's, everybody else's, and a mistake
def test_a_palette_is_applied(tmp_path: Path, rgb: Frames, unit: int) -> None:
    table = np.random.default_rng(1).integers(0, 256, (3, 256), dtype=np.uint16)
    index = rgb[..., 0]
    tifffile.imwrite(tmp_path / "a.tif", index, photometric="palette", colormap=table * unit)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), table.T[index])


def test_grey_that_is_stored_otherwise(tmp_path: Path, rgb: Frames) -> None:
    grey = rgb[..., 0]
    tifffile.imwrite(tmp_path / "a.tif", 255 - grey, photometric="miniswhite")
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), grey)
    opaque = np.stack([grey, np.full_like(grey, 255)], axis=-1)
    options = {"photometric": "minisblack", "extrasamples": ["unassalpha"]}
    tifffile.imwrite(tmp_path / "b.tif", opaque, planarconfig="contig", **options)
    np.testing.assert_array_equal(read(tmp_path / "b.tif"), grey)


def test_imagejs_inverted_lookup_table_is_shown_in_a_recording_and_not_measured_in_a_raw_stack(
    tmp_path: Path, rgb: Frames
) -> None:
    stored, path = rgb[..., 0], tmp_path / "a.tif"
    for software, measured in (("ImageJ=1.54f", stored), ("Camera", 255 - stored)):
        described = f"{software}\nimages={COUNT}\nframes={COUNT}"
        tifffile.imwrite(
            path, stored, photometric="miniswhite", description=described, metadata=None
        )
        np.testing.assert_array_equal(read(path), 255 - stored)
        with open_tiff(path) as raw:
            ((axis, _),) = raw.dimensions
            values = [raw.read({axis: number}) for number in range(COUNT)]
        np.testing.assert_array_equal(values, measured)


def test_frames_are_in_the_order_that_ome_metadata_state(tmp_path: Path, rgb: Frames) -> None:
    path, order = tmp_path / "a.ome.tif", [3, 0, 5, 1, 4, 2]  # of the pages in the file
    listed = "".join(
        f'<TiffData FirstT="{time}" IFD="{order.index(time)}" PlaneCount="1"/>'
        for time in range(COUNT)
    )
    description = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeC="3" SizeZ="1" '
        f'SizeX="{WIDTH}" SizeY="{HEIGHT}" SizeT="{COUNT}"><Channel ID="Channel:0" '
        f'SamplesPerPixel="3"/>{listed}</Pixels></Image></OME>'
    )
    with tifffile.TiffWriter(path, ome=False) as tiff:
        for time in order:
            tiff.write(rgb[time], description=description, metadata=None, contiguous=False)
            description = ""
    np.testing.assert_array_equal(read(path), rgb)


def test_frames_in_grey_and_in_colour_are_told_apart(tmp_path: Path, rgb: Frames) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for frame in (rgb[0], rgb[1, ..., 0]):
            kind = "rgb" if frame.ndim == 3 else "minisblack"
            tiff.write(frame, contiguous=False, metadata=None, photometric=kind)
    with pytest.raises(UnreadableError, match=r"a\.tif: .* in grey, .* in colour"):
        read(tmp_path / "a.tif")


# Files that do not hold the frames of one recording are refused


def positions(path: Path, rgb: Frames, **options: Any) -> None:
    metadata = options.pop("metadata", None)
    with tifffile.TiffWriter(path, **options) as tiff:
        for name in ("left", "right"):
            about = None if metadata is None else metadata | {"Name": name}
            given = {} if about is None else {"metadata": about}
            tiff.write(rgb, photometric="rgb", **given)


def stage_positions(path: Path, rgb: Frames) -> None:
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for index, frame in enumerate(rgb):
            plane = {"PositionX": [float(index)], "PositionY": [0.0]}
            tiff.write(frame, photometric="rgb", metadata={"axes": "YXS", "Plane": plane})


def half_transparent(rgb: Frames) -> Frames:
    opacity = np.full_like(rgb[..., :1], 255)
    opacity[:, :5] = 0
    return np.concatenate([rgb, opacity], axis=-1)


def imagej(path: Path, array: Any, axes: str, **metadata: Any) -> None:
    tifffile.imwrite(path, array, imagej=True, metadata={"axes": axes} | metadata)


REFUSED: dict[str, tuple[str, Save]] = {
    "two positions": (
        "2 recordings",
        lambda path, rgb: positions(path, rgb),
    ),
    "two positions, OME": (
        r"\(left, right\)",
        lambda path, rgb: positions(path, rgb, ome=True, metadata={"axes": "TYXS"}),
    ),
    "a position for each page": ("6 recordings", stage_positions),
    "positions as an axis": (
        "position|tile|region",
        lambda path, rgb: tifffile.imwrite(
            path,
            rgb[..., 0].reshape(2, 3, HEIGHT, WIDTH),
            photometric="minisblack",
            metadata={"axes": "RTYX"},
        ),
    ),
    "two unknown axes": (
        r"2 \(.* 3 \(",
        lambda path, rgb: tifffile.imwrite(
            path, rgb.reshape(2, 3, HEIGHT, WIDTH, 3), photometric="rgb"
        ),
    ),
    "two channels": (
        "has 2 channels",
        lambda path, rgb: imagej(path, planes(rgb)[:, :2], "TCYX", mode="composite"),
    ),
    "channels shown one by one": (
        "has 3 channels",
        lambda path, rgb: imagej(path, planes(rgb), "TCYX", mode="grayscale"),
    ),
    "channels stretched for display": (
        "has 3 channels",
        lambda path, rgb: composite(path, rgb, Ranges=(0.0, 90.0, 0.0, 255.0, 0.0, 255.0)),
    ),
    "cyan, magenta, yellow": (
        "has 3 channels",
        lambda path, rgb: composite(path, rgb, LUTs=[GREEN | BLUE, RED | BLUE, RED | GREEN]),
    ),
    "OME channels without colour": (
        "has 2 channels",
        lambda path, rgb: ome_channels(path, rgb[..., :2], [-1, -1]),
    ),
    "four inks": (
        "SEPARATED",
        lambda path, rgb: tifffile.imwrite(path, half_transparent(rgb), photometric="separated"),
    ),
    "three values that are grey": (
        "3 values",
        lambda path, rgb: tifffile.imwrite(
            path, rgb, photometric="minisblack", planarconfig="contig"
        ),
    ),
    "transparent": (
        "transparent",
        lambda path, rgb: tifffile.imwrite(
            path, half_transparent(rgb), photometric="rgb", extrasamples=["unassalpha"]
        ),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_one_recording_is_refused(tmp_path: Path, rgb: Frames, name: str) -> None:
    reason, save = REFUSED[name]
    save(tmp_path / "a.tif", rgb)
    with pytest.raises(UnreadableError, match=rf"a\.tif: .*({reason})"):
        video.read_recording(tmp_path / "a.tif")


ONE: dict[str, Save] = {
    "page by page": lambda path, rgb: pages(path, rgb, photometric="rgb"),
    "page by page, OME": lambda path, rgb: pages(path, rgb, photometric="rgb", ome=True),
    "pages of two compressions": lambda path, rgb: [  # type: ignore[return-value]
        pages(path, rgb[:3], photometric="rgb", metadata=None),
        tifffile.imwrite(
            path, rgb[3:], photometric="rgb", append=True, compression="zlib", metadata=None
        ),
    ],
    "frames that are called depths": lambda path, rgb: imagej(path, rgb, "ZYXS"),
    "frames that are called channels": lambda path, rgb: tifffile.imwrite(path, rgb, imagej=True),
}


@pytest.mark.parametrize("name", ONE)
def test_one_recording_however_its_pages_are_called(tmp_path: Path, rgb: Frames, name: str) -> None:
    ONE[name](tmp_path / "a.tif", rgb)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), rgb)


@pytest.mark.parametrize("first", [True, False])
def test_a_thumbnail_is_no_frame(tmp_path: Path, rgb: Frames, first: bool) -> None:
    parts = [rgb[0, ::4, ::4], rgb] if first else [rgb, rgb[0, ::4, ::4]]
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for part in parts:
            tiff.write(part, photometric="rgb")
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), rgb)


def test_smaller_copies_of_each_frame_are_no_frames(tmp_path: Path, rgb: Frames) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for frame in rgb:
            tiff.write(frame, photometric="rgb", subifds=1, metadata=None)
            small = frame[::2, ::2]
            tiff.write(small, photometric="rgb", subfiletype=1, metadata=None)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), rgb)


# Recordings that are spread over several files

OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def one_of_several(path: Path, frame: Frames, own: int, names: list[str]) -> None:
    """Write a frame of an OME-TIFF recording that has a file for each frame."""
    data = "".join(
        f'<TiffData FirstT="{t}" IFD="0" PlaneCount="1">'
        f'<UUID FileName="{name}">urn:uuid:{t:032d}</UUID></TiffData>'
        for t, name in enumerate(names)
    )
    pixels = (
        f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="{WIDTH}" '
        f'SizeY="{HEIGHT}" SizeC="3" SizeZ="1" SizeT="{len(names)}">'
        f'<Channel ID="Channel:0:0" SamplesPerPixel="3"/>{data}</Pixels>'
    )
    text = (
        f'<OME xmlns="{OME}" UUID="urn:uuid:{own:032d}"><Image ID="Image:0">{pixels}</Image></OME>'
    )
    tifffile.imwrite(path, frame, photometric="rgb", description=text, metadata=None)


@pytest.mark.parametrize("present", [6, 2])
def test_one_of_several_files_is_refused(tmp_path: Path, rgb: Frames, present: int) -> None:
    names = [f"t{index}.ome.tif" for index in range(COUNT)]
    for index in range(present):
        one_of_several(tmp_path / names[index], rgb[index], index, names)
    missing = "" if present == COUNT else r".*4 of them missing: t2\.ome\.tif, t3.* and 1 more"
    for name in names[:present]:
        with pytest.raises(UnreadableError, match=f"{name}: .*6 files{missing}"):
            video.read_recording(tmp_path / name)


def test_an_ome_file_that_was_renamed_is_whole(tmp_path: Path, rgb: Frames) -> None:
    one_of_several(tmp_path / "new.tif", rgb[0], 0, ["old.ome.tif"])
    np.testing.assert_array_equal(read(tmp_path / "new.tif"), rgb[:1])


def test_a_file_that_is_described_in_another_is_refused(tmp_path: Path, rgb: Frames) -> None:
    text = f'<OME xmlns="{OME}"><BinaryOnly MetadataFile="a.companion.ome" UUID="urn:a"/></OME>'
    tifffile.imwrite(tmp_path / "a.tif", rgb, photometric="rgb", description=text, metadata=None)
    with pytest.raises(UnreadableError, match=r"a\.tif: .*one file"):
        video.read_recording(tmp_path / "a.tif")


def test_a_real_file_without_its_companions_is_refused(real_dir: Path) -> None:
    path = real_dir / "tiff" / "ch1.ome.tif"
    with pytest.raises(UnreadableError, match=r"3 files \(2 of them missing: .*Ch2.*Ch3"):
        video.read_recording(path)


# Truncated files

DIALECTS: dict[str, Save] = {
    "one write": lambda path, rgb: tifffile.imwrite(path, rgb, photometric="rgb"),
    "16 bits, BigTIFF": lambda path, rgb: tifffile.imwrite(
        path, rgb.astype(">u2") * 257, photometric="rgb", bigtiff=True, byteorder=">"
    ),
    "deflate": lambda path, rgb: tifffile.imwrite(path, rgb, photometric="rgb", compression="zlib"),
    "pages": lambda path, rgb: pages(path, rgb, photometric="rgb", metadata=None),
    "described pages": lambda path, rgb: pages(path, rgb, photometric="rgb"),
    "one header": lambda path, rgb: tifffile.imwrite(path, rgb, photometric="rgb", truncate=True),
    "ImageJ": lambda path, rgb: imagej(path, rgb, "TYXS"),
    "composite": composite,
    "OME": lambda path, rgb: tifffile.imwrite(
        path, rgb, photometric="rgb", ome=True, metadata={"axes": "TYXS"}
    ),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_a_stack_that_was_cut_is_never_whole(tmp_path: Path, rgb: Frames, name: str) -> None:
    path = tmp_path / "a.tif"
    DIALECTS[name](path, rgb)
    content = path.read_bytes()
    for cut in [*range(200, len(content), len(content) // 25), len(content) - 1]:
        path.write_bytes(content[:cut])
        try:
            recording = video.read_recording(path)
        except UnreadableError:
            continue
        # The cut may have removed headers but no frames.
        assert recording.is_damaged or len(recording) == COUNT
        assert recording.frames_declared in (COUNT, None)
        np.testing.assert_array_equal(recording.frames, rgb[: len(recording)])


@pytest.mark.parametrize("name", ["one write", "one header", "ImageJ", "composite"])
def test_a_cut_stack_gives_the_frames_that_are_there(
    tmp_path: Path, rgb: Frames, name: str
) -> None:
    path = tmp_path / "a.tif"
    DIALECTS[name](path, rgb)
    with tifffile.TiffFile(path) as tiff:
        start = tiff.pages.first.dataoffsets[0]
    path.write_bytes(path.read_bytes()[: start + rgb[:4].nbytes + 9])
    recording = video.read_recording(path)
    assert (len(recording), recording.frames_declared) == (4, COUNT)
    assert recording.is_damaged


def test_a_stack_cut_to_its_first_frame_is_not_too_short(tmp_path: Path, rgb: Frames) -> None:
    path = tmp_path / "a.tif"
    DIALECTS["pages"](path, rgb)
    path.write_bytes(path.read_bytes()[: int(1.5 * rgb[0].nbytes)])
    made = prepare.one(Source("a", path), [Preprocessing(OutlineSettings(), ClipSettings())])
    assert made.status == "unreadable"
    assert "download" in made.reason


@pytest.mark.parametrize("name", ["one header", "composite", "OME"])
def test_flipped_bytes_in_the_headers_never_end_a_run(
    tmp_path: Path, rgb: Frames, name: str
) -> None:
    path = tmp_path / "a.tif"
    DIALECTS[name](path, rgb)
    content = path.read_bytes()
    rng = random.Random(name)
    ends = [*range(600), *range(len(content) - 1500, len(content))]
    for place in rng.sample(ends, 40):
        flipped = bytearray(content)
        flipped[place] ^= rng.randrange(1, 256)
        path.write_bytes(flipped)
        with contextlib.suppress(UnreadableError):
            recording = video.read_recording(path)
            assert recording.frames.shape == recording.shape


def test_a_broken_channel_breaks_its_frame_alone(tmp_path: Path, rgb: Frames) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        planes(rgb),
        ome=True,
        photometric="minisblack",
        compression="zlib",
        metadata={"axes": "TCYX", "Channel": {"Color": [-16776961, 16711935, 65535]}},
    )
    with tifffile.TiffFile(path) as tiff:
        start = tiff.pages[7].dataoffsets[0]
    content = bytearray(path.read_bytes())
    content[start + 20 : start + 60] = bytes(40)
    path.write_bytes(content)
    recording = video.read_recording(path)
    assert recording.is_damaged
    np.testing.assert_array_equal(recording.frames, np.delete(rgb, 2, axis=0))


# npy


def test_an_opaque_fourth_channel_of_an_array_is_dropped(tmp_path: Path, rgb: Frames) -> None:
    opaque = np.concatenate([rgb, np.full_like(rgb[..., :1], 255)], axis=-1)
    np.save(tmp_path / "a.npy", opaque)
    np.testing.assert_array_equal(read(tmp_path / "a.npy"), rgb)
    np.save(tmp_path / "a.npy", opaque / 255)
    np.testing.assert_array_equal(read(tmp_path / "a.npy"), rgb)
    np.save(tmp_path / "a.npy", half_transparent(rgb))
    with pytest.raises(UnreadableError, match=r"a\.npy: .*transparent"):
        video.read_recording(tmp_path / "a.npy")


def test_an_array_in_fortran_order(tmp_path: Path, rgb: Frames) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(rgb))
    np.testing.assert_array_equal(read(tmp_path / "a.npy"), rgb)


@pytest.mark.parametrize(
    ("remedy", "array"),
    [
        ("numpy.moveaxis", lambda rgb: planes(rgb)),
        ("frames, rows, columns, 3", lambda rgb: rgb[0]),
        ("frames, rows, columns", lambda rgb: rgb[np.newaxis]),
        ("frames, rows, columns", lambda rgb: rgb[:0]),
        ("array of numbers", lambda rgb: np.array([rgb, None], dtype=object)),
    ],
)
def test_the_error_for_an_array_of_another_shape_suggests_a_remedy(
    tmp_path: Path, rgb: Frames, remedy: str, array: Callable[[Frames], Any]
) -> None:
    np.save(tmp_path / "a.npy", array(rgb), allow_pickle=True)
    with pytest.raises(UnreadableError, match=rf"a\.npy: .*{remedy}"):
        video.read_recording(tmp_path / "a.npy")


def test_an_array_that_was_cut_or_is_an_archive(tmp_path: Path, rgb: Frames) -> None:
    path = tmp_path / "a.npy"
    np.save(path, rgb)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UnreadableError, match=r"a\.npy: .*download"):
        video.read_recording(path)
    np.savez(tmp_path / "a.npz", rgb)
    (tmp_path / "a.npz").rename(path)
    with pytest.raises(UnreadableError, match=r"a\.npy: .*npz"):
        video.read_recording(path)


# Limits


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (Limits(frame_px=HEIGHT * WIDTH - 1), f"{WIDTH} x {HEIGHT}.*Crop"),
        (Limits(frames=COUNT - 1), "5 frames.*shorter"),
        (Limits(page_bytes=HEIGHT * WIDTH * 3 - 1), "memory.*Crop"),
        (Limits(total_px=HEIGHT * WIDTH * COUNT - 1), "5 frames.*shorter"),
    ],
)
@pytest.mark.parametrize("name", ["one write", "pages", "one header", "npy"])
def test_what_is_too_large_is_refused_by_its_header(
    tmp_path: Path, rgb: Frames, name: str, limits: Limits, says: str
) -> None:
    path = tmp_path / "a.npy"
    if name == "npy":
        np.save(path, rgb)
    else:
        DIALECTS[name](path, rgb)
    read_it = read_npy if name == "npy" else read_tiff
    assert len(read_it(path, 10**9, Limits(frames=COUNT, frame_px=HEIGHT * WIDTH))) == COUNT
    with pytest.raises(UnreadableError, match=rf"a\.npy: .*{says}"):
        read_it(path, 10**9, limits)


def test_a_volume_in_one_page_counts_as_a_whole(tmp_path: Path, rgb: Frames) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, rgb, photometric="rgb", volumetric=True, tile=(2, 16, 16))
    with pytest.raises(UnreadableError, match="memory"):
        read_tiff(path, 10**9, Limits(page_bytes=rgb.nbytes - 1))


def large_tiff(path: Path) -> None:
    frame = np.zeros((9000, 9000), np.uint8)
    tifffile.imwrite(path, frame, photometric="minisblack", compression="zlib")


def large_gif(path: Path) -> None:
    """60 frames of 16,000 x 16,000 pixels in 1,400 bytes."""
    frame = b"!\xf9\x04\0\x05\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0"
    size = (16000).to_bytes(2, "little") * 2
    path.write_bytes(b"GIF89a" + size + b"\x80\0\0" + bytes(3) + b"\xff" * 3 + frame * 60 + b";")


READ = """
import sys
from stallscan.recordings import video
from stallscan.errors import UnreadableError
try:
    video.read_recording(sys.argv[1])
except UnreadableError as error:
    assert "Crop" in str(error), error
else:
    raise SystemExit("it was read")
"""


@memory.needs_proc
@pytest.mark.parametrize(("name", "write"), [("a.tif", large_tiff), ("a.gif", large_gif)])
def test_a_frame_that_is_too_large_takes_no_memory(
    tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    write(tmp_path / name)
    assert memory.peak_bytes(READ, tmp_path / name) < 400e6


PREPARE = """
import sys
from pathlib import Path
from stallscan.clips import prepare
from stallscan.clips.clip import ClipSettings
from stallscan.recordings.find import Source
from stallscan.vessels.outline import OutlineSettings
made = prepare.one(
    Source("a", Path(sys.argv[1])),
    [prepare.Preprocessing(OutlineSettings(), ClipSettings(channels="grey+mask"))],
)
assert made.clip is not None, made
"""


@pytest.mark.slow
@memory.needs_proc
def test_the_largest_frames_stay_within_the_stated_memory(tmp_path: Path) -> None:
    side = int(FRAME_PX**0.5)
    frames = drawing.frames(count=6, height=side, width=side)
    pages(tmp_path / "a.tif", frames, photometric="rgb", compression="zlib")
    assert memory.peak_bytes(PREPARE, tmp_path / "a.tif") < 1.6e9


def test_a_recording_that_exceeds_the_memory_is_a_row(
    tmp_path: Path, rgb: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", rgb, photometric="rgb", compression="zlib")

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(tifffile.TiffPage, "asarray", fail)
    source = Source("a", tmp_path / "a.tif")
    made = prepare.one(source, [Preprocessing(OutlineSettings(), ClipSettings())])
    assert made.status == "unreadable"
    assert "memory" in made.reason


# Other programs' log


def test_tifffile_is_silent_only_while_it_reads_for_us(
    tmp_path: Path, rgb: Frames, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.tif"
    DIALECTS["pages"](path, rgb)
    logger = logging.getLogger("tifffile")
    decode = tifffile.TiffPage.asarray

    def says(*given: Any, **options: Any) -> Any:
        logger.error("ours")
        other = threading.Thread(target=logger.error, args=("another thread's",))
        other.start()
        other.join()
        return decode(*given, **options)

    monkeypatch.setattr(tifffile.TiffPage, "asarray", says)
    recording = read_tiff(path, 0)
    next(recording.chunks())
    assert {record.message for record in caplog.records} == {"another thread's"}
    caplog.clear()
    logger.error("the user's")
    assert [record.message for record in caplog.records] == ["the user's"]


def test_depths_of_several_times_are_read_as_one_sequence_with_a_note(tmp_path):
    rgb = np.arange(6 * HEIGHT * WIDTH * 3).astype(np.uint8).reshape(6, HEIGHT, WIDTH, 3)
    imagej(tmp_path / "a.tif", rgb.reshape(2, 3, HEIGHT, WIDTH, 3), "TZYXS")
    recording = video.read_recording(tmp_path / "a.tif")
    np.testing.assert_array_equal(recording.frames, rgb)
    assert "time" in recording.note
    assert "depth" in recording.note
