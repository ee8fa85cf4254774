"""Work off a plan on a Ray cluster: one worker for each machine, or for each GPU.

A worker does shards as `run.work` does, with the same claims and the same results. Without GPUs its
decoders are processes of its own machine. With GPUs, its recordings are decoded on the processors
of all machines, because one GPU needs more decoders than a machine has cores.

Ray decides where workers run and says when they are lost; what is done is what has a result.
"""

import collections
import contextlib
import functools
import logging
import os
import socket
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from stallscan.clips import prepare
from stallscan.clips.prepare import Prepared, Preprocessing
from stallscan.cores import count_cores
from stallscan.errors import InputError, StallscanError, WorkerError
from stallscan.recordings.find import Source
from stallscan.scale import plan as plans
from stallscan.scale import results, run
from stallscan.scale.place import Place, open_place
from stallscan.scale.plan import Plan
from stallscan.scale.run import Options, Progress, Summary
from stallscan.scale.shard import Many

# Before Ray is imported: it must not send usage data, nor pack the working folder for its workers.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

import ray

log = logging.getLogger("stallscan")

# Recordings in a task of a decoder: a second's work, which makes Ray's milliseconds cheap.
BATCH = 8
# Shards are handed out in pieces, which get smaller towards the end so that all workers end at the
# same time: each gets this fraction of its part of the rest.
PIECES = 4
# How many workers a shard may take with it. Machines are lost for other reasons, too.
TRIES = 3
# How often to look for new machines and finished shards.
LOOK_S = 2.0
# How long to wait for a machine when there is none: others may come in place of lost ones.
WAIT_S = 120.0
# Chosen: longer than a connection in any network takes.
CONNECT_S = 10.0
# Local mode: room for clips in shared memory, of which Ray takes a third otherwise.
OBJECT_BYTES = 256 * 2**20

Key = tuple[str, int]  # a node of Ray, and the number of the worker on it


def work(where: str, options: Options, progress: Progress = lambda _done, _of: None) -> Summary:
    """Do the missing shards of a plan on the cluster at RAY_ADDRESS, or on this machine without.

    Parameters and errors as for `run.work`. In a cluster, ``options.cores`` are those of a worker;
    by default it gets all cores of its machine.

    Raises
    ------
    InputError
        If the cluster cannot be reached.
    WorkerError
        If there is no machine in the cluster that can work on the plan, for minutes.
    """
    place = open_place(where)
    plan = plans.read(place)
    plan.load_model(options.bundle)
    todo = run.todo(place, plan)
    summary = Summary(before=len(plan.lists) - len(todo))
    progress(run.rows(plan, todo), plan.recordings)
    if todo:
        with _connected(options.cores):
            for _ in _Crew(where, place, plan, options).work(todo, summary):
                progress(run.rows(plan, run.missing(place, plan)), plan.recordings)
    return summary


@contextlib.contextmanager
def _connected(cores: int | None) -> Iterator[None]:
    """Connect to the cluster at RAY_ADDRESS, or start one on this machine's loopback interface."""
    address = os.environ.get("RAY_ADDRESS", "")
    given: dict[str, Any] = {"address": address}
    if not address:
        given = {
            "num_cpus": min(cores or count_cores(), count_cores()),
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
            "object_store_memory": OBJECT_BYTES,
        }
    else:
        _refuse_unreachable(address)
    try:
        ray.init(**given, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise InputError(
            f"Ray {f'at {address} cannot be reached' if address else 'cannot start'} "
            f"({str(error).partition(chr(10))[0]}). Check RAY_ADDRESS, and that the cluster has "
            "the same versions of Ray and Python"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _refuse_unreachable(address: str) -> None:
    """Refuse an address where nothing answers, for which Ray tries again for minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if not port.isdecimal():
        return  # auto: the cluster of this machine
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"Ray at {address} cannot be reached ({error}). Check RAY_ADDRESS, and that the "
            "cluster is up"
        ) from None


@dataclass
class _Crew:
    """The workers on all machines of the cluster."""

    where: str
    place: Place
    plan: Plan
    options: Options
    # None for one that cannot work on this plan.
    workers: dict[Key, Any] = field(default_factory=dict)
    reasons: list[StallscanError] = field(default_factory=list)
    # Workers that were lost while they worked on a shard.
    losses: "collections.Counter[int]" = field(default_factory=collections.Counter)

    def work(self, todo: Sequence[int], summary: Summary) -> Iterator[None]:
        """Do these shards, and yield now and then; `summary` says what became of them."""
        waiting, busy = collections.deque(todo), dict[Any, tuple[Key, list[int]]]()
        seen = time.monotonic()  # a machine that can work
        while waiting or busy:
            self._hire()
            active = [key for key, worker in self.workers.items() if worker is not None]
            if active:
                seen = time.monotonic()
            elif self.workers and not busy:
                raise self.reasons[0]
            elif time.monotonic() - seen > WAIT_S:
                raise _no_machine()
            occupied = {key for key, _ in busy.values()}
            for key in active:
                if waiting and key not in occupied:
                    count = max(1, len(waiting) // (PIECES * len(active)))
                    piece = [waiting.popleft() for _ in range(count)]
                    busy[self.workers[key].work.remote(piece)] = (key, piece)
            if not busy:
                time.sleep(LOOK_S)
            for ref in ray.wait(list(busy), timeout=LOOK_S)[0] if busy else ():
                waiting.extend(self._take(ref, *busy.pop(ref), summary))
            yield

    def _take(self, ref: Any, key: Key, piece: list[int], summary: Summary) -> list[int]:
        """Take what a worker has done; return the shards that have to be done again."""
        try:
            summary.join(ray.get(ref))
            return []
        except ray.exceptions.RayTaskError as error:
            if not isinstance(error.cause, StallscanError):
                raise
            # One machine may lack the bundle or the recordings, while others have them.
            log.warning("a machine of the cluster gave up: %s", error.cause)
            self.workers[key] = None
            self.reasons.append(error.cause)
            lost = False
        except ray.exceptions.RayError as error:
            log.warning("a worker was lost (%s); its shards are done again", type(error).__name__)
            self.workers.pop(key, None)
            lost = True
        left = []
        for number in piece:
            if (result := results.read(self.place, self.plan, number)) is None:
                left.append(number)
            else:
                summary.add(number, result)
        if left and lost:
            self.losses[left[0]] += 1
            if self.losses[left[0]] == TRIES:
                reason = f"{TRIES} workers were lost on it. They may have run out of memory"
                summary.failed[left.pop(0)] = reason
        return left

    def _hire(self) -> None:
        """Start workers on the machines that have none, and forget machines that are gone."""
        alive = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
        self.workers = {key: each for key, each in self.workers.items() if key[0] in alive}
        has_gpus = self.plan.engine == "torch" and any("GPU" in has for has in alive.values())
        for node, has in alive.items():
            cores = self.options.cores or int(has.get("CPU", 0))
            count = int(has.get("GPU", 0) if has_gpus else has.get("CPU", 0) // max(1, cores))
            for number in range(count):
                if (node, number) not in self.workers:
                    self.workers[node, number] = self._start(node, cores, has_gpus)

    def _start(self, node: str, cores: int, has_gpu: bool) -> Any:
        # A worker with a GPU leaves the cores to its decoders.
        takes: dict[str, Any] = {"num_cpus": 0, "num_gpus": 1} if has_gpu else {"num_cpus": cores}
        start = ray.remote(_Worker).options(**takes, scheduling_strategy=_only_on(node))
        return start.remote(self.where, replace(self.options, cores=cores), node, has_gpu)


def _only_on(node: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


def _no_machine() -> WorkerError:
    return WorkerError(
        "no machine of the Ray cluster has enough cores for a shard of this plan. Check the "
        "cluster with 'ray status', and --cores"
    )


class _Worker:
    """Does shards of a plan on one machine; an actor of Ray."""

    def __init__(self, where: str, options: Options, node: str, has_gpu: bool) -> None:
        self._where, self._options = where, options
        self._decoders = functools.partial(_decoders, node) if has_gpu else None
        self._stack = contextlib.ExitStack()
        self._do: Callable[[Sequence[int], Progress], Summary] | None = None

    def work(self, todo: Sequence[int]) -> Summary:
        """Do these shards; errors as for `run.work`."""
        # Not in the constructor, whose errors would reach nobody.
        if self._do is None:
            place = open_place(self._where)
            opened = run.opened(place, plans.read(place), self._options, self._decoders)
            self._do = self._stack.enter_context(opened)
        return self._do(todo, lambda _done, _of: None)


@contextlib.contextmanager
def _decoders(node: str, plan: Plan, views: Sequence[Preprocessing]) -> Iterator[Many]:
    """Yield what prepares recordings on the processors of the cluster, in order."""
    # Fetched recordings are on the worker's machine only.
    where = "SPREAD" if plan.kind == "files" else _only_on(node)
    decode = ray.remote(_decode).options(num_cpus=1, max_retries=10, scheduling_strategy=where)

    def many(sources: Sequence[Source]) -> Generator[Prepared, None, None]:
        coming: collections.deque[Any] = collections.deque()
        ahead = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        try:
            for start in range(0, len(sources), BATCH):
                coming.append(decode.remote(list(sources[start : start + BATCH]), tuple(views)))
                if len(coming) >= ahead:
                    yield from _get(coming.popleft())
            while coming:
                yield from _get(coming.popleft())
        finally:
            for ref in coming:
                ray.cancel(ref)

    yield many


def _get(ref: Any) -> list[Prepared]:
    try:
        prepared: list[Prepared] = ray.get(ref)
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError as error:
        raise WorkerError(
            f"the decoders of the cluster were lost again and again ({type(error).__name__}). "
            "Check their memory, and run the same command again"
        ) from None
    return prepared


def _decode(sources: Sequence[Source], views: tuple[Preprocessing, ...]) -> list[Prepared]:
    """Prepare some recordings; this is a task of Ray."""
    return list(_decoder(views)(sources))


# For the life of this process: the decoder would end with its context.
_kept = contextlib.ExitStack()


@functools.cache
def _decoder(views: tuple[Preprocessing, ...]) -> Many:
    """Start the one process in which this process of Ray decodes, so that a crash is a row."""
    return _kept.enter_context(prepare.keep(views, 1))
