"""Long jobs on a machine where things go wrong: the commands themselves, in processes of their own.

The random kills are in `kills`; lost machines of a Ray cluster in ``tests/scale/test_ray_engine``.
"""

import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.bucket import Bucket
from tests import competition
from tests.chaos import kills
from tests.chaos.kills import merged, stallscan

pytestmark = pytest.mark.slow

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
SIZE = 3  # recordings in a shard


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return kills.make_recordings(tmp_path_factory.mktemp("chaos") / "recordings", 4 * SIZE)


@pytest.fixture(scope="module")
def expected(recordings, tmp_path_factory):
    """The tables of a plan that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    kills.make_plan(recordings, folder / "plan")
    assert stallscan("run", folder / "plan").returncode == 0
    return merged(folder / "plan", folder / "out")


@pytest.fixture
def mounted(tmp_path):
    """Mount a file system of its own; returns a function that takes the options of mount."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a file system")

    def mount(*options):
        command = ["mount", *options, str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("this machine does not allow it to be mounted")
        return folder

    yield mount
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)


def _is_sentence(done, *words):
    """Whether a command said on stderr what is wrong, and no more than that."""
    assert "Traceback" not in done.stderr
    said = done.stderr.splitlines()[-1]
    assert said.startswith("stallscan: ")
    assert all(word in said for word in words), said


def test_a_decoder_and_the_command_are_killed(recordings, expected, tmp_path):
    rng = random.Random(0)
    engine = kills.Engine(tmp_path)
    killed, runs, tables = kills.round_of(engine, recordings, tmp_path / "round", rng, 2)
    assert tables == expected, killed
    # A killed decoder costs no run, a killed command one; it may be killed as soon as it starts.
    assert runs <= 1 + len(killed)


def test_a_full_disk_is_a_sentence_and_the_rest_is_done_later(
    recordings, expected, mounted, tmp_path
):
    disk = mounted("-t", "tmpfs", "-o", "size=192k", "tmpfs")
    kills.make_plan(recordings, disk / "plan")
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    done = stallscan("run", disk / "plan")
    assert done.returncode == 2
    _is_sentence(done, str(disk), "disk is full")
    filler.unlink()
    assert stallscan("run", disk / "plan").returncode == 0
    assert merged(disk / "plan", tmp_path / "out") == expected


def test_a_read_only_plan_is_a_sentence(recordings, mounted, tmp_path):
    kills.make_plan(recordings, tmp_path / "plan")
    folder = mounted("--bind", str(tmp_path / "plan"))
    remount = ["mount", "-o", "remount,ro,bind", str(folder)]
    if subprocess.run(remount, capture_output=True, check=False).returncode:
        pytest.skip("this machine has no read-only mounts")
    for words in (["run", folder], ["run", folder, "--shard", "0"]):
        done = stallscan(*words)
        assert done.returncode == 2
        _is_sentence(done, str(folder), "read-only")
    # Who only looks needs to write nothing.
    assert stallscan("status", folder).returncode == 0
    done = stallscan("merge", tmp_path / "plan", "-o", folder / "out")
    assert done.returncode == 2


@pytest.mark.skipif(not FAKETIME.exists(), reason="libfaketime is not installed")
def test_a_clock_that_jumps_changes_nothing(recordings, expected, tmp_path):
    kills.make_plan(recordings, tmp_path / "plan")
    clock = tmp_path / "clock"
    clock.write_text("+0")
    # The monotonic clock of a real machine does not jump.
    jumping = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    command = [sys.executable, "-m", "stallscan", "run", str(tmp_path / "plan")]
    with subprocess.Popen(command, env=os.environ | jumping) as running:
        for jump in ("-400d", "+20d", "-1h", "+0") * 100:
            clock.write_text(jump)
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(0.5)
                break
    assert running.returncode == 0
    done = stallscan("status", tmp_path / "plan")
    assert done.returncode == 0
    assert "4 of 4 shards done" in done.stdout
    assert merged(tmp_path / "plan", tmp_path / "out") == expected


def test_two_runs_at_once_lose_and_double_nothing(recordings, expected, tmp_path):
    kills.make_plan(recordings, tmp_path / "plan")
    engine = kills.Engine(tmp_path)
    both = [engine.start(tmp_path / "plan", tmp_path / f"log{number}") for number in range(2)]
    assert [each.wait(300) for each in both] == [0, 0]
    done = Counter(
        int(line.split()[0])
        for number in range(2)
        for line in (tmp_path / f"log{number}").read_text().splitlines()
        if "shards done" in line or "shard done" in line
    )
    assert sum(number * times for number, times in done.items()) == 4
    assert merged(tmp_path / "plan", tmp_path / "out") == expected


def test_a_slow_truncating_and_failing_bucket(recordings, tmp_path):
    contents = [path.read_bytes() for path in sorted(recordings.iterdir())[:2]]
    tables = []
    for number, share in enumerate((0.0, 0.4)):
        folder = tmp_path / str(number)
        with Bucket(share=share, seed=3, pause_s=0.05) as bucket:
            table = competition.publish(bucket, folder, contents, count=4).metadata
            plan = [folder / "plan", "--shard-size", "2", "--endpoint", bucket.endpoint]
            assert stallscan("plan", table, "-o", *plan).returncode == 0
            for _ in range(5):
                done = stallscan("run", folder / "plan", "--scratch", folder / "scratch")
                assert done.returncode in (0, 1)
                if done.returncode == 0:
                    break
                time.sleep(0.1)
            faults = Counter(request.fault for request in bucket.gets())
        assert (len(faults) > 1) == bool(share), "the bucket was to fail, or not to"
        tables.append(merged(folder / "plan", folder / "out"))
        assert list((folder / "scratch").iterdir()) == []
    # The urls name the server's port, which only the reasons of failed rows would show.
    assert tables[0] == tables[1]
    assert tables[0]["predictions.csv"].count(b",ok,") == 4
