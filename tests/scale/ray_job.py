"""Plans on Ray, in processes of their own: Ray leaves files open, which are errors in a test.

python -m tests.scale.ray_job gpu|lost PLAN
"""

import json
import os
import sys
from dataclasses import asdict
from typing import Any

from stallscan.scale import plan as plans
from stallscan.scale import ray_engine, run
from stallscan.scale.place import FolderPlace

import ray  # isort: skip - after what keeps it from sending usage data
from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "object_store_memory": 10**8}


def gpu(where: str) -> run.Summary:
    """Work on a machine of which Ray believes that it has a GPU; torch takes the processor."""
    ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, _node_ip_address="127.0.0.1")
    place, summary = FolderPlace(where), run.Summary()
    plan = plans.read(place)
    for _ in ray_engine._Crew(where, place, plan, run.Options()).work(list(plan.shards), summary):
        pass
    return summary


def lost(where: str) -> run.Summary:
    """Lose the only machine while it works; another one comes."""
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 10**8}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes: list[Any] = [cluster.add_node(**NODE)]
    os.environ["RAY_ADDRESS"] = cluster.address

    def lose(_done: int, _of: int) -> None:
        # The first call comes before the work.
        if len(nodes) == 2:
            cluster.remove_node(nodes[0], allow_graceful=False)
            nodes.append(cluster.add_node(**NODE))
        elif len(nodes) == 1:
            nodes.append(None)

    try:
        summary = ray_engine.work(where, run.Options(), lose)
    finally:
        cluster.shutdown()
    assert len(nodes) == 3, "the work was done before the machine could be lost"
    return summary


if __name__ == "__main__":
    print(json.dumps(asdict({"gpu": gpu, "lost": lost}[sys.argv[1]](sys.argv[2]))))  # noqa: T201
