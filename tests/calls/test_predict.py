import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import tifffile

from stallscan.bundle import disk
from stallscan.bundle.reference import Reference
from stallscan.calls import predict
from stallscan.clips import prepare
from stallscan.clips.traits import Traits
from stallscan.engines.torch_engine import TorchEngine
from stallscan.errors import BundleError, InputError
from stallscan.recordings import encode
from stallscan.recordings.find import Source
from stallscan.runs import PREDICTION_COLUMNS
from stallscan.scores import calibration, thresholds
from tests import crashing, drawing, memory


def _predict(paths, out, bundle_dir, **options):
    return predict.predict(paths, out, bundle_dir, processes=0, **options)


def _table(out):
    return pd.read_csv(out / "predictions.csv").set_index("filename")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("recordings")
    for index in range(6):
        drawing.write(made / f"{index}.mp4", seed=index, count=6 + index)
    return made


def test_each_recording_gets_a_row_and_its_score(folder, tmp_path, bundle_dir):
    summary = _predict([folder], tmp_path, bundle_dir)
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert tuple(table.columns) == PREDICTION_COLUMNS
    assert list(table["filename"]) == [f"{index}.mp4" for index in range(6)]
    assert (table["status"] == "ok").all()
    assert list(table["frames"]) == list(range(6, 12))
    model = disk.load(bundle_dir)
    engine = TorchEngine(model)
    for row in table.itertuples():
        source = Source(row.filename, folder / row.filename)
        clip = prepare.one(source, [model.spec.view]).clip
        assert row.score == pytest.approx(
            model.spec.calibration.score(engine.logit(clip.pixels)), abs=1e-6
        )
        assert row.call == ("stalled" if row.score >= row.threshold else "flowing")
    assert summary.calls == dict(table["call"].value_counts())
    assert summary.counts == {"new": 6}
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["finished"]
    assert run["bundle"] == model.label


def test_several_processes_give_the_same_table(folder, tmp_path, bundle_dir):
    _predict([folder], tmp_path / "a", bundle_dir)
    predict.predict([folder], tmp_path / "b", bundle_dir, processes=2)
    tables = [(tmp_path / name / "predictions.csv").read_bytes() for name in "ab"]
    assert tables[0] == tables[1]


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """One file for each kind of bad input, and a good one last."""
    made = tmp_path_factory.mktemp("bad")
    good = drawing.write(made / "z_good.mp4", count=30)
    content = good.read_bytes()
    (made / "empty.mp4").touch()
    (made / "text.mp4").write_text("this is no video\n" * 100)
    (made / "half.mp4").write_bytes(content[: len(content) // 2])
    flipped = bytearray(content)
    for position in range(3000, len(content) - 3000, 500):
        flipped[position] ^= 0xFF
    (made / "flipped.mp4").write_bytes(flipped)
    drawing.write(made / "no_outline.mp4", contours=0)
    drawing.write(made / "two_outlines.mp4", contours=2)
    drawing.write(made / "one_frame.mp4", count=1)
    stack = np.random.default_rng(0).integers(0, 4000, (6, 40, 50)).astype(np.uint16)
    tifffile.imwrite(made / "grey16.tif", stack)
    colour = drawing.frames().astype(np.uint16) * 257
    tifffile.imwrite(made / "colour16.tif", colour, photometric="rgb")
    return made


EXPECTED = {
    "empty.mp4": ("unreadable", "empty"),
    "text.mp4": ("unreadable", "mp4"),
    "half.mp4": ("unreadable", "mp4"),
    "no_outline.mp4": ("no_outline", "8 frames"),
    "two_outlines.mp4": ("several_outlines", "2 segments"),
    "one_frame.mp4": ("too_short", "6"),
    "grey16.tif": ("no_outline", "grey"),
}


def test_bad_input_becomes_rows_with_a_reason(bad, tmp_path, bundle_dir):
    summary = _predict([bad], tmp_path, bundle_dir)
    table = _table(tmp_path)
    assert len(table) == 10
    for name, (status, word) in EXPECTED.items():
        row = table.loc[name]
        assert row["status"] == status, row
        assert word in row["reason"]
        assert name in row["reason"]
        assert row["call"] == "unscorable"
        assert np.isnan(row["score"])
    flipped = table.loc["flipped.mp4"]
    assert flipped["status"] in ("damaged", "unreadable", "no_outline")
    assert flipped["call"] == "unscorable"
    for name in ("z_good.mp4", "colour16.tif"):
        assert table.loc[name, "status"] == "ok"
        assert table.loc[name, "call"] in ("flowing", "stalled")
    assert summary.failed == 8


def test_what_cannot_be_judged_has_a_score_but_no_call(tmp_path, bundle_dir):
    drawing.write_dark(tmp_path / "in" / "dark.mp4")
    summary = _predict([tmp_path / "in"], tmp_path / "out", bundle_dir)
    row = _table(tmp_path / "out").loc["dark.mp4"]
    assert row["status"] == "too_dark"
    assert row["reason"].startswith(f"{tmp_path / 'in' / 'dark.mp4'}: ")
    assert row["call"] == "unscorable"
    assert 0 < row["score"] < 1
    assert summary.failed == 1


def _with_reference(bundle_dir, where, folder):
    """Save the bundle as if these recordings had been its validation split."""
    model = disk.load(bundle_dir)
    seen = [
        prepare.one(Source(path.name, path), [model.spec.view]).clip.traits
        for path in sorted(folder.iterdir())
    ]
    table = pd.DataFrame(seen, columns=Traits._fields)
    scores = np.random.default_rng(0).beta(0.3, 0.7, 500)
    spec = model.spec.model_copy(update={"reference": Reference.of(table, scores)})
    disk.save(where, spec, model.weights, "# for tests\n")
    return where


def test_a_prevalence_changes_scores_and_threshold(folder, tmp_path, bundle_dir):
    known = _with_reference(bundle_dir, tmp_path / "known", folder)
    _predict([folder], tmp_path / "a", known)
    _predict([folder], tmp_path / "b", known, prevalence=0.02)
    before, now = _table(tmp_path / "a"), _table(tmp_path / "b")
    assert now["score"].to_numpy() == pytest.approx(
        calibration.shift(before["score"], 0.3, 0.02), abs=1e-5
    )
    expected = thresholds.threshold_at(np.array(disk.load(known).spec.reference.scores), 0.3, 0.02)
    assert now["threshold"].iloc[0] == pytest.approx(expected, abs=1e-6)
    assert json.loads((tmp_path / "b" / "run.json").read_text())["prevalence"] == 0.02
    with pytest.raises(InputError, match="threshold"):
        _predict([folder], tmp_path / "b", known, prevalence=0.03)


def test_a_prevalence_must_be_a_share_and_needs_validation_scores(folder, tmp_path, bundle_dir):
    with pytest.raises(InputError, match="prevalence of 2"):
        _predict([folder], tmp_path / "a", bundle_dir, prevalence=2)
    with pytest.raises(BundleError, match="validation"):
        _predict([folder], tmp_path / "a", bundle_dir, prevalence=0.02)


def test_recordings_unlike_the_training_data_are_reported(folder, tmp_path, bundle_dir):
    known = _with_reference(bundle_dir, tmp_path / "known", folder)
    for index in range(30):
        frames = drawing.frames(count=8, seed=100 + index)
        orange = (frames == drawing.ORANGE).all(-1, keepdims=True)
        encode.write_video(tmp_path / "in" / f"{index}.mp4", np.where(orange, frames, frames + 100))
    summary = _predict([tmp_path / "in"], tmp_path / "out", known)
    assert any("middle grey level: 100%" in doubt for doubt in summary.doubts)
    reasons = _table(tmp_path / "out")["reason"]
    assert reasons.str.contains("middle grey level: 1").all()
    drifted = json.loads((tmp_path / "out" / "run.json").read_text())["drift"]
    assert drifted["recordings"] == 30
    assert drifted["traits"]["grey_middle"]["outside_98"] == 1


def test_a_table_with_an_incomplete_header_is_started_again(folder, tmp_path, bundle_dir):
    _predict([folder], tmp_path / "whole", bundle_dir)
    _predict([folder], tmp_path / "torn", bundle_dir)
    expected = (tmp_path / "whole" / "predictions.csv").read_bytes()
    for left in (0, 7):
        (tmp_path / "torn" / "predictions.csv").write_bytes(expected[:left])
        _predict([folder], tmp_path / "torn", bundle_dir)
        assert (tmp_path / "torn" / "predictions.csv").read_bytes() == expected


def test_traits_of_an_incomplete_row_are_not_kept(folder, tmp_path, bundle_dir):
    known = _with_reference(bundle_dir, tmp_path / "known", folder)
    _predict([folder], tmp_path / "whole", known)
    _predict([folder], tmp_path / "cut", known)
    predictions, traits = (tmp_path / "cut" / name for name in ("predictions.csv", "traits.csv"))
    expected = traits.read_text()
    assert len(expected.splitlines()) == 7
    # Killed after the traits of the fourth were written, while its row was being written.
    lines = predictions.read_text().splitlines(keepends=True)
    predictions.write_text("".join(lines[:4]) + lines[4][:5])
    # The traits of the fifth end inside a character.
    traits.write_bytes("".join(expected.splitlines(keepends=True)[:5]).encode() + b"4\xc3")
    summary = _predict([folder], tmp_path / "cut", known)
    assert summary.resumed == 3
    assert traits.read_text() == expected
    runs = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("whole", "cut")]
    assert runs[0]["drift"] == runs[1]["drift"]


def test_a_crash_of_the_decoder_is_a_row(folder, tmp_path, bundle_dir, monkeypatch):
    sources = [Source(f"{i}.mp4", folder / f"{i}.mp4") for i in range(6)]
    model = disk.load(bundle_dir)
    monkeypatch.setattr(prepare, "one", crashing.one)
    rows = list(prepare.many(sources, [model.spec.view], processes=2))
    assert [row.source.filename for row in rows] == [source.filename for source in sources]
    assert [row.status for row in rows] == ["ok", "ok", "ok", "unreadable", "ok", "ok"]
    assert "crashed" in rows[3].reason


def test_a_decoder_that_crashed_this_process_costs_a_row_the_next_time(
    folder, tmp_path, bundle_dir, monkeypatch
):
    """One recording is decoded in this process, unless the last one did not end by itself."""
    monkeypatch.setattr(prepare, "one", crashing.one)
    out = tmp_path / "out"
    command = (
        "import sys; from pathlib import Path; from stallscan.calls.predict import predict;"
        "from stallscan.clips import prepare; from tests import crashing;"
        "prepare.one = crashing.one; predict([sys.argv[1]], Path(sys.argv[2]), sys.argv[3])"
    )
    words = [folder / "3.mp4", out, bundle_dir]
    ended = subprocess.run([sys.executable, "-c", command, *words], check=False)
    assert ended.returncode == -signal.SIGKILL
    predict.predict([folder / "3.mp4"], out, bundle_dir)
    table = pd.read_csv(out / "predictions.csv")
    assert table["status"].tolist() == ["unreadable"]
    assert "crashed" in table["reason"][0]


def test_the_time_limit_depends_on_the_file_size(tmp_path):
    (tmp_path / "a.tif").touch()
    os.truncate(tmp_path / "a.tif", 10**9)
    times = [prepare._limit_s(Source(name, tmp_path / name)) for name in ("a.tif", "missing")]
    assert times == [2600, 600]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
@pytest.mark.parametrize(
    "options", [[], pytest.param(["--processes", "0", "--engine", "torch"], marks=pytest.mark.slow)]
)
def test_an_interrupted_run_stops_at_once_and_explains_how_to_resume(folder, tmp_path, options):
    """Ctrl-C also reaches the workers, and queued recordings are not waited for."""
    (tmp_path / "in").mkdir()
    for index in range(100):
        os.link(folder / "5.mp4", tmp_path / "in" / f"{index}.mp4")
    command = [sys.executable, "-m", "stallscan", "predict", tmp_path / "in"]
    process = subprocess.Popen(
        [*command, "-o", tmp_path / "out", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    table = tmp_path / "out" / "predictions.csv"
    deadline = time.monotonic() + 60
    while _rows(table) == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    started = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=30)[0]
    assert time.monotonic() - started < 5
    assert process.returncode == 130
    assert "resume" in said
    assert "Traceback" not in said
    assert 0 < _rows(table) < 100
    assert set(pd.read_csv(table)["status"]) == {"ok"}


@pytest.mark.parametrize("processes", [-1, 1_000_000])
def test_an_absurd_number_of_processes_is_refused_before_anything_is_written(
    folder, tmp_path, bundle_dir, processes
):
    with pytest.raises(InputError, match=f"{processes} processes"):
        predict.predict([folder], tmp_path / "out", bundle_dir, processes=processes)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", [[], ["nothing"]])
def test_nothing_to_predict_is_refused(given, tmp_path, bundle_dir):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="no recordings"):
        _predict([tmp_path / name for name in given] or [tmp_path], tmp_path / "o", bundle_dir)


def test_a_folder_that_cannot_be_written_is_refused(folder, tmp_path, bundle_dir):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file"):
        _predict([folder], tmp_path / "file" / "out", bundle_dir)


def test_runs_are_not_mixed(folder, tmp_path, bundle_dir):
    _predict([folder / "0.mp4"], tmp_path, bundle_dir)
    with pytest.raises(InputError, match="paths"):
        _predict([folder / "1.mp4"], tmp_path, bundle_dir)
    (tmp_path / "run.json").unlink()
    with pytest.raises(InputError, match=r"run\.json"):
        _predict([folder / "0.mp4"], tmp_path, bundle_dir)


def test_an_incomplete_row_and_missing_rows_are_predicted_again(
    folder, tmp_path, bundle_dir, monkeypatch
):
    _predict([folder], tmp_path, bundle_dir)
    table = tmp_path / "predictions.csv"
    whole = table.read_text()
    lines = whole.splitlines(keepends=True)
    table.write_text("".join(lines[:4]) + lines[4][:20])
    asked = []

    def one(source, views):
        asked.append(source.filename)
        return crashing.whole(source, views)

    monkeypatch.setattr(prepare, "one", one)
    summary = _predict([folder], tmp_path, bundle_dir)
    assert summary.resumed == 3
    assert asked == ["3.mp4", "4.mp4", "5.mp4"]
    assert table.read_text() == whole


def test_a_row_cut_inside_a_character_is_predicted_again(tmp_path, bundle_dir):
    drawing.write(tmp_path / "in" / "Gefäß.mp4")
    _predict([tmp_path / "in"], tmp_path / "out", bundle_dir)
    table = tmp_path / "out" / "predictions.csv"
    whole = table.read_bytes()
    table.write_bytes(whole[: whole.index("ä".encode()) + 1])
    assert _predict([tmp_path / "in"], tmp_path / "out", bundle_dir).resumed == 0
    assert table.read_bytes() == whole


@pytest.mark.slow
def test_killed_at_random_and_started_again(tmp_path, bundle_dir):
    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(120):
        drawing.write(folder / f"{index:03d}.mp4", seed=index % 10, count=20)
    _predict([folder], tmp_path / "whole", bundle_dir)
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "stallscan", "predict", str(folder), "-o", str(out)]
    command += ["--bundle", str(bundle_dir), "--processes", "0"]
    kept = [0]
    for _ in range(2):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        table = out / "predictions.csv"
        while process.poll() is None and _rows(table) <= kept[-1]:
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept.append(_rows(table))
    assert 0 < kept[1] < kept[2] < 120
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    assert (out / "predictions.csv").read_text() == (
        tmp_path / "whole" / "predictions.csv"
    ).read_text()
    assert "unscorable" not in finished.stdout


def _rows(table):
    return max(table.read_text().count("\n") - 1, 0) if table.is_file() else 0


@pytest.mark.slow
@memory.needs_proc
def test_three_thousand_frames_stay_under_two_gigabytes(tmp_path, bundle_dir):
    rng = np.random.default_rng(0)
    base = drawing.frames(count=50, height=384, width=512)

    def frames():
        for index in range(3000):
            yield np.roll(base[index % 50], 0) if index else base[0]

    encode.write_video(
        tmp_path / "long.mp4", frames(), preset="ultrafast", crf=int(rng.integers(28, 30))
    )
    script = (
        "import sys; from pathlib import Path; from stallscan.calls import predict;"
        "predict.predict([sys.argv[1]], Path(sys.argv[2]), sys.argv[3], processes=0)"
    )
    peak = memory.peak_bytes(script, tmp_path / "long.mp4", tmp_path / "out", bundle_dir)
    row = _table(tmp_path / "out").loc["long.mp4"]
    assert row["status"] == "ok"
    assert row["frames"] == 3000
    assert "4 to 100" in row["reason"]
    assert peak < 2 * 2**30


def test_real_recordings_each_get_a_row(real_dir, tmp_path, bundle_dir):
    _predict([real_dir / "clips"], tmp_path, bundle_dir)
    table = _table(tmp_path)
    known = pd.read_csv(real_dir / "clips.csv").set_index("file")
    assert set(table.index) == set(known.index)
    assert (table["status"] == "ok").all()
    assert (table["frames"] == known["frames_here"].reindex(table.index)).all()
