"""Regions of a stack from ImageJ, label images, tables and skeletons."""

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import roifile
import tifffile
from numpy.typing import NDArray

from stallscan.clips.regions import sources_of
from stallscan.errors import InputError, StallscanError, TableError
from stallscan.recordings.recording import Box
from stallscan.vessels.region_files import read_regions
from stallscan.vessels.regions import (
    AROUND_LINE_UM,
    Field,
    Region,
    Regions,
    Unusable,
    outline_line,
    outline_polygons,
)

FIELD = Field((50, 200, 300), (2.0, 1.0, 1.0))
DISC = [(100 + 30 * np.cos(angle), 80 + 20 * np.sin(angle)) for angle in np.arange(0, 6.28, 0.1)]


def only(regions: Regions) -> Region:
    (region,) = regions
    assert isinstance(region, Region)
    return region


def reasons(regions: Regions) -> dict[str, tuple[str, str]]:
    return {each.name: (each.status, each.reason) for each in regions if isinstance(each, Unusable)}


def refused(path: Path, kind: type[StallscanError], *parts: str, field: Field = FIELD) -> None:
    with pytest.raises(kind) as caught:
        read_regions(path, field)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert all(part in message for part in parts), message


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


# ImageJ


def test_rois_keep_name_area_and_depth(tmp_path: Path) -> None:
    path = tmp_path / "RoiSet.zip"
    oval = roifile.ImagejRoi.frompoints(np.array(DISC, np.float32), name="vessel 1")
    oval.position = 7
    box = roifile.ImagejRoi()
    box.roitype, box.name = roifile.ROI_TYPE.RECT, "box"
    box.top, box.bottom, box.left, box.right = 10, 40, 20, 60
    roifile.roiwrite(path, [oval, box])
    first, second = read_regions(path, FIELD)
    assert isinstance(first, Region)
    assert isinstance(second, Region)
    assert (first.name, first.frames, second.name, second.frames) == (
        "vessel 1",
        (6, 7),
        "box",
        None,
    )
    assert first.mask.sum() == pytest.approx(np.pi * 30 * 20, rel=0.02)
    assert np.abs(np.array(first.box) - (60, 100, 70, 130)).max() <= 1
    assert np.abs(np.array(second.box) - (10, 40, 20, 60)).max() <= 1


def test_a_drawn_line_is_outlined_at_the_distance_of_real_outlines(tmp_path: Path) -> None:
    path = tmp_path / "line.roi"
    line = roifile.ImagejRoi.frompoints(np.array([[50, 100], [150, 100]], np.float32))
    line.roitype = roifile.ROI_TYPE.POLYLINE
    line.tofile(path)
    region = only(read_regions(path, FIELD))
    length, reach = 100, AROUND_LINE_UM
    assert region.mask.sum() == pytest.approx(2 * reach * length + np.pi * reach**2, rel=0.05)
    fine = only(read_regions(path, Field((50, 400, 600), (2.0, 0.5, 0.5))))
    assert fine.box.shape[0] == pytest.approx(2 * region.box.shape[0], abs=2)


def test_a_point_encloses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "RoiSet.zip"
    point = roifile.ImagejRoi.frompoints(np.array([[50, 100]], np.float32), name="point")
    point.roitype = roifile.ROI_TYPE.POINT
    oval = roifile.ImagejRoi.frompoints(np.array(DISC, np.float32), name="oval")
    roifile.roiwrite(path, [point, oval])
    regions = read_regions(path, FIELD)
    assert [each.name for each in regions] == ["point", "oval"]
    assert reasons(regions)["point"][0] == "no_outline"


def test_damaged_rois_are_refused(tmp_path: Path) -> None:
    for name in ("a.roi", "a.zip"):
        path = tmp_path / name
        path.write_bytes(b"Iout" + b"\xff" * 50)
        refused(path, InputError, "ROI Manager")


# Label images


def label_image() -> NDArray[np.uint16]:
    labels = np.zeros(FIELD.shape[1:], np.uint16)
    labels[20:50, 30:70] = 3
    labels[100:130, 30:70] = 700
    return labels


@pytest.mark.parametrize("suffix", [".tif", ".npy"])
def test_labels_of_one_plane_are_regions(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"labels{suffix}"
    write = tifffile.imwrite if suffix == ".tif" else np.save
    write(path, label_image())
    first, second = read_regions(path, FIELD)
    assert isinstance(first, Region)
    assert (first.name, second.name) == ("3", "700")
    assert first.box == Box(20, 50, 30, 70)
    assert first.mask.all()
    assert first.frames is None


def test_a_mask_of_several_pieces_is_as_many_regions(tmp_path: Path) -> None:
    path = tmp_path / "mask.tif"
    inside = label_image() > 0
    # ImageJ shows its masks by an inverted lookup table, unless it is told that black is outside.
    imagej = {"photometric": "miniswhite", "description": "ImageJ=1.54f", "metadata": None}
    for most, options in ((255, {}), (255, imagej), (1, {}), (7, {}), (65535, {})):
        tifffile.imwrite(path, (inside * most).astype(np.min_scalar_type(most)), **options)
        regions = read_regions(path, FIELD)
        assert [region.name for region in regions] == ["1", "2"]
        assert [only([region]).mask.sum() for region in regions] == [1200, 1200]


def test_labels_of_all_planes_are_projected_and_widened(tmp_path: Path) -> None:
    labels = np.zeros(FIELD.shape, np.uint16)
    for depth in range(10, 16):
        labels[depth, 97:103, 100 + 10 * (depth - 10) : 110 + 10 * (depth - 10)] = 5
    path = tmp_path / "labels.tif"
    tifffile.imwrite(path, labels, compression="zlib")
    region = only(read_regions(path, FIELD))
    assert region.frames == (10, 16)
    # Six voxels wide, and 10 um more on each side.
    assert region.box.shape == pytest.approx((26, 80), abs=2)


def test_a_single_label_for_all_vessels_is_no_segment(tmp_path: Path) -> None:
    path = tmp_path / "labels.tif"
    labels = np.zeros((50, 400, 400), np.uint8)
    labels[10:20, 20:380, 20:380] = 255
    tifffile.imwrite(path, labels, compression="zlib")
    refused(path, InputError, "its own number", field=Field(labels.shape, (2.0, 1.0, 1.0)))


def test_labels_of_another_size_or_type_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.tif"
    tifffile.imwrite(path, label_image()[:, :250])
    refused(path, InputError, "1 x 200 x 250", "50 x 200 x 300")
    tifffile.imwrite(path, label_image().astype(np.float32))
    refused(path, InputError, "float32")
    tifffile.imwrite(path, np.zeros(FIELD.shape[1:], np.uint8))
    refused(path, InputError, "none of its 0 regions")


# Tables


def test_boxes_polygons_and_centre_lines_are_told_apart(tmp_path: Path) -> None:
    boxes = table(tmp_path / "a.csv", "region,row0,row1,col0,col1,z", "a,20,50,30,70,8")
    region = only(read_regions(boxes, FIELD))
    assert (region.name, region.box, region.frames) == ("a", Box(20, 50, 30, 70), (8, 9))
    boxes = table(tmp_path / "z.csv", "region,row0,row1,col0,col1,z", "a,20,50,30,70,7.6")
    assert only(read_regions(boxes, FIELD)).frames == (8, 9)
    # As 'stallscan stack' writes them.
    header = "region,row0,row1,col0,col1,first,stop"
    rows = ("a,20,50,30,70,8,11", "b,20,50,30,70,,", "c,20,50,30,70,8,8")
    one, without, empty = read_regions(table(tmp_path / "o.csv", header, *rows), FIELD)
    assert isinstance(one, Region)
    assert isinstance(without, Region)
    assert (one.frames, without.frames) == ((8, 11), None)
    assert isinstance(empty, Unusable)
    assert "no planes" in empty.reason
    with pytest.raises(TableError, match="first is ''"):
        list(read_regions(table(tmp_path / "h.csv", header, "a,20,50,30,70,,11"), FIELD))
    boxes = table(tmp_path / "b.csv", "x;y;width;height", "30;20;40;30")
    assert only(read_regions(boxes, FIELD)).box == Box(20, 50, 30, 70)
    rows = [f"v,{x:.1f},{y:.1f}" for x, y in DISC]
    polygon = table(tmp_path / "c.csv", "segment,x,y", *rows)
    assert only(read_regions(polygon, FIELD)).mask.sum() == pytest.approx(1885, rel=0.03)
    rows = [f"v,{10 + x / 10},100,{x}" for x in range(50, 150)]
    line = table(tmp_path / "d.csv", "segment,z,y,x", *rows)
    region = only(read_regions(line, FIELD))
    assert region.frames == (15, 26)
    assert region.box.shape == pytest.approx((26, 125), abs=3)


@pytest.mark.parametrize("column", ["region", "segment", "name", "Name", "label", "roi", "id"])
def test_regions_keep_their_names(tmp_path: Path, column: str) -> None:
    rows = ("left,20,50,30,70", "right,60,90,30,70")
    boxes = table(tmp_path / "a.csv", f"{column},row0,row1,col0,col1", *rows)
    assert [each.name for each in read_regions(boxes, FIELD)] == ["left", "right"]
    rows = [f"v,{x:.1f},{y:.1f}" for x, y in DISC]
    assert only(read_regions(table(tmp_path / "b.csv", f"{column},x,y", *rows), FIELD)).name == "v"


def test_skeletons_are_split_at_their_branching_points(tmp_path: Path) -> None:
    # A Y in um: planes are 2 um apart, so z = 20 um is frame 10.
    nodes = ["# skeleton", "1 3 40 100 20 3 -1", "2 3 100 100 20 3 1", "3 3 160 60 20 3 2"]
    path = table(tmp_path / "a.swc", *nodes, "4 3 160 140 40 3 2")
    regions = read_regions(path, FIELD)
    assert len(regions) == 3
    depths = {each.frames for each in regions if isinstance(each, Region)}
    assert depths == {(10, 11), (10, 21)}
    refused(table(tmp_path / "b.swc", "1 3 40 100"), TableError, "line 1", "7 numbers")
    for wrong in ("nan 3 40 100 20 3 1", "2 3 nan 100 20 3 1", "2 3 1e30 100 20 3 1"):
        path = table(tmp_path / "c.swc", "1 3 40 100 20 3 -1", wrong)
        refused(path, TableError, "line 2", "7 numbers")
    path = table(tmp_path / "d.swc", *nodes, "2 3 160 140 40 3 2")
    refused(path, TableError, "line 5 repeats the id 2")


def test_comments_and_tabs_in_skeletons_change_nothing(tmp_path: Path) -> None:
    nodes = ["1 3 40 100 20 3 -1", "2 3 100 100 20 3 1", "3 3 160 60 20 3 2", "4 3 160 140 40 3 2"]
    plain = read_regions(table(tmp_path / "a.swc", *nodes), FIELD)
    tabs = [line.replace(" ", "\t") for line in nodes]
    path = table(tmp_path / "b.swc", '# "traced by hand', tabs[0], '# by "A', *tabs[1:])
    assert [each.full_name for each in read_regions(path, FIELD)] == [
        each.full_name for each in plain
    ]


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        (["region,row0,row1,col0,col1", "a,1,x,3,4"], "line 2: row1 is 'x'"),
        (["region,row0,row1,col0,col1", "a,1,nan,3,4"], "line 2: row1 is 'nan'"),
        (["region,left,top", "a,1,2"], "describe no regions"),
        (["region,row0,row1,col0,col1", "a,1,2,3"], "line 2"),
    ],
)
def test_malformed_tables_name_the_line(tmp_path: Path, lines: list[str], part: str) -> None:
    refused(table(tmp_path / "a.csv", *lines), TableError, part)


@pytest.mark.parametrize("sides_um", [(0.875, 1.3125), (1.3125, 0.875), (1.0, 1.0)])
def test_outlines_are_as_wide_along_rows_as_along_columns(
    tmp_path: Path, sides_um: tuple[float, float]
) -> None:
    field = Field((50, 200, 200), (2.0, *sides_um))
    path = tmp_path / "labels.tif"
    for axis, side_um in enumerate(sides_um):
        line = np.array([[10.0, 100.0, 100.0]] * 2)
        line[:, 2 - axis] = 60, 140  # along the other axis
        drawn = outline_line("a", line, field)
        labels = np.zeros(field.shape, np.uint8)
        labels[10:12, 100, 60:140] = 1
        tifffile.imwrite(path, labels if axis == 0 else labels.swapaxes(1, 2), compression="zlib")
        for region, reach_um in ((drawn, AROUND_LINE_UM), (only(read_regions(path, field)), 10.0)):
            assert isinstance(region, Region)
            width_um = (region.box.shape[axis] - 1) * side_um
            assert width_um == pytest.approx(2 * reach_um, abs=2 * side_um)


# Regions that cannot be used, or not without a remark


def test_regions_outside_the_image_become_rows(tmp_path: Path) -> None:
    path = table(
        tmp_path / "a.csv",
        "region,row0,row1,col0,col1,z",
        "inside,20,50,30,70,3",
        "outside,220,250,30,70,3",
        "before,-60,-20,30,70,3",
        "deep,20,50,100,140,50",
        "empty,50,20,30,70,3",
        "tiny,20,24,30,34,3",
        "half,180,220,30,70,3",
    )
    regions = read_regions(path, FIELD)
    assert [each.name for each in regions][:3] == ["inside", "outside", "before"]
    said = reasons(regions)
    assert {name: status for name, (status, _) in said.items()} == {
        "outside": "out_of_view",
        "before": "out_of_view",
        "deep": "out_of_view",
        "empty": "no_outline",
        "tiny": "no_outline",
    }
    assert "200 x 300" in said["outside"][1]
    assert "frame 51 of a stack of 50" in said["deep"][1]
    half = regions[-1]
    assert isinstance(half, Region)
    assert half.box == Box(180, 200, 30, 70)
    assert half.remark == "only 50 % of the region is in the image"


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("axis", [1, 2])
def test_a_long_line_is_outlined_where_it_is_in_the_image(axis: int, mirrored: bool) -> None:
    field = Field((50, 256, 256), (2.0, 1.0, 1.0))
    line = np.array([[10.0, 50.0, 50.0], [10.0, 50.0, 50.0]])
    line[:, axis] = -700, 200
    short = line.copy()
    short[0, axis] = -30
    if mirrored:
        line[:, 1:], short[:, 1:] = 255 - line[:, 1:], 255 - short[:, 1:]
    long, expected = (outline_line("a", each, field) for each in (line, short))
    assert isinstance(long, Region)
    assert isinstance(expected, Region)
    assert (long.box, long.mask.tolist()) == (expected.box, expected.mask.tolist())
    assert long.remark.startswith("only ")
    line[:, axis] += 2000 if mirrored else -2000
    outside = outline_line("a", line, field)
    assert isinstance(outside, Unusable)
    assert outside.status == "out_of_view"


def test_regions_that_are_all_outside_are_an_error(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", "region,row0,row1,col0,col1", "a,2200,2500,30,70")
    refused(path, InputError, "none of its 1 regions", "outside the image", "units")


def test_nearly_equal_regions_name_each_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = table(
        tmp_path / "a.csv",
        "region,row0,row1,col0,col1,z",
        "a,20,50,30,70,3",
        "b,21,51,30,70,3",
        "crossing,20,50,60,100,3",
        "deeper,20,50,30,70,30",
    )
    remarks = {each.name: each.remark for each in read_regions(path, FIELD)}  # type: ignore[union-attr]
    assert "region b" in remarks["a"]
    assert "region a" in remarks["b"]
    assert remarks["crossing"] == remarks["deeper"] == ""
    assert "2 regions are nearly the same" in caplog.text


def test_equal_names_are_numbered(tmp_path: Path) -> None:
    rows = [f"{name},20,50,{col},{col + 40}" for name, col in (("a", 0), ("a", 60), ("a-2", 120))]
    path = table(tmp_path / "a.csv", "region,row0,row1,col0,col1", *rows)
    assert [each.name for each in read_regions(path, FIELD)] == ["a", "a-3", "a-2"]


def test_names_are_cells_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "RoiSet.zip"
    names = ("a\nb", " ", "/etc/c")
    points = np.array(DISC, np.float32)
    roifile.roiwrite(path, [roifile.ImagejRoi.frompoints(points, name=name) for name in names])
    regions = read_regions(path, FIELD)
    assert [each.name for each in regions] == ["a\\nb", "unnamed", "/etc/c"]
    assert sources_of(Path("m\udcfcs.tif"), regions)[0].filename.startswith(r"m\xfcs.tif/a\nb-")
    sources = sources_of(Path("stack.tif"), regions)
    code = regions[0].code
    assert re.fullmatch("[0-9a-f]{4}", code)
    assert [str(each.path) for each in sources][1:] == [
        f"stack.tif/unnamed-{code}",
        f"stack.tif/etc/c-{code}",
    ]


def test_a_redrawn_region_gets_another_full_name_and_the_others_keep_theirs(tmp_path: Path) -> None:
    header = "region,row0,row1,col0,col1"
    before = read_regions(table(tmp_path / "a.csv", header, "1,20,50,0,40", "2,20,50,60,99"), FIELD)
    after = read_regions(table(tmp_path / "b.csv", header, "2,20,50,60,99", "1,20,50,1,40"), FIELD)
    of_before, of_after = ({each.name: each.full_name for each in of} for of in (before, after))
    assert of_before["2"] == of_after["2"]
    assert of_before["1"] != of_after["1"]


def test_a_region_keeps_its_code_in_files_of_two_digits_and_at_other_widths(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = np.array([[10.0, 20.0, -0.001], [12.0, 30.004, 25.0], [12.0, 55.119, 40.0]])
    written = np.array([[float(f"{value:.2f}") for value in point] for point in line])
    code = outline_line("1", line, FIELD).code
    assert outline_line("1", written, FIELD).code == code
    # The same vessel in another stack, or outlined differently by another version.
    monkeypatch.setattr("stallscan.vessels.regions.AROUND_LINE_UM", 10.0)
    assert outline_line("1", line, FIELD).code == code
    assert outline_line("1", line[:2], FIELD).code != code
    # Without depths, only the place in the image counts.
    flat = outline_line("1", line * [0, 1, 1], FIELD, in_depth=False).code
    assert outline_line("1", line, FIELD, in_depth=False).code == flat != code


def test_labels_of_all_planes_at_other_depths_have_other_codes(tmp_path: Path) -> None:
    labels = np.zeros(FIELD.shape, np.uint8)
    labels[4:6, 30:60, 40:60] = 3
    codes = []
    for index, shifted in enumerate((labels, labels, np.roll(labels, 5, axis=0))):
        path = tmp_path / f"{index}.npy"
        np.save(path, shifted)
        (region,) = read_regions(path, FIELD)
        codes.append(region.code)
    assert codes[0] == codes[1] != codes[2]


@pytest.mark.slow
def test_twenty_thousand_regions_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    corners = rng.integers(0, (1960, 1960), (20_000, 2))
    rows = [f"{i},{row},{row + 30},{col},{col + 30}" for i, (row, col) in enumerate(corners)]
    path = table(tmp_path / "a.csv", "region,row0,row1,col0,col1", *rows)
    regions = read_regions(path, Field((50, 2000, 2000), (1.0, 1.0, 1.0)))
    assert len({each.name for each in regions}) == 20_000


def test_other_files_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none.zip", InputError, "no such file")
    path = tmp_path / "regions.doc"
    path.write_text("x")
    refused(path, InputError, ".roi", ".csv")


def test_regions_at_impossible_places_are_out_of_view() -> None:
    far = np.array([[0.0, 1e30, 5.0], [0.0, 5.0, 9.0], [0.0, 9.0, 5.0]])
    for region in (
        outline_line("a", far, FIELD),
        outline_polygons("a", [far[:, 1:]], FIELD, None),
    ):
        assert isinstance(region, Unusable)
        assert region.status == "out_of_view"


def test_a_damaged_selection_is_a_row(tmp_path: Path) -> None:
    good = roifile.ImagejRoi.frompoints(np.array(DISC), name="good").tobytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("good.roi", good)
        # bytes 16 and 17 of the format: the number of points
        archive.writestr("bad.roi", good[:16] + bytes(2) + good[18:])
    one, other = read_regions(tmp_path / "a.zip", FIELD)
    assert isinstance(one, Region)
    assert isinstance(other, Unusable)
    assert other.reason == "the region has no area. Outline the vessel"
