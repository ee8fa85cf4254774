import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from stallscan.vessels import segment_files, slabs
from stallscan.vessels.region_files import read_regions
from stallscan.vessels.regions import Field, Region, outline_line
from stallscan.vessels.segment import SegmentSettings
from tests.vessels.phantoms import Tube, image, sample

pytest.importorskip("skimage")
roifile = pytest.importorskip("roifile")

SIDES = (2.0, 1.0, 0.8)
EXTENT = (40.0, 64.0, 64.0)
TUBES: list[Tube] = [
    ([(10.0, 8.0, 10.0), (14.0, 56.0, 50.0)], 2.5),
    ([(30.0, 50.0, 10.0), (30.0, 12.0, 54.0)], 2.5),
]
STACK = image(EXTENT, SIDES, TUBES)


def write(path: Path, stack: Any = STACK, axes: str = "ZYX", **options: Any) -> Path:
    """Write a stack as ImageJ does, with its voxel size."""
    tifffile.imwrite(
        path,
        stack,
        imagej=True,
        resolution=(1 / SIDES[2], 1 / SIDES[1]),
        metadata={"axes": axes, "spacing": SIDES[0], "unit": "um"} | options,
    )
    return path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_command_writes_all_files(tmp_path: Path, run: Any) -> None:
    out = tmp_path / "out"
    code, said, _ = run("segment", write(tmp_path / "stack.tif"), "-o", out)
    assert code == 0, said
    assert "2 capillary segments" in said
    rows = read(out / "segments.csv")
    assert tuple(rows[0]) == segment_files.SEGMENT_COLUMNS
    assert [row["segment"] for row in rows] == ["1", "2"]
    points = read(out / "centrelines.csv")
    assert tuple(points[0]) == ("segment", "z", "y", "x")
    labels = tifffile.imread(out / "labels.tif")
    assert labels.shape == STACK.shape
    rois = {roi.name: roi for roi in roifile.roiread(out / "rois.zip")}
    field = Field(STACK.shape, SIDES)
    regions = {region.name: region for region in read_regions(out / "rois.zip", field)}
    for row, (course, radius_um) in zip(rows, TUBES, strict=True):
        mine = [point for point in points if point["segment"] == row["segment"]]
        line = np.array([[float(point[axis]) for axis in "zyx"] for point in mine])
        truth = sample(course)
        away = np.linalg.norm(((line + 0.5) * SIDES)[:, None] - truth, axis=2).min(axis=1)
        assert away[5:-5].max() < 2
        length_um = float(np.linalg.norm(np.subtract(*course)))
        assert float(row["length_um"]) == pytest.approx(length_um, abs=8)
        assert float(row["radius_um"]) == pytest.approx(radius_um, abs=0.6)
        depths = [course[0][0], course[1][0]]
        assert float(row["depth_from_um"]) == pytest.approx(min(depths), abs=3)
        assert float(row["depth_to_um"]) == pytest.approx(max(depths), abs=3)
        first, last = int(row["first_frame"]), int(row["last_frame"])
        assert int(row["frames_in_focus"]) == last - first + 1
        assert first * SIDES[0] <= min(depths) <= max(depths) <= (last + 1) * SIDES[0]
        # The label stack shows a tube of that radius around the line, and nothing else.
        middle = np.rint(line).astype(int)
        number = int(row["segment"])
        assert (labels[tuple(middle.T)] == number).all()
        volume = (labels == number).sum() * np.prod(SIDES)
        assert volume == pytest.approx(np.pi * radius_um**2 * length_um, rel=0.4)
        roi = rois[row["segment"]]
        polygon = roi.coordinates().astype(np.float32)  # (n, 2) x, y
        inside = [cv2.pointPolygonTest(polygon, (float(x), float(y)), False) for _, y, x in line]
        assert min(inside) >= 0
        # It is the region that `stallscan stack` calls.
        region = outline_line("1", line, field, in_depth=False)
        drawn = regions[row["segment"]]
        assert isinstance(region, Region)
        assert isinstance(drawn, Region)
        assert drawn.box == region.box
        np.testing.assert_array_equal(drawn.mask, region.mask)
        assert first <= roi.position - 1 <= last
    assert set(np.unique(labels)) == {0, 1, 2}
    picture = cv2.imread(str(out / "overview.png"))
    assert picture is not None
    assert min(picture.shape[:2]) > 1000
    assert not (out / "slabs").exists()


def test_the_voxel_size_of_the_command_line_is_used(tmp_path: Path, run: Any) -> None:
    tifffile.imwrite(tmp_path / "bare.tif", STACK, photometric="minisblack")
    code, _, err = run("segment", tmp_path / "bare.tif", "-o", tmp_path / "out")
    assert code == 2
    assert "bare.tif" in err
    assert "--voxel-um" in err
    command = ("segment", tmp_path / "bare.tif", "-o", tmp_path / "out", "--voxel-um", *SIDES)
    assert run(*command)[0] == 0
    assert len(read(tmp_path / "out" / "segments.csv")) == 2
    code, _, err = run(*command[:-1], "0")
    assert code == 2
    assert "voxel_um" in err


def test_a_stack_with_two_channels_asks_for_one(tmp_path: Path, run: Any) -> None:
    noise = np.random.default_rng(0).integers(0, 20, STACK.shape, dtype=np.uint8)
    path = write(tmp_path / "two.tif", np.stack([noise, STACK], axis=1), "ZCYX")
    code, _, err = run("segment", path, "-o", tmp_path / "out")
    assert code == 2
    assert "2 channels" in err
    assert "--channel" in err
    assert run("segment", path, "-o", tmp_path / "out", "--channel", 3)[0] == 2
    for channel, count in ((1, 0), (2, 2)):
        out = tmp_path / f"out{channel}"
        assert run("segment", path, "-o", out, "--channel", channel)[0] == 0
        assert len(read(out / "segments.csv")) == count
        assert (out / "overview.png").is_file()


@pytest.mark.parametrize(
    ("stack", "axes", "named"),
    [
        (np.stack([STACK, STACK]), "TZYX", "time"),
        (STACK, "TYX", "depth"),
        (STACK[0], "YX", "single frame"),
        (np.zeros((5, 40, 40), np.uint8), "ZYX", "shows nothing"),
        (np.full((5, 40, 40), 700, np.uint16), "ZYX", "shows nothing"),
        (np.full((5, 40, 40), np.nan, np.float32), "ZYX", "NaN"),
    ],
)
def test_what_is_no_stack_of_vessels_is_refused(
    tmp_path: Path, run: Any, stack: Any, axes: str, named: str
) -> None:
    path = write(tmp_path / "wrong.tif", stack, axes)
    code, _, err = run("segment", path, "-o", tmp_path / "out")
    assert code == 2
    assert "wrong.tif" in err
    assert named in err
    assert not (tmp_path / "out" / "segments.csv").exists()


def test_colours_and_files_of_another_kind_are_refused(tmp_path: Path, run: Any) -> None:
    colour = np.repeat(STACK[..., None], 3, axis=-1)
    tifffile.imwrite(tmp_path / "rgb.tif", colour, photometric="rgb")
    (tmp_path / "text.tif").write_text("no image")
    cut = write(tmp_path / "cut.tif")
    cut.write_bytes(cut.read_bytes()[:4000])
    for name in ("rgb.tif", "text.tif", "missing.tif", "cut.tif"):
        code, _, err = run(
            "segment", tmp_path / name, "-o", tmp_path / "out", "--voxel-um", 1, 1, 1
        )
        assert code == 2, name
        assert name in err


def test_an_interrupted_run_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slabs, "SLAB_UM", 10.0)
    settings, source = SegmentSettings(), {"path": "stack.tif"}
    done = []

    def interrupt(count: int, of: int) -> None:
        done.append((count, of))
        if count == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment_files.find_resumably(STACK, SIDES, settings, tmp_path, source, interrupt)
    assert done == [(1, 4), (2, 4)]
    computed: list[int] = []
    real = segment_files.find_slab

    def counting(grid: Any, first: int, *rest: Any) -> Any:
        computed.append(first)
        return real(grid, first, *rest)

    monkeypatch.setattr(segment_files, "find_slab", counting)

    def ignore(count: int, of: int) -> None:
        pass

    resumed = segment_files.find_resumably(STACK, SIDES, settings, tmp_path, source, ignore)
    assert len(computed) == 2
    whole = segment_files.find_resumably(STACK, SIDES, settings, tmp_path / "b", source, ignore)
    assert len(resumed.capillaries) == len(whole.capillaries) == 2
    for one, other in zip(resumed.capillaries, whole.capillaries, strict=True):
        np.testing.assert_array_equal(one.line, other.line)


def test_a_folder_of_another_run_is_refused(tmp_path: Path, run: Any) -> None:
    path = write(tmp_path / "stack.tif")
    assert run("segment", path, "-o", tmp_path / "out")[0] == 0
    code, _, err = run("segment", path, "-o", tmp_path / "out", "--contrast", 0.5)
    assert code == 2
    assert "contrast" in err
    assert run("segment", path, "-o", tmp_path / "out")[0] == 0
