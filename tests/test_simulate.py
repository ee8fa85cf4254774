import dataclasses
import json

import cv2
import numpy as np
import pandas as pd
import pytest

from stallscan import video
from stallscan.errors import InputError, SettingsError
from stallscan.simulate import (
    AREA_PX,
    COLOUR,
    SimulateSettings,
    draw_frame_count,
    draw_labels,
    draw_outline,
    draw_pattern,
    make_plan,
    one,
    simulate,
)

SMALL = SimulateSettings(count=4, stalled=0.5, seed=3, height=160, width=192)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus")
    return out, simulate(out, SMALL, processes=1)


def kymograph(grey, truth):
    """Brightness along the centre line in each frame, and which points are in focus."""
    x, y, z = truth.line_um.T
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
    """Correlation of the pattern along the centre line, where in focus, in frames two apart."""
    lines, focus = kymograph(video.to_grey(frames), truth)
    found = [
        np.corrcoef(lines[t, both], lines[t + 2, both])[0, 1]
        for t in range(len(lines) - 2)
        if (both := focus[t] & focus[t + 2]).sum() >= 25
    ]
    return np.mean(found) if found else np.nan


def test_stalled_cells_stay_and_flowing_cells_do_not():
    rows = [
        row
        for row in range(30)
        if (truth := make_plan(1, row, False, SMALL).truth).shape == "plane"
        and truth.kind.startswith("flow")
    ]
    stay = [likeness(*one(1, row, True, SMALL)) for row in rows[:6]]
    go = [likeness(*one(1, row, False, SMALL)) for row in rows[:6]]
    assert np.nanmedian(stay) > 0.75
    assert np.nanmedian(go) < 0.45
    assert np.nanmin(stay) > np.nanmedian(go)


def test_both_labels_share_everything_but_motion():
    still, flow = (make_plan(5, 0, stalled, SMALL) for stalled in (True, False))
    assert np.array_equal(still.scene.outline.line, flow.scene.outline.line)
    assert np.array_equal(still.blood.plasma, flow.blood.plasma)
    assert np.array_equal(still.blood.start_um[1:], flow.blood.start_um[1:])
    assert np.array_equal(still.microscope.offset, flow.microscope.offset)
    assert still.truth.frames == flow.truth.frames
    assert still.truth.frames_in_focus == flow.truth.frames_in_focus
    assert np.ptp(still.blood.start_um[0]) < 2
    assert still.truth.speed_um_s == 0


def test_crawls_move_by_more_than_a_cell_while_in_focus():
    plans = [make_plan(2, row, False, SMALL) for row in range(40)]
    crawls = [plan for plan in plans if plan.blood.crawls]
    assert 1 <= len(crawls) <= 12
    for plan in crawls:
        a_frame = plan.truth.speed_um_s * plan.truth.frame_s
        assert 8 * a_frame > 18
        assert plan.truth.kind.startswith("crawl")


def test_frame_counts_are_those_of_the_real_table():
    rng = np.random.default_rng(0)
    counts = np.array([draw_frame_count(rng) for _ in range(4000)])
    assert np.abs(np.percentile(counts, (25, 50, 75)) - (49, 56, 66)).max() <= 1.5
    assert counts.min() >= 17
    assert 150 < counts.max() <= 434


@pytest.mark.parametrize("kind", ["cells", "train", "plug"])
def test_every_pattern_has_cells_and_plasma(kind):
    for seed in range(5):
        pattern = draw_pattern(np.random.default_rng(seed), kind)
        assert 0.1 < (pattern < 0.5).mean() < 0.9


def test_outline_is_closed_and_of_the_real_size():
    for row in range(12):
        plan = make_plan(4, row, False, SMALL)
        outline = plan.scene.outline
        assert AREA_PX[0] <= outline.interior.sum() <= AREA_PX[1]
        truth = plan.truth
        assert 0 <= truth.first_in_focus <= truth.last_in_focus < truth.frames


def test_outline_is_open_at_the_border():
    line = np.column_stack([np.full(40, 3.0), np.arange(60.0, 100), np.zeros(40)])
    outline = draw_outline(line, (160, 192), 12)
    assert outline.interior[:, 0].any()
    # It crosses the border twice and nothing is drawn along it.
    runs = np.diff(np.concatenate([[0], outline.line[:, 0].astype(int)])) == 1
    assert runs.sum() == 2


def test_outline_decodes_to_the_published_colour(corpus):
    out, _ = corpus
    for row, stalled in enumerate(draw_labels(SMALL)):
        frames = video.read(out / "train" / f"{100000 + row}.mp4").frames
        line = make_plan(SMALL.seed, row, bool(stalled), SMALL).scene.outline.line
        assert np.abs(frames[:, line].mean(axis=(0, 1)) - COLOUR).max() < 45
        red, green, blue = np.moveaxis(frames[0], -1, 0)
        found = (red >= 200) & (green <= 150) & (blue <= 150)
        for axis in (0, 1):
            drawn, seen = (np.flatnonzero(mask.any(axis=axis)) for mask in (line, found))
            assert abs(drawn[0] - seen[0]) <= 1
            assert abs(drawn[-1] - seen[-1]) <= 1


def test_tables_have_the_competition_form(corpus):
    out, summary = corpus
    metadata = pd.read_csv(out / "train_metadata.csv")
    labels = pd.read_csv(out / "train_labels.csv")
    truth = pd.read_csv(out / "truth.csv")
    assert list(metadata) == [
        "filename", "url", "project_id", "num_frames", "crowd_score", "tier1", "micro", "nano",
    ]  # fmt: skip
    assert list(labels) == ["filename", "stalled"]
    assert list(metadata["filename"]) == [f"{100000 + row}.mp4" for row in range(4)]
    assert metadata["url"][0] == "s3://simulated/train/100000.mp4"
    assert all(metadata[name].dtype == bool for name in ("tier1", "micro", "nano"))
    assert metadata["crowd_score"].between(0, 1).all()
    assert (metadata["micro"] >= metadata["nano"]).all()
    assert (metadata["tier1"] >= metadata["micro"]).all()
    assert labels["stalled"].sum() == summary.stalled == 2
    assert list(truth["stalled"]) == list(labels["stalled"])
    assert (truth["speed_um_s"] == 0).equals(truth["stalled"] == 1)
    for name, frames in zip(metadata["filename"], metadata["num_frames"], strict=True):
        recording = video.read(out / "train" / name)
        assert recording.shape == (frames, 160, 192, 3)


def test_any_number_of_processes_gives_the_same_files(corpus, tmp_path):
    out, _ = corpus
    simulate(tmp_path, SMALL, processes=2)
    files = sorted(path.relative_to(out) for path in out.rglob("*.*"))
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*"))
    for path in files:
        assert (out / path).read_bytes() == (tmp_path / path).read_bytes(), path


def test_continues_where_it_was_killed(tmp_path):
    settings = SMALL.model_copy(update={"count": 2})
    seen = []
    first = simulate(tmp_path, settings, processes=1, progress=lambda *done: seen.append(done))
    assert seen == [(1, 2), (2, 2)]
    assert first.rendered == 2
    before = (tmp_path / "truth.csv").read_bytes()
    kept = (tmp_path / "train" / "100000.mp4").stat().st_mtime_ns
    (tmp_path / "train" / "100001.mp4").unlink()
    (tmp_path / "truth.csv").unlink()
    again = simulate(tmp_path, settings, processes=1)
    assert again == dataclasses.replace(first, rendered=1)
    assert (tmp_path / "train" / "100000.mp4").stat().st_mtime_ns == kept
    assert (tmp_path / "truth.csv").read_bytes() == before


def test_summary_is_a_sentence(corpus):
    out, summary = corpus
    assert str(summary) == f"4 recordings, 2 stalled, 4 new -> {out}"


def test_refuses_a_folder_of_other_settings(corpus):
    out, _ = corpus
    with pytest.raises(InputError, match="other settings"):
        simulate(out, SMALL.model_copy(update={"seed": 4}), processes=1)
    assert json.loads((out / "simulation.json").read_text())["settings"]["seed"] == 3


def test_refuses_a_folder_of_real_recordings(tmp_path):
    (tmp_path / "train_metadata.csv").write_text("filename\n")
    with pytest.raises(InputError, match="not simulated here"):
        simulate(tmp_path, SMALL)


@pytest.mark.parametrize(
    ("name", "value"), [("count", 0), ("stalled", 1.5), ("stalled", -0.1), ("height", 201)]
)
def test_refuses_wrong_settings(name, value):
    with pytest.raises(SettingsError, match=name):
        SimulateSettings.parse({name: value}, "simulate")


def test_labels_are_exactly_the_fraction():
    labels = draw_labels(SimulateSettings(count=1000, stalled=0.046, seed=9))
    assert labels.sum() == 46
    assert not np.array_equal(labels, draw_labels(SimulateSettings(count=1000, stalled=0.046)))
