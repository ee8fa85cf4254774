"""Status: what a person wants to know about a job that runs elsewhere."""

import json

from stallscan.scale import results, status


def test_a_finished_plan_is_said(done):
    found = status.look(done.place)
    assert (found.done, found.missing, found.held, found.failed, found.broken) == (
        *([0, 1, 2], []),
        *({}, {}, {}),
    )
    assert found.recordings == 5
    assert sum(found.calls.values()) == 5
    assert found.rate > 0
    assert found.left_s == 0
    assert {"prepare", "predict", "fetch", "all"} == set(found.seconds)
    assert found.seconds["prepare"] > 0
    assert found.seconds["predict"] > 0
    assert "3 of 3 shards" in str(found)


def test_what_is_missing_held_failed_or_broken_is_said(done):
    done.result(0).unlink()
    done.result(1).unlink()
    done.result(2).write_text("{")
    note = {"reason": "the network is down", "at": "2026-01-01T00:00:00+00:00", "host": "node7"}
    results.record_failure(done.place, 1, note)
    with done.place.claim("shard-0000"):
        found = status.look(done.place)
    assert found.missing == [0, 1]
    assert list(found.held) == [0]
    assert found.failed == {1: note}
    assert "shard-0002.json" in found.broken[2]
    assert found.recordings == 0
    assert found.rate is None
    for word in ("0 of 3", "in work by process", "the network is down", "missing: shard-0000"):
        assert word in str(found)
    # Looking at it claims nothing.
    assert status.look(done.place).held == {}


def test_json_has_the_same_and_a_failure_ends_with_success(run, done):
    done.result(1).unlink()
    code, out, _ = run("status", done.folder, "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["shards"], found["done"], found["missing"]) == (3, 2, [1])
    assert (found["recordings"], found["recordings_done"]) == (5, 3)
    assert found["seconds_left"] >= 0


def test_the_rate_is_that_of_the_last_hour():
    def made(started, finished):
        return results.Made(
            started=f"2026-01-01T{started}:00+00:00",
            finished=f"2026-01-01T{finished}:00+00:00",
            **{"host": "", "cores": 1, "seconds": {}},
        )

    # Two at once for an hour, each at 1/s; the first shard of all was long before.
    times = [(made("00:00", "01:00"), 10), (made("05:00", "06:00"), 3600)]
    times += [(made("04:00", "06:00"), 7200)]
    assert status._rate(times) == 2.0
