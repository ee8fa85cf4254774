"""Folders of simulated recordings and clips, their tables, the crowd, and the contact sheet."""

import dataclasses
import json
import re

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile

from stallscan.catalog import tables
from stallscan.clips import fill, prepare
from stallscan.clips.clip import ClipSettings
from stallscan.clips.prepare import Preprocessing
from stallscan.clips.store import Store
from stallscan.errors import InputError, SettingsError
from stallscan.recordings import video
from stallscan.recordings.find import Source
from stallscan.recordings.recording import from_array
from stallscan.simulate import corpus, crowd, make_plan, region, sheet
from stallscan.simulate.corpus import draw_labels, simulate, simulate_clips
from stallscan.simulate.look import LookSettings
from stallscan.simulate.settings import SheetSettings, SimulateSettings
from stallscan.vessels import colours, outline
from stallscan.vessels.outline import OutlineSettings

SMALL = SimulateSettings(count=4, stalled=0.5, seed=3, height=160, width=192)
CLIP = ClipSettings(size=32, shape="pad", channels="grey+mask")


def _clips(out, settings=SMALL, **options):
    return simulate_clips(out, settings, OutlineSettings(), CLIP, **options)


def _same_files(one, other):
    names = sorted(path.relative_to(one) for path in one.rglob("*.*"))
    assert names == sorted(path.relative_to(other) for path in other.rglob("*.*"))
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    out = tmp_path_factory.mktemp("videos")
    return out, simulate(out, SMALL, processes=1)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    out = tmp_path_factory.mktemp("clips")
    return out, _clips(out, processes=1)


# The crowd


@pytest.fixture(scope="module")
def real(real_dir):
    folder = real_dir / "metadata"
    metadata = tables.read_metadata(folder / "train_metadata.csv.gz")
    return metadata.merge(tables.read_labels(folder / "train_labels.csv.gz"), on="filename")


def _drawn(real, stalled, count):
    """Draws of the crowd's scores, with the numbers per project of the real table."""
    rng = np.random.default_rng(1)
    projects = rng.choice(real.loc[real["stalled"] == stalled, "project_id"], count)
    drawn = [crowd.draw_crowd(rng, project, bool(stalled)) for project in projects]
    return np.array([score for score, _ in drawn]), np.array([crowd.is_tier1(*d) for d in drawn])


@pytest.mark.parametrize(
    ("stalled", "count", "zero", "tolerance"), [(0, 40_000, 0.922, 0.02), (1, 8_000, 0.075, 0.03)]
)
def test_the_crowd_scores_like_the_real_one(real, stalled, count, zero, tolerance):
    scores, tier1 = _drawn(real, stalled, count)
    rows = real[real["stalled"] == stalled]
    theirs = rows["crowd_score"][rows["crowd_score"] > 0]
    shares = (5, 25, 50, 75, 95)
    ours = np.percentile(scores[scores > 0], shares)
    assert np.abs(ours - np.percentile(theirs, shares)).max() < tolerance
    assert (scores == 0).mean() == pytest.approx(zero, abs=0.012)
    assert tier1.mean() == pytest.approx(rows["tier1"].mean(), abs=0.02)
    if stalled:
        assert tier1.mean() == pytest.approx(0.37, abs=0.04)


def test_the_crowd_is_as_good_as_the_real_one(real):
    hits = (_drawn(real, 1, 8_000)[0] >= 0.5).mean()
    alarms = (_drawn(real, 0, 80_000)[0] >= 0.5).mean()
    stalled, flowing = (real["stalled"] == 1).sum(), (real["stalled"] == 0).sum()
    tp, fp = hits * stalled, alarms * flowing
    fn, tn = stalled - tp, flowing - fp
    mcc = (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert mcc == pytest.approx(0.76, abs=0.05)


def test_subsets_are_drawn_as_the_real_ones(real):
    micro, nano = crowd.draw_subsets(
        np.random.default_rng(0),
        real["project_id"].to_numpy(dtype=str),
        real["stalled"].to_numpy(dtype=bool),
        real["tier1"].to_numpy(dtype=bool),
    )
    flowing = real[real["stalled"] == 0]
    ours, theirs = (
        flowing[chosen[flowing.index]]["project_id"].value_counts()
        for chosen in (pd.Series(nano), real["nano"])
    )
    assert (ours - theirs).abs().max() <= 1
    ours, theirs = (
        flowing[chosen[flowing.index]]["project_id"].value_counts()
        for chosen in (pd.Series(micro), real["micro"])
    )
    assert ours.sum() == theirs.sum() == 1693
    # 99 % of draws with 11 degrees of freedom
    assert ((ours - theirs) ** 2 / ours).sum() < 24.7


def test_a_project_with_too_few_leaves_the_rest_to_the_others():
    project = np.array(["L"] * 11 + ["A"] * 60 + ["C"] * 100)
    stalled = np.zeros(len(project), bool)
    stalled[:10] = True  # L: ten stalled and one flowing
    stalled[11:21] = True  # A: ten stalled and fifty flowing
    tier1 = np.arange(len(project)) != 21
    micro, nano = crowd.draw_subsets(np.random.default_rng(0), project, stalled, tier1)
    assert nano[stalled].all()
    assert (nano <= micro).all()
    assert (micro <= tier1).all()
    flowing = {
        letter: [int((chosen & ~stalled & (project == letter)).sum()) for chosen in (nano, micro)]
        for letter in "LAC"
    }
    # 20 x 707 / 706 and 20 x 1693 / 706 in all
    assert flowing == {"L": [1, 1], "A": [19, 47], "C": [0, 0]}


@pytest.mark.parametrize("label", [False, True])
def test_subsets_of_one_label(label):
    stalled = np.full(5, label)
    micro, nano = crowd.draw_subsets(
        np.random.default_rng(0), np.array(["A"] * 5), stalled, np.full(5, True)
    )
    assert micro.tolist() == nano.tolist() == stalled.tolist()


def test_tier1_is_an_expert_or_a_sure_crowd():
    given = [(0.0, False), (0.01, False), (0.7499, False), (0.75, False), (0.5, True)]
    assert [crowd.is_tier1(*one) for one in given] == [True, False, False, True, True]


def test_the_crowd_never_sees_the_expert_project():
    rng = np.random.default_rng(0)
    assert {crowd.draw_crowd(rng, "L", bool(i % 2)) for i in range(50)} == {(0.0, True)}


# The folder of recordings


def test_tables_have_the_competition_form(videos):
    out, summary = videos
    metadata = tables.read_metadata(out / "train_metadata.csv")
    labels = tables.read_labels(out / "train_labels.csv")
    truth = pd.read_csv(out / "truth.csv")
    assert tuple(pd.read_csv(out / "train_metadata.csv")) == tables.TRAIN_COLUMNS
    assert list(metadata["filename"]) == [f"{100000 + row}.mp4" for row in range(4)]
    assert metadata["url"][0] == "s3://simulated/train/100000.mp4"
    assert (metadata["tier1"] >= metadata["micro"]).all()
    assert labels["stalled"].sum() == summary.stalled == 2
    assert list(truth["stalled"]) == list(labels["stalled"]) == draw_labels(SMALL).tolist()
    assert list(truth["project"]) == list(metadata["project_id"])
    for name, frames in zip(metadata["filename"], metadata["num_frames"], strict=True):
        assert video.read_recording(out / "train" / name).shape == (frames, 160, 192, 3)
    assert str(summary) == f"4 recordings, 2 stalled, 4 new -> {out}"


def test_truth_has_all_that_is_known(videos):
    table = pd.read_csv(videos[0] / "truth.csv")
    for row, (_, found) in enumerate(table.iterrows()):
        truth = make_plan(SMALL.seed, row, bool(found["stalled"]), SMALL).truth
        for field in dataclasses.fields(truth):
            known = getattr(truth, field.name)
            if isinstance(known, float):
                assert found[field.name] == pytest.approx(known, rel=1e-5)
            elif isinstance(known, str | int):
                assert found[field.name] == known
        line = np.array(json.loads(found["line_px"]))
        assert np.allclose(line[[0, -1]], truth.line_px[[0, -1]], atol=0.06)
        unit = [truth.um_per_px, truth.um_per_px, truth.step_um]
        steps_um = np.linalg.norm(np.diff(line * unit, axis=0), axis=1)
        assert steps_um.min() > 3.5
        assert steps_um.max() < 6


def test_any_number_of_processes_gives_the_same_files(videos, tmp_path):
    simulate(tmp_path, SMALL, processes=2)
    _same_files(videos[0], tmp_path)


def test_continues_where_it_was_killed(videos, tmp_path):
    def stop(done, _of):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path, SMALL, processes=1, progress=stop)
    assert not (tmp_path / "train_metadata.csv").exists()
    seen = []
    again = simulate(tmp_path, SMALL, processes=1, progress=lambda *done: seen.append(done))
    assert again.rendered == 1
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    _same_files(videos[0], tmp_path)


def test_refuses_a_folder_of_other_settings(videos):
    with pytest.raises(InputError, match=r"seed .*3.* 4.* -o"):
        simulate(videos[0], SMALL.model_copy(update={"seed": 4}), processes=1)
    with pytest.raises(InputError, match=r"clip.* -o"):
        _clips(videos[0], processes=1)


def test_refuses_a_folder_of_real_recordings(tmp_path):
    (tmp_path / "train_metadata.csv").write_text("filename\n")
    with pytest.raises(InputError, match=r"train_metadata\.csv.* -o"):
        simulate(tmp_path, SMALL)


@pytest.mark.parametrize("share", [0.003, 0.046, 1.0])
def test_labels_are_exactly_the_fraction(share):
    settings = SimulateSettings(count=1000, stalled=share, seed=9)
    labels = draw_labels(settings)
    assert labels.sum() == round(1000 * share)
    if share < 1:
        assert not np.array_equal(labels, draw_labels(settings.model_copy(update={"seed": 0})))


@pytest.mark.parametrize(
    ("name", "value"),
    [("count", 0), ("stalled", 1.5), ("height", 201), ("label_um", (1, 0, 1)), ("label_um", (1,))],
)
def test_refuses_wrong_settings(name, value):
    with pytest.raises(SettingsError, match=name):
        SimulateSettings.parse({name: value}, "simulate")


# The test part

WITH_TEST = SMALL.model_copy(update={"count": 2, "test": 3, "test_stalled": 0.34})


@pytest.fixture(scope="module")
def both_parts(tmp_path_factory):
    out = tmp_path_factory.mktemp("both")
    return out, simulate(out, WITH_TEST, processes=1)


def test_a_test_part_has_the_competition_form(both_parts):
    out, summary = both_parts
    metadata = tables.read_metadata(out / "test_metadata.csv")
    assert tuple(pd.read_csv(out / "test_metadata.csv")) == tables.TEST_COLUMNS
    assert list(metadata["filename"]) == ["100002.mp4", "100003.mp4", "100004.mp4"]
    assert metadata["url"][0] == "s3://simulated/test/100002.mp4"
    for name, frames in zip(metadata["filename"], metadata["num_frames"], strict=True):
        assert video.read_recording(out / "test" / name).shape == (frames, 160, 192, 3)
    form = tables.read_labels(out / "submission_format.csv")
    labels = tables.read_labels(out / "test_labels.csv")
    assert list(form["filename"]) == list(labels["filename"]) == list(metadata["filename"])
    assert not form["stalled"].any()
    assert labels["stalled"].sum() == summary.test_stalled == 1
    truth = pd.read_csv(out / "truth.csv")
    assert len(truth) == 5
    assert list(truth["stalled"][2:]) == list(labels["stalled"])
    assert list(truth["frames"][2:]) == list(metadata["num_frames"])
    assert re.findall(r"\d+", str(summary).partition(" -> ")[0]) == ["5", "2", "3", "1", "5"]
    assert str(summary).endswith(str(out))


def test_a_test_part_is_of_other_scenes_and_leaves_the_training_part_as_it_is(both_parts, tmp_path):
    alone = WITH_TEST.model_copy(update={"test": 0})
    simulate(tmp_path, alone, processes=1)
    for path in sorted(tmp_path.rglob("*.*")):
        name = path.relative_to(tmp_path)
        if name.name not in ("truth.csv", "simulation.json"):
            assert path.read_bytes() == (both_parts[0] / name).read_bytes(), name
    assert not (tmp_path / "test").exists()
    assert "test" not in json.loads((tmp_path / "simulation.json").read_text())["settings"]
    truth = pd.read_csv(both_parts[0] / "truth.csv")
    assert truth["line_px"].is_unique


def test_a_killed_test_part_goes_on(both_parts, tmp_path):
    def stop(done, _of):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path, WITH_TEST, processes=1, progress=stop)
    assert not (tmp_path / "test_metadata.csv").exists()
    assert simulate(tmp_path, WITH_TEST, processes=1).rendered == 1
    _same_files(both_parts[0], tmp_path)


def test_clips_have_no_test_part(tmp_path):
    with pytest.raises(InputError, match="--clips"):
        _clips(tmp_path / "out", WITH_TEST)
    assert not (tmp_path / "out").exists()


# The folder of clips


def test_clips_come_with_the_tables_of_the_videos(videos, clips):
    for name in ("train_metadata.csv", "train_labels.csv", "truth.csv"):
        assert (clips[0] / name).read_bytes() == (videos[0] / name).read_bytes()
    assert not (clips[0] / "train").exists()
    assert clips[1] == dataclasses.replace(videos[1], folder=clips[0])


def test_clips_show_what_the_videos_show(videos, clips):
    made = Store(clips[0] / "store")
    assert made.failures() == []
    for row in range(4):
        name = f"{100000 + row}.mp4"
        source = Source(name, videos[0] / "train" / name)
        prepared = prepare.one(source, [Preprocessing(OutlineSettings(), CLIP)])
        theirs, ours = prepared.clip.pixels.astype(float), made.read(name).astype(float)
        assert ours.shape == theirs.shape == (made.frames(name), 32, 32, 2)
        inside = (theirs[..., 1] > 0) & (ours[..., 1] > 0)
        either = (theirs[..., 1] > 0) | (ours[..., 1] > 0)
        assert inside.sum() / either.sum() > 0.8
        grey = theirs[..., 0][inside], ours[..., 0][inside]
        assert np.corrcoef(*grey)[0, 1] > 0.7
        assert np.mean(grey[0]) == pytest.approx(np.mean(grey[1]), abs=6)


def test_the_outline_of_one_frame_is_that_of_all():
    for row in range(3):
        frames, _ = region(SMALL.seed, row, False, SMALL, CLIP.margin + corpus.SPARE_PX)
        whole, first = (
            outline.find_outline(from_array(part, "x")) for part in (frames, frames[:1])
        )
        assert first.box == whole.box
        assert first.is_closed == whole.is_closed
        assert np.array_equal(first.contour, whole.contour)
        assert np.array_equal(first.mask, whole.mask)


def test_any_number_of_processes_gives_the_same_clips(clips, tmp_path):
    _clips(tmp_path, processes=2)
    _same_files(clips[0], tmp_path)


def test_killed_clips_go_on_after_the_last_shard(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(fill, "RECORDINGS_PER_SHARD", 2)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    _clips(whole, processes=1)

    def stop(done, _of):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _clips(killed, processes=1, progress=stop)
    assert not (killed / "train_metadata.csv").exists()
    assert _clips(killed, processes=1).rendered == 2
    _same_files(whole, killed)
    assert _clips(killed, processes=1).rendered == 0


def test_clips_that_nobody_could_judge_say_so(tmp_path):
    dark = LookSettings(black_level=(2, 2), white_level=(10, 10))
    _clips(tmp_path, SMALL.model_copy(update={"count": 2, "look": dark}), processes=1)
    rows = list(Store(tmp_path / "store").rows())
    assert [row.status for row in rows] == ["too_dark", "too_dark"]
    assert rows[0].reason.startswith("100000.mp4: ")


def test_files_of_the_same_names_in_the_working_folder_are_not_read(clips, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "100000.mp4").write_text("another recording")
    _clips(tmp_path / "out", processes=1)
    _same_files(clips[0], tmp_path / "out")
    (tmp_path / "100000.mp4").write_text("a changed one")
    assert _clips(tmp_path / "out", processes=1).rendered == 0


def test_clips_of_another_recipe_are_refused(clips):
    other = CLIP.model_copy(update={"size": 64})
    with pytest.raises(InputError, match=r"clip\.size .*32.* 64"):
        simulate_clips(clips[0], SMALL, OutlineSettings(), other, processes=1)
    assert json.loads((clips[0] / "simulation.json").read_text())["clip"]["size"] == 32


# The contact sheet


def test_the_sheet_shows_both_labels_with_their_outlines(tmp_path):
    path = tmp_path / "new" / "sheet.png"
    wanted = SheetSettings(rows=1, frames=5, row_px=64)
    assert sheet.write_sheet(path, SMALL, wanted) == 2
    picture = cv2.imread(str(path))
    assert picture.shape[0] == 2 * (64 + sheet.LINE_PX + sheet.GAP_PX)
    blue, green, red = np.moveaxis(picture.astype(int), -1, 0)
    orange = (red > green + 60) & (green > blue)
    for half in np.split(orange, 2):
        assert half[:, : sheet.TEXT_PX].sum() == 0
        assert half[:, sheet.TEXT_PX :].sum() > 5 * 40
    assert [item.name for item in path.parent.iterdir()] == ["sheet.png"]


def test_the_sheet_shows_what_is_there(tmp_path):
    settings = SMALL.model_copy(update={"stalled": 0.0, "count": 1})
    wanted = SheetSettings(rows=3, frames=3, row_px=32)
    assert sheet.write_sheet(tmp_path / "sheet.png", settings, wanted) == 1


def test_the_frames_of_the_sheet_lie_around_the_focus():
    truth = make_plan(SMALL.seed, 0, False, SMALL).truth

    def chosen(first, last, frames):
        made = dataclasses.replace(truth, first_in_focus=first, last_in_focus=last, frames=frames)
        return sheet.choose_frames(made, 14).tolist()

    assert chosen(20, 27, 60) == list(range(17, 31))
    assert chosen(0, 7, 60) == list(range(11))
    long = chosen(10, 49, 60)
    assert (long[0], long[-1], len(long)) == (8, 51, 14)
    assert max(np.diff(long)) - min(np.diff(long)) <= 1
    assert chosen(1, 4, 6) == list(range(6))


def test_a_label_stack_is_known_by_its_content(tmp_path):
    stack = tmp_path / "labels.tif"
    settings = SMALL.model_copy(update={"count": 1, "label_stack": str(stack)})
    with pytest.raises(InputError, match=r"labels\.tif"):
        simulate(tmp_path / "out", settings, processes=1)
    volume = np.zeros((30, 150, 170), np.uint8)
    volume[14:20, 60:65, 20:150] = 1
    volume[13:19, 62:140, 80:86] = 2
    tifffile.imwrite(stack, volume)
    simulate(tmp_path / "out", settings, processes=1)
    tifffile.imwrite(stack, volume[:, ::-1])
    with pytest.raises(InputError, match="label_stack_sha256"):
        simulate(tmp_path / "out", settings, processes=1)


@pytest.mark.parametrize("rule", ["contour", *colours.RULES])
def test_the_published_rules_find_the_outline_of_clips_that_were_never_encoded(tmp_path, rule):
    clip = ClipSettings(size=32, channels="rgb")
    simulate_clips(tmp_path, SMALL, OutlineSettings(rule=rule), clip, processes=1)
    assert not Store(tmp_path / "store").failures()
