"""stallscan fetch: exit codes, kill -9, and the real tables from the bucket to a trained net."""

import collections
import subprocess
import sys
import time

import pandas as pd
import pytest

from stallscan.catalog import tables
from stallscan.simulate import corpus
from stallscan.simulate.settings import SimulateSettings
from tests import competition

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
    count, size, disk, duration = out.splitlines()
    assert "12 to fetch" in count
    assert "GB" in size
    assert "free" in disk
    total = sum(map(len, published.content.values())) * 12 / 15
    assert f"{total / 125:.0f} s" in duration
    assert not (tmp_path / "out").exists()


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
    assert "stallscan[cloud]" in err


def start_and_kill(command, bucket, after):
    """Start a command and kill it after some requests for content."""
    bucket.requests.clear()
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while len(bucket.gets()) < after:
            assert process.poll() is None
            time.sleep(0.005)
        process.kill()


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
    subprocess.run(command, check=True)
    good = collections.Counter(request.key for request in bucket.gets() if not request.fault)
    assert set(good.values()) == {1}
    assert not set(good) & fetched
    assert len(set(good) | fetched) == 2000
    assert {path.read_bytes() for path in (out / "train").iterdir()} == {b"first" * 99}
    assert len(list((out / "train").iterdir())) == 2000
    assert tables.read_metadata(out / "train_metadata.csv")["filename"].size == 2000


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("clips", [False, True])
def test_the_third_place_is_fetched_and_trained(bucket, real_dir, tmp_path, clips):
    """Simulated recordings stand in for the 7,931 of the real tables that the rule selects."""
    metadata, labels = (
        real_dir / "metadata" / f"train_{name}.csv.gz" for name in ("metadata", "labels")
    )
    rule = ["--rule", "third-place", "-o", str(tmp_path / "selected.csv")]
    select = [*FETCH[:3], "select", str(metadata), "--labels", str(labels), *rule]
    subprocess.run(select, check=True)
    selected = pd.read_csv(tmp_path / "selected.csv")
    assert len(selected) == 7931
    corpus.simulate(
        tmp_path / "simulated",
        SimulateSettings(count=4, stalled=0.5, height=128, width=128),
        processes=0,
    )
    simulated = pd.read_csv(tmp_path / "simulated" / "train_labels.csv")
    for stalled, names in selected.groupby("stalled")["filename"]:
        stand_ins = simulated.loc[simulated["stalled"] == stalled, "filename"]
        for name in stand_ins:
            bucket.put(f"simulated/{name}", (tmp_path / "simulated" / "train" / name).read_bytes())
        for row, name in enumerate(names):
            bucket.stand_ins[f"train/{name}"] = f"simulated/{stand_ins.iloc[row % 2]}"
    out = tmp_path / "third"
    command = [*FETCH, str(metadata), "--labels", str(labels), *rule[:2], "-o", str(out)]
    command += ["--endpoint", bucket.endpoint]
    small = ["--set", "clip.size=32"]
    if clips:
        recipe = tmp_path / "small.yaml"
        recipe.write_text("name: small\noutline: {rule: third-place}\nclip: {size: 32, channels: bgr}\n")
        command += ["--prepare", "--recipe", str(recipe)]
    subprocess.run(command, check=True)
    good = collections.Counter(request.key for request in bucket.gets() if not request.fault)
    assert good == {f"train/{name}": 1 for name in selected["filename"]}
    assert (out / "store").exists() == clips
    train = [*FETCH[:3], "train", "third-place", "--data", str(out), "-o", str(tmp_path / "run")]
    train += ["--epochs", "1", "--limit", "24", *small]
    train += ["--set", "pretrained.source=none", "--set", "net.name=r3d_18"]
    subprocess.run(train, check=True)
    assert (tmp_path / "run" / "bundle" / "bundle.json").is_file()
