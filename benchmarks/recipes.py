"""Every recipe trained on one and the same simulated corpus, with the same budget.

The budget is what a net gets to see: the same clips, the same number of times. What that costs is
in the table, too. All start from random weights and the same single split; the recipes' own
selection rules, folds, snapshots and downloaded weights are left out: they are not compared.
Recipes whose training would take longer than --hours are timed, but not trained; with --size all
clips are made smaller, so that every recipe can be.
"""

import timeit
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cyclopts
import numpy as np
import torch
from common import (
    HERE,
    machine,
    markdown,
    once,
    publish,
    say,
    show_interval,
    show_progress,
    version,
)
from torch import nn
from torch.nn import functional as F
from trained import score, train_once

from stallscan import files
from stallscan.clips import clip
from stallscan.nets import build, measures
from stallscan.recipes import recipe
from stallscan.recipes.recipe import Recipe
from stallscan.recordings.recording import Frames
from stallscan.scores import bootstrap, metrics
from stallscan.scores.metrics import Scored
from stallscan.simulate import SimulateSettings
from stallscan.simulate.corpus import simulate_clips

NAMES = tuple(sorted(path.stem for path in recipe.SHIPPED.glob("*.yaml")))
# What makes the comparison one of clip, net, augmentation and schedule.
CHANGES = (
    "pretrained.source=none",
    "data.rule=all",
    "data.validation=0.2",
    "data.folds=0",
    "data.group=''",
    "training.snapshots=0",
)
STALLED = 0.3
TIMED_FRAMES = 56  # the median of the real recordings (docs/facts.md 4)


@dataclass(frozen=True)
class Result:
    """What came of one recipe.

    Attributes
    ----------
    settings : Recipe
        As it was run.
    parameters : int
        Of its net.
    clip_seconds : float
        To train on one clip of `TIMED_FRAMES` frames.
    training_seconds : float or None
        Processor time of the whole training; None if it was not run.
    scored : Scored or None
        The clips held out, with the calls at the threshold that the validation part chose.
    """

    settings: Recipe
    parameters: int
    clip_seconds: float
    training_seconds: float | None = None
    scored: Scored | None = None


def main(
    out: Path,
    *,
    count: int = 2000,
    held_out: int = 1000,
    epochs: int = 4,
    seed: int = 0,
    hours: float = 0.5,
    size: int | None = None,
    names: list[str] | None = None,
    page: Path | None = None,
) -> None:
    """Simulate, train every recipe, measure each on the clips held out, and write the table.

    Parameters
    ----------
    out
        Folder for clips and runs; what is there of an earlier call is used, and gone on with.
    count
        Clips to train on; a fifth of them is the validation part.
    held_out
        Clips to measure on, of another seed.
    epochs
        How often each clip is seen; recipes with stages share them out.
    seed
        Of simulation and training.
    hours
        Train no recipe that would take longer.
    size
        Rows and columns of every recipe's clips, px; its own if not given. Nets that see less than
        their recipe wants are trained in float32.
    names
        Recipes; all that are shipped if not given.
    page
        The table, a Markdown file; benchmarks/recipes.md if not given.
    """
    wanted = [prepare(name, epochs, seed, size) for name in names or NAMES]
    # Before anything heats the machine up or shares it.
    timed = [once(out / f"seconds-{one.name}.json", partial(time_step, one)) for one in wanted]
    results = [
        run(settings, seconds, out, count, held_out, epochs, seed, hours * 3600)
        for settings, seconds in zip(wanted, timed, strict=True)
    ]
    at = f" of {size} x {size} px" if size else ""
    lead = (
        f"{count:,} **simulated** clips{at} (seed {seed}, {STALLED:.0%} stalled), each seen "
        f"{epochs} times, a fifth of them being the validation part that chose epoch and "
        f"threshold; all figures are of {held_out:,} other clips (seed {seed + 1}). Same scenes "
        f"for every recipe, cut as it says. Random start, one split, one seed. {version()}, torch "
        f"{torch.__version__}, {machine()}."
    )
    tail = (
        "Intervals are 95 %, from a bootstrap of the same clips for all. *Against the first* is "
        "the difference in MCC to the recipe with the highest; where its interval holds 0, neither "
        "is better. A budget this small says how fast a recipe learns, not how far it gets.\n"
    )
    publish(page or HERE / "recipes.md", "Recipes", lead, [_table(results), tail])


def run(
    settings: Recipe,
    clip_seconds: float,
    out: Path,
    count: int,
    held_out: int,
    epochs: int,
    seed: int,
    most_seconds: float,
) -> Result:
    """Train one recipe, if that does not take too long, and score the clips held out."""
    parameters = 0
    if not settings.net.is_feature_model:  # which has no net
        net = build.build(settings.net)
        parameters = sum(tensor.numel() for tensor in net.parameters())
    expected = clip_seconds * count * epochs
    say(f"{settings.name}: {clip_seconds:.2f} s a clip, {expected / 3600:.2f} h")
    result = Result(settings, parameters, clip_seconds)
    if expected > most_seconds:
        return result
    # Clips of recipes that cut them alike are the same.
    key = files.sha256_of(
        (settings.outline.model_dump_json() + settings.clip.model_dump_json()).encode()
    )[:8]
    corpora = []
    for part, number, shift in (("train", count, 0), ("held_out", held_out, 1)):
        made = SimulateSettings(count=number, stalled=STALLED, seed=seed + shift)
        folder = out / f"{part}-{key}"
        simulate_clips(
            folder, made, settings.outline, settings.clip, progress=show_progress("simulated")
        )
        corpora.append(folder)
    folder = out / f"run-{settings.name}"
    taken = train_once(settings, corpora[0], corpora[0] / "store", folder)
    scored = score(folder / "bundle", corpora[1], corpora[1] / "store")
    return Result(settings, parameters, clip_seconds, taken, scored)


def prepare(name: str, epochs: int, seed: int, size: int | None) -> Recipe:
    """Change a shipped recipe so that it can be compared."""
    changes = [*CHANGES, f"seed={seed}"]
    if size:
        changes += [f"clip.size={size}", "training.precision=32-true"]
    settings = recipe.read_recipe(name, changes)
    stages = settings.training.stages
    # The last stages of published recipes are for tier1, which is all there is here.
    shares = np.array([stage.epochs for stage in stages], dtype=float)
    each = np.maximum(np.round(epochs * shares / shares.sum()), 1).astype(int)
    each[0] += epochs - each.sum()
    stages = tuple(
        stage.model_copy(update={"epochs": int(number), "rule": ""})
        for stage, number in zip(stages, each, strict=True)
    )
    return settings.model_copy(
        update={"training": settings.training.model_copy(update={"stages": stages})}
    )


def time_step(settings: Recipe, repeats: int = 2) -> float:
    """Time a forward and a backward pass of one clip, in s; the fit of features has only one."""
    size = settings.clip.size
    frames = settings.clip.frames or TIMED_FRAMES
    shape = (frames, size, size, len(settings.net.mean))
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    step = (
        partial(measures.measure, pixels)
        if settings.net.is_feature_model
        else partial(_step, *_net_and_input(settings, pixels))
    )
    return min(timeit.repeat(step, number=1, repeat=repeats))


def _net_and_input(settings: Recipe, pixels: Frames) -> tuple[nn.Module, torch.Tensor, bool]:
    """Return the net, its input, and whether it trains in float32."""
    torch.manual_seed(0)
    net = build.build(settings.net).train()
    array = clip.to_input(pixels, settings.net.mean, settings.net.std)
    return net, torch.from_numpy(array)[None], settings.training.precision == "32-true"


def _step(net: nn.Module, inputs: torch.Tensor, wide: bool) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not wide):
        logits = build.forward(net, inputs)
    F.softplus(logits.float()).sum().backward()  # type: ignore[no-untyped-call]


def _table(results: list[Result]) -> str:
    trained = [(result, result.scored) for result in results if result.scored is not None]
    best = max((scored for _, scored in trained), key=lambda one: metrics.measure(one).mcc)
    rows = []
    for result in results:
        row = [
            result.settings.name,
            result.settings.net.name,
            f"{result.parameters:,}",
            f"{result.clip_seconds:.2f}",
        ]
        if result.scored is None or result.training_seconds is None:
            rows.append([*row, "not run", *["-"] * 5])
            continue
        measured = metrics.measure(result.scored)
        interval = bootstrap.mcc_interval(measured.confusion, measured.prevalence)
        against = bootstrap.mcc_gain(best, result.scored)
        rows.append(
            [
                *row,
                f"{result.training_seconds:,.0f}",
                f"{measured.mcc:.3f}",
                show_interval(interval),
                "the first" if result.scored is best else show_interval(against, sign="+"),
                f"{measured.roc_auc or 0:.3f}",
                f"{measured.pr_auc or 0:.3f}",
            ]
        )
    head = ["recipe", "net", "parameters", "s a clip", "training, CPU s", "MCC", "95 %"]
    return markdown([*head, "against the first", "ROC AUC", "PR AUC"], rows)


if __name__ == "__main__":
    cyclopts.run(main)
