import builtins
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from stallscan.errors import InputError
from stallscan.simulate import SimulateSettings, make_plan, region
from stallscan.vessels.centrelines import Segment
from stallscan.vessels.labels import MARGIN_UM, Network, place, read_network

pytest.importorskip("skimage")

CENTRE = (55.0, 55.0, 30.0)
TIPS = ((0.0, 15.0, 20.0), (110.0, 25.0, 42.0), (50.0, 110.0, 30.0))  # x, y, z in um
EXTENT = (110.0, 110.0, 60.0)

Sides = tuple[float, float, float]


def draw(um: Sides, tubes: list[tuple[Sides, Sides]], radius_um: float) -> NDArray[np.uint16]:
    """Return tubes with round ends in a box of `EXTENT`, as a stack of voxels of `um` (z, y, x)."""
    axes = [
        (np.arange(round(size / side)) + 0.5) * side
        for size, side in zip(EXTENT[::-1], um, strict=True)
    ]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)[..., ::-1]
    mask = np.zeros(grid.shape[:3], bool)
    for start, stop in tubes:
        axis = np.subtract(stop, start)
        along = np.clip((grid - start) @ axis / (axis @ axis), 0, 1)
        mask |= np.linalg.norm(grid - start - along[..., None] * axis, axis=-1) <= radius_um
    return mask.astype(np.uint16) * 7


def draw_y(um: Sides, radius_um: float) -> NDArray[np.uint16]:
    """Return three tubes from `CENTRE` through `TIPS` and out of the box."""
    beyond = [tuple(1.3 * np.array(tip) - 0.3 * np.array(CENTRE)) for tip in TIPS]
    return draw(um, [(CENTRE, tip) for tip in beyond], radius_um)


def write(path: Path, stack: NDArray[np.generic]) -> Path:
    tifffile.imwrite(path, stack, photometric="minisblack")
    return path


def length_um(segment: Segment) -> float:
    return float(np.linalg.norm(np.diff(segment.line, axis=0), axis=1).sum())


def nearest_tip(segment: Segment) -> tuple[float, float, float]:
    ends = segment.line[[0, -1]]
    return min(TIPS, key=lambda tip: np.linalg.norm(ends - tip, axis=1).min())


@pytest.mark.parametrize(
    ("um", "radius_um"),
    [((1, 1, 1), 3), ((1, 1, 1), 5), ((2, 1, 1), 3), ((5, 1, 1), 4), ((1, 0.5, 0.5), 2)],
)
def test_finds_the_three_arms_of_a_y(tmp_path: Path, um: Sides, radius_um: float) -> None:
    stack = draw_y(um, radius_um)
    network = read_network(write(tmp_path / "y.tif", stack), um)
    assert network.extent_um == pytest.approx(EXTENT)
    assert len(network.segments) == 3
    assert {nearest_tip(segment) for segment in network.segments} == set(TIPS)
    joint = [end for segment in network.segments for end in segment.ends.tolist()]
    assert sorted(joint.count(end) for end in set(joint)) == [1, 1, 1, 3]
    for segment in network.segments:
        assert segment.line.dtype == segment.radius_um.dtype == np.float64
        assert segment.line.shape == (len(segment.radius_um), 3)
        steps = np.linalg.norm(np.diff(segment.line, axis=0), axis=1)
        assert steps == pytest.approx(1, abs=0.15)
        whole = float(np.linalg.norm(np.subtract(CENTRE, nearest_tip(segment))))
        assert length_um(segment) == pytest.approx(whole, rel=0.1)
        assert np.median(segment.radius_um[8:-8]) == pytest.approx(radius_um, rel=0.15)


@pytest.mark.parametrize("um", [(1, 1, 1), (3, 1, 1)])
def test_straight_tubes_have_no_stairs(tmp_path: Path, um: Sides) -> None:
    start, stop = (8.0, 30.0, 24.0), (102.0, 71.0, 36.0)
    network = read_network(write(tmp_path / "tube.tif", draw(um, [(start, stop)], 4)), um)
    (segment,) = network.segments
    way = np.subtract(stop, start) / np.linalg.norm(np.subtract(stop, start))
    middle = segment.line[6:-6]
    aside = np.linalg.norm(np.cross(middle - start, way), axis=1)
    assert aside.max() < 0.8
    ways = np.diff(middle, axis=0)
    ways /= np.linalg.norm(ways, axis=1)[:, None]
    # Stairs of voxels turn by 45 degrees.
    assert (ways[1:] * ways[:-1]).sum(axis=1).min() > np.cos(np.radians(10))
    assert np.abs(ways @ way).min() > np.cos(np.radians(20))


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("shift", [0.0, 0.25, 0.5])
def test_tubes_of_even_width_do_not_vanish(tmp_path: Path, axis: int, shift: float) -> None:
    start = np.array([30.0, 30.0, 30.0]) + shift
    start[axis], stop = 8.0, start.copy()
    stop[axis] = 52.0
    stack = draw((1, 1, 1), [(tuple(start), tuple(stop))], 2.6)
    (segment,) = read_network(write(tmp_path / "tube.tif", stack), (1, 1, 1)).segments
    assert 38 < length_um(segment) < 44 + 2 * 2.6 + 1


def test_a_bump_is_no_branch_and_a_speck_no_vessel(tmp_path: Path) -> None:
    tube = ((10.0, 55.0, 30.0), (100.0, 55.0, 30.0))
    bump = ((55.0, 55.0, 30.0), (55.0, 62.0, 30.0))
    speck = ((20.0, 90.0, 30.0), (24.0, 90.0, 30.0))
    stack = draw((1, 1, 1), [tube], 4) | draw((1, 1, 1), [bump, speck], 1.6)
    stack[30, 55, 30:40:3] = 0  # labelling errors
    (segment,) = read_network(write(tmp_path / "bump.tif", stack), (1, 1, 1)).segments
    assert length_um(segment) == pytest.approx(90, rel=0.1)


def test_a_ring_is_kept(tmp_path: Path) -> None:
    corners = [(30.0, 30.0, 30.0), (80.0, 30.0, 30.0), (80.0, 80.0, 30.0), (30.0, 80.0, 30.0)]
    sides = list(zip(corners, corners[1:] + corners[:1], strict=True))
    network = read_network(write(tmp_path / "ring.tif", draw((1, 1, 1), sides, 3)), (1, 1, 1))
    (segment,) = network.segments
    assert segment.ends[0] == segment.ends[1]
    assert length_um(segment) == pytest.approx(200, rel=0.1)


def through_tube(tmp_path: Path) -> Network:
    """Return a tube that enters at x = 0 and leaves at x = 110."""
    tube = ((-20.0, 40.0, 20.0), (130.0, 60.0, 40.0))
    return read_network(write(tmp_path / "through.tif", draw((1, 1, 1), [tube], 3)), (1, 1, 1))


def test_vessels_that_leave_the_stack_end_on_its_faces(tmp_path: Path) -> None:
    (segment,) = through_tube(tmp_path).segments
    assert sorted(segment.line[[0, -1], 0]) == pytest.approx([0, 110])


@pytest.mark.parametrize("seed", range(6))
def test_placed_networks_fill_the_field_without_gaps(tmp_path: Path, seed: int) -> None:
    network = through_tube(tmp_path)
    field = (300.0, 240.0, 90.0)
    placed = place(network, np.random.default_rng(seed), field)
    assert placed.extent_um == field
    for segment in placed.segments:
        near = (segment.line > -MARGIN_UM) & (segment.line < np.array(field) + MARGIN_UM)
        assert near.all(axis=1).any()
        assert np.linalg.norm(np.diff(segment.line, axis=0), axis=1).max() < 1.2
        # The tube and its mirror images are one line, all the way across the field.
        across = int(np.ptp(segment.line[:, 1]) > np.ptp(segment.line[:, 0]))
        assert segment.line[:, across].min() <= 0
        assert segment.line[:, across].max() >= field[across]
    per_area = 1 / (110 * 60)  # one tube in each mirrored box
    across = int(np.ptp(placed.segments[0].line[:, 1]) > np.ptp(placed.segments[0].line[:, 0]))
    section = (field[1 - across] + 2 * MARGIN_UM) * (field[2] + 2 * MARGIN_UM)
    assert len(placed.segments) == pytest.approx(section * per_area, rel=0.5)


def test_placing_turns_the_network_and_depends_on_the_generator_only(tmp_path: Path) -> None:
    network = through_tube(tmp_path)
    field = (100.0, 100.0, 50.0)
    first, again = (place(network, np.random.default_rng(1), field) for _ in range(2))
    for segment, same in zip(first.segments, again.segments, strict=True):
        np.testing.assert_array_equal(segment.line, same.line)
    ways = set()
    for seed in range(12):
        line = place(network, np.random.default_rng(seed), field).segments[0].line
        ways.add(bool(np.ptp(line[:, 0]) > np.ptp(line[:, 1])))
    assert ways == {True, False}


def test_placed_branchings_stay_joined(tmp_path: Path) -> None:
    stack = draw_y((1, 1, 1), 4)
    network = read_network(write(tmp_path / "y.tif", stack), (1, 1, 1))
    placed = place(network, np.random.default_rng(0), (220.0, 220.0, 120.0))
    nodes: dict[int, list[NDArray[np.float64]]] = {}
    for segment in placed.segments:
        for end, where in zip(segment.ends.tolist(), segment.line[[0, -1]], strict=True):
            nodes.setdefault(end, []).append(where)
    assert {len(places) for places in nodes.values()} == {1, 3}
    for places in nodes.values():
        np.testing.assert_allclose(places, np.broadcast_to(places[0], np.shape(places)), atol=1e-2)


@pytest.mark.parametrize(
    ("stack", "named"),
    [
        (np.ones((20, 30), np.uint8), r"uint8.*\(20, 30\).*planes, rows"),
        (np.ones((4, 20, 30), np.float32), r"float32.*\(4, 20, 30\).*integer"),
        (np.ones((20, 30, 3), np.uint8), r"\(20, 30, 3\).*planes, rows"),
        (np.zeros((4, 20, 30), np.uint8), "labels are 0"),
        (np.pad(np.ones((2, 2, 2), np.uint8), 8), "10 um.*voxel"),
    ],
)
def test_a_stack_without_labelled_vessels_is_refused(
    tmp_path: Path, stack: NDArray[np.generic], named: str
) -> None:
    path = write(tmp_path / "labels.tif", stack)
    with pytest.raises(InputError, match=rf"labels\.tif: .*{named}"):
        read_network(path, (1, 1, 1))


def test_a_file_that_is_not_a_stack_or_is_missing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.tif").write_text("no image")
    with pytest.raises(InputError, match=r"notes\.tif: .*TIFF"):
        read_network(tmp_path / "notes.tif", (1, 1, 1))
    with pytest.raises(InputError, match=r"none\.tif: .*TIFF"):
        read_network(tmp_path / "none.tif", (1, 1, 1))


def test_a_missing_library_is_an_error_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_import = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name.startswith("skimage"):
            raise ImportError(name)
        return real_import(name, *rest)  # type: ignore[arg-type]

    path = write(tmp_path / "y.tif", draw_y((1, 1, 1), 4))
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install '\.\[lab\]'"):
        read_network(path, (1, 1, 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "um", "segments", "density"),
    [
        # Voxel sizes as published with the stacks. Reported for mouse cortex: 0.4 to 1.3 m of
        # vessels per mm3. The second stack shows large vessels and few capillaries.
        ("poon2015_BBB_noLeakage_manualLabel_v2.tif", (5, 0.994, 0.994), (300, 1000), (0.4, 1.3)),
        (
            "poon2015_plaqueVessels_label_underSegmented.tif",
            (5, 2.485, 2.485),
            (200, 800),
            (0.15, 0.6),
        ),
    ],
)
def test_real_stacks_give_plausible_networks(
    real_dir: Path,
    name: str,
    um: Sides,
    segments: tuple[int, int],
    density: tuple[float, float],
) -> None:
    network = read_network(real_dir / "stacks" / name, um)
    assert segments[0] < len(network.segments) < segments[1]
    total_um = sum(map(length_um, network.segments))
    assert density[0] < total_um / float(np.prod(network.extent_um)) * 1e3 < density[1]
    radius_um = np.concatenate([segment.radius_um for segment in network.segments])
    assert radius_um.min() >= 1.5
    assert np.median(radius_um) < 15
    if um[1] < 1:
        assert radius_um.max() < 15
    for segment in network.segments:
        assert np.isfinite(segment.line).all()
        assert (segment.line >= -1).all()
        assert (segment.line <= np.array(network.extent_um) + 1).all()


def test_blood_flows_through_labelled_vessels(tmp_path: Path) -> None:
    path = write(tmp_path / "y.tif", draw_y((1, 1, 1), 4))
    settings = SimulateSettings(height=160, width=192, label_stack=str(path))
    frames, truth = region(0, 1, True, settings)
    assert truth.stalled
    assert len(frames) == truth.frames
    assert np.ptp(frames[..., 2]) > 50
    # All vessels, including the outlined one, are as wide as labelled; none is added.
    for vessel in make_plan(0, 1, True, settings).scene.vessels:
        assert np.median(vessel.radius_um) == pytest.approx(4, rel=0.2)


def test_a_stack_of_large_vessels_has_nothing_to_outline(tmp_path: Path) -> None:
    path = write(tmp_path / "wide.tif", draw((1, 1, 1), [((10, 55, 30), (100, 55, 30))], 9))
    settings = SimulateSettings(height=160, width=192, label_stack=str(path))
    with pytest.raises(InputError, match=r"wide\.tif.*--label-um"):
        make_plan(0, 1, False, settings)
