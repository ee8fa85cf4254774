"""Raw stacks: axes, micrometres and channels of each dialect, and what is refused or asked for."""

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from stallscan import files
from stallscan.errors import InputError, SettingsError, StallscanError, UnreadableError
from stallscan.recordings.limits import FRAMES, Limits
from stallscan.recordings.planes import open_tiff
from stallscan.recordings.raw import Cut, Stack, StackSettings, open_stack
from stallscan.recordings.recording import Box, Frames

T, H, W = 12, 40, 60
BOX = Box(3, 20, 5, 50)
VOXEL = {"voxel_um": (2.0, 0.7, 0.7)}
IMAGEJ: dict[str, Any] = {"imagej": True, "resolution": (1 / 0.7, 1 / 0.7)}
IN_UM = {"spacing": 2.0, "unit": "um"}
OME = {"PhysicalSizeX": 700.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.7}
OME |= {"PhysicalSizeZ": 2.0, "TimeIncrement": 800.0, "TimeIncrementUnit": "ms"}


@pytest.fixture(scope="module")
def values() -> NDArray[np.uint16]:
    """Counts of two channels, uint16 (T, 2, H, W)."""
    return np.random.default_rng(0).integers(0, 4000, (T, 2, H, W), dtype=np.uint16)


def read(path: Path, **settings: Any) -> tuple[Stack, Frames]:
    """Open a stack, and cut `BOX` out of all frames."""
    with open_stack(path, StackSettings(**settings)) as stack:
        ((frames, lost),) = stack.cut([Cut(BOX, 0, len(stack))])
        assert lost == ()
        return stack, frames


def expect(stack: Stack, frames: Frames, values: NDArray[Any]) -> None:
    """Compare with the grey levels of `BOX` by the stated percentiles, but for rounding."""
    low, top = np.percentile(values, [5, 99])
    grey = (values[(slice(None), *BOX.slices)].astype(float) - low) * 243 / (top - low)
    assert (stack.black, stack.white) == pytest.approx((low, low + (top - low) * 255 / 243))
    np.testing.assert_allclose(frames, np.clip(np.rint(grey), 0, 255), atol=1)


def refused(path: Path, kind: type[StallscanError], *parts: str, **settings: Any) -> None:
    with pytest.raises(kind) as caught:
        read(path, **settings)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert all(part in message for part in parts), message


# Dialects


@pytest.mark.parametrize(
    "dialect", ["imagej", "ome", "ome, deflate", "ome, pages", "bigtiff", "pages", "float"]
)
def test_every_dialect_gives_the_same_frames(
    tmp_path: Path, values: NDArray[np.uint16], dialect: str
) -> None:
    path, one = tmp_path / "stack.tif", values[:, 0]
    settings: dict[str, Any] = {}
    if dialect == "imagej":
        tifffile.imwrite(path, one, **IMAGEJ, metadata=IN_UM | {"axes": "ZYX", "finterval": 0.8})
    elif dialect == "ome, pages":
        with tifffile.TiffWriter(path, ome=True) as tiff:
            for frame in one:
                tiff.write(frame, contiguous=False, metadata=OME | {"axes": "YX"})
    elif dialect.startswith("ome"):
        compression = "zlib" if "deflate" in dialect else None
        metadata = OME | {"axes": "ZYX"}
        tifffile.imwrite(path, one, ome=True, metadata=metadata, compression=compression)
    elif dialect == "bigtiff":
        tifffile.imwrite(path, one, bigtiff=True, metadata=None)
        settings = VOXEL | {"frame_s": 0.8}
    elif dialect == "pages":
        with tifffile.TiffWriter(path) as tiff:
            for frame in one:
                tiff.write(frame, contiguous=False)
        settings = VOXEL | {"frame_s": 0.8}
    else:
        tifffile.imwrite(path, one.astype(np.float32))
        settings = VOXEL | {"frame_s": 0.8}
    stack, frames = read(path, **settings)
    assert stack.shape == (T, H, W)
    assert stack.axis == "depth"
    assert stack.voxel_um == pytest.approx((2.0, 0.7, 0.7))
    assert stack.frame_s == pytest.approx(0.8)
    expect(stack, frames, one)


def test_a_channel_is_chosen_by_name_or_number(tmp_path: Path, values: NDArray[np.uint16]) -> None:
    path = tmp_path / "stack.ome.tif"
    names = {"Channel": {"Name": ["Vessels", "neurons"]}}
    tifffile.imwrite(path, values, metadata=OME | names | {"axes": "ZCYX"})
    refused(path, InputError, "2 channels", "1 (Vessels), 2 (neurons)", "--channel")
    refused(path, InputError, "no channel 3", channel="3")
    for channel, index in (("vessels", 0), ("2", 1)):
        stack, frames = read(path, channel=channel)
        assert stack.channel == ("Vessels", "neurons")[index]
        expect(stack, frames, values[:, index])


def test_a_channel_without_a_name_has_its_number(
    tmp_path: Path, values: NDArray[np.uint16]
) -> None:
    path = tmp_path / "stack.ome.tif"
    tifffile.imwrite(path, values, metadata=OME | {"axes": "ZCYX"})
    assert [read(path, channel=number)[0].channel for number in "12"] == ["1", "2"]


def test_what_is_read_of_a_file_describes_it(
    tmp_path: Path, values: NDArray[np.uint16], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A run resumes if its stack is described alike. These times have the same values.
    path = tmp_path / "stack.ome.tif"
    one, other = values[:, 0], np.roll(values[:, 0], 1, axis=1)
    tifffile.imwrite(path, np.stack([one, other]), metadata=OME | {"axes": "TZYX"})
    first, second = (read(path, time=number)[0].describe() for number in (1, 2))
    assert first["white"] == second["white"]
    assert first != second
    # Written again in place, with the same size, ends and grey levels.
    monkeypatch.setattr(files, "GLANCE_BYTES", one[0].nbytes)
    path = tmp_path / "pages.tif"
    described = []
    for middle in (one, other):
        tifffile.imwrite(path, np.stack([one[0], *middle[1:-1], one[-1]]), metadata=None)
        described.append(read(path, **VOXEL)[0].describe())
    first, second = described
    assert first["content"] == second["content"]
    assert first["white"] == second["white"]
    assert first != second


def test_an_inverted_lookup_table_of_imagej_inverts_no_values(
    tmp_path: Path, values: NDArray[np.uint16]
) -> None:
    one = values[:, 0]
    for software, expected in (("ImageJ=1.54f", one), ("Scanner", ~one)):
        path = tmp_path / f"{software[:4]}.tif"
        options: dict[str, Any] = {"photometric": "miniswhite", "metadata": None}
        tifffile.imwrite(path, one, description=f"{software}\nimages={T}\nslices={T}", **options)
        expect(*read(path, **VOXEL), expected)


def test_a_lookup_table_of_imagej_in_one_colour_changes_no_values(
    tmp_path: Path, values: NDArray[np.uint16]
) -> None:
    one = (values[:, 0] // 257).astype(np.uint8)
    ramp = np.arange(256, dtype=np.uint16) * 257
    green = np.stack([0 * ramp, ramp, 0 * ramp])  # (3, 256)
    picture = np.random.default_rng(0).permutation(green.T).T
    path = tmp_path / "stack.tif"

    def write(table: NDArray[np.uint16], software: str = "ImageJ=1.54f") -> None:
        options: dict[str, Any] = {"photometric": "palette", "colormap": table, "metadata": None}
        tifffile.imwrite(path, one, description=f"{software}\nimages={T}\nslices={T}", **options)

    for table in (green, green[:, ::-1]):
        write(table)
        expect(*read(path, **VOXEL), one)
    for table, software in ((picture, "ImageJ=1.54f"), (0 * green, "ImageJ=1.54f"), (green, "")):
        write(table, software)
        with pytest.raises(UnreadableError, match="colours instead of measured values"):
            read(path, **VOXEL)


def test_the_limit_of_frames_counts_those_of_the_channel(tmp_path: Path) -> None:
    path = tmp_path / "series.ome.tif"
    series = np.random.default_rng(0).integers(0, 4000, (FRAMES // 2 + 1, 2, 8, 8), np.uint16)
    tifffile.imwrite(path, series, metadata=OME | {"axes": "TCYX"})
    with open_stack(path, StackSettings(channel="1")) as stack:
        assert len(stack) == FRAMES // 2 + 1
    path = tmp_path / "pages.tif"
    tifffile.imwrite(path, np.zeros((6, 2, 8, 8), np.uint16), metadata={"axes": "TCYX"}, ome=True)
    with (
        pytest.raises(UnreadableError, match="more than 11 frames"),
        open_tiff(path, Limits(frames=11)),
    ):
        pass


def test_channels_outside_of_depth_are_read_alike(
    tmp_path: Path, values: NDArray[np.uint16]
) -> None:
    path = tmp_path / "stack.ome.tif"
    tifffile.imwrite(path, values.swapaxes(0, 1), metadata=OME | {"axes": "CZYX"})
    stack, frames = read(path, channel="2")
    expect(stack, frames, values[:, 1])


def write_scanimage(path: Path, frames: NDArray[np.uint16], *settings: str) -> None:
    """Write a BigTIFF with ScanImage's block of settings behind its header."""
    block = "\n".join(["SI.VERSION_MAJOR = 2020", *settings, ""]).encode() + b"\0"
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        # TiffWriter appends to where its file is, which begins with a header of 16 bytes.
        tiff._fh.write(struct.pack("<IIII", 0x07030301, 4, len(block), 1) + block + b"\0")
        tiff._fh.write(b"\0" * (-tiff._fh.tell() % 16))
        for frame in frames:
            tiff.write(frame, contiguous=False, metadata=None, software="SI.VERSION_MAJOR = 2020")


def test_scanimage_states_field_step_and_period(tmp_path: Path, values: NDArray[np.uint16]) -> None:
    path = tmp_path / "stack.tif"
    write_scanimage(
        path,
        values.reshape(-1, H, W),
        "SI.hChannels.channelSave = [1;2]",
        "SI.hChannels.channelName = {'Red' 'Green'}",
        "SI.hRoiManager.imagingFovUm = [-21 -14;21 -14;21 14;-21 14]",
        "SI.hRoiManager.scanFramePeriod = 0.8",
        "SI.hStackManager.framesPerSlice = 1",
        "SI.hStackManager.stackZStepSize = 2",
    )
    stack, frames = read(path, channel="green")
    assert stack.shape == (T, H, W)
    assert stack.voxel_um == pytest.approx((2.0, 0.7, 0.7))
    assert stack.frame_s == 0.8
    expect(stack, frames, values[:, 1])


def test_scanimage_of_unknown_order_is_refused(tmp_path: Path, values: NDArray[np.uint16]) -> None:
    path = tmp_path / "stack.tif"
    write_scanimage(path, values.reshape(-1, H, W), "SI.hRoiManager.scanFramePeriod = 0.8")
    refused(path, UnreadableError, "ScanImage", "Fiji", **VOXEL)


@pytest.mark.parametrize(
    ("settings", "is_refused"),
    [
        (["SI.hStackManager.actualNumVolumes = 4"], True),
        (["SI.hStackManager.actualNumVolumes = Inf"], True),
        (["SI.hFastZ.enable = true", "SI.hFastZ.numVolumes = 4"], True),
        (["SI.hScan2D.logAverageFactor = 10"], True),
        (["SI.hFastZ.enable = false", "SI.hFastZ.numVolumes = 4"], False),
        (["SI.hStackManager.actualNumVolumes = 1", "SI.hScan2D.logAverageFactor = 1"], False),
    ],
)
def test_scanimage_with_volumes_or_averages_is_refused(
    tmp_path: Path, values: NDArray[np.uint16], settings: list[str], is_refused: bool
) -> None:
    path = tmp_path / "stack.tif"
    written = ["SI.hChannels.channelSave = 1", "SI.hStackManager.framesPerSlice = 1", *settings]
    write_scanimage(path, values[:, 0], *written)
    if is_refused:
        refused(path, UnreadableError, "ScanImage", "Fiji", **VOXEL)
    else:
        assert read(path, **VOXEL)[0].axis == "depth"


# What the file leaves open is asked for


@pytest.mark.parametrize("metadata", [{}, {"unit": "pixel", "spacing": 2.0}, {"unit": "um"}])
def test_a_missing_voxel_size_is_asked_for(
    tmp_path: Path, values: NDArray[np.uint16], metadata: dict[str, Any]
) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, values[:, 0], **IMAGEJ, metadata=metadata | {"axes": "ZYX"})
    refused(path, InputError, "planes", "--voxel-um")
    assert read(path, **VOXEL)[0].voxel_um == (2.0, 0.7, 0.7)


def test_a_resolution_in_dots_per_inch_is_no_voxel_size(
    tmp_path: Path, values: NDArray[np.uint16]
) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, values[:, 0], resolution=(72, 72), resolutionunit="inch", metadata=None)
    refused(path, InputError, "planes, rows, columns", "--voxel-um")


def test_times_and_depths_need_a_choice(tmp_path: Path, values: NDArray[np.uint16]) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, values, **IMAGEJ, metadata=IN_UM | {"axes": "TZYX"})
    refused(path, InputError, "12 times x 2 depths", "--time", "--depth")
    refused(path, InputError, "only 2 depths", depth=3)
    refused(path, InputError, "--frame-s", depth=2)
    stack, frames = read(path, depth=2, frame_s=0.5)
    assert (stack.axis, stack.voxel_um[0], stack.shape[0]) == ("time", 0.0, T)
    expect(stack, frames, values[:, 1])
    stack, frames = read(path, time=12)
    assert (stack.axis, stack.shape[0]) == ("depth", 2)
    expect(stack, frames, values[11])


def test_settings_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(SettingsError, match="exclude"):
        StackSettings.parse({"time": 1, "depth": 1}, "stack")
    with pytest.raises(SettingsError, match="below"):
        StackSettings.parse({"black_percentile": 99, "white_percentile": 5}, "stack")


# Incomplete files


@pytest.mark.parametrize("dialect", ["imagej", "ome", "pages"])
def test_a_cut_file_is_refused(tmp_path: Path, values: NDArray[np.uint16], dialect: str) -> None:
    path = tmp_path / "stack.tif"
    if dialect == "imagej":
        tifffile.imwrite(path, values[:, 0], **IMAGEJ, metadata=IN_UM | {"axes": "ZYX"})
    elif dialect == "ome":
        tifffile.imwrite(path, values[:, 0], ome=True, metadata=OME | {"axes": "ZYX"})
    else:
        with tifffile.TiffWriter(path) as tiff:
            for frame in values[:, 0]:
                tiff.write(frame, contiguous=False, metadata=None)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    refused(path, UnreadableError, "the end of the file is missing", "Copy it again", **VOXEL)


def write_ome_parts(folder: Path, values: NDArray[np.uint16]) -> list[Path]:
    """Write an OME-TIFF of one file for each channel, as some microscopes do."""
    paths = [folder / f"part{channel}.ome.tif" for channel in (0, 1)]
    parts = "".join(
        f'<TiffData FirstC="{channel}" FirstZ="{z}" FirstT="0" IFD="{z}" PlaneCount="1">'
        f'<UUID FileName="{path.name}">urn:uuid:{channel}</UUID></TiffData>'
        for channel, path in enumerate(paths)
        for z in range(T)
    )
    for channel, path in enumerate(paths):
        xml = (
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:{channel}"><Image ID="Image:0"><Pixels ID="Pixels:0" '
            f'DimensionOrder="XYZCT" Type="uint16" SizeX="{W}" SizeY="{H}" SizeZ="{T}" SizeC="2" '
            'SizeT="1" PhysicalSizeX="0.7" PhysicalSizeY="0.7" PhysicalSizeZ="2">'
            '<Channel ID="Channel:0:0" Name="dye" SamplesPerPixel="1"/>'
            '<Channel ID="Channel:0:1" Name="cells" SamplesPerPixel="1"/>'
            f"{parts}</Pixels></Image></OME>"
        )
        with tifffile.TiffWriter(path) as tiff:
            for index, frame in enumerate(values[:, channel]):
                description = xml if index == 0 else None
                tiff.write(frame, contiguous=False, metadata=None, description=description)
    return paths


def test_a_stopped_acquisition_lacks_frames_not_files(
    tmp_path: Path, values: NDArray[np.uint16]
) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, values[:, 0], metadata=OME | {"axes": "ZYX"})
    content = path.read_bytes()
    declared, planes = f'SizeZ="{T}"'.encode(), f'PlaneCount="{T}"'.encode()
    assert content.count(declared) == content.count(planes) == 1
    path.write_bytes(content.replace(declared, b'SizeZ="15"'))
    refused(path, UnreadableError, "3 of 15 frames", "Make Substack")


def test_an_ome_tiff_of_several_files_is_read_as_one(
    tmp_path: Path, values: NDArray[np.uint16]
) -> None:
    first, _ = write_ome_parts(tmp_path, values)
    for channel, index in (("dye", 0), ("cells", 1)):
        stack, frames = read(first, channel=channel)
        expect(stack, frames, values[:, index])


def test_missing_files_of_an_ome_tiff_are_named(
    tmp_path: Path, values: NDArray[np.uint16], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = write_ome_parts(tmp_path, values)
    second.unlink()
    refused(first, InputError, "2 channels", "1 of its files are missing", second.name)
    refused(first, UnreadableError, "12 of 12 frames of channel cells", second.name, channel="2")
    stack, frames = read(first, channel="dye")
    expect(stack, frames, values[:, 0])
    assert second.name in caplog.text


def test_the_real_ome_tiff_names_its_missing_files(real_dir: Path) -> None:
    path = real_dir / "tiff" / "ch1.ome.tif"
    refused(path, InputError, "3 channels", "2 of its files are missing", "_Ch2_000001.ome.tif")
    refused(path, UnreadableError, "channel Ch3 are missing", "_Ch3_000001.ome.tif", channel="Ch3")
    refused(path, UnreadableError, "single frame", channel="Ch1")


def test_the_real_stacks_are_read_and_raise_no_doubts(real_dir: Path) -> None:
    paths = sorted((real_dir / "stacks").glob("*denoised.tif"))
    assert len(paths) == 7
    for path in paths:
        refused(path, InputError, "--voxel-um")
        stack, _ = read(path, voxel_um=(2.0, 1.0, 1.0))
        assert stack.axis == "depth"
        assert not stack.notes


def test_a_plane_that_cannot_be_decoded_is_left_out(
    tmp_path: Path, values: NDArray[np.uint16]
) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, values[:, 0], compression="zlib", metadata=None)
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[4].dataoffsets[0]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"broken" * 4)
    with open_stack(path, StackSettings(**VOXEL)) as stack:
        cuts = [Cut(BOX, 0, T), Cut(Box(0, 9, 0, 9), 5, T)]
        (whole, lost), (after, none_lost) = stack.cut(cuts)
        assert (len(whole), lost, len(after), none_lost) == (T - 1, (4,), T - 5, ())
        assert stack.frame(4) is None
        assert (stack.brightest >= stack.frame(5)).all()


# Values and colours


def test_nan_counts_as_black_and_is_said(tmp_path: Path, values: NDArray[np.uint16]) -> None:
    path = tmp_path / "stack.tif"
    floats = values[:, 0].astype(np.float32) - 300
    floats[:, :5] = np.nan
    tifffile.imwrite(path, floats)
    stack, frames = read(path, **VOXEL)
    assert not frames[:, :2].any()
    assert frames[:, 2:].max() > 240
    assert "12.5 %" in stack.notes[0]
    assert "below 0" in stack.notes[1]
    # A version with other words resumes what this one began.
    assert replace(stack, notes=("nothing is below 0",)).describe() == stack.describe()
    floats[:, :30] = np.inf
    tifffile.imwrite(path, floats)
    refused(path, UnreadableError, "75 % of its values are NaN or infinite", **VOXEL)


def test_values_of_a_frame_without_signal_are_black(
    tmp_path: Path, values: NDArray[np.uint16]
) -> None:
    path = tmp_path / "stack.tif"
    decibels = 20 * np.log10(values[:, 0].astype(np.float32) / 4096 + 1e-6)  # below 0
    decibels[:, 0, :3] = np.nan, -np.inf, np.inf
    tifffile.imwrite(path, decibels)
    with open_stack(path, StackSettings(**VOXEL)) as stack:
        frame = stack.values(0)
        assert frame is not None
        expected = np.float32([stack.black, stack.black, stack.white])
        np.testing.assert_array_equal(frame[0, :3], expected)
        np.testing.assert_array_equal(frame[1:], decibels[0, 1:])


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        (np.zeros((T, H, W), np.uint16), "shows nothing"),
        (np.zeros((H, W), np.uint16), "single frame"),
        (np.zeros((T, H, W), np.complex64), "complex64"),
    ],
)
def test_stacks_that_show_nothing_are_refused(
    tmp_path: Path, frames: NDArray[Any], said: str
) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, frames)
    refused(path, UnreadableError, said, **VOXEL)


def test_colours_need_a_choice(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    rgb = np.random.default_rng(0).integers(0, 255, (T, H, W, 3), dtype=np.uint8)
    tifffile.imwrite(path, rgb, photometric="rgb")
    refused(path, InputError, "3 values per pixel", "2 (green)", "--channel", **VOXEL)
    stack, frames = read(path, channel="green", **VOXEL)
    expect(stack, frames, rgb[..., 1])


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    refused(path, InputError, "no such file")
    path.write_bytes(b"II*\0 not a tiff")
    refused(path, UnreadableError, "not readable as TIFF")
    path = tmp_path / "stack.czi"
    path.write_bytes(b"not a czi")
    refused(path, UnreadableError, "bioformats")


# A z-stack given as a time series, and the other way round


def test_an_unlikely_order_of_axes_is_said(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    # Vessels: other ones in every few frames of a z-stack, the same in all of a time series.
    blobs = random.random((60, 16, 16)).repeat(8, axis=1).repeat(8, axis=2) > 0.8
    depths = np.stack([blobs[index // 6] for index in range(60)]) * 3000.0
    times = np.stack([blobs[0]] * 60) * 3000.0
    noise = random.normal(500, 50, depths.shape)
    for frames, axis, doubted in (
        (depths, "Z", False),
        (depths, "T", True),
        (times, "Z", True),
        (times, "T", False),
    ):
        path = tmp_path / "stack.tif"
        stack = (frames + noise).astype(np.uint16)
        metadata = {"spacing": 1.0, "unit": "um", "axes": f"{axis}YX", "finterval": 0.5}
        tifffile.imwrite(path, stack, imagej=True, resolution=(1, 1), metadata=metadata)
        notes = read(path)[0].notes
        assert any("order of its axes" in note for note in notes) == doubted, (axis, notes)


@pytest.mark.parametrize(
    ("stated", "frame_s"),
    [
        ({"finterval": 0.5}, 0.5),
        ({"finterval": 500, "tunit": "msec"}, 0.5),
        ({"finterval": 0.5, "fps": 7}, 0.5),
    ],
)
def test_the_time_of_a_frame_is_in_seconds(
    tmp_path: Path, stated: dict[str, Any], frame_s: float
) -> None:
    path = tmp_path / "stack.tif"
    stack = np.random.default_rng(0).integers(0, 4000, (10, 64, 64)).astype(np.uint16)
    tifffile.imwrite(
        path, stack, imagej=True, resolution=(1, 1), metadata={"unit": "um", "axes": "TYX"} | stated
    )
    assert read(path)[0].frame_s == pytest.approx(frame_s)


def test_the_speed_at_which_imagej_plays_a_stack_is_no_frame_time(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    stack = np.random.default_rng(0).integers(0, 4000, (10, 64, 64)).astype(np.uint16)
    metadata = {"unit": "um", "axes": "TYX", "fps": 7}
    tifffile.imwrite(path, stack, imagej=True, resolution=(1, 1), metadata=metadata)
    refused(path, InputError, "--frame-s")
    assert read(path, frame_s=0.5)[0].frame_s == 0.5


@pytest.mark.parametrize(
    ("voxel_um", "said"),
    [((1.0, 0.5, 0.5), ""), ((3.0, 1.0, 1.0), "fewer frames"), ((1.0, 2.0, 2.0), "pixels of 2 um")],
)
def test_voxels_unlike_those_of_the_training_recordings_are_said(
    tmp_path: Path, values: NDArray[np.uint16], voxel_um: tuple[float, float, float], said: str
) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, values[:, 0])
    notes = read(path, voxel_um=voxel_um)[0].notes
    assert len(notes) == bool(said)
    assert said in " ".join(notes)
