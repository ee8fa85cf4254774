"""Plans on Ray: the same results as those of the pool, also when machines are lost."""

import sys
import threading
import time

import pytest

from stallscan.scale import merge, run
from stallscan.scale import plan as plans
from stallscan.scale.place import FolderPlace

TABLES = ("predictions.csv", "traits.csv", "sources.csv")


def _merged(place, out):
    merge.merge(place, out)
    return {name: (out / name).read_bytes() for name in TABLES}


def _again(done):
    """Remove all results of a plan."""
    for number in done.plan.shards:
        done.result(number).unlink()


def test_without_ray_the_command_to_install_it_is_named(run, done, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "stallscan.scale.ray_engine", raising=False)
    code, _, said = run("run", str(done.folder), "--engine", "ray")
    assert code == 2
    assert "pip install 'stallscan[cluster]'" in said


@pytest.fixture(scope="module")
def ray_engine():
    """The engine; its workers must be able to import what is not installed."""
    pytest.importorskip("ray")
    from stallscan.scale import ray_engine

    return ray_engine


@pytest.mark.slow
@pytest.mark.usefixtures("processes")
class TestRay:
    """Each starts a cluster, which takes seconds."""

    def test_this_machine_writes_what_the_pool_writes(self, done, ray_engine, tmp_path):
        pool = _merged(done.place, tmp_path / "pool")
        _again(done)
        seen = []
        summary = ray_engine.work(
            str(done.folder), run.Options(cores=1), lambda *numbers: seen.append(numbers)
        )
        assert (sorted(summary.done), summary.recordings, summary.unscorable) == ([0, 1, 2], 5, 2)
        assert seen[0] == (0, 5)
        assert seen[-1] == (5, 5)
        assert _merged(done.place, tmp_path / "ray") == pool

    def test_decoders_of_the_cluster_feed_a_net(self, recordings, ray_engine, tmp_path):
        pytest.importorskip("torch")
        import ray

        place = FolderPlace(tmp_path / "plan")
        plans.make([recordings], place, shard_size=3, engine="torch")
        run.work(place.where, run.Options(cores=1))
        pool = _merged(place, tmp_path / "pool")
        for path in (tmp_path / "plan" / "results").iterdir():
            path.unlink()
        # Ray believes what it is told; torch finds no GPU and takes the processor.
        ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, _node_ip_address="127.0.0.1")
        try:
            crew = ray_engine._Crew(place.where, place, plans.read(place), run.Options())
            summary = run.Summary()
            assert all(each is None for each in crew.work([0, 1], summary))
        finally:
            ray.shutdown()
        assert sorted(summary.done) == [0, 1]
        assert _merged(place, tmp_path / "ray") == pool

    def test_the_shards_of_a_lost_machine_are_done_again(
        self, done, ray_engine, tmp_path, monkeypatch
    ):
        from ray.cluster_utils import Cluster

        pool = _merged(done.place, tmp_path / "pool")
        _again(done)
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 10**8}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        # The only machine that works is lost as soon as a shard is claimed, and another one comes.
        first = cluster.add_node(num_cpus=1, object_store_memory=10**8)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)

        def lose():
            while not done.place.owners([f"shard-000{number}" for number in range(3)]):
                time.sleep(0.05)
            cluster.remove_node(first, allow_graceful=False)
            cluster.add_node(num_cpus=1, object_store_memory=10**8)

        thread = threading.Thread(target=lose)
        thread.start()
        try:
            summary = ray_engine.work(str(done.folder), run.Options())
        finally:
            thread.join()
            cluster.shutdown()
        assert sorted(summary.done) == [0, 1, 2]
        assert not summary.failed
        assert _merged(done.place, tmp_path / "ray") == pool

    def test_a_cluster_that_is_not_there_is_a_sentence(self, done, ray_engine, monkeypatch, run):
        _again(done)
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
        monkeypatch.setenv("RAY_gcs_server_request_timeout_seconds", "5")
        code, _, said = run("run", str(done.folder), "--engine", "ray")
        assert code == 2
        assert "127.0.0.1:1" in said
