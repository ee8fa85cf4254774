from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from stallscan.errors import SettingsError
from stallscan.vessels import slabs
from stallscan.vessels.centrelines import Segment, length_um, smooth
from stallscan.vessels.labels import read_network
from stallscan.vessels.segment import Segmented, SegmentSettings, find_segments
from tests import memory
from tests.vessels.phantoms import Tube, Um, image, sample

pytest.importorskip("skimage")

EXTENT = (60.0, 90.0, 90.0)
UNIT = (1.0, 1.0, 1.0)
CENTRE = (30.0, 45.0, 45.0)
STRAIGHT: Tube = ([(20.0, 8.0, 12.0), (38.0, 80.0, 75.0)], 2.5)


def find(tubes: list[Tube], sides_um: Um = UNIT, **options: float) -> Segmented:
    stack = image(EXTENT, sides_um, tubes)
    return find_segments(stack, sides_um, SegmentSettings.parse(options, "test"))


def in_um(line: NDArray[np.float64], sides_um: Um = UNIT) -> NDArray[np.float64]:
    return (line + 0.5) * sides_um


def furthest_um(line: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Return the distance of the point that is furthest from the truth."""
    return float(cKDTree(truth).query(line)[0].max())


@pytest.mark.parametrize(
    "sides_um", [UNIT, (3.0, 1.0, 1.0), (5.0, 1.0, 1.0), (1.0, 0.5, 0.5), (1.0, 0.8, 1.2)]
)
def test_a_straight_tube_is_one_segment_on_its_axis(sides_um: Um) -> None:
    found = find([STRAIGHT], sides_um)
    (capillary,) = found.capillaries
    truth = sample(STRAIGHT[0])
    line = in_um(capillary.line, sides_um)
    assert furthest_um(line[5:-5], truth) < (1.0 if sides_um[0] <= 1 else 2.5)
    # The round ends of the tube belong to it.
    assert furthest_um(truth, line) < 5
    assert capillary.length_um == pytest.approx(97, abs=8)
    assert capillary.radius_um == pytest.approx(2.5, abs=0.6)
    assert capillary.tortuosity == pytest.approx(1, abs=0.05)
    assert capillary.branch_order is None
    first, last = capillary.planes
    assert first * sides_um[0] == pytest.approx(20 - 3, abs=sides_um[0] + 2)
    assert last * sides_um[0] == pytest.approx(38 + 3, abs=sides_um[0] + 2)
    assert not found.large
    assert not found.large_area.any()


@pytest.mark.parametrize("sides_um", [UNIT, (4.0, 1.0, 1.0)])
def test_a_y_is_three_segments_that_share_a_point(sides_um: Um) -> None:
    tips = [(22.0, 8.0, 45.0), (36.0, 80.0, 15.0), (30.0, 75.0, 80.0)]
    found = find([([CENTRE, tip], 2.5) for tip in tips], sides_um)
    assert len(found.capillaries) == 3
    lines = [in_um(each.line, sides_um) for each in found.capillaries]
    truth = np.concatenate([sample([CENTRE, tip]) for tip in tips])
    assert max(furthest_um(line[5:-5], truth) for line in lines) < 2.5
    near = [np.linalg.norm(line[[0, -1]] - CENTRE, axis=1).min() for line in lines]
    assert max(near) < 4


def test_a_ring_is_one_segment_without_tortuosity() -> None:
    angles = np.linspace(0, 2 * np.pi, 25)
    ring = [(30.0, 45 + 25 * float(np.sin(a)), 45 + 25 * float(np.cos(a))) for a in angles]
    (capillary,) = find([(ring, 2.5)]).capillaries
    assert capillary.length_um == pytest.approx(157, rel=0.08)
    assert np.isnan(capillary.tortuosity)


def test_a_vertical_tube_is_as_wide_as_it_is() -> None:
    (capillary,) = find([([(8.0, 40.0, 50.0), (52.0, 44.0, 46.0)], 3.0)]).capillaries
    assert capillary.radius_um == pytest.approx(3.0, abs=0.6)
    assert capillary.planes[1] - capillary.planes[0] > 40


def test_a_thick_vessel_is_left_out_and_its_branches_are_counted_from_it() -> None:
    trunk: Tube = ([(30.0, 12.0, -10.0), (30.0, 12.0, 100.0)], 9.0)
    joint, far = (30.0, 50.0, 45.0), (30.0, 84.0, 80.0)
    tubes: list[Tube] = [
        trunk,
        ([(30.0, 12.0, 45.0), joint], 2.5),
        ([joint, far], 2.5),
        ([joint, (30.0, 84.0, 10.0)], 2.5),
    ]
    found = find(tubes)
    assert found.large_area.mean() == pytest.approx(20 / 90, abs=0.05)
    assert sorted(str(each.branch_order) for each in found.capillaries) == ["1", "2", "2"]
    for capillary in found.capillaries:
        assert in_um(capillary.line)[:, 1].min() > 18


def test_a_wide_vessel_is_a_capillary_if_the_limit_says_so() -> None:
    tube: Tube = ([(30.0, 10.0, 10.0), (30.0, 80.0, 80.0)], 4.0)
    (capillary,) = find([tube], capillary_radius_um=6.0).capillaries
    assert capillary.radius_um == pytest.approx(4.0, abs=0.6)
    assert not find([tube], capillary_radius_um=3.0).capillaries


@pytest.mark.parametrize(("gap_um", "pieces"), [(6.0, 1), (16.0, 2)])
def test_a_dark_cell_does_not_split_a_vessel_but_a_long_gap_does(
    gap_um: float, pieces: int
) -> None:
    (start, stop), radius_um = STRAIGHT
    way = np.subtract(stop, start) / np.linalg.norm(np.subtract(stop, start))
    middle = np.add(start, stop) / 2
    # The round ends of the tubes reach into the gap.
    half = (gap_um / 2 + radius_um) * way
    parts: list[Tube] = [
        ([start, tuple(middle - half)], radius_um),
        ([tuple(middle + half), stop], radius_um),
    ]
    assert len(find(parts).capillaries) == pieces


def test_a_short_piece_counts_only_if_it_is_connected() -> None:
    piece: Tube = ([(30.0, 40.0, 40.0), (30.0, 50.0, 48.0)], 2.5)
    assert not find([piece]).capillaries
    assert len(find([piece], isolated_um=10.0).capillaries) == 1
    vessels: list[Tube] = [
        ([(30.0, 40.0, 5.0), (30.0, 40.0, 85.0)], 2.5),
        ([(30.0, 40.0, 40.0), (30.0, 62.0, 40.0)], 2.5),
    ]
    assert len(find(vessels).capillaries) == 3


@pytest.mark.parametrize("blur", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(2))
def test_noise_alone_shows_nothing(blur: float, seed: int) -> None:
    noise = np.random.default_rng(seed).normal(size=(40, 160, 160))
    noise = ndimage.gaussian_filter(noise, blur)
    stack = (100 + 20 * noise / noise.std()).astype(np.float32)
    assert not find_segments(stack, UNIT, SegmentSettings()).capillaries


def test_dim_deep_vessels_are_found_beside_bright_ones() -> None:
    deep: Tube = ([(50.0, 10.0, 20.0), (50.0, 80.0, 70.0)], 2.5)
    high: Tube = ([(10.0, 80.0, 20.0), (10.0, 10.0, 70.0)], 2.5)
    stack = image(EXTENT, UNIT, [deep, high], noise=0.0).astype(np.float64)
    fading = np.exp(-np.arange(60) / 25)[:, None, None]
    stack = stack * fading + np.random.default_rng(0).normal(0, 0.5, stack.shape)
    lines = [in_um(each.line) for each in find_segments(stack, UNIT, SegmentSettings()).capillaries]
    assert len(lines) == 2
    for line, (points, _) in zip(lines, (high, deep), strict=True):
        assert furthest_um(line[5:-5], sample(points)) < 2


def test_blocks_give_the_same_segments_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    tubes: list[Tube] = [STRAIGHT, ([(50.0, 80.0, 10.0), (42.0, 30.0, 85.0)], 2.0)]
    whole = find(tubes)
    monkeypatch.setattr(slabs, "SLAB_UM", 20.0)
    monkeypatch.setattr(slabs, "BLOCK_UM", 30.0)
    blocks = find(tubes)
    assert len(whole.capillaries) == len(blocks.capillaries) == 2
    for one, other in zip(whole.capillaries, blocks.capillaries, strict=True):
        assert one.length_um == pytest.approx(other.length_um, abs=2)
        assert furthest_um(in_um(one.line), in_um(other.line)) < 1.5


@pytest.mark.parametrize("value", [0.0, 0, 7])
def test_a_constant_stack_shows_nothing(value: float) -> None:
    stack = np.full((5, 30, 30), value)
    assert not find_segments(stack, UNIT, SegmentSettings()).capillaries


@pytest.mark.parametrize(
    "option", [{"contrast": 0.0}, {"capillary_radius_um": -1.0}, {"scales_um": ()}, {"gap": 3.0}]
)
def test_impossible_settings_are_refused(option: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        SegmentSettings.parse(option, "segment")


@pytest.mark.slow
def test_labelled_capillaries_of_a_real_stack_are_found(real_dir: Path) -> None:
    stack = tifffile.imread(real_dir / "stacks" / "poon2015_BBB_noLeakage_BM4D_denoised.tif")
    path = real_dir / "stacks" / "poon2015_BBB_noLeakage_manualLabel_v2.tif"
    sides_um, part = (5.0, 0.994, 0.994), np.s_[:10, :200, :300]
    labelled = tifffile.imread(path)[part] > 0
    network = read_network(path, sides_um)
    known = np.concatenate([each.line[:, ::-1] / sides_um - 0.5 for each in network.segments])
    known = known[((known >= 0) & (known <= np.array(labelled.shape) - 1)).all(axis=1)]
    found = find_segments(stack[part], sides_um, SegmentSettings())
    line = np.concatenate([each.line for each in found.capillaries])
    assert (cKDTree(line).query(known)[0] <= 2).mean() > 0.8
    away = ndimage.distance_transform_edt(~labelled)
    limits = np.array(labelled.shape) - 1
    near = away[tuple(np.clip(np.rint(line).astype(int), 0, limits).T)] <= 2
    assert near.mean() > 0.85


def test_a_loop_without_length_has_a_radius() -> None:
    line = np.array([[1.0, 1.0, 1.0], [1.5, 1.0, 1.0], [1.0, 1.0, 1.0]])
    loop = smooth(Segment(line, np.full(3, 2.0), np.array([0, 0])), 2.0)
    # Without a warning, which would be an error here.
    assert np.isfinite(loop.radius_um).all()
    assert length_um(loop) == 0


@pytest.mark.parametrize("gain", [1.8, 2.5])
def test_a_step_of_the_laser_power_adds_no_segments(gain: float) -> None:
    tubes: list[Tube] = [
        ([(10.0, 8.0, 12.0), (70.0, 110.0, 105.0)], 2.5),
        ([(15.0, 100.0, 10.0), (60.0, 20.0, 105.0)], 2.5),
    ]
    even = image((80.0, 120.0, 120.0), UNIT, tubes, noise=6.0) + 20.0
    stepped = even.copy()
    stepped[40:] *= gain
    before, after = (find_segments(each, UNIT, SegmentSettings()) for each in (even, stepped))
    lengths = [[each.length_um for each in found.capillaries] for found in (before, after)]
    np.testing.assert_allclose(lengths[0], lengths[1], atol=3)


_TRACE = """
import numpy as np
from stallscan.vessels.centrelines import trace
rows, columns = np.mgrid[0:800:4, 0:80:4].reshape(2, -1)
along = np.arange(250)
# 4,000 lines of 250 voxels that step to the side and back.
steps = np.stack(
    [
        np.tile(along, len(rows)),
        np.repeat(rows, 250) + np.tile(along // 2 % 2, len(rows)),
        np.repeat(columns, 250),
    ],
    axis=1,
)
assert len(trace(steps, steps.astype(float), np.full(len(steps), 2.0))) == len(rows)
"""


@pytest.mark.slow
@memory.needs_proc
def test_a_million_voxels_of_lines_are_traced_in_little_memory() -> None:
    # 300 MB; with lists of neighbours it was 600.
    assert memory.peak_bytes(_TRACE) < 450e6
