"""stallscan fetch: exit codes, kill -9, and the real tables from the bucket to a trained net."""

import collections
import re
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from stallscan.catalog import tables
from stallscan.simulate import corpus
from stallscan.simulate.settings import SimulateSettings
from tests import competition, drawing

FETCH = (sys.executable, "-m", "stallscan", "fetch")


@pytest.fixture
def published(bucket, tmp_path):
    return competition.publish(bucket, tmp_path / "published", [b"first" * 99, b"second" * 99])


def words(published, bucket, out, *more):
    given = (published.metadata, "--labels", published.labels, "--endpoint", bucket.endpoint)
    return [*map(str, given), "-o", str(out), *more]


def test_a_fetch_ends_with_a_summary(run, bucket, published, tmp_path):
    code, out, _ = run("fetch", *words(published, bucket, tmp_path / "out", "--rule", "micro"))
    assert code == 0
    assert "4 fetched" in out
    assert "MD5: 4" in out
    assert len(list((tmp_path / "out" / "train").iterdir())) == 4


def test_failed_rows_are_code_1_and_a_table(run, bucket, published, tmp_path):
    bucket.always["train/100003.mp4"] = "404"
    code, out, err = run("fetch", *words(published, bucket, tmp_path / "out"))
    assert code == 1
    assert "1 failed" in out
    assert str(tmp_path / "out" / "failed.csv") in err


def test_a_dry_run_says_count_bytes_disk_and_time(run, bucket, published, tmp_path):
    given = words(published, bucket, tmp_path / "out", "--dry-run", "--limit-mbit", "0.001")
    code, out, _ = run("fetch", *given)
    assert code == 0
    selected, count, size, disk, duration = out.splitlines()
    assert "12 recordings selected" in selected
    assert "12 recordings to fetch" in count
    assert "kB" in size
    assert "free" in disk
    total = sum(map(len, published.content.values())) * 12 / 15
    assert f"{total / 125:.0f} s" in duration
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_the_selection_even_without_a_network(run, published, tmp_path):
    given = [published.metadata, "--labels", published.labels, "-o", tmp_path / "out"]
    code, out, err = run("fetch", *given, "--dry-run", "--endpoint", "http://127.0.0.1:9")
    assert code == 2
    assert re.search(r"12 recordings selected, \d+ stalled", out)
    assert "cannot be reached" in err


def test_a_simulated_corpus_is_not_fetched(run, published, tmp_path):
    table = pd.read_csv(published.metadata, dtype=str)
    table["url"] = "s3://simulated/train/" + table["filename"]
    table.to_csv(tmp_path / "train_metadata.csv", index=False)
    code, _, err = run("fetch", tmp_path / "train_metadata.csv", "-o", tmp_path / "out")
    assert code == 2
    assert "simulated corpus" in err
    assert f"--data {tmp_path}" in err


@pytest.mark.parametrize(
    ("more", "hint"),
    [
        (["--rule", "nanno"], "nano"),
        (["--recipe", "default"], "--prepare"),
        (["--at-once", "0"], "at_once"),
        (["--limit-mbit", "-1"], "limit_mbit"),
        (["--endpoint", "ftp://x"], "endpoint"),
        (["--prepare", "--recipe", "default", "--bundle", "default"], "--bundle"),
    ],
)
def test_wrong_options_are_code_2(run, published, tmp_path, more, hint):
    given = [published.metadata, "--labels", published.labels, "-o", tmp_path / "out", *more]
    code, _, err = run("fetch", *given)
    assert code == 2
    assert hint in err
    assert not (tmp_path / "out").exists()


def test_the_given_tables_are_not_replaced(run, bucket, published):
    before = published.metadata.read_bytes()
    code, _, err = run("fetch", *words(published, bucket, published.metadata.parent))
    assert code == 2
    assert "-o" in err
    assert published.metadata.read_bytes() == before


def test_without_the_library_the_command_that_installs_it_is_named(
    run, bucket, published, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "obstore", None)
    code, _, err = run("fetch", *words(published, bucket, tmp_path / "out"))
    assert code == 2
    assert ".[cloud]" in err


def start_and_kill(command, bucket, after):
    """Start a command and kill it after some requests for content."""
    bucket.requests.clear()
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while len(bucket.gets()) < after:
            assert process.poll() is None
            time.sleep(0.005)
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--prepare", "--processes", "1"]])
def test_ctrl_c_says_how_to_resume(bucket, tmp_path, more):
    video = drawing.write(tmp_path / "drawn.mp4").read_bytes()
    published = competition.publish(bucket, tmp_path / "published", [video], count=600)
    command = [*FETCH, *words(published, bucket, tmp_path / "out", *more)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while len(bucket.gets()) < 200:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert "resume" in said
    assert "Traceback" not in said
    assert "Error" not in said
    subprocess.run(command, check=True)
    assert tables.read_metadata(tmp_path / "out" / "train_metadata.csv")["filename"].size == 600


@pytest.mark.slow
def test_kill_9_loses_only_what_was_in_flight(bucket, tmp_path):
    published = competition.publish(bucket, tmp_path / "published", [b"first" * 99], count=2000)
    bucket.share = 0.05
    out, at_once = tmp_path / "out", 16
    command = [*FETCH, *words(published, bucket, out, "--at-once", str(at_once))]
    fetched = set()
    for after in (300, 700):
        start_and_kill(command, bucket, after)
        # What was complete before is not asked for again.
        assert not {request.key for request in bucket.gets()} & fetched
        fetched = {f"train/{path.name}" for path in (out / "train").glob("*.mp4")}
        started = {request.key for request in bucket.gets() if not request.fault}
        assert len(started - fetched) <= at_once
    assert len(fetched) > 900
    bucket.requests.clear()
    said = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True).stderr
    good = collections.Counter(request.key for request in bucket.gets() if not request.fault)
    # On a busy machine, a whole answer may be lost on its way, beside those that the bucket spoils.
    faults = sum(bool(request.fault) for request in bucket.gets())
    failed = int(re.search(r"([\d,]+) attempts failed", said)[1].replace(",", ""))
    assert good.total() - len(good) <= failed - faults
    assert not set(good) & fetched
    assert len(set(good) | fetched) == 2000
    assert {path.read_bytes() for path in (out / "train").iterdir()} == {b"first" * 99}
    assert len(list((out / "train").iterdir())) == 2000
    assert tables.read_metadata(out / "train_metadata.csv")["filename"].size == 2000


def stand_in(bucket, folder, selected):
    """Store four simulated recordings, and serve them under the names of those selected."""
    settings = SimulateSettings(count=4, stalled=0.5, height=128, width=128)
    corpus.simulate(folder, settings, processes=0)
    simulated = pd.read_csv(folder / "train_labels.csv")
    for stalled, names in selected.groupby("stalled")["filename"]:
        stand_ins = simulated.loc[simulated["stalled"] == stalled, "filename"].tolist()
        for name in stand_ins:
            bucket.put(f"simulated/{name}", (folder / "train" / name).read_bytes())
        for row, name in enumerate(names):
            bucket.stand_ins[f"train/{name}"] = f"simulated/{stand_ins[row % 2]}"


def train(data, out):
    """Train the published approach on a small scale, on what was fetched."""
    command = [*FETCH[:3], "train", "third-place", "--data", str(data), "-o", str(out)]
    command += ["--epochs", "1", "--limit", "24"]
    for change in ("clip.size=32", "pretrained.source=none", "net.name=r3d_18"):
        command += ["--set", change]
    subprocess.run(command, check=True)
    assert (out / "bundle" / "bundle.json").is_file()


@pytest.fixture
def third_place(run, real_dir, tmp_path):
    """Select from the real tables; return the selection, and their paths as options."""
    names = ("train_metadata.csv.gz", "train_labels.csv.gz")
    metadata, labels = (str(real_dir / "metadata" / name) for name in names)
    given = [metadata, "--labels", labels, "--rule", "third-place", "-o"]
    code, _, _ = run("select", *given, tmp_path / "selected.csv")
    assert code == 0
    return pd.read_csv(tmp_path / "selected.csv"), given


@pytest.mark.slow
def test_the_third_place_is_fetched_and_trained(run, bucket, third_place, tmp_path):
    """Simulated recordings stand in for the 7,931 of the real tables that the rule selects."""
    selected, given = third_place
    assert len(selected) == 7931
    stand_in(bucket, tmp_path / "simulated", selected)
    subprocess.run(
        [*FETCH, *given, str(tmp_path / "third"), "--endpoint", bucket.endpoint], check=True
    )
    good = collections.Counter(request.key for request in bucket.gets())
    assert good == {f"train/{name}": 1 for name in selected["filename"]}
    train(tmp_path / "third", tmp_path / "run")


@pytest.mark.slow
def test_clips_of_the_third_place_are_fetched_and_trained(run, bucket, third_place, tmp_path):
    selected, _ = third_place
    few = selected.groupby("stalled").head(20)
    stand_in(bucket, tmp_path / "simulated", few)
    paths = [tmp_path / "metadata.csv", tmp_path / "labels.csv"]
    few.drop(columns="stalled").to_csv(paths[0], index=False)
    few[["filename", "stalled"]].to_csv(paths[1], index=False)
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        "name: small\noutline: {rule: third-place}\nclip: {size: 32, channels: bgr}\n"
    )
    given = [paths[0], "--labels", paths[1], "--rule", "third-place", "-o", tmp_path / "third"]
    given += ["--endpoint", bucket.endpoint, "--prepare", "--recipe", recipe]
    assert run("fetch", *given)[0] == 0
    assert not (tmp_path / "third" / "train").exists()
    train(tmp_path / "third", tmp_path / "run")
