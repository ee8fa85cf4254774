"""Training of one net in several processes, started by ``torchrun``."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

Item = TypeVar("Item")
# The other processes wait for hours while the first prepares recordings or scores the validation
# split.
PATIENCE = timedelta(days=7)


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that ``torchrun`` started, if it did, for the duration of the block."""
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
    """Return the number of this process; process 0 writes the files."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def wait() -> None:
    """Wait until all processes have reached this call."""
    if distributed.is_initialized():
        distributed.barrier()


@contextmanager
def first_process_first() -> Iterator[None]:
    """Run the block in the first process, then in the others, which find its files."""
    if rank() > 0:
        wait()
    yield
    if rank() == 0:
        wait()


def gather(items: Sequence[Item]) -> list[Item]:
    """Return the items of all processes in one list, the same in each process."""
    if not distributed.is_initialized():
        return list(items)
    gathered: list[Any] = [None] * world()
    distributed.all_gather_object(gathered, list(items))
    return [item for from_rank in gathered for item in from_rank]


def trainer_settings() -> dict[str, Any]:
    """Return the settings of Lightning's trainer for the devices and processes of this run."""
    if world() == 1:
        return {"accelerator": "auto", "devices": 1}
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world()))
    return {
        "accelerator": "auto",
        "devices": local,
        "num_nodes": world() // local,
        "strategy": "ddp",
    }
