"""The model of the whole archive: what can be computed by hand, and the page that it wrote."""

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def model(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("archive_model")


@pytest.fixture
def rates(model):
    return model.Rates(**json.loads((BENCHMARKS / "archive_rates.json").read_text()))


def _quiet(model, machines, **given):
    return model.Cluster(machines, **{"lost": 0.0, "spread": 0.0, "start_s": 0.0} | given)


def test_one_machine_takes_the_sum_of_its_shards(model, rates):
    job = model.simulate(rates, _quiet(model, 1, gbit=1000.0, gets_s=float("inf")))
    shards = -(-model.RECORDINGS // model.SHARD)
    work_s = (model.RECORDINGS * rates.recording + shards * rates.shard) / 16
    # The first shard has to be fetched before.
    assert 3600 * job.hours == pytest.approx(work_s, rel=1e-3)
    assert job.repeated == 0


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({"gbit": 0.1}, 1.4e12 / (4 * 0.1e9 / 8)),
        ({"gets_s": 20.0}, 573_048 / 20),
    ],
)
def test_the_slowest_part_sets_the_time(model, rates, given, seconds):
    cluster = _quiet(model, 4, **given)
    assert 3600 * model.simulate(rates, cluster).hours == pytest.approx(seconds, rel=0.02)
    assert model.bottleneck(rates, cluster) in ("network of the machines", "requests of the bucket")


def test_every_recording_is_done_although_machines_are_lost(model, rates):
    job = model.simulate(rates, model.Cluster(10, lost=20.0))
    assert job.repeated > 10
    assert job.hours > model.simulate(rates, model.Cluster(10, lost=0.0)).hours


def test_the_page_is_that_of_the_measured_rates(model, rates):
    page = (BENCHMARKS / "archive_model.md").read_text()
    for table in model.tables(rates, (1, 10, 100)):
        assert table in page
