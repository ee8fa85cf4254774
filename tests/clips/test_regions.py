"""Clips of the regions of a raw stack: those of the outlined recording of the same scene."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from stallscan.bundle import disk
from stallscan.calls.rows import make_row
from stallscan.clips import prepare
from stallscan.clips.clip import ClipSettings
from stallscan.clips.prepare import Prepared, Preprocessing
from stallscan.clips.regions import (
    AROUND_UM,
    LEAST_FRAMES,
    LINE_PX,
    inside_line,
    prepare_regions,
    sources_of,
)
from stallscan.engines import choose
from stallscan.recordings import encode, video
from stallscan.recordings.find import Source
from stallscan.recordings.raw import StackSettings, open_stack
from stallscan.recordings.recording import Box, from_array, to_grey
from stallscan.simulate import SimulateSettings, make_plan
from stallscan.simulate.imaging import render, whole_field
from stallscan.simulate.raw import to_counts
from stallscan.vessels.outline import OutlineSettings, draw
from stallscan.vessels.region_files import read_regions
from stallscan.vessels.regions import Field, Region, Regions, Unusable

VIEW = Preprocessing(OutlineSettings(), ClipSettings(size=64, shape="pad", channels="grey+mask"))
UM = (1.0, 1.0, 1.0)


def write(path: Path, values: NDArray[Any], voxel_um: Sequence[float] = UM) -> Path:
    resolution = 1 / voxel_um[2], 1 / voxel_um[1]
    metadata = {"axes": "ZYX", "spacing": voxel_um[0], "unit": "um"}
    tifffile.imwrite(path, values, imagej=True, resolution=resolution, metadata=metadata)
    return path


def cut(
    path: Path, regions: Regions, views: Sequence[Preprocessing] = (VIEW,), **settings: Any
) -> list[Prepared]:
    with open_stack(path, StackSettings(**settings)) as stack:
        sources = sources_of(path, regions)
        by_name = {source.filename: each for source, each in zip(sources, regions, strict=True)}
        return list(prepare_regions(stack, by_name, sources, views))


class Both(NamedTuple):
    """The same scene as a region of a raw stack, and as an outlined video."""

    region: Prepared
    outlined: Prepared


def film_both_ways(folder: Path, row: int, views: Sequence[Preprocessing]) -> Both:
    plan = make_plan(5, row, row % 2 == 0, SimulateSettings(height=256, width=320))
    light = render(plan.scene, plan.blood, plan.microscope, whole_field(plan.scene))
    counts = to_counts(light, plan.microscope, plan.rng)
    voxel_um = plan.scene.step_um, plan.scene.um_per_px, plan.scene.um_per_px
    path = write(folder / "stack.tif", counts, voxel_um)
    tifffile.imwrite(folder / "region.tif", plan.scene.outline.interior.astype(np.uint8))
    regions = read_regions(folder / "region.tif", Field(plan.scene.shape, voxel_um))
    with open_stack(path) as stack:
        frames = [frame for at in range(len(stack)) if (frame := stack.frame(at)) is not None]
    outlined = np.repeat(np.stack(frames)[..., None], 3, axis=-1)
    outlined[:, plan.scene.outline.line] = (255, 102, 0)
    encode.write_video(folder / "video.mp4", outlined)
    (region,) = cut(path, regions[:1], views)
    return Both(region, prepare.one(Source("video.mp4", folder / "video.mp4"), views))


def test_a_region_gives_the_clip_of_its_outlined_video(tmp_path: Path) -> None:
    region, outlined = film_both_ways(tmp_path, 0, [VIEW])
    assert (region.status, region.frames) == (outlined.status, outlined.frames)
    assert region.clip is not None
    assert outlined.clip is not None
    assert region.clip.box.shape == outlined.clip.box.shape
    ours, theirs = region.clip.pixels.astype(float), outlined.clip.pixels.astype(float)
    masks = [clip[0, ..., 1] > 127 for clip in (ours, theirs)]
    inside = masks[0] & masks[1]
    assert inside.sum() > 0.9 * max(mask.sum() for mask in masks)
    # What the codec alone changes: the same region, given as data, of the video's frames.
    decoded = from_array(to_grey(video.read_recording(tmp_path / "video.mp4").frames))
    mask = tifffile.imread(tmp_path / "region.tif") > 0
    colour, outline = draw(decoded.frames, inside_line(mask), LINE_PX)
    lossy = prepare.cut(outlined.source, from_array(colour), [VIEW], outline)
    assert lossy.clip is not None
    codec, total = (
        np.abs(ours - other)[:, inside, 0].mean() for other in (lossy.clip.pixels, theirs)
    )
    assert total < 1.5 * codec < 4


@pytest.mark.slow
def test_scores_of_regions_and_of_outlined_videos_are_alike(tmp_path: Path) -> None:
    model = disk.load_any(disk.DEFAULT)
    views = [member.spec.view for member in model.members]
    engines = choose.choose(model, "auto").engines
    differences = []
    for row in range(16):
        scores = []
        for prepared in film_both_ways(tmp_path, row, views):
            logits = [
                (engine.logit(clip.pixels),)
                for engine, clip in zip(engines, prepared.clips, strict=True)
            ]
            scores.append(float(make_row(prepared, logits, model)["score"]))
        differences.append(abs(scores[0] - scores[1]))
    assert np.median(differences) < 0.02
    assert max(differences) < 0.2


# Frames, pixels and surroundings


def blinking(shape: tuple[int, int, int]) -> NDArray[np.uint16]:
    """Noise in which frame k has the level 1000 + 10 k in a bright square around the middle."""
    values = np.random.default_rng(0).integers(0, 400, shape).astype(np.uint16)
    rows, cols = shape[1] // 2, shape[2] // 2
    for index, frame in enumerate(values):
        frame[rows - 5 : rows + 5, cols - 5 : cols + 5] = 1000 + 10 * index
    return values


def square(name: str, row: int, col: int, half: int, frames: Any = None) -> Region:
    box = Box(row - half, row + half, col - half, col + half)
    return Region(name, "0000", box, np.ones(box.shape, bool), frames)


def test_the_frames_of_a_vessel_are_cut_with_those_around(tmp_path: Path) -> None:
    path = write(tmp_path / "stack.tif", blinking((120, 96, 96)))
    around = int(AROUND_UM)
    expected = {
        None: (0, 120),
        (40, 80): (40 - around, 80 + around),
        # Shorter ones are filled up, also where the stack ends.
        (60, 64): (62 - LEAST_FRAMES // 2, 62 + LEAST_FRAMES // 2),
        (0, 4): (0, LEAST_FRAMES),
        (119, 120): (120 - LEAST_FRAMES - 1, 120),
        (0, 110): (0, 110 + around),
    }
    regions: Regions = [square(f"{frames}", 48, 48, 20, frames) for frames in expected]
    prepared = cut(path, regions)
    clips = [each.clip.pixels[..., 32, 32, 0] for each in prepared if each.clip]
    for clip, (first, stop) in zip(clips, expected.values(), strict=True):
        np.testing.assert_array_equal(clip, clips[0][first:stop])
    assert prepared[0].source.path == path / "None-0000"


def test_fine_pixels_are_brought_to_those_of_the_training_recordings(tmp_path: Path) -> None:
    coarse = blinking((20, 96, 96))
    fine = coarse.repeat(2, axis=1).repeat(2, axis=2)
    one = write(tmp_path / "one.tif", coarse)
    two = write(tmp_path / "two.tif", fine, (1.0, 0.5, 0.5))
    (of_coarse,) = cut(one, [square("a", 48, 48, 20)])
    (of_fine,) = cut(two, [square("a", 96, 96, 40)])
    assert of_coarse.clip is not None
    assert of_fine.clip is not None
    assert of_coarse.clip.box.shape == of_fine.clip.box.shape
    np.testing.assert_allclose(of_coarse.clip.pixels, of_fine.clip.pixels, atol=1)
    # Pixels that are not square become square.
    wide = write(tmp_path / "wide.tif", coarse.repeat(2, axis=2), (1.0, 1.0, 0.5))
    box = Box(28, 68, 56, 136)
    (of_wide,) = cut(wide, [Region("a", "0000", box, np.ones(box.shape, bool))])
    assert of_wide.clip is not None
    assert of_wide.clip.box.shape == of_coarse.clip.box.shape


def test_the_same_clips_come_in_small_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "stack.tif", blinking((30, 200, 200)))
    regions: Regions = [square(f"{col}", 100, col, 20) for col in (30, 100, 170)]
    regions.insert(
        1, Unusable("out", "0000", "out_of_view", "the region is outside the image. Draw it")
    )
    whole = cut(path, regions)
    monkeypatch.setattr("stallscan.clips.regions.BATCH_BYTES", 1)
    single = cut(path, regions)
    assert [each.source for each in whole] == [each.source for each in single]
    for one, other in zip(whole, single, strict=True):
        assert (one.status, one.reason) == (other.status, other.reason)
        if one.clip is not None and other.clip is not None:
            np.testing.assert_array_equal(one.clip.pixels, other.clip.pixels)
    assert whole[1].status == "out_of_view"
    assert whole[1].reason.startswith(f"{path / 'out-0000'}: ")


def test_regions_that_nobody_could_judge_say_why(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(300, 320, (30, 120, 240)).astype(np.uint16)
    values[:, 50:70, 170:190] = 2000  # bright enough to set the white level; in focus in 30 frames
    path = write(tmp_path / "stack.tif", values)
    remarked = square("b", 60, 180, 20)
    (dark, seen) = cut(path, [square("a", 60, 60, 20), remarked])
    assert dark.status in ("too_dark", "out_of_focus")
    assert "leave this" in dark.reason
    assert seen.status == "ok"


def test_a_stack_of_few_frames_is_too_short(tmp_path: Path) -> None:
    path = write(tmp_path / "stack.tif", blinking((4, 96, 96)))
    (short,) = cut(path, [square("a", 48, 48, 20)])
    assert (short.status, short.frames, short.clip) == ("too_short", 4, None)


def test_a_damaged_plane_makes_its_regions_damaged(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, blinking((100, 96, 96)), compression="zlib", metadata=None)
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[4].dataoffsets[0]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"broken" * 4)
    regions: Regions = [
        square("shallow", 48, 48, 20, (0, 10)),
        square("deep", 48, 48, 20, (80, 84)),
    ]
    shallow, deep = cut(path, regions, voxel_um=UM)
    assert (shallow.status, shallow.frames) == ("damaged", LEAST_FRAMES - 1)
    assert f"{LEAST_FRAMES - 1} of {LEAST_FRAMES} frames" in shallow.reason
    assert deep.status == "ok"
