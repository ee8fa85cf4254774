"""Measure whether the training's input keeps up with its steps: what a clip costs, and who waits.

The parts are timed one after the other in one thread, in CPU time; then the net is trained for some
steps with 0 and with 1 worker, and the time that it waits for its next batch is taken.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from common import HERE, machine, markdown, publish, say, show_progress, version
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from stallscan.catalog.tables import read_labels
from stallscan.clips.store import Store
from stallscan.nets import build
from stallscan.recipes.recipe import Recipe, read_recipe
from stallscan.simulate import SimulateSettings
from stallscan.simulate.corpus import simulate_clips
from stallscan.training.dataset import Batch, ClipDataset, Collate, LengthSampler, Pick

WARM_UP = 2  # chosen: steps that are not counted


def main() -> None:
    """Parse the command line, measure, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="default", help="whose clips, batches and net")
    parser.add_argument("--count", type=int, default=64, help="clips to simulate")
    parser.add_argument("--steps", type=int, default=6, help="to measure, after the first two")
    args = parser.parse_args()
    recipe = read_recipe(args.recipe)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        settings = SimulateSettings(count=args.count, stalled=0.3, seed=77)
        simulate_clips(
            out, settings, recipe.outline, recipe.clip, progress=show_progress("simulating")
        )
        store = Store(out / "store")
        table = read_labels(out / "train_labels.csv")
        names, labels = table["filename"].tolist(), table["stalled"].tolist()
        costs = _measure_parts(recipe, store, names, labels)
        waits = [_measure_waits(recipe, store, names, labels, w, args.steps) for w in (0, 1)]
    frames = sum(map(store.frames, names)) / len(names)
    publish(
        HERE / "training_input.md",
        "What the training's input costs",
        f"{version()}, recipe {recipe.name}: clips of {recipe.clip.size} px and {frames:.0f} "
        f"frames on average, simulated, in batches of {recipe.training.batch_size}; {machine()}, "
        f"{torch.get_num_threads()} threads for the net. The load average was {load:.1f} when it "
        "began: the second table is that of a machine as busy.",
        [
            markdown(
                ["part", "ms of CPU a clip"],
                [[name, f"{1000 * seconds / len(names):.2f}"] for name, seconds in costs],
            ),
            markdown(
                ["workers", "ms a clip, step", "ms a clip, waiting", "share waiting"],
                [
                    [
                        str(workers),
                        f"{1000 * stepping:.1f}",
                        f"{1000 * waiting:.1f}",
                        f"{waiting / (waiting + stepping):.1%}",
                    ]
                    for workers, stepping, waiting in waits
                ],
            ),
        ],
    )


def _sampler(recipe: Recipe, store: Store, names: list[str]) -> LengthSampler:
    return LengthSampler(list(map(store.frames, names)), recipe.training.batch_size, recipe.seed)


def _measure_parts(
    recipe: Recipe, store: Store, names: list[str], labels: list[float]
) -> list[tuple[str, float]]:
    """Give the CPU time of each part for all clips, s."""
    plain = ClipDataset(store, names, labels)
    changed = ClipDataset(store, names, labels, recipe.augment, recipe.seed)
    picks: list[list[Pick]] = list(_sampler(recipe, store, names))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker

    def timed(make: Callable[[list[Pick]], object]) -> float:
        for batch in picks[:WARM_UP]:
            make(batch)
        start = time.process_time()
        for batch in picks:
            make(batch)
        return time.process_time() - start

    collate = Collate(recipe.net)
    reading = timed(lambda batch: [plain[pick] for pick in batch])
    both = timed(lambda batch: [changed[pick] for pick in batch])
    joined = timed(lambda batch: collate([plain[pick] for pick in batch]))
    torch.set_num_threads(threads)
    return [
        ("reading, with the hash of the pixels", reading),
        ("augmentation", both - reading),
        ("to floats, in a batch", joined - reading),
    ]


def _measure_waits(
    recipe: Recipe, store: Store, names: list[str], labels: list[float], workers: int, steps: int
) -> tuple[int, float, float]:
    """Give the workers, and the time a clip that steps take and that they wait, s."""
    loader: Any = DataLoader(
        ClipDataset(store, names, labels, recipe.augment, recipe.seed),
        batch_sampler=_sampler(recipe, store, names),
        collate_fn=Collate(recipe.net),
        num_workers=workers,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = build.build(recipe.net).to(device).train()
    if device.type == "cuda":  # as in training
        build.lay_out(net)
    optimiser = torch.optim.AdamW(net.parameters())
    batches = _again_and_again(loader)
    waiting = stepping = 0.0
    clips = 0
    for step in range(WARM_UP + steps):
        asked = time.perf_counter()
        batch = next(batches)
        begun = time.perf_counter()
        _step(net, optimiser, batch, device)
        done = time.perf_counter()
        if step >= WARM_UP:
            waiting += begun - asked
            stepping += done - begun
            clips += len(batch.labels)
        say(f"{workers} workers: step {step + 1} of {WARM_UP + steps}")
    return workers, stepping / clips, waiting / clips


def _again_and_again(loader: Any) -> Iterator[Batch]:
    while True:
        yield from loader


def _step(net: nn.Module, optimiser: Any, batch: Batch, device: torch.device) -> None:
    optimiser.zero_grad()
    loss: Any
    logits = build.forward(net, batch.inputs.to(device))
    loss = F.binary_cross_entropy_with_logits(logits, batch.labels.to(device))
    loss.backward()
    optimiser.step()
    loss.item()  # waits for the device


if __name__ == "__main__":
    main()
