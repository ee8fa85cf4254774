import numpy as np
import pytest
import tifffile

from stallscan.errors import InputError
from stallscan.simulate import SimulateSettings, make_plan, region
from stallscan.simulate.labels import place, read_network

# Three arms of a Y, z, y, x in voxels, and where they meet.
JOINT = np.array([15.3, 50.4, 60.2])
TIPS = np.array([[14.2, 46.7, 5.1], [8.0, 90.0, 100.0], [22.0, 10.0, 100.0]])
RADIUS = 4.0


@pytest.fixture(scope="module")
def branching(tmp_path_factory):
    """A label stack of a branching vessel, 30 x 100 x 110 voxels."""
    grid = np.stack(np.meshgrid(*map(np.arange, (30, 100, 110)), indexing="ij"), -1).astype(float)
    labels = np.zeros(grid.shape[:3], np.uint8)
    for number, tip in enumerate(TIPS, 1):
        way = tip - JOINT
        share = np.clip(((grid - JOINT) @ way) / (way @ way), 0, 1)
        away = np.linalg.norm(grid - JOINT - share[..., None] * way, axis=-1)
        labels[away <= RADIUS] = number
    path = tmp_path_factory.mktemp("labels") / "y.tif"
    tifffile.imwrite(path, labels)
    return path


def test_a_branching_vessel_gives_three_segments(branching):
    network = read_network(branching, (1.0, 1.0, 1.0))
    assert len(network.segments) == 3
    assert network.extent_um == (110, 100, 30)
    # The skeleton ends about a radius before the tube does.
    lengths = sorted(len(segment.line) - 1 for segment in network.segments)
    expected = sorted(np.linalg.norm(TIPS - JOINT, axis=1))
    assert lengths == pytest.approx(expected, abs=RADIUS + 3)
    for segment in network.segments:
        assert np.median(segment.radius_um) == pytest.approx(RADIUS, rel=0.15)
        assert len(segment.radius_um) == len(segment.line)
    ends = np.concatenate([segment.line[[0, -1]] for segment in network.segments])
    at_joint = np.linalg.norm(ends - (JOINT[::-1] + 0.5), axis=1) < RADIUS
    assert at_joint.sum() == 3
    assert np.ptp(ends[at_joint], axis=0).max() < 0.01


def test_a_straight_vessel_has_no_stairs(branching):
    for segment in read_network(branching, (1.0, 1.0, 1.0)).segments:
        inner = segment.line[10:-10]
        chord = inner[-1] - inner[0]
        way = inner - inner[0]
        off = way - np.outer(way @ chord, chord) / (chord @ chord)
        assert np.linalg.norm(off, axis=1).max() < 0.8
        steps = np.linalg.norm(np.diff(segment.line, axis=0), axis=1)
        assert steps == pytest.approx(1, abs=0.1)


def test_voxels_have_a_size(branching):
    fine = read_network(branching, (1.0, 1.0, 1.0))
    coarse = read_network(branching, (2.0, 1.0, 1.0))
    assert coarse.extent_um == (110, 100, 60)
    assert len(coarse.segments) == len(fine.segments)
    depth = [np.ptp(np.concatenate([s.line for s in n.segments])[:, 2]) for n in (fine, coarse)]
    assert depth[1] == pytest.approx(2 * depth[0], rel=0.2)


def test_a_placed_network_fills_the_field(branching):
    network = read_network(branching, (1.0, 1.0, 1.0))
    placed = place(network, np.random.default_rng(0), (300.0, 200.0, 60.0))
    assert len(placed.segments) > 20
    points = np.concatenate([segment.line for segment in placed.segments])
    for part in range(3):
        assert ((points[:, 0] > 100 * part) & (points[:, 0] < 100 * part + 100)).sum() > 100
    again = place(network, np.random.default_rng(0), (300.0, 200.0, 60.0))
    assert np.array_equal(again.segments[3].line, placed.segments[3].line)


def test_blood_flows_through_the_labelled_vessels(branching):
    settings = SimulateSettings(height=160, width=192, label_stack=str(branching))
    frames, truth = region(0, 1, True, settings)
    assert truth.stalled
    assert len(frames) == truth.frames
    assert np.ptp(frames[..., 2]) > 50
    radius = make_plan(0, 1, True, settings).scene.vessels[1].radius_um
    assert np.median(radius) == pytest.approx(RADIUS, rel=0.2)


def test_real_stacks_give_networks(real_dir):
    path = real_dir / "stacks" / "poon2015_BBB_noLeakage_manualLabel_v2.tif"
    network = read_network(path, (2.0, 1.0, 1.0))
    length = sum(len(segment.line) - 1 for segment in network.segments)
    # m a mm3; the voxels' size is not told, so that this is right within a factor of two or so.
    assert 0.5 < length / np.prod(network.extent_um) * 1e3 < 3
    radius = np.concatenate([segment.radius_um for segment in network.segments])
    assert 1.5 <= np.median(radius) < 4
    assert radius.max() < 20


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (np.zeros((5, 20, 20), np.uint8), "every label is 0"),
        (np.ones((20, 20), np.uint8), "2 dimensions of uint8; a stack of integer labels"),
        (np.ones((5, 20, 20), np.float32), "3 dimensions of float32"),
    ],
)
def test_what_is_no_label_stack(tmp_path, content, sentence):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, content)
    with pytest.raises(InputError, match=sentence):
        read_network(path, (1.0, 1.0, 1.0))


def test_a_missing_or_unreadable_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_network(tmp_path / "a.tif", (1.0, 1.0, 1.0))
    (tmp_path / "b.tif").write_bytes(b"no tiff")
    with pytest.raises(InputError, match="not readable as a TIFF stack"):
        read_network(tmp_path / "b.tif", (1.0, 1.0, 1.0))
