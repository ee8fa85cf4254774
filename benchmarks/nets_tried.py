"""The default net, others that were tried in its place, and R(2+1)D-18, on one simulated corpus.

The corpus is small and easy enough for a net of 31 million parameters to learn on two cores:
clips of 32 frames of 48 px, of segments that are easy by ``truth.csv`` and in focus within those
frames. All nets see the same clips with the same augmentation, have the same validation part, start
from random weights, and run their whole schedule, which ends at a learning rate of zero. What is
said of them is measured on clips of another seed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from unittest.mock import patch

import cyclopts
import pandas as pd
import torch
from common import (
    HERE,
    machine,
    markdown,
    publish,
    say,
    show_interval,
    show_progress,
    version,
)
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from trained import score, train_once

from stallscan import files
from stallscan.nets import build
from stallscan.nets.stallnet import StallNet
from stallscan.recipes import recipe
from stallscan.recipes.recipe import Recipe
from stallscan.recipes.settings import StageSettings
from stallscan.scores import bootstrap, metrics
from stallscan.scores.metrics import Scored
from stallscan.simulate import SimulateSettings
from stallscan.simulate.corpus import simulate_clips

SIZE, FRAMES = 48, 32
STALLED = 0.4
CHANGES = (
    f"clip.size={SIZE}",
    f"clip.frames={FRAMES}",
    "augment.gamma=0",
    "augment.noise=0",
    "training.class_weight=none",
    "net.normalisation=per-video",
    "net.mean=[0.2,0.0]",
    "net.std=[0.2,1.0]",
)
REFERENCE = "r2plus1d_18"
Make = Callable[[int], nn.Module]
Size = tuple[int, int, int]


@dataclass(frozen=True)
class Candidate:
    """A net to be tried.

    Attributes
    ----------
    what : str
        How it differs from the default net.
    make : callable or None
        Makes it for a number of channels; None: it is one of `build.NETS`.
    epochs : int
        Of its schedule.
    learning_rate : float
        At the peak of the schedule.
    """

    what: str
    make: Make | None = None
    epochs: int = 20
    learning_rate: float = 2e-3


class _Narrow(StallNet):
    BLOCKS = ((8, 5, 2), (16, 3, 2), (24, 3, 1), (32, 3, 2))


class _Deep(StallNet):
    BLOCKS = ((16, 5, 2), (32, 3, 2), (48, 3, 1), (48, 3, 1), (64, 3, 2), (64, 3, 1))


class _NoDifferences(StallNet):
    """Sees grey levels and mask only, as the published nets do."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        width, kernel, stride = self.BLOCKS[0]
        first = cast(nn.Sequential, self.blocks[0])
        first[0] = nn.Conv3d(
            2,
            width,
            (1, kernel, kernel),
            (1, stride, stride),
            (0, kernel // 2, kernel // 2),
            bias=False,
        )
        self.blocks.register_forward_pre_hook(_grey_and_mask)


def _grey_and_mask(_blocks: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
    return (inputs[0][:, (0, 3)],)


class _Depthwise(StallNet):
    """Each convolution but the first within its own channel, and one of 1 x 1 x 1 to mix them."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        for number, block in enumerate(cast(list[nn.Sequential], list(self.blocks))):
            for place in (0, 3) if number else (3,):
                block[place] = _separated(cast(nn.Conv3d, block[place]))


def _separated(conv: nn.Conv3d) -> nn.Module:
    before, after = conv.in_channels, conv.out_channels
    kernel, stride = cast(Size, conv.kernel_size), cast(Size, conv.stride)
    padding = cast(Size, conv.padding)
    own = nn.Conv3d(before, before, kernel, stride, padding, groups=before, bias=False)
    return nn.Sequential(own, nn.Conv3d(before, after, 1, bias=False))


CANDIDATES = {
    "stallnet": Candidate("an earlier default net"),
    REFERENCE: Candidate("published (torchvision)", epochs=7, learning_rate=1e-3),
    "no-differences": Candidate("sees no differences in time", _NoDifferences),
    "narrow": Candidate("half as wide", _Narrow),
    "deep": Candidate("six blocks, not four", _Deep),
    "depthwise": Candidate("depthwise and pointwise convolutions", _Depthwise),
}


@dataclass(frozen=True)
class Result:
    """What came of a candidate.

    Attributes
    ----------
    name : str
        Key of `CANDIDATES`.
    parameters : int
        Of the net.
    operations : int
        Of one clip, a multiplication with its addition counted as two.
    seconds : float
        Processor time of the training.
    history : DataFrame
        A row an epoch.
    scored : Scored
        The clips held out.
    """

    name: str
    parameters: int
    operations: int
    seconds: float
    history: pd.DataFrame
    scored: Scored


def main(
    out: Path,
    *,
    simulated: int = 3500,
    count: int = 1620,
    held_out: int = 1200,
    seed: int = 5000,
    names: list[str] | None = None,
    page: Path | None = None,
) -> None:
    """Simulate, train each net, measure it on the clips held out, and write the tables.

    Parameters
    ----------
    out
        Folder for clips and runs; what is there of an earlier call is used, and gone on with.
    simulated
        Clips to simulate for training, and as many for measuring; about half of them are easy and
        in focus within the frames that are kept.
    count
        Of those, how many to train on; 15 % of them are the validation part.
    held_out
        How many to measure on.
    seed
        Of the clips for training; those held out have the next one.
    names
        Keys of CANDIDATES; all if not given.
    page
        The tables, a Markdown file; benchmarks/nets_tried.md if not given.
    """
    for part, number, shift in (("train", count, 0), ("held_out", held_out, 1)):
        settings = SimulateSettings(count=simulated, stalled=STALLED, seed=seed + shift)
        make_part(out, part, settings, number)
    results = [run(name, out) for name in names or CANDIDATES]
    stalled = results[0].scored.labels.mean()
    lead = (
        f"{count:,} **simulated** clips of {FRAMES} frames of {SIZE} px (seed {seed}), of segments "
        f"that are easy and in focus within those frames: far easier than the recordings of a "
        f"laboratory. 15 % of them are the validation part that chose epoch and threshold. MCC and "
        f"ROC AUC are of {len(results[0].scored.labels):,} others (seed {seed + 1}, {stalled:.0%} "
        f"stalled). Random start, one split, one seed. {version()}, torch {torch.__version__}, "
        f"{machine()}."
    )
    tail = (
        "Intervals are 95 %, from a bootstrap of the same clips for all. *Operations* are those of "
        "one such clip, a multiplication and its addition being two. Another seed of the training "
        "would give other weights; that is not in the intervals.\n"
    )
    course = "ROC AUC on the validation part, by epoch; each schedule ends with the last.\n"
    tables = [_table(results), tail, course, _courses(results)]
    publish(page or HERE / "nets_tried.md", "Nets tried", lead, tables)


def make_part(out: Path, part: str, settings: SimulateSettings, count: int) -> None:
    """Simulate clips, and list in ``out/part`` the first so many that are easy and in focus."""
    wanted = recipe_of("stallnet")
    folder = out / f"simulated-{part}"
    simulate_clips(
        folder, settings, wanted.outline, wanted.clip, progress=show_progress("simulated")
    )
    truth = pd.read_csv(folder / "truth.csv")
    first = (truth["frames"] - FRAMES).clip(lower=0) // 2  # clips keep the middle frames
    in_focus = (truth["first_in_focus"] >= first) & (truth["last_in_focus"] < first + FRAMES)
    chosen = truth.loc[in_focus & (truth["difficulty"] == "easy"), "filename"].head(count)
    if len(chosen) < count:
        raise SystemExit(f"{len(chosen)} of {len(truth)} clips will do, {count} are wanted")
    files.make_folder(out / part)
    for name in ("train_metadata.csv", "train_labels.csv"):
        table = pd.read_csv(folder / name)
        kept = table[table["filename"].isin(chosen)]
        files.write_text(out / part / name, kept.to_csv(index=False))
    text = (folder / "simulation.json").read_text(encoding="utf-8")
    files.write_text(out / part / "simulation.json", text)


def recipe_of(name: str) -> Recipe:
    """Change the default recipe so that a candidate is trained by it."""
    candidate = CANDIDATES[name]
    net = "stallnet" if candidate.make else name
    settings = recipe.read_recipe("default", [*CHANGES, f"net.name={net}"])
    stage = StageSettings(epochs=candidate.epochs, learning_rate=candidate.learning_rate)
    training = settings.training.model_copy(update={"stages": (stage,)})
    return settings.model_copy(update={"name": name, "training": training})


def run(name: str, out: Path) -> Result:
    """Train a candidate, or find it trained, and score the clips held out."""
    candidate = CANDIDATES[name]
    settings = recipe_of(name)
    folder = out / f"run-{name}"
    say(f"{name}: {candidate.what}")
    made = candidate.make
    with patch.dict(build.NETS, {"stallnet": made} if made else {}):
        clips = out / "simulated-train" / "store"
        seconds = train_once(settings, out / "train", clips, folder)
        net = build.build(settings.net)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            build.forward(net, torch.zeros(1, len(settings.net.mean), FRAMES, SIZE, SIZE))
        scored = score(folder / "bundle", out / "held_out", out / "simulated-held_out" / "store")
    return Result(
        name,
        sum(tensor.numel() for tensor in net.parameters()),
        counter.get_total_flops(),
        seconds,
        pd.read_csv(folder / "history.csv"),
        scored,
    )


def _table(results: list[Result]) -> str:
    reference = next((result for result in results if result.name == REFERENCE), results[0])
    rows = []
    for result in results:
        measured = metrics.measure(result.scored)
        against = bootstrap.mcc_gain(reference.scored, result.scored)
        rows.append(
            [
                result.name,
                CANDIDATES[result.name].what,
                f"{result.parameters:,}",
                f"{result.operations / 1e9:.3f}",
                f"{result.operations / reference.operations:.4f}",
                str(len(result.history)),
                f"{result.seconds:,.0f}",
                f"{measured.mcc:.3f}",
                show_interval(bootstrap.mcc_interval(measured.confusion, measured.prevalence)),
                "-" if result is reference else show_interval(against, sign="+"),
                f"{measured.roc_auc or 0:.3f}",
            ]
        )
    head = ["net", "what it is", "parameters", "operations, 10^9", f"of {reference.name}'s"]
    head += ["epochs", "training, CPU s", "MCC", "95 %", f"less {reference.name}'s", "ROC AUC"]
    return markdown(head, rows)


def _courses(results: list[Result]) -> str:
    longest = max(len(result.history) for result in results)
    rows = []
    for result in results:
        values = [f"{value:.3f}" for value in result.history["val_roc_auc"]]
        rows.append([result.name, *values, *[""] * (longest - len(values))])
    return markdown(["net", *(str(epoch + 1) for epoch in range(longest))], rows)


if __name__ == "__main__":
    cyclopts.run(main)
