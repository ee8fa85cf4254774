"""Resumed runs of predictions: valid rows are kept, and the other recordings are predicted."""

import csv
import json
import os
import shutil

import pytest

from stallscan import runs
from stallscan.calls import inputs, predict, resume
from stallscan.clips import fill, prepare
from stallscan.engines.choose import Chosen
from stallscan.errors import InputError
from stallscan.recordings import find
from tests import crashing, drawing

NAMES = ("predictions.csv", "traits.csv", "sources.csv")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for index in range(5):
        drawing.write(folder / f"{index}.mp4", seed=index, count=6 + index)
    return folder


class _Engine:
    """A fast engine whose logit depends on the clip."""

    def stream(self, clips):
        return (None if clip is None else float(clip.mean()) / 50 - 1 for clip in clips)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Replace the net, whose output does not matter here and which takes most of the time."""
    chosen = Chosen("quick", "for tests", (_Engine(),))
    monkeypatch.setattr(predict.choose, "choose", lambda _model, _which, _reason="": chosen)


@pytest.fixture
def folder(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "in")


def _predict(folder, out, bundle_dir, **options):
    return predict.predict([folder], out, bundle_dir, processes=0, **options)


def _content(out):
    return {name: (out / name).read_bytes() for name in NAMES}


def _as_uninterrupted(folder, out, bundle_dir):
    """Return whether the tables are the same as those of an uninterrupted run."""
    fresh = out.with_name("fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    _predict(folder, fresh, bundle_dir)
    return _content(fresh) == _content(out)


def _rows(out):
    with (out / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return {row["filename"]: row for row in csv.DictReader(file)}


@pytest.fixture
def asked(monkeypatch):
    """Names of the recordings that are decoded."""
    names = []

    def one(source, views):
        names.append(source.filename)
        return crashing.whole(source, views)

    monkeypatch.setattr(prepare, "one", one)
    return names


def test_a_finished_run_does_nothing(folder, tmp_path, bundle_dir, asked, caplog):
    first = _predict(folder, tmp_path / "out", bundle_dir)
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in (tmp_path / "out").iterdir()}
    asked.clear()
    with caplog.at_level("INFO", "stallscan"):
        second = _predict(folder, tmp_path / "out", bundle_dir)
    assert asked == []
    assert "5" in caplog.text
    assert (second.resumed, second.calls, second.doubts) == (5, first.calls, first.doubts)
    after = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in (tmp_path / "out").iterdir()}
    assert after == before


def test_a_damaged_copy_is_tried_again(folder, tmp_path, bundle_dir, asked):
    whole = (folder / "1.mp4").read_bytes()
    (folder / "1.mp4").write_bytes(whole[:1000])
    _predict(folder, tmp_path / "out", bundle_dir)
    asked.clear()
    failing = _predict(folder, tmp_path / "out", bundle_dir)
    assert failing.counts["again"] == 1
    (folder / "1.mp4").write_bytes(whole)
    summary = _predict(folder, tmp_path / "out", bundle_dir)
    assert asked == ["1.mp4", "1.mp4"]
    assert (summary.counts["again"], summary.resumed, summary.failed) == (1, 4, 0)
    assert _as_uninterrupted(folder, tmp_path / "out", bundle_dir)


def test_a_failed_net_is_tried_again(folder, tmp_path, bundle_dir, asked):
    _predict(folder, tmp_path / "out", bundle_dir)
    path = tmp_path / "out" / "predictions.csv"
    lines = path.read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace(",ok,", ",failed,")
    path.write_text("".join(lines))
    asked.clear()
    assert _predict(folder, tmp_path / "out", bundle_dir).counts["again"] == 1
    assert asked == ["1.mp4"]
    assert _as_uninterrupted(folder, tmp_path / "out", bundle_dir)


def test_replaced_added_and_removed_recordings(folder, tmp_path, bundle_dir, asked, caplog):
    _predict(folder, tmp_path / "out", bundle_dir)
    drawing.write(folder / "1.mp4", seed=20, count=12)
    drawing.write(folder / "00.mp4", seed=21, count=6)
    (folder / "3.mp4").unlink()
    os.utime(folder / "4.mp4")  # a copy of the same content
    asked.clear()
    (tmp_path / "out" / "review.sqlite").touch()
    summary = _predict(folder, tmp_path / "out", bundle_dir)
    assert "review.sqlite: 1 recording changed" in caplog.text
    assert ": 1.mp4. Review them again" in caplog.text
    assert asked == ["00.mp4", "1.mp4"]
    assert summary.counts == {"kept": 3, "changed": 1, "new": 1}
    assert list(_rows(tmp_path / "out")) == ["0.mp4", "00.mp4", "1.mp4", "2.mp4", "4.mp4"]
    assert _rows(tmp_path / "out")["1.mp4"]["frames"] == "12"
    fresh = tmp_path / "fresh"
    _predict(folder, fresh, bundle_dir)
    for name in NAMES[:2]:
        assert (fresh / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_killed_while_replacing_rows_no_valid_row_is_lost(folder, tmp_path, bundle_dir, asked):
    _predict(folder, tmp_path / "out", bundle_dir)
    for index in (1, 3):
        drawing.write(folder / f"{index}.mp4", seed=30 + index, count=12)

    def stop(done, _of):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _predict(folder, tmp_path / "out", bundle_dir, progress=stop)
    assert list(_rows(tmp_path / "out")) == ["0.mp4", "2.mp4", "4.mp4", "1.mp4"]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["finished"] is None
    asked.clear()
    assert _predict(folder, tmp_path / "out", bundle_dir).resumed == 4
    assert asked == ["3.mp4"]
    assert _as_uninterrupted(folder, tmp_path / "out", bundle_dir)


def test_a_run_of_an_older_version_is_resumed_with_a_warning(
    folder, tmp_path, bundle_dir, asked, caplog
):
    _predict(folder, tmp_path / "out", bundle_dir)
    (tmp_path / "out" / "sources.csv").unlink()
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    run["stallscan"] = "0.0.1"
    (tmp_path / "out" / "run.json").write_text(json.dumps(run))
    drawing.write(folder / "5.mp4", seed=5)
    asked.clear()
    with caplog.at_level("INFO", "stallscan"):
        summary = _predict(folder, tmp_path / "out", bundle_dir)
    assert asked == ["5.mp4"]
    assert (summary.counts["unknown"], summary.resumed) == (5, 5)
    assert "0.0.1" in caplog.text
    assert len(json.loads((tmp_path / "out" / "run.json").read_text())["versions"]) == 2


def test_rows_that_two_runs_wrote_are_predicted_again(folder, tmp_path, bundle_dir, asked, caplog):
    _predict(folder, tmp_path / "out", bundle_dir)
    path = tmp_path / "out" / "predictions.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, *lines[2:4]]))
    asked.clear()
    summary = _predict(folder, tmp_path / "out", bundle_dir)
    assert asked == ["1.mp4", "2.mp4"]
    assert summary.resumed == 3
    assert "predictions.csv: 2 recordings" in caplog.text
    assert _as_uninterrupted(folder, tmp_path / "out", bundle_dir)


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace(",", ";"),
        lambda text: "\ufeff" + text,
        lambda text: text.replace("filename,status", "name,status"),
        lambda text: text.replace("\n", ",a note\n", 3).replace(",a note", "", 2),
        lambda text: "no table\n",
    ],
)
def test_an_edited_table_is_refused_and_not_changed(folder, tmp_path, bundle_dir, edit):
    _predict(folder, tmp_path / "out", bundle_dir)
    path = tmp_path / "out" / "predictions.csv"
    path.write_text(edit(path.read_text()), encoding="utf-8")
    before = _content(tmp_path / "out")
    with pytest.raises(InputError, match=r"predictions\.csv: "):
        _predict(folder, tmp_path / "out", bundle_dir)
    assert _content(tmp_path / "out") == before


@pytest.mark.parametrize("name", ["sources.csv", "traits.csv"])
def test_an_edited_table_of_traits_or_sources_is_refused(folder, tmp_path, bundle_dir, name):
    _predict(folder, tmp_path / "out", bundle_dir)
    path = tmp_path / "out" / name
    head, _, rest = path.read_text().partition("\n")
    path.write_text(f"{head}\n{'x,' * head.count(',')}x,\n{rest}")
    with pytest.raises(InputError, match=name):
        _predict(folder, tmp_path / "out", bundle_dir)


def test_calls_made_by_decide_are_not_resumed(folder, tmp_path, bundle_dir):
    _predict(folder, tmp_path / "out", bundle_dir)
    path = tmp_path / "out" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"decision": {}}))
    with pytest.raises(InputError, match="stallscan decide"):
        _predict(folder, tmp_path / "out", bundle_dir)


def test_a_second_run_is_refused_while_the_first_writes(folder, tmp_path, bundle_dir):
    refused = []

    def again(done, _of):
        if done == 2:
            with pytest.raises(InputError, match=r"process \d+.* -o") as raised:
                _predict(folder, tmp_path / "out", bundle_dir)
            refused.append(raised)

    _predict(folder, tmp_path / "out", bundle_dir, progress=again)
    assert len(refused) == 1
    assert _as_uninterrupted(folder, tmp_path / "out", bundle_dir)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
@pytest.mark.parametrize("name", ["a\u2028b", "a\x0bb\x85c", 'a,"b', "a\nb", "a\rb"])
def test_names_that_contain_line_breaks_are_recognised(pristine, tmp_path, bundle_dir, asked, name):
    (tmp_path / "in").mkdir()
    shutil.copy(pristine / "0.mp4", tmp_path / "in" / f"{name}.mp4")
    shutil.copy(pristine / "1.mp4", tmp_path / "in" / "z.mp4")
    _predict(tmp_path / "in", tmp_path / "out", bundle_dir)
    asked.clear()
    assert _predict(tmp_path / "in", tmp_path / "out", bundle_dir).resumed == 2
    whole = (tmp_path / "out" / "predictions.csv").read_bytes()
    for cut in (whole.index(b"z.mp4"), whole.index(b"z.mp4") - 5):
        (tmp_path / "out" / "predictions.csv").write_bytes(whole[:cut])
        _predict(tmp_path / "in", tmp_path / "out", bundle_dir)
        assert (tmp_path / "out" / "predictions.csv").read_bytes() == whole


def test_a_store_that_was_replaced_between_runs(folder, tmp_path, bundle_dir):
    def build():
        sources = find.list_recordings([folder])
        fill.build(tmp_path / "store", sources, *inputs.view_of(bundle_dir), processes=0)

    build()
    _predict(tmp_path / "store", tmp_path / "out", bundle_dir)
    assert _predict(tmp_path / "store", tmp_path / "out", bundle_dir).resumed == 5
    shutil.rmtree(tmp_path / "store")
    drawing.write(folder / "3.mp4", seed=30, count=12)
    build()
    summary = _predict(tmp_path / "store", tmp_path / "out", bundle_dir)
    assert (summary.counts["changed"], summary.resumed) == (1, 4)
    assert _as_uninterrupted(tmp_path / "store", tmp_path / "out", bundle_dir)


def test_a_full_disk_keeps_the_finished_rows(folder, tmp_path, bundle_dir, monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resume, "WRITE_S", 0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(done, _of):
        if done == 3:
            size = (tmp_path / "out" / "predictions.csv").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, limits[1]))

    try:
        with pytest.raises(InputError, match=r"out/\w+\.csv: "):
            _predict(folder, tmp_path / "out", bundle_dir, progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    left = (tmp_path / "out" / "predictions.csv").read_text()
    assert left.count("\n") == 4
    assert left.endswith("\n")
    assert _predict(folder, tmp_path / "out", bundle_dir).resumed == 3
    assert _as_uninterrupted(folder, tmp_path / "out", bundle_dir)


def test_rows_are_on_the_disk_when_the_run_is_stopped(folder, tmp_path, bundle_dir, monkeypatch):
    monkeypatch.setattr(resume, "WRITE_S", 1000)

    def stop(done, _of):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _predict(folder, tmp_path / "out", bundle_dir, progress=stop)
    assert list(_rows(tmp_path / "out")) == ["0.mp4", "1.mp4", "2.mp4"]
    assert not (tmp_path / "out" / runs.OWNER_NAME).exists()
