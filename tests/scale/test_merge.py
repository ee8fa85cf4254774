"""Merging: refused if anything is missing, double, damaged or of another plan."""

import json
import shutil

import pandas as pd
import pytest

from stallscan.calls.decide import decide
from stallscan.calls.predictions import Predictions
from stallscan.calls.settings import CallSettings
from stallscan.errors import InputError
from stallscan.scale import merge, results, status
from stallscan.scale import plan as plans
from stallscan.scale.merge import GapError
from stallscan.scale.place import FolderPlace
from stallscan.scale.results import ResultError


def rewrite(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(done, out, kind, match):
    with pytest.raises(kind, match=match):
        merge.merge(done.place, out)
    assert not (out / "predictions.csv").exists()


def test_missing_shards_are_named(done, tmp_path):
    for number in (0, 2):
        done.result(number).unlink()
    refused(done, tmp_path / "out", GapError, "2 shards .*shard-0000, shard-0002.*stallscan run")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("spoil", ["", "{", "[]", '{"format": 1}', "cut"])
def test_a_damaged_result_is_named(done, tmp_path, spoil):
    path = done.result(1)
    path.write_text(path.read_text()[:400] if spoil == "cut" else spoil)
    refused(done, tmp_path / "out", ResultError, r"shard-0001\.json: damaged.*stallscan run")


@pytest.mark.parametrize("time", ["yesterday", "2026-01-01T00:00:00"])
def test_a_result_without_a_time_is_damaged(done, tmp_path, time):
    path = done.result(1)
    content = json.loads(path.read_text())
    content["made"]["started"] = time
    path.write_text(json.dumps(content))
    refused(done, tmp_path / "out", ResultError, r"shard-0001\.json: damaged")
    assert list(status.look(done.place).broken) == [1]


def test_a_changed_row_is_damage(done, tmp_path):
    path = done.result(0)
    path.write_text(path.read_text().replace(",flowing,", ",stalled,").replace("0.mp4,ok,,8", "x"))
    refused(done, tmp_path / "out", ResultError, r"shard-0000\.json: damaged")


def test_a_result_of_another_bundle_list_or_engine_is_refused(done, tmp_path):
    original = done.result(1).read_text()
    changes = {"bundle_sha256": "bundle", "list_sha256": "list of recordings", "engine": "engine"}
    for key, what in changes.items():
        rewrite(done.result(1), **{key: "other"})
        refused(done, tmp_path / "out", ResultError, f"shard-0001.*another {what}.*Remove")
        done.result(1).write_text(original)
    rewrite(done.result(1), consistency=True)
    refused(done, tmp_path / "out", ResultError, "another choice of --consistency")
    shutil.copy(done.result(0), done.result(1))
    refused(done, tmp_path / "out", ResultError, "another list of recordings")
    rewrite(done.result(1), format=2)
    refused(done, tmp_path / "out", ResultError, "format 2.*Use the version")


def test_rows_that_are_not_those_of_the_list_are_refused(done, tmp_path):
    path = done.result(0)
    tables = json.loads(path.read_text())["tables"]
    first, second = tables["predictions.csv"].splitlines(keepends=True)
    tables["predictions.csv"] = second + first
    rewrite(path, tables=tables, tables_sha256=results.hash_of(tables))
    refused(done, tmp_path / "out", InputError, "not those of the shard's list")


def test_a_recording_that_occurs_twice_is_refused(recordings, tmp_path, done):
    # As no plan that stallscan makes: the first shard, twice.
    plan = done.plan
    twice = plan.model_copy(update={"lists": (plan.lists[0],) * 2, "recordings": 4})
    (done.folder / "plan.json").write_text(twice.model_dump_json())
    shutil.copy(done.folder / plans.list_name(0), done.folder / plans.list_name(1))
    for number in (0, 1):
        if number:
            shutil.copy(done.result(0), done.result(1))
        rewrite(done.result(number), shard=number, shards=2)
    refused(done, tmp_path / "out", InputError, "shard-0001 occurs twice")


def test_a_folder_with_other_predictions_is_refused_and_the_same_is_written_again(done, tmp_path):
    out = tmp_path / "out"
    merge.merge(done.place, out)
    before = (out / "predictions.csv").read_bytes()
    merge.merge(done.place, out)
    assert (out / "predictions.csv").read_bytes() == before
    other = FolderPlace(tmp_path / "other")
    plans.make([done.recordings], other, shard_size=5, prevalence=0.02)
    with pytest.raises(GapError):
        merge.merge(other, out)
    run = json.loads((out / "run.json").read_text())
    for spoilt in ({"plan": None}, {"decision": {}}):
        (out / "run.json").write_text(json.dumps(run | spoilt))
        with pytest.raises(InputError, match="Choose another folder with -o"):
            merge.merge(done.place, out)


def test_merged_tables_can_be_decided_again(done, tmp_path):
    merge.merge(done.place, tmp_path / "out")
    predictions = Predictions.read(tmp_path / "out" / "predictions.csv")
    assert predictions.prevalence == predictions.run["prevalence"]
    calls = decide(tmp_path / "out" / "predictions.csv", CallSettings(threshold=0.0, rule="keep"))
    assert set(calls.table["call"]) == {"stalled", "unscorable"}


def test_results_of_several_versions_are_said(done, tmp_path, caplog):
    rewrite(done.result(1), stallscan="0.0.1")
    merge.merge(done.place, tmp_path / "out")
    assert "0.0.1" in caplog.text
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["versions"] == [run["stallscan"], "0.0.1"]
    assert len(pd.read_csv(tmp_path / "out" / "predictions.csv")) == 5
