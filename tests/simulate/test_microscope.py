"""Scanning and display of recordings: ranges, and black areas."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from stallscan.simulate import microscope
from stallscan.simulate.contour import draw_outline
from stallscan.simulate.look import LookSettings
from stallscan.simulate.microscope import black_area, draw_microscope
from stallscan.simulate.projects import PROJECTS

FRAMES, HEIGHT, WIDTH = 30, 384, 512  # docs/facts.md 5
FIELD = slice(0, HEIGHT), slice(0, WIDTH)
COUNT = 300
LOOK = LookSettings()


def make_scene(centre, step_um=1.0):
    """The parts of a scene that a microscope needs: an outline around a slanted segment."""
    along = np.arange(-22.0, 23)
    line = np.add(centre, np.column_stack([0.8 * along, 0.6 * along]))
    outline = draw_outline(line, (HEIGHT, WIDTH), 12)
    return SimpleNamespace(shape=(FRAMES, HEIGHT, WIDTH), step_um=step_um, outline=outline)


def draw(seed, scene, project=None):
    return draw_microscope(
        np.random.default_rng(seed), scene, project or PROJECTS[seed % len(PROJECTS)], LOOK
    )


def paint_black(scope, frame):
    """Compute `black_area` of the whole field pixel by pixel."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    left, top, right, bottom = scope.edges[frame]
    outside = (columns < left) | (rows < top)
    outside |= (columns >= WIDTH - right) | (rows >= HEIGHT - bottom)
    return outside | scope.static_black


@pytest.fixture(scope="module")
def scene():
    return make_scene((300, 180))


@pytest.fixture(scope="module")
def scopes(scene):
    return [draw(seed, scene) for seed in range(COUNT)]


def test_scanning_takes_most_of_the_frame(scopes):
    for scope in scopes:
        assert 0.5 <= scope.frame_s <= 1
        assert 0.8 <= scope.line_s * HEIGHT / scope.frame_s <= 0.97


def test_optics_and_detector_stay_in_their_ranges(scopes):
    for name, low, high in (
        ("psf_xy_um", 0.8, 1.4),
        ("psf_z_um", 1.4, 2.8),
        ("attenuation_um", 100, 600),
        ("photons", 5, 150),
        ("excess", 0.2, 0.5),
        ("read_noise", 0.1, 0.6),
        ("background", 0.02, 0.3),
    ):
        values = np.array([getattr(scope, name) for scope in scopes])
        assert low <= values.min() < values.max() <= high, name
        # They fill a good part of their range.
        assert np.ptp(values) > 0.5 * (high - low), name


@pytest.mark.parametrize("name", ["psf_xy_um", "psf_z_um", "photons", "background"])
def test_recordings_vary_around_their_project(scene, name):
    low, *_, high = sorted(PROJECTS, key=lambda project: getattr(project, name))
    few, many = (
        [getattr(draw(seed, scene, project), name) for seed in range(60)] for project in (low, high)
    )
    assert np.ptp(few) > 0
    assert np.median(few) < np.median(many)
    # They are drawn in proportion to the project's own value.
    wanted = getattr(high, name) / getattr(low, name)
    assert np.median(many) / np.median(few) == pytest.approx(wanted, rel=0.3)


@pytest.mark.parametrize("step_um", [0.9, 1.0, 1.1])
def test_power_is_laser_times_attenuation(step_um):
    scene = make_scene((300, 180), step_um)
    for seed in range(40):
        scope = draw(seed, scene)
        depth_um = np.arange(FRAMES) * step_um
        scale = scope.power / (scope.laser * np.exp(-depth_um / scope.attenuation_um))
        assert scale == pytest.approx(np.full(FRAMES, scale[0]))
        assert np.median(scope.power) == pytest.approx(1)


def test_laser_is_stepped_up_in_a_quarter_of_the_recordings(scopes):
    steps = [scope.laser[1:] / scope.laser[:-1] for scope in scopes]
    for scope, step in zip(scopes, steps, strict=True):
        assert scope.laser[0] == 1
        up = step[step != 1]
        assert up.size <= 2
        # Two steps may fall on the same frame.
        assert ((up >= 1.2) & (up <= 2.2**2)).all()
    assert 0.15 < np.mean([(step != 1).any() for step in steps]) < 0.35


def test_display_runs_from_the_tissue_to_the_plasma(scopes):
    black = np.array([scope.black_photons / scope.photons for scope in scopes])
    white = black + [microscope.WHITE_GREY / (s.grey_per_photon * s.photons) for s in scopes]
    tissue = black / [scope.background for scope in scopes]
    assert LOOK.black_level[0] <= tissue.min() <= tissue.max() <= LOOK.black_level[1]
    assert LOOK.white_level[0] <= white.min() <= white.max() <= LOOK.white_level[1] + 1e-9
    assert (white - black).min() > 0.1
    # Both kinds are there: tissue that is black, and tissue that is grey.
    assert 0.02 < (tissue > 1).mean() < 0.9


def test_motion_is_still_in_most_recordings(scopes):
    furthest = np.array([np.abs(scope.offset).max() for scope in scopes])
    for scope in scopes:
        assert scope.offset.shape == (FRAMES, HEIGHT, 2)
        assert scope.offset.dtype == np.float32
        assert np.isfinite(scope.offset).all()
    assert 0.2 < (furthest > 4).mean() < 0.45
    assert furthest[furthest <= 4].min() > 0
    assert furthest.max() < 150


def test_frames_and_rows_of_a_still_recording_move_smoothly(scopes):
    still = [scope.offset for scope in scopes if np.abs(scope.offset).max() < 2.5]
    assert len(still) > COUNT / 2
    between = np.array([offset.mean(axis=1).std(axis=0).mean() for offset in still])
    assert 0.1 <= np.median(between) <= 0.5
    rows = np.array([np.abs(np.diff(offset, axis=1)).max() for offset in still])
    assert 0 < rows.max() < 0.2


def test_rolled_bands_are_shifted_sideways_only(scopes):
    jumps = [np.abs(np.diff(scope.offset, axis=1)) for scope in scopes]
    rolled = [jump for jump in jumps if jump[..., 0].max() > 8]
    assert 0.1 < len(rolled) / COUNT < 0.3
    assert max(jump[..., 1].max() for jump in jumps) < 5
    for jump in rolled:
        # At most three bands, each of which has two borders in one frame.
        assert (jump[..., 0] > 8).sum() <= 6


def test_smears_last_a_few_frames(scopes):
    bad = [np.abs(scope.offset[..., 1]).max(axis=1) > 4 for scope in scopes]
    smeared = [frames for frames in bad if frames.any()]
    assert 0.08 < len(smeared) / COUNT < 0.35
    # At most three smears of at most four frames.
    assert max(frames.sum() for frames in smeared) <= 12


def test_black_areas_cover_as_much_as_in_real_recordings(scopes):
    cover = np.array([black_area(scope, FRAMES // 2, *FIELD).mean() for scope in scopes])
    # docs/facts.md 5: 17 % pure black in the one original.
    assert np.percentile(cover, 5) < 0.05
    assert 0.03 < np.median(cover) < 0.14
    assert np.percentile(cover, 95) > 0.17
    assert cover.max() < 0.7


def test_black_areas_leave_the_outlined_region_clear(scene, scopes):
    for scope in scopes:
        black = np.mean([paint_black(scope, frame) for frame in (0, FRAMES - 1)], axis=0)
        assert black[scene.outline.interior].mean() <= 0.15


@pytest.mark.parametrize("centre", [(30, 28), (WIDTH - 30, HEIGHT - 28), (60, 28)])
def test_wedges_leave_an_outline_in_a_corner_mostly_clear(centre):
    scene = make_scene(centre)
    worst = max(
        draw(seed, scene).static_black[scene.outline.interior].mean() for seed in range(250)
    )
    assert 0 < worst <= 0.15


@pytest.mark.parametrize("centre", [(30, 28), (WIDTH - 30, HEIGHT - 28), (3, 190), (256, 120)])
def test_margins_never_reach_the_outlined_region(centre):
    scene = make_scene(centre)
    rows, columns = np.nonzero(scene.outline.line)
    for seed in range(40):
        left, top, right, bottom = draw(seed, scene).edges.T
        assert (np.array([left, top, right, bottom]) >= 0).all()
        assert (left <= columns.min()).all()
        assert (top <= rows.min()).all()
        assert (right <= WIDTH - 1 - columns.max()).all()
        assert (bottom <= HEIGHT - 1 - rows.max()).all()


def test_margins_drift_by_a_few_pixels(scopes):
    edges = np.stack([scope.edges for scope in scopes])
    assert edges.shape == (COUNT, FRAMES, 4)
    assert np.issubdtype(edges.dtype, np.integer)
    assert np.abs(np.diff(edges, axis=1)).max() <= 6
    drift = np.ptp(edges, axis=1).mean(axis=1)
    assert 1 < np.median(drift) < 12


def count_level(blacks, way):
    """Count the fields with 6-20 black rows at the border and a nearly clear row next to them."""
    heights = [black[::way].all(axis=1).argmin() for black in blacks]
    return sum(
        6 <= height <= 20 and black[::way][height].mean() < 0.3
        for height, black in zip(heights, blacks, strict=True)
    )


def test_some_recordings_have_a_dead_strip_at_the_bottom(scopes):
    blacks = [scope.static_black for scope in scopes]
    assert 0.03 < count_level(blacks, -1) / COUNT < 0.15
    # Wedges are hardly ever level.
    assert count_level(blacks, 1) < 0.4 * count_level(blacks, -1)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (slice(0, 40), slice(0, 50)),
        (slice(60, 110), slice(100, 190)),
        (slice(HEIGHT - 30, HEIGHT), slice(WIDTH - 45, WIDTH)),
        (slice(0, HEIGHT), slice(5, 6)),
        FIELD,
    ],
)
def test_a_window_of_black_is_cut_from_the_whole_field(scopes, rows, columns):
    for scope in scopes[:60]:
        for frame in (0, 11, FRAMES - 1):
            window = black_area(scope, frame, rows, columns)
            assert window.dtype == bool
            assert np.array_equal(window, paint_black(scope, frame)[rows, columns])


def test_asking_for_black_changes_nothing(scopes):
    scope = max(scopes, key=lambda each: each.edges.min(axis=0).max())
    before = scope.static_black.copy()
    black_area(scope, 0, *FIELD)[:] = True
    assert np.array_equal(scope.static_black, before)


def test_the_same_generator_draws_the_same(scene):
    first, again, other = (dataclasses.asdict(draw(seed, scene, PROJECTS[0])) for seed in (5, 5, 6))
    for name, value in first.items():
        assert np.array_equal(value, again[name]), name
    assert not np.array_equal(first["offset"], other["offset"])
    assert first["photons"] != other["photons"]
