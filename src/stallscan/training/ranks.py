"""Several processes that train one net together, as ``torchrun`` starts them."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

Item = TypeVar("Item")
# The others wait while the first prepares recordings or scores the validation part: hours.
PATIENCE = timedelta(days=7)


@contextmanager
def process_group() -> Iterator[None]:
    """Join the other processes that ``torchrun`` started, for the block; one by itself has none."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE
    )
    try:
        yield
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """Give the number of this process, 0 for the one that writes files."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world() -> int:
    """Count the processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def wait() -> None:
    """Wait until all processes are here."""
    if distributed.is_initialized():
        distributed.barrier()


@contextmanager
def first_process_first() -> Iterator[None]:
    """Let the first process go through the block before the others do, who find its files."""
    if rank() > 0:
        wait()
    yield
    if rank() == 0:
        wait()


def gather(items: Sequence[Item]) -> list[Item]:
    """Put what all processes have into one list, the same in each of them."""
    if not distributed.is_initialized():
        return list(items)
    parts: list[Any] = [None] * world()
    distributed.all_gather_object(parts, list(items))
    return [item for part in parts for item in part]


def trainer_settings() -> dict[str, Any]:
    """Say to Lightning's trainer on what to run."""
    if world() == 1:
        return {"accelerator": "auto", "devices": 1}
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world()))
    return {
        "accelerator": "auto",
        "devices": local,
        "num_nodes": world() // local,
        "strategy": "ddp",
    }
