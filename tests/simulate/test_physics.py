"""Physical parameters can be measured in the rendered recordings."""

import dataclasses
import itertools

import numpy as np
import pytest

from stallscan.simulate import SimulateSettings, make_plan
from stallscan.simulate.blood import PATTERN_LENGTH, draw_patterns
from stallscan.simulate.detector import expose
from stallscan.simulate.imaging import Window, render, whole_field
from stallscan.simulate.scene import Vessel

SMALL = SimulateSettings(height=128, width=160)
WHOLE = Window(slice(0, 128), slice(0, 160))


def still_microscope(plan, **changes):
    """Return a microscope without motion, blur, black areas or changes of laser power."""
    scope = plan.microscope
    return dataclasses.replace(
        scope,
        offset=np.zeros_like(scope.offset),
        static_black=np.zeros_like(scope.static_black),
        edges=np.zeros_like(scope.edges),
        power=np.ones_like(scope.power),
        background=0.0,
        **changes,
    )


def bare_scene(plan, **changes):
    """Return a scene with only these vessels."""
    return dataclasses.replace(
        plan.scene, vessels=(), puncta=np.zeros((0, 4)), haze=np.ones_like(plan.scene.haze),
        **changes,
    )  # fmt: skip


def film_of_a_vessel(speed_um_s, frame_s, turn, seed=0):
    """Render a straight vessel at one depth repeatedly; return the light along it, (frames, um)."""
    plan = make_plan(seed, 0, False, SMALL)
    frames = plan.scene.shape[0]
    along = np.arange(100.0) - 50
    line = np.column_stack(
        [80 + along * np.cos(turn), 64 + along * np.sin(turn), np.zeros(along.size)]
    )
    vessel = Vessel(line, np.full(along.size, 2.5), 1.0)
    scene = dataclasses.replace(bare_scene(plan), vessels=(vessel,), step_um=0.0, um_per_px=1.0)
    time = np.arange(frames) * frame_s
    blood = dataclasses.replace(
        plan.blood,
        dark=draw_patterns(np.random.default_rng(seed), ["cells"]),
        pattern=np.zeros(1, np.int32),
        contrast=np.full(1, 0.9, np.float32),
        speed_um_s=np.full((1, frames), speed_um_s),
        start_um=speed_um_s * time[None],
        pulse=np.array([[0.0, 8.0, 0.0]]),
        frame_s=frame_s,
    )
    scope = still_microscope(plan, frame_s=frame_s, line_s=0.9 * frame_s / 128)
    light = render(scene, blood, scope, WHOLE)
    columns, rows = np.rint(line[10:-10, :2]).astype(int).T
    return light[:, rows, columns], rows * scope.line_s


def measured_speed(lines, row_s, frame_s):
    """Estimate the speed by correlating successive lines, allowing for the scan time of rows."""
    place = np.arange(lines.shape[1], dtype=float)
    lines = lines - lines.mean(axis=0)
    best, best_speed = -np.inf, np.nan
    for speed in np.linspace(-25, 25, 1001) / frame_s:
        score = 0.0
        for now, later in itertools.pairwise(lines):
            # What is at `place` when its row is scanned was `shift` before, one frame ago.
            rest = place - speed * row_s
            order = np.argsort(rest)
            was = np.interp(rest - speed * frame_s, rest[order], now[order], np.nan, np.nan)
            both = np.isfinite(was)
            if both.sum() < 25:
                break
            score += np.corrcoef(was[both], later[both])[0, 1]
        else:
            if score > best:
                best, best_speed = score, speed
    return best_speed


@pytest.mark.parametrize("turn", [0.0, np.pi / 2, 0.7])
@pytest.mark.parametrize(("speed_um_s", "frame_s"), [(40, 0.3), (-110, 0.1), (700, 0.02)])
def test_the_speed_is_found_in_the_kymograph(speed_um_s, frame_s, turn):
    lines, row_s = film_of_a_vessel(speed_um_s, frame_s, turn)
    found = measured_speed(lines[:12], row_s, frame_s)
    assert found == pytest.approx(speed_um_s, rel=0.1)


def test_a_stall_has_no_speed():
    lines, row_s = film_of_a_vessel(0.0, 0.5, 0.7)
    assert abs(measured_speed(lines[:12], row_s, 0.5)) < 0.5
    assert np.allclose(lines, lines[0])


def test_the_psf_is_found_in_a_point():
    plan = make_plan(1, 0, False, SMALL)
    middle = plan.scene.shape[0] // 2 * plan.scene.step_um
    pixel = plan.scene.um_per_px
    spot = np.array([[80.3 * pixel, 64.6 * pixel, middle, 1.0]])
    scene = dataclasses.replace(bare_scene(plan), puncta=spot)
    scope = still_microscope(plan)
    light = render(scene, plan.blood, scope, WHOLE).astype(float)
    # The grid of pixels widens the point a little, so that it is lower.
    assert 0.7 < light.max() <= 1.01
    for axis, step, sigma in (
        (0, plan.scene.step_um, scope.psf_z_um),
        (1, pixel, scope.psf_xy_um),
        (2, pixel, scope.psf_xy_um),
    ):
        profile = light.sum(axis=tuple({0, 1, 2} - {axis}))
        at = np.arange(profile.size) * step
        mean = (profile * at).sum() / profile.sum()
        found = np.sqrt((profile * (at - mean) ** 2).sum() / profile.sum())
        assert found == pytest.approx(sigma, rel=0.12)


def test_a_wide_vessel_is_as_bright_as_its_plasma():
    plan = make_plan(1, 0, False, SMALL)
    line = np.column_stack([np.arange(0.0, 200), np.full(200, 64.0), np.full(200, 20.0)])
    line[:, :2] *= plan.scene.um_per_px
    vessel = Vessel(line, np.full(200, 5.9), 0.8)
    scene = dataclasses.replace(bare_scene(plan), vessels=(vessel,))
    frames = plan.scene.shape[0]
    blood = dataclasses.replace(
        plan.blood,
        dark=np.zeros((1, PATTERN_LENGTH), np.float32),
        pattern=np.zeros(1, np.int32),
        contrast=np.ones(1, np.float32),
        speed_um_s=np.zeros((1, frames)),
        start_um=np.zeros((1, frames)),
        pulse=np.array([[0.0, 8.0, 0.0]]),
    )
    light = render(scene, blood, still_microscope(plan, psf_z_um=1.6, psf_xy_um=0.8), WHOLE)
    frame = round(20 / plan.scene.step_um)
    assert light[frame, 63:66, 40:120].mean() == pytest.approx(0.8, rel=0.05)


def test_the_photon_gain_is_found_in_the_noise():
    plan = make_plan(1, 0, False, SMALL)
    scope = still_microscope(
        plan, photons=40.0, excess=0.3, read_noise=0.0, blur_px=(0.0, 0.0), black_photons=0.0,
        grey_per_photon=2.0,
    )  # fmt: skip
    levels = np.array([0.2, 0.5, 1.0, 1.5])
    light = np.broadcast_to(levels[:, None, None], (4, 128, 160)).astype(np.float32)
    grey = expose(light, scope, WHOLE, np.random.default_rng(0)).astype(float)
    assert grey.mean(axis=(1, 2)) + 0.5 == pytest.approx(2.0 * 40 * levels, rel=0.02)
    gain = np.polyfit(grey.mean(axis=(1, 2)), grey.var(axis=(1, 2)), 1)[0]
    assert gain == pytest.approx(2.0 * (1 + 0.3**2), rel=0.05)


def test_the_attenuation_is_found_in_depth():
    plan = next(
        plan
        for row in range(30)
        if (plan := make_plan(1, row, False, SMALL)).scene.shape[0] > 40
        and np.all(plan.microscope.laser == 1)
    )
    scope = dataclasses.replace(still_microscope(plan), power=plan.microscope.power, background=0.2)
    light = render(bare_scene(plan), plan.blood, scope, whole_field(plan.scene))
    depth = np.arange(len(light)) * plan.scene.step_um
    slope = np.polyfit(depth, np.log(light.mean(axis=(1, 2))), 1)[0]
    assert -1 / slope == pytest.approx(scope.attenuation_um, rel=0.05)


def test_a_step_of_the_laser_is_found():
    plan = next(
        plan
        for row in range(60)
        if np.ptp((plan := make_plan(1, row, False, SMALL)).microscope.laser) > 0
    )
    scope = dataclasses.replace(still_microscope(plan), power=plan.microscope.power, background=0.2)
    mean = render(bare_scene(plan), plan.blood, scope, WHOLE).mean(axis=(1, 2))
    steps = np.exp(np.diff(np.log(mean))) * np.exp(plan.scene.step_um / scope.attenuation_um)
    wanted = plan.microscope.laser[1:] / plan.microscope.laser[:-1]
    assert steps == pytest.approx(wanted, rel=0.03)
