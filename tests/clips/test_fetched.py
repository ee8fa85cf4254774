"""Folders of fetched recordings or clips: complete, resumable, in the competition's form."""

import shutil

import numpy as np
import pandas as pd
import pytest

from stallscan import runs
from stallscan.catalog import tables
from stallscan.clips import fetched, fill
from stallscan.clips.clip import ClipSettings
from stallscan.clips.fetched import Selected
from stallscan.clips.prepare import Preprocessing
from stallscan.clips.store import Store
from stallscan.errors import InputError, SettingsError
from stallscan.recordings.bucket import FetchSettings
from stallscan.recordings.find import list_recordings
from stallscan.vessels.outline import OutlineSettings
from tests import competition, drawing

VIEW = Preprocessing(OutlineSettings(), ClipSettings(size=16, channels="grey"))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Three small recordings; the last has no outline."""
    folder = tmp_path_factory.mktemp("drawn")
    paths = [drawing.write(folder / f"{seed}.mp4", seed=seed) for seed in range(2)]
    paths.append(drawing.write(folder / "none.mp4", contours=0))
    return [path.read_bytes() for path in paths]


@pytest.fixture
def published(bucket, tmp_path, recordings):
    return competition.publish(bucket, tmp_path / "published", recordings)


@pytest.fixture
def settings(bucket):
    return FetchSettings(endpoint=bucket.endpoint, pause_s=0.0, attempts=2)


def select(published, rule="all"):
    return Selected.read(published.metadata, published.labels, rule)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def expected(published, names):
    return {name: published.content[name] for name in names}


def test_a_folder_has_the_selected_rows_and_recordings(published, settings, tmp_path):
    out = tmp_path / "out"
    summary = fetched.fetch_videos(select(published, "micro"), out, settings)
    names = published.names("micro")
    assert (summary.selected, len(summary.outcomes), summary.failed) == (4, 4, 0)
    assert content(out / "train") == expected(published, names)
    for name, path in (("metadata", published.metadata), ("labels", published.labels)):
        lines = path.read_text().splitlines(keepends=True)
        rows = "".join(line for line in lines[1:] if line.partition(",")[0] in names)
        assert (out / f"train_{name}.csv").read_text() == lines[0] + rows
    table = pd.read_csv(out / "fetched.csv")
    assert table["filename"].tolist() == names
    assert set(table["status"]) == {"fetched"}
    assert not (out / "failed.csv").exists()


def test_a_folder_grows_and_takes_the_test_set_too(bucket, published, settings, tmp_path):
    out = tmp_path / "out"
    fetched.fetch_videos(select(published, "nano"), out, settings)
    bucket.requests.clear()
    summary = fetched.fetch_videos(select(published, "micro"), out, settings)
    assert len(summary.outcomes) == 2
    assert len(bucket.gets()) == 2
    assert content(out / "train") == expected(published, published.names("micro"))
    fetched.fetch_videos(Selected.read(published.test_metadata), out, settings)
    names = tables.read_metadata(published.test_metadata)["filename"].tolist()
    assert content(out / "test") == expected(published, names)
    assert (out / "test_metadata.csv").read_bytes() == published.test_metadata.read_bytes()
    assert pd.read_csv(out / "fetched.csv")["split"].tolist() == ["train"] * 4 + ["test"] * 3


def test_failures_are_rows_until_they_are_fetched(bucket, published, settings, tmp_path):
    out = tmp_path / "out"
    gone, broken = published.names("nano")
    bucket.always = {f"train/{gone}": "404", f"train/{broken}": "503"}
    summary = fetched.fetch_videos(select(published), out, settings)
    assert summary.failed == 2
    table = pd.read_csv(out / "fetched.csv")
    assert len(table) == 12
    assert (table["status"] == "failed").sum() == 2
    failed = pd.read_csv(out / "failed.csv").set_index("filename")
    assert "404" in failed.loc[gone, "reason"]
    assert "503" in failed.loc[broken, "reason"]
    bucket.always.clear()
    bucket.requests.clear()
    assert fetched.fetch_videos(select(published), out, settings).failed == 0
    assert len(bucket.gets()) == 2
    assert not (out / "failed.csv").exists()
    assert content(out / "train") == expected(
        published, tables.read_metadata(published.metadata)["filename"]
    )


def test_a_file_that_was_cut_since_is_fetched_again(bucket, published, settings, tmp_path):
    out = tmp_path / "out"
    fetched.fetch_videos(select(published, "nano"), out, settings)
    cut = out / "train" / published.names("nano")[0]
    cut.write_bytes(cut.read_bytes()[:-1])
    summary = fetched.fetch_videos(select(published, "nano"), out, settings)
    assert [outcome.filename for outcome in summary.outcomes] == [cut.name]
    assert content(out / "train") == expected(published, published.names("nano"))


def test_a_clip_store_equals_one_prepared_from_the_recordings(published, settings, tmp_path):
    out, videos = tmp_path / "out", tmp_path / "videos"
    summary = fetched.fetch_clips(select(published), out, settings, VIEW, processes=0)
    assert summary.failed == 0
    fetched.fetch_videos(select(published), videos, settings)
    fill.build(tmp_path / "store", list_recordings([videos / "train"]), *VIEW, processes=0)
    ours, theirs = Store(out / "store"), Store(tmp_path / "store")
    assert ours.manifest.complete
    assert ours.count() == theirs.count() == {"ok": 8, "no_outline": 4}
    for row in theirs.rows():
        if row.has_clip:
            assert np.array_equal(ours.read(row.filename), theirs.read(row.filename))
    assert not (out / "train").exists()
    assert (out / "train_metadata.csv").read_bytes() == (videos / "train_metadata.csv").read_bytes()


def test_an_interrupted_run_to_clips_fetches_nothing_twice(
    bucket, published, settings, tmp_path, monkeypatch
):
    monkeypatch.setattr(fetched, "BATCH", 4)
    monkeypatch.setattr(fill, "RECORDINGS_PER_SHARD", 4)
    out = tmp_path / "out"

    def interrupt(done, _of):
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetched.fetch_clips(select(published), out, settings, VIEW, 0, interrupt)
    before = {request.key for request in bucket.gets()}
    assert before
    bucket.requests.clear()
    fetched.fetch_clips(select(published), out, settings, VIEW, processes=0)
    kept = before - {request.key for request in bucket.gets()}
    # Whatever had arrived is used, from the store or from the disk.
    assert len(kept) >= 8
    assert len(Store(out / "store")) == 12
    assert not (out / "train").exists()
    bucket.requests.clear()
    fetched.fetch_clips(select(published), out, settings, VIEW, processes=0)
    assert not bucket.requests


def test_batches_are_removed_as_the_store_grows(published, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(fetched, "BATCH", 2)
    monkeypatch.setattr(fill, "RECORDINGS_PER_SHARD", 2)
    on_disk = []

    def look(_done, _of):
        on_disk.append(len(list((tmp_path / "out" / "train").glob("*.mp4"))))

    fetched.fetch_clips(select(published), tmp_path / "out", settings, VIEW, 0, look)
    assert max(on_disk) <= 2 * fetched.BATCHES_ON_DISK


def test_what_could_not_be_fetched_has_a_row_in_the_store_and_is_tried_again(
    bucket, published, settings, tmp_path
):
    out = tmp_path / "out"
    gone = published.names("nano")[0]
    bucket.always[f"train/{gone}"] = "404"
    assert fetched.fetch_clips(select(published), out, settings, VIEW, 0).failed == 1
    row = next(row for row in Store(out / "store").rows() if row.filename == gone)
    assert row.status == "unreadable"
    assert "404" in row.reason
    assert pd.read_csv(out / "failed.csv")["filename"].tolist() == [gone]
    bucket.always.clear()
    bucket.requests.clear()
    assert fetched.fetch_clips(select(published), out, settings, VIEW, 0).failed == 0
    assert [request.key for request in bucket.gets()] == [f"train/{gone}"]
    assert gone in Store(out / "store")
    assert not (out / "failed.csv").exists()


def test_a_folder_of_something_else_is_refused(published, settings, tmp_path):
    nano = select(published, "nano")
    videos, clips, own = tmp_path / "videos", tmp_path / "clips", tmp_path / "own"
    fetched.fetch_videos(nano, videos, settings)
    with pytest.raises(InputError, match="other settings"):
        fetched.fetch_clips(nano, videos, settings, VIEW, 0)
    assert len(list((videos / "train").iterdir())) == 2
    fetched.fetch_clips(nano, clips, settings, VIEW, 0)
    with pytest.raises(InputError, match="other settings"):
        fetched.fetch_videos(nano, clips, settings)
    other = VIEW._replace(clip=ClipSettings(size=32))
    with pytest.raises(InputError, match=r"clip\.size"):
        fetched.fetch_clips(nano, clips, settings, other, 0)
    (own / "train").mkdir(parents=True)
    with pytest.raises(InputError, match="train"):
        fetched.fetch_videos(nano, own, settings)


def test_two_fetches_into_one_folder_are_refused(published, settings, tmp_path):
    with runs.hold(tmp_path / "out"), pytest.raises(InputError, match="is writing"):
        fetched.fetch_videos(select(published), tmp_path / "out", settings)


def test_too_little_space_is_said_before_anything_is_fetched(
    bucket, published, settings, tmp_path, monkeypatch
):
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    for job in (
        lambda: fetched.fetch_videos(select(published), tmp_path / "a", settings),
        lambda: fetched.fetch_clips(select(published), tmp_path / "b", settings, VIEW, 0),
    ):
        with pytest.raises(InputError, match="free"):
            job()
    assert not bucket.gets()


def test_a_preview_counts_what_is_missing_and_writes_nothing(published, settings, tmp_path):
    out = tmp_path / "out"
    sizes = [len(published.content[name]) for name in published.names("micro")]
    preview = fetched.preview(select(published, "micro"), out, settings)
    assert preview.survey.recordings == 4
    assert preview.needed_bytes == preview.survey.bytes == pytest.approx(sum(sizes))
    assert preview.survey.bytes_s > 0
    assert not out.exists()
    clips = fetched.preview(select(published, "micro"), out, settings, VIEW)
    assert clips.needed_bytes == pytest.approx(sum(sizes) + 4 * 8 * 16**2)
    fetched.fetch_videos(select(published, "nano"), out, settings)
    assert fetched.preview(select(published, "micro"), out, settings).survey.recordings == 2
    fetched.fetch_clips(select(published, "nano"), tmp_path / "clips", settings, VIEW, 0)
    clips = fetched.preview(select(published, "micro"), tmp_path / "clips", settings, VIEW)
    assert clips.survey.recordings == 2


def test_tables_and_rules_that_do_not_fit_are_refused(published):
    with pytest.raises(InputError, match="--labels"):
        Selected.read(published.metadata, None, "first-place")
    with pytest.raises(InputError, match="--labels"):
        Selected.read(published.test_metadata, published.labels)
    with pytest.raises(InputError, match="micro"):
        Selected.read(published.test_metadata, None, "micro")
    with pytest.raises(SettingsError, match="nano"):
        Selected.read(published.metadata, None, "nanno")
    assert "stalled" not in Selected.read(published.metadata, None, "third-place").table


def test_names_from_the_table_are_checked(published):
    text = published.metadata.read_text().replace("100003.mp4", "../100003.mp4", 1)
    published.metadata.write_text(text)
    with pytest.raises(InputError, match="100003"):
        Selected.read(published.metadata)
