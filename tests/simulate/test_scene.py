import dataclasses

import cv2
import numpy as np
import pytest

from stallscan.recordings import encode, recording, video
from stallscan.recordings.recording import from_array
from stallscan.simulate import (
    AREA_PX,
    COLOUR,
    DECODED_COLOUR,
    SimulateSettings,
    draw_outline,
    make_plan,
    one,
    region,
)
from stallscan.simulate.look import LookSettings
from stallscan.simulate.network import grow
from stallscan.simulate.projects import PROJECTS
from stallscan.vessels import outline

SMALL = SimulateSettings(height=160, width=192)
PROJECT = PROJECTS[0]


def kymograph(grey, truth):
    """Return the brightness along the centre line in each frame, and which points are in focus."""
    x, y, z = truth.line_px.T
    rows = np.clip(np.rint(y).astype(int), 0, grey.shape[1] - 1)
    lines, focus = [], []
    for frame, image in enumerate(grey):
        dx, dy = truth.offset_px[frame, rows].T
        place = np.float32(x - dx)[None], np.float32(y - dy)[None]
        smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 0.8)
        lines.append(cv2.remap(smooth, *place, cv2.INTER_LINEAR)[0])
        focus.append(np.abs(z - frame) < 2.5)
    return np.array(lines), np.array(focus)


def likeness(frames, truth):
    """Correlate the pattern along the centre line, where in focus, between frames two apart."""
    lines, focus = kymograph(recording.to_grey(frames), truth)
    found = [
        np.corrcoef(lines[t, both], lines[t + 2, both])[0, 1]
        for t in range(len(lines) - 2)
        if (both := focus[t] & focus[t + 2]).sum() >= 25
    ]
    return np.mean(found) if found else np.nan


@pytest.mark.slow
def test_stalled_cells_stay_and_flowing_cells_do_not():
    rows = [
        row
        for row in range(60)
        if (flow := make_plan(1, row, False, SMALL, PROJECT).truth).shape == "plane"
        and flow.motion == "flow"
        and flow.kind in ("train", "plug")
        and make_plan(1, row, True, SMALL, PROJECT).truth.motion == "stall"
    ]
    assert len(rows) >= 3
    stay = [likeness(*one(1, row, True, SMALL, PROJECT)) for row in rows[:6]]
    go = [likeness(*one(1, row, False, SMALL, PROJECT)) for row in rows[:6]]
    assert np.nanmedian(stay) > 0.7
    assert np.nanmedian(go) < 0.5
    assert np.nanmedian(stay) > np.nanmedian(go) + 0.3


def test_both_labels_share_everything_but_motion():
    still, flow = (make_plan(5, 0, stalled, SMALL, PROJECT) for stalled in (True, False))
    assert np.array_equal(still.scene.outline.line, flow.scene.outline.line)
    assert np.array_equal(still.scene.puncta, flow.scene.puncta)
    for ours, theirs in zip(still.scene.vessels, flow.scene.vessels, strict=True):
        assert np.array_equal(ours.line, theirs.line)
    assert np.array_equal(still.blood.dark, flow.blood.dark)
    assert np.array_equal(still.blood.start_um[1:], flow.blood.start_um[1:])
    assert np.array_equal(still.microscope.offset, flow.microscope.offset)
    for name in ("frames", "frames_in_focus", "kind", "shape", "frame_s", "project"):
        assert getattr(still.truth, name) == getattr(flow.truth, name)
    assert still.truth.speed_um_s < 0.7 * flow.truth.speed_um_s


@pytest.mark.slow
def test_large_vessels_are_outlined_at_times_and_never_stall():
    shapes = {
        stalled: [make_plan(0, row, stalled, SMALL).scene.shape_kind for row in range(120)]
        for stalled in (False, True)
    }
    assert 1 <= shapes[False].count("large") <= 12
    assert "large" not in shapes[True]


def test_steep_segments_run_through_more_of_the_depth_and_stay_inside_it():
    usual, steep = (
        [make_plan(7, row, row % 2 == 0, settings, PROJECT) for row in range(30)]
        for settings in (SMALL, SMALL.model_copy(update={"look": LookSettings(steep=1.0)}))
    )
    assert {plan.truth.shape for plan in steep} == {"steep"}
    assert "steep" not in {plan.truth.shape for plan in usual}
    um = [[float(np.ptp(plan.truth.line_um[:, 2])) for plan in plans] for plans in (usual, steep)]
    assert np.median(um[1]) > 1.5 * np.median(um[0])
    for plan in steep:
        frame = plan.truth.line_px[:, 2]
        assert 0 < frame.min() <= frame.max() < plan.truth.frames - 1


def test_wide_vessels_cross_the_outlined_region_apart_from_the_segment():
    crossed = SMALL.model_copy(update={"look": LookSettings(crossed=1.0)})
    more = 0
    for row in range(30):
        usual, plan = (make_plan(7, row, False, look, PROJECT).scene for look in (SMALL, crossed))
        before = len(usual.vessels)
        # Nothing else moves.
        assert np.array_equal(plan.vessels[0].line, usual.vessels[0].line)
        assert np.array_equal(plan.vessels[before - 1].line, usual.vessels[-1].line)
        if len(plan.vessels) == before:
            continue
        more += 1
        segment, wide = plan.vessels[0], plan.vessels[-1]
        column, row_px = np.rint(wide.line[:, :2] / plan.um_per_px).astype(int).T
        rows, columns = plan.outline.interior.shape
        seen = (row_px >= 0) & (row_px < rows) & (column >= 0) & (column < columns)
        assert plan.outline.interior[row_px[seen], column[seen]].any()
        apart = np.linalg.norm(wide.line[:, None] - segment.line[None], axis=2).min()
        assert wide.radius_um.mean() > 3
        assert apart > wide.radius_um.mean()
    assert more > 20


def test_the_region_is_that_of_the_whole_recording():
    whole, truth = one(3, 2, True, SMALL, PROJECT)
    part, same = region(3, 2, True, SMALL, 8, PROJECT)
    assert dataclasses.replace(truth, line_um=0, offset_px=0) == dataclasses.replace(
        same, line_um=0, offset_px=0
    )
    box = outline.find_outline(from_array(whole)).box
    crop = whole[:, box.row0 - 8 : box.row1 + 8, box.col0 - 8 : box.col1 + 8]
    assert crop.shape == part.shape
    # Noise differs; what is seen is the same.
    calm = [cv2.blur(frames.mean(axis=3).mean(axis=0), (3, 3)) for frames in (crop, part)]
    assert np.corrcoef(calm[0].ravel(), calm[1].ravel())[0, 1] > 0.98
    drawn = (part == DECODED_COLOUR).all(axis=(0, 3))
    assert np.array_equal(drawn, (crop == COLOUR).all(axis=(0, 3)))


def test_every_recording_has_a_segment_in_focus_and_an_outline_of_the_real_size():
    for row in range(40):
        plan = make_plan(4, row, row % 2 == 0, SMALL)
        drawn = plan.scene.outline
        assert AREA_PX[0] <= (drawn.interior & ~drawn.line).sum() <= AREA_PX[1]
        truth = plan.truth
        assert 0 <= truth.first_in_focus <= truth.last_in_focus < truth.frames
        assert truth.difficulty in ("easy", "medium", "hard")
        column, line_row, frame = truth.line_px.T
        assert drawn.interior[
            np.clip(np.rint(line_row).astype(int), 0, 159),
            np.clip(np.rint(column).astype(int), 0, 191),
        ].all()
        assert 0 < frame.min() <= frame.max() < truth.frames


def test_outline_is_open_at_the_border():
    line = np.column_stack([np.full(40, 3.0), np.arange(60.0, 100)])
    found = draw_outline(line, (160, 192), 12)
    assert found.interior[:, 0].any()
    # It crosses the border twice and nothing is drawn along it.
    runs = np.diff(np.concatenate([[0], found.line[:, 0].astype(int)])) == 1
    assert runs.sum() == 2


def test_outline_decodes_to_the_published_colour(tmp_path):
    frames, _ = one(3, 0, False, SMALL)
    line = make_plan(3, 0, False, SMALL).scene.outline.line
    encode.write_video(tmp_path / "a.mp4", frames, frame_rate=15, crf=15)
    decoded = video.read_recording(tmp_path / "a.mp4").frames
    assert np.abs(decoded[:, line].mean(axis=(0, 1)) - COLOUR).max() < 45
    red, green, blue = np.moveaxis(decoded[0], -1, 0)
    found = (red >= 200) & (green <= 150) & (blue <= 150)
    for axis in (0, 1):
        drawn, seen = (np.flatnonzero(mask.any(axis=axis)) for mask in (line, found))
        assert abs(drawn[0] - seen[0]) <= 1
        assert abs(drawn[-1] - seen[-1]) <= 1


def test_the_network_branches_in_threes_and_has_no_dead_ends():
    rng = np.random.default_rng(0)
    segment = np.column_stack([np.arange(100.0, 160), np.full(60, 100.0), np.full(60, 30.0)])
    low, high = np.full(3, -30.0), np.array([330.0, 280.0, 90.0])
    network = grow(rng, segment, low, high, 1.2e-3)
    ends = network.points[:, [0, -1]].reshape(-1, 3)
    nodes = network.nodes.ravel()
    degree = np.bincount(nodes)
    degree[:2] += 1
    assert degree.max() == 3
    inside = {
        int(node)
        for node, end in zip(nodes, ends, strict=True)
        if (end > low + 25).all() and (end < high - 25).all()
    } - {0, 1}
    assert len(inside) > 20
    assert all(degree[node] >= 2 for node in inside)
    # What is not joined to the segment keeps away from it.
    free = network.points[(network.nodes > 1).all(axis=1)].reshape(-1, 1, 3)
    assert np.linalg.norm(free - segment, axis=2).min() >= 9


def test_nothing_is_drawn_by_chance():
    ours, theirs = (one(6, 1, True, SMALL)[0] for _ in range(2))
    assert np.array_equal(ours, theirs)
    assert not np.array_equal(ours[:17], one(6, 2, True, SMALL)[0][:17])


def test_every_project_gives_recordings():
    for project in PROJECTS:
        frames, truth = region(8, 0, False, SMALL, project=project)
        assert truth.project == project.letter
        assert len(frames) == truth.frames
        assert np.ptp(frames[..., 2]) > 50


@pytest.mark.parametrize("name", ["count", "height"])
def test_settings_are_checked(name):
    with pytest.raises(ValueError, match=name):
        SimulateSettings(**{name: 0})
