"""Fetching: every fault is repeated, every byte checked, nothing lost, nothing fetched twice."""

import asyncio
import collections
import errno
import os
import random
import threading
import time

import pytest

from benchmarks.bucket import FAULTS
from stallscan.errors import InputError
from stallscan.recordings import fetch
from stallscan.recordings.bucket import FetchSettings, split_url
from stallscan.recordings.fetch import Wanted

SIZES = range(2_000, 60_000)
LARGE = 1_500_000


def fill(bucket, count, size=None):
    """Store objects of random content; return it by filename, and what to fetch."""
    rng = random.Random(count)
    content = {f"{row}.mp4": rng.randbytes(size or rng.choice(SIZES)) for row in range(count)}
    return content, [Wanted(name, bucket.put(f"train/{name}", content[name])) for name in content]


def quick(bucket, **changes):
    return FetchSettings(endpoint=bucket.endpoint, pause_s=0.01, **changes)


def read(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def good(bucket):
    """Count the answers without fault, by filename."""
    keys = (request.key for request in bucket.gets() if not request.fault)
    return collections.Counter(key.removeprefix("train/") for key in keys)


def test_all_arrive_once_whatever_fails(bucket, tmp_path):
    content, wanted = fill(bucket, 60)
    bucket.share = 0.4
    said = []
    outcomes = fetch.fetch(
        wanted, tmp_path, quick(bucket, attempts=40), lambda *now: said.append(now)
    )
    assert read(tmp_path) == content
    assert [outcome.filename for outcome in outcomes] == list(content)
    assert {(outcome.status, outcome.checked) for outcome in outcomes} == {("fetched", "md5")}
    assert [outcome.bytes for outcome in outcomes] == [len(each) for each in content.values()]
    assert {request.fault for request in bucket.gets()} == {"", *FAULTS}
    assert good(bucket) == dict.fromkeys(content, 1)
    assert said == [(done, 60) for done in range(61)]


@pytest.mark.slow
def test_two_thousand_objects_with_five_per_cent_of_faults(bucket, tmp_path):
    content, wanted = fill(bucket, 2000)
    bucket.share = 0.05
    outcomes = fetch.fetch(wanted, tmp_path, quick(bucket))
    assert read(tmp_path) == content
    assert {outcome.status for outcome in outcomes} == {"fetched"}
    assert {request.fault for request in bucket.gets()} == {"", *FAULTS}
    assert good(bucket) == dict.fromkeys(content, 1)


@pytest.mark.parametrize("fault", ["404", *FAULTS])
def test_what_cannot_be_had_is_a_row_with_a_reason(bucket, tmp_path, fault):
    content, wanted = fill(bucket, 4)
    bucket.always["train/2.mp4"] = fault
    outcomes = fetch.fetch(wanted, tmp_path, quick(bucket, attempts=3))
    assert [outcome.status for outcome in outcomes] == ["fetched", "fetched", "failed", "fetched"]
    assert read(tmp_path) == {name: each for name, each in content.items() if name != "2.mp4"}
    tried = sum(request.key == "train/2.mp4" for request in bucket.gets())
    assert tried == (1 if fault == "404" else 3)
    if fault.isdigit():
        assert fault in outcomes[2].reason
    assert outcomes[2].reason


def test_wrong_content_of_the_right_length_is_found(bucket, tmp_path):
    _, wanted = fill(bucket, 1)
    url = bucket.put("train/other.mp4", b"content", e_tag="0" * 32)
    outcomes = fetch.fetch([*wanted, Wanted("other.mp4", url)], tmp_path, quick(bucket, attempts=2))
    assert [outcome.status for outcome in outcomes] == ["fetched", "failed"]
    assert "md5" in outcomes[1].reason
    assert [path.name for path in tmp_path.iterdir()] == ["0.mp4"]


@pytest.mark.parametrize("always", [False, True])
def test_without_checksum_the_size_is_asked_for_again(bucket, tmp_path, always):
    url = bucket.put("train/0.mp4", b"0123456789" * 99, e_tag="abc-2")
    if always:
        bucket.always["train/0.mp4"] = "short"
    else:
        bucket.first["train/0.mp4"] = ["short", "truncated"]
    outcome = fetch.fetch([Wanted("0.mp4", url)], tmp_path, quick(bucket, attempts=5))[0]
    assert outcome.status == ("failed" if always else "fetched")
    assert outcome.checked == ("" if always else "size")
    assert read(tmp_path) == ({} if always else {"0.mp4": b"0123456789" * 99})


def test_an_empty_object_is_no_recording(bucket, tmp_path):
    outcome = fetch.fetch([Wanted("0.mp4", bucket.put("0.mp4", b""))], tmp_path, quick(bucket))[0]
    assert outcome.status == "failed"
    assert not list(tmp_path.iterdir())


def interrupt(wanted, folder, settings):
    """Fetch at a low rate, and stop when something has been written."""
    stop = threading.Event()

    def watch():
        parts = folder / fetch.PARTS_NAME
        while not any(path.stat().st_size for path in parts.glob("*")):
            time.sleep(0.01)
        stop.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    with pytest.raises(asyncio.CancelledError):
        fetch.fetch(wanted, folder, settings, stop=stop)
    watcher.join()


@pytest.mark.parametrize("checked", ["md5", "size"])
@pytest.mark.parametrize("replaced", [False, True])
def test_a_download_resumes_within_the_file_unless_it_was_replaced(
    bucket, tmp_path, replaced, checked
):
    content, wanted = fill(bucket, 1, LARGE)
    tags = [None, None] if checked == "md5" else ["abc-2", "def-2"]
    bucket.put("train/0.mp4", content["0.mp4"], tags[0])
    interrupt(wanted, tmp_path, quick(bucket, limit_mbit=4.0))
    assert [path.name for path in tmp_path.iterdir()] == [fetch.PARTS_NAME]
    part = next((tmp_path / fetch.PARTS_NAME).iterdir()).stat().st_size
    assert 0 < part < LARGE
    if replaced:
        content["0.mp4"] = content["0.mp4"][::-1]
        bucket.put("train/0.mp4", content["0.mp4"], tags[1])
    bucket.requests.clear()
    outcome = fetch.fetch(wanted, tmp_path, quick(bucket))[0]
    assert (outcome.status, outcome.checked) == ("fetched", checked)
    assert read(tmp_path) == content
    ranges = [request.range for request in bucket.gets()]
    assert ranges == [f"bytes={part}-", *([""] if replaced else [])]


def test_a_part_as_long_as_its_object_does_not_block_it(bucket, tmp_path):
    content, wanted = fill(bucket, 1, LARGE)
    interrupt(wanted, tmp_path, quick(bucket, limit_mbit=4.0))
    next((tmp_path / fetch.PARTS_NAME).iterdir()).write_bytes(b"x" * LARGE)
    fetch.fetch(wanted, tmp_path, quick(bucket))
    assert read(tmp_path) == content


def test_a_broken_connection_resumes_where_it_broke(bucket, tmp_path):
    content, wanted = fill(bucket, 1, LARGE)
    bucket.first["train/0.mp4"] = ["truncated", "503", ""]
    fetch.fetch(wanted, tmp_path, quick(bucket))
    assert read(tmp_path) == content
    ranges = [request.range for request in bucket.gets()]
    assert ranges[0] == ""
    assert ranges[1] == ranges[2] != ""


def test_existing_files_of_the_recorded_size_are_kept(tmp_path):
    wanted = [Wanted(f"{row}.mp4", f"s3://bucket/{row}.mp4") for row in range(4)]
    for row, size in enumerate([5, 5, 0]):
        (tmp_path / f"{row}.mp4").write_bytes(b"x" * size)
    assert fetch.pending(wanted, tmp_path) == wanted[2:]
    assert fetch.pending(wanted, tmp_path, {"0.mp4": 5, "1.mp4": 6}) == wanted[1:]


@pytest.mark.parametrize(
    "name",
    [
        *("/etc/passwd", "../0.mp4", "a/../../0.mp4", "a//0.mp4", "0\0.mp4", "0\n.mp4", ".", ""),
        *("C:/0.mp4", "C:0.mp4", "..\\0.mp4", "\\\\host\\0.mp4", ".parts/0.mp4", ".hidden.mp4"),
    ],
)
def test_names_that_leave_the_folder_are_refused(name):
    fine = Wanted("m1/0.mp4", "s3://bucket/0.mp4")
    fetch.check([fine])
    with pytest.raises(InputError, match=r"1 recordings.*filename"):
        fetch.check([fine, Wanted(name, "s3://bucket/0.mp4")])


@pytest.mark.parametrize(
    "url",
    [
        *("", "0.mp4", "s3://bucket", "s3://bucket/", "s3:///0.mp4", "file:///etc/passwd"),
        *("https://host/0.mp4", "s3://host@other/0.mp4", "s3://a.b:80/0.mp4", "s3://[/0.mp4"),
    ],
)
def test_urls_outside_of_buckets_are_refused(url):
    with pytest.raises(InputError, match="url"):
        fetch.check([Wanted("0.mp4", url)])


def test_a_key_may_have_any_characters(bucket, tmp_path):
    bucket.put("train/a", b"another object")
    url = bucket.put("train/a#1.mp4", b"content")
    fetch.fetch([Wanted("a#1.mp4", url)], tmp_path, quick(bucket))
    assert read(tmp_path) == {"a#1.mp4": b"content"}
    assert split_url("s3://bucket/train/a?1 #2.mp4") == ("bucket", "train/a?1 #2.mp4")


def test_the_bandwidth_is_limited(bucket, tmp_path):
    content, wanted = fill(bucket, 5, 100_000)
    started = time.monotonic()
    fetch.fetch(wanted, tmp_path, quick(bucket, limit_mbit=8.0))
    assert time.monotonic() - started > 0.45  # 1 MB/s
    assert read(tmp_path) == content


def test_downloads_at_the_same_time_are_bounded(bucket, tmp_path):
    _, wanted = fill(bucket, 20)
    bucket.pause_s = 0.02
    fetch.fetch(wanted, tmp_path, quick(bucket, at_once=3))
    assert 1 < bucket.peak <= 3


def test_a_full_disk_ends_the_run(bucket, tmp_path, monkeypatch):
    async def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    _, wanted = fill(bucket, 3)
    monkeypatch.setattr(fetch._Fetcher, "_download", fail)
    with pytest.raises(InputError, match="disk is full"):
        fetch.fetch(wanted, tmp_path, quick(bucket))


def test_a_dead_server_ends_the_run_instead_of_failing_every_row(bucket, tmp_path):
    _, wanted = fill(bucket, 200, 10)
    settings = FetchSettings(endpoint="http://127.0.0.1:9", pause_s=0.0, attempts=2)
    with pytest.raises(InputError, match="--endpoint"):
        fetch.survey(wanted, settings)
    with pytest.raises(InputError, match="resume"):
        fetch.fetch(wanted, tmp_path, settings)


def test_a_survey_measures_sizes_of_a_sample_and_the_rate(bucket):
    content, wanted = fill(bucket, 3)
    survey = fetch.survey([*wanted, Wanted("x.mp4", "s3://competition/x.mp4")], quick(bucket))
    mean = sum(map(len, content.values())) / 3
    assert survey[:3] == (4, pytest.approx(4 * mean), 3)
    assert not bucket.gets()
    survey = fetch.survey(wanted, quick(bucket, limit_mbit=1e-3), measure_rate=True)
    assert survey.bytes_s == 125
    assert survey.bytes == sum(map(len, content.values()))
    assert fetch.survey([], quick(bucket))[:2] == (0, 0)
