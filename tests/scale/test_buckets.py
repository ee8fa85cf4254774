"""Recordings in a bucket, and plans in a bucket."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pandas as pd
import pytest

from stallscan.calls import predict
from stallscan.errors import InputError
from stallscan.recordings import fetch
from stallscan.recordings.fetch import NetworkError
from stallscan.scale import fetched, merge, place, run, status
from stallscan.scale import plan as plans
from stallscan.scale.place import BucketPlace, FolderPlace, open_place
from tests import competition, drawing

TABLES = ("predictions.csv", "traits.csv", "sources.csv")


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """Three small recordings; the last has no outline."""
    folder = tmp_path_factory.mktemp("drawn")
    paths = [drawing.write(folder / f"{seed}.mp4", seed=seed) for seed in range(2)]
    paths.append(drawing.write(folder / "none.mp4", contours=0))
    return [path.read_bytes() for path in paths]


@pytest.fixture
def published(bucket, tmp_path, contents):
    return competition.publish(bucket, tmp_path / "published", contents, count=6)


@pytest.fixture
def planned(bucket, published, tmp_path):
    """A plan of three shards, with recordings in a bucket."""
    made = FolderPlace(tmp_path / "plan")
    plans.make([published.metadata], made, shard_size=2, endpoint=bucket.endpoint)
    return made


@pytest.fixture
def quick(monkeypatch):
    """Failures are final at the second attempt, and without a pause."""
    parse = fetched.FetchSettings.parse
    monkeypatch.setattr(
        run.FetchSettings,
        "parse",
        lambda given, source: parse(given | {"attempts": 2, "pause_s": 0.0}, source),
    )


def _work(made, tmp_path, **options):
    return run.work(made.where, run.Options(cores=1, scratch=tmp_path / "scratch", **options))


def _rows(made, number):
    lines = json.loads(made.read(plans.result_name(number)))["tables"]["predictions.csv"]
    return [line.split(",") for line in lines.splitlines()]


def test_recordings_are_fetched_predicted_and_deleted(
    planned, published, tmp_path, monkeypatch, bucket
):
    most = []
    get = fetched.get

    def watched(*given):
        # A shard that was written is deleted before the one after the next is fetched.
        most.append(len(list((tmp_path / "scratch").iterdir())))
        return get(*given)

    monkeypatch.setattr(fetched, "get", watched)
    assert _work(planned, tmp_path).done == [0, 1, 2]
    assert len(most) == 3
    assert max(most) <= 2
    assert not list((tmp_path / "scratch").iterdir())
    merge.merge(planned, tmp_path / "merged")
    # As a prediction of the same files, with urls in place of their paths.
    files = tmp_path / "files"
    files.mkdir()
    for name in pd.read_csv(published.metadata)["filename"]:
        (files / name).write_bytes(published.content[name])
    predict.predict([files], tmp_path / "direct", processes=0)
    for name in ("predictions.csv", "traits.csv"):
        expected = (tmp_path / "direct" / name).read_text()
        expected = expected.replace(str(files), "s3://competition/train")
        assert (tmp_path / "merged" / name).read_text() == expected
    merged, direct = (
        pd.read_csv(tmp_path / each / "sources.csv").set_index("filename")
        for each in ("merged", "direct")
    )
    assert merged[["bytes", "sha256"]].equals(direct[["bytes", "sha256"]])
    seconds = status.look(planned).seconds
    assert seconds["fetch"] > 0
    assert json.loads((tmp_path / "merged" / "run.json").read_text())["paths"] == []


def test_the_same_shard_has_the_same_result_again(planned, tmp_path):
    def content():
        return planned.read(plans.result_name(0)).partition(b'\n "made": ')[0]

    _work(planned, tmp_path)
    before = content()
    planned.remove(plans.result_name(0))
    _work(planned, tmp_path)
    assert content() == before


def test_an_object_that_does_not_exist_is_a_row(planned, bucket, tmp_path, quick):
    bucket.always["train/100003.mp4"] = "404"
    bucket.always["train/100004.mp4"] = "403"
    assert _work(planned, tmp_path).done == [0, 1, 2]
    for number, row in ((1, 1), (2, 0)):
        filename, row_status, reason, *_ = _rows(planned, number)[row]
        assert row_status == "unreadable"
        assert f"s3://competition/train/{filename}: not in the bucket" in reason


def test_a_failing_network_leaves_the_shard_undone(planned, bucket, tmp_path, quick):
    bucket.always["train/100003.mp4"] = "500"
    summary = _work(planned, tmp_path)
    assert summary.done == [0, 2]
    assert "100003.mp4 (error (HTTP 500)" in summary.failed[1]
    assert "100003.mp4" in status.look(planned).failed[1]["reason"]
    assert not list((tmp_path / "scratch").iterdir())
    bucket.always.clear()
    assert _work(planned, tmp_path).done == [1]
    assert status.look(planned).failed == {}


def test_a_network_that_is_down_ends_the_run(planned, bucket, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(fetch, "FAILURES_IN_A_ROW", 2)
    monkeypatch.setattr(run, "FAILURES_IN_A_ROW", 2)
    for row in range(6):
        bucket.always[f"train/{100000 + row}.mp4"] = "reset"
    summary = _work(planned, tmp_path)
    assert (summary.done, list(summary.failed)) == ([], [0, 1])


def test_a_fetch_that_is_abandoned_does_not_stop_later_ones(planned, bucket, tmp_path):
    plan = plans.read(planned)
    settings = fetched.FetchSettings.parse({"endpoint": bucket.endpoint}, "test")
    with fetched.Scratch(tmp_path / "scratch", settings) as scratch:
        bucket.pause_s = 1.0
        with scratch.fetching(lambda: plans.read_list(planned, plan, 0)):
            while not bucket.peak:
                time.sleep(0.01)
        bucket.pause_s = 0.0
        with scratch.fetching(lambda: plans.read_list(planned, plan, 1)) as coming:
            assert len(coming.result().stamps) == 2


def test_what_nobody_may_read_is_no_row(planned, bucket, tmp_path, quick):
    for row in range(2):
        bucket.always[f"train/{100000 + row}.mp4"] = "403"
    assert "bucket is public" in _work(planned, tmp_path).failed[0]
    with pytest.raises(NetworkError):
        run.one(planned.where, 0, run.Options(cores=1))


def test_the_folder_of_a_killed_process_is_removed(planned, tmp_path, monkeypatch):
    monkeypatch.setattr(fetched, "LEFTOVER_S", -1)
    left = tmp_path / "scratch" / f"{fetched.PREFIX}abc"
    (left / "recordings").mkdir(parents=True)
    other = tmp_path / "scratch" / "other"
    other.mkdir()
    _work(planned, tmp_path)
    assert list((tmp_path / "scratch").iterdir()) == [other]


@pytest.fixture
def remote(bucket, monkeypatch) -> BucketPlace:
    for name, value in {
        "AWS_ENDPOINT_URL": bucket.endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    return open_place("s3://competition/some/plan/")


class _NoBucket(BaseHTTPRequestHandler):
    def do_PUT(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_bucket_that_does_not_exist_is_said(remote, monkeypatch):
    with HTTPServer(("127.0.0.1", 0), _NoBucket) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(InputError, match=r"s3://none/plan/a: .*name of the bucket"):
            open_place("s3://none/plan").write("a", b"")
        server.shutdown()
        thread.join()


def test_a_plan_in_a_bucket_gives_the_same_tables(remote, done, tmp_path):
    plans.make([done.recordings], remote, shard_size=2)
    with pytest.raises(merge.GapError, match="3 shards"):
        merge.merge(remote, tmp_path / "out")
    run.one(remote.where, 1, run.Options(cores=1))
    found = status.look(remote)
    assert (found.done, found.missing) == ([1], [0, 2])
    summary = run.work(remote.where, run.Options(cores=1))
    assert (summary.done, summary.before) == ([0, 2], 1)
    assert status.look(remote).held == {}
    for each, name in ((remote, "a"), (done.place, "b")):
        merge.merge(each, tmp_path / name)
    for table in TABLES:
        assert (tmp_path / "a" / table).read_bytes() == (tmp_path / "b" / table).read_bytes()


def test_a_claim_in_a_bucket_is_void_when_it_is_old(remote, done, monkeypatch):
    plans.make([done.recordings], remote, shard_size=2)
    with remote.claim("shard-0001"):
        assert list(status.look(remote).held) == [1]
        assert list(run.work(remote.where, run.Options(cores=1)).held) == [1]
        monkeypatch.setattr(place, "VOID_S", -60)
        assert run.work(remote.where, run.Options(cores=1)).done == [1]
    assert remote.names(place.CLAIMS) == set()


def test_a_bucket_that_does_not_answer_is_one_sentence(remote, bucket):
    bucket.always["some/plan/plan.json"] = "403"
    with pytest.raises(InputError, match=r"s3://competition/some/plan/plan\.json: .*credentials"):
        plans.read(remote)


@pytest.mark.parametrize("where", ["s3://", "s3://bucket", "https://example.org/plan"])
def test_a_place_that_is_none_is_refused(where):
    with pytest.raises(InputError, match="s3://bucket/prefix"):
        open_place(where)


def test_a_folder_is_read_as_it_is(tmp_path):
    here = FolderPlace(tmp_path)
    here.write("a/b.json", b"1")
    Path(tmp_path, "a", ".hidden").touch()
    assert here.names("a") == {"b.json"}
    assert (here.read("a/b.json"), here.read("a/c.json"), here.read("x/y")) == (b"1", None, None)
    here.remove("a/b.json")
    here.remove("a/b.json")
    assert here.names("a") == here.names("nothing") == set()
