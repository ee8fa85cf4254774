"""Fine-tune a bundle on a laboratory's own labels, and compare the result with the original."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from stallscan import files
from stallscan.bundle import disk
from stallscan.bundle.bundle import Bundle
from stallscan.bundle.learned import shortened
from stallscan.bundle.net import load_net
from stallscan.bundle.spec import SPEC_NAME
from stallscan.catalog import split
from stallscan.catalog.select import sorted_by_name
from stallscan.clips.store import Store
from stallscan.errors import InputError
from stallscan.recipes.recipe import Recipe, renamed
from stallscan.scores import bootstrap, thresholds
from stallscan.scores.metrics import Scored
from stallscan.training import fit, labelled, train
from stallscan.training.data import Data, Progress, prepare
from stallscan.training.folder import STORE_NAME, check, claim
from stallscan.training.gain import Gain, measure
from stallscan.words import enumerated, say_time

# Chosen: the share of the recordings not held out that selects epoch, calibration and threshold.
VALIDATION_SHARE = 0.25
# Chosen: with fewer labels, the few that are left for validation choose a worse calibration and
# threshold than the bundle has already. So it was on simulated recordings of one family, `steps-2`
# (not tabulated).
FEWEST_TO_CHOOSE = 500
# Chosen: a fifth of the learning rate of the last stage of the recipe `default`.
EPOCHS, LEARNING_RATE, BATCH_SIZE = 12, 2e-4, 4
# Folder of the training from all labels, in the run folder.
FINAL = "final"
# How many times longer it takes to learn from a clip than to score it.
TRAINING_COST = 3.0

# Of each class: to learn from, to choose with, and to compare on.
FEWEST_PER_CLASS = 3

log = logging.getLogger("stallscan")


def fine_tune(
    start: str | Path,
    recordings: Sequence[str | Path],
    labels: Path,
    run: Path,
    *,
    group: str | None = None,
    hold_out: float = 0.3,
    epochs: int = EPOCHS,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
    final: bool = False,
    name: str | None = None,
    progress: Progress = lambda _done, _of: None,
) -> Gain:
    """Fine-tune a bundle on labelled recordings, and compare it with the original.

    The recordings are split three ways, with each group in one split: training, validation (to
    choose epoch, calibration and threshold), and held out for the comparison. With fewer than
    `FEWEST_TO_CHOOSE` recordings, calibration and threshold stay those of the original. Recordings
    that the original has learned from, and others of their groups, are only trained on.

    Parameters
    ----------
    start : str or Path
        The bundle to start from: the name of a shipped one, or a folder.
    recordings : sequence of str or Path
        Files and folders, as `find.list_recordings` takes them, or one store of their clips.
    labels : Path
        Table of labels, as `tables.read_labels` takes it; preferably with a column that names the
        mouse.
    run : Path
        The run folder.
    group : str, optional
        Column whose values form the groups; by default as in `labelled.read_table`. An empty string
        splits by recording.
    hold_out : float
        Share of recordings held out, above 0 and below 1.
    epochs : int
        Number of epochs; the best one on the validation split is kept.
    learning_rate : float
        Peak learning rate.
    seed : int
        Seed of the splits and the training.
    final : bool
        Train once more afterwards, from all labels including those held out; the bundle is in
        ``final/``.
    name : str, optional
        Name of the new bundle; by default that of the original with ``-tuned``.
    progress : callable
        Called with the number of recordings prepared and their total.

    Returns
    -------
    Gain
        The comparison, also written into the run folder as ``comparison.csv``.

    Raises
    ------
    StallscanError
        If bundle, labels or recordings are unusable, or a class has too few recordings.
    """
    split.check_fraction(hold_out, "--hold-out")
    before = disk.load(start)
    if before.spec.net.is_feature_model:
        raise InputError(
            f"{before.path}: its net features cannot be fine-tuned. Fit it to your own recordings "
            "with 'stallscan train baseline'"
        )
    load_net(before)  # refuses a user's own net that is not trusted, before clips are cut
    table, group = labelled.read_table(labels, group)
    keep = len(table) < FEWEST_TO_CHOOSE
    if keep:
        log.info(
            "%s: fewer than %d recordings, so calibration and threshold stay those of %s",
            labels,
            FEWEST_TO_CHOOSE,
            before.label,
        )
    recipe = make_recipe(before, group, epochs, learning_rate, seed, keep)
    if name is not None:
        recipe = renamed(recipe, name)
    check(run, recipe)
    found = labelled.find_labelled(recordings, table, labels)
    _check_enough(found.table, labels)
    found = replace(found, simulated=found.simulated and before.spec.simulated)
    with claim(run, recipe):
        asks = (f"the bundle {before.path}", f"--bundle {before.path}")
        began = time.monotonic()
        data = prepare(found, recipe, run / STORE_NAME, progress, asks)
        cut = time.monotonic()
        data = replace(data, seen=_seen(before, data, group))
        unseen = data.unseen(data.table)
        if data.seen:
            _check_unseen(unseen, before, labels, group)
        _, held_out = (
            split.split_grouped(unseen, hold_out, recipe.seed, group)
            if group
            else split.split_stratified(unseen, hold_out, recipe.seed)
        )
        rest = sorted_by_name(data.table[~data.table["filename"].isin(held_out["filename"])])
        prepared = Data.of(data.store, rest, data.selected, data.simulated, data.seen)
        splits = [_split(recipe, prepared)]
        log.info("%s: %s", labels, _describe([*splits[0], held_out], recipe, group))
        scored = _score(before, recipe, data.store, held_out)
        if not (run / "bundle" / SPEC_NAME).is_file():
            pace = (time.monotonic() - cut) / len(held_out)
            splits += [_split(recipe, data)] if final else []
            _say_times(cut - began, pace, recipe, splits)
        train.train_prepared(recipe, prepared, run)
        gain = _compare(before, scored, recipe, data.store, held_out, run, group)
        if not final:
            return gain
        folder = files.make_folder(run / FINAL)
        log.info("trains once more, from all %s labels", f"{len(data.table):,}")
        train.train_prepared(recipe, data, folder)
        return replace(gain, final=folder / "bundle")


def _split(recipe: Recipe, data: Data) -> split.Split:
    """Return the recordings to train on and to validate on."""
    ((_, validation),) = train.splits(recipe, data)
    return train.not_held_out(recipe, data, validation), validation


def _say_times(cut_s: float, pace_s: float, recipe: Recipe, splits: Sequence[split.Split]) -> None:
    """Log how long it takes, from the time of a prediction and the splits of all trainings."""
    epochs = sum(stage.epochs for stage in recipe.training.stages)
    cost = sum(len(learn) * TRAINING_COST + len(choose) for learn, choose in splits)
    seconds = pace_s * epochs * cost
    log.info(
        "cutting the clips took %s, training takes about %s: %s in all",
        say_time(cut_s),
        say_time(seconds),
        say_time(cut_s + seconds),
    )


def _compare(
    before: Bundle,
    scored_before: Scored,
    recipe: Recipe,
    store: Store,
    held_out: pd.DataFrame,
    run: Path,
    group: str,
) -> Gain:
    """Compare the trained bundle with the original on the recordings that were held out."""
    after = disk.load(run / "bundle")
    scored = [scored_before, _score(after, recipe, store, held_out)]
    held_out = held_out.assign(score_before=scored[0].scores, score_after=scored[1].scores)
    files.write_text(run / "held_out.csv", held_out.to_csv(index=False))
    mice = held_out[group].to_numpy() if group else None  # (held out,)
    gain = Gain(
        folder=run,
        before=measure(before, scored[0], mice),
        after=measure(after, scored[1], mice),
        gain=bootstrap.mcc_gain(scored[0], scored[1], mice),
        group=group,
        groups=len(held_out) if mice is None else len(set(mice.tolist())),
        held_out=tuple(held_out["filename"]),
    )
    rows = pd.DataFrame(gain.as_rows(), columns=["figure", "before", "after"])
    files.write_text(run / "comparison.csv", rows.to_csv(index=False))
    return gain


def _check_enough(table: pd.DataFrame, labels: Path) -> None:
    """Refuse labels too few to split, before clips are prepared for minutes."""
    stalled = int(table["stalled"].sum())
    flowing = len(table) - stalled
    if min(stalled, flowing) < FEWEST_PER_CLASS:
        raise InputError(
            f"{labels}: {flowing} flowing and {stalled} stalled recordings are too few to train "
            f"on. Label more (stallscan review): at least {FEWEST_PER_CLASS} of each, better 50 "
            "in all"
        )


def _seen(before: Bundle, data: Data, group: str) -> frozenset[str]:
    """Return the recordings that the original has learned from, and others of their groups."""
    names = data.table["filename"]
    identities = data.store.identities(names)
    is_learned = names.map(lambda name: bool(before.learned & shortened(identities[name])))
    is_seen = is_learned
    if group:
        is_seen = data.table[group].isin(data.table.loc[is_learned, group])
    if is_seen.any():
        log.info(
            "%s of %s recordings are only trained on, not compared on: %s has learned from %s",
            f"{is_seen.sum():,}",
            f"{len(names):,}",
            before.label,
            f"them, or from others of the same {group}" if group else "them",
        )
    return frozenset(names[is_seen])


def _check_unseen(unseen: pd.DataFrame, before: Bundle, labels: Path, group: str) -> None:
    """Refuse labels if the original has learned from too many of their recordings."""
    stalled = int(unseen["stalled"].sum())
    flowing = len(unseen) - stalled
    if min(stalled, flowing) < FEWEST_PER_CLASS:
        known = f"has learned from{f', and others of the same {group}' if group else ''}"
        raise InputError(
            f"{labels}: without the recordings that {before.label} {known}, {flowing} flowing and "
            f"{stalled} stalled ones are left, too few to choose with and to compare on. Label at "
            f"least {FEWEST_PER_CLASS} others of each, or start from another bundle"
        )


def _describe(parts: Sequence[pd.DataFrame], recipe: Recipe, group: str) -> str:
    """Say what each part of the labels is for: to learn from, to choose with, to compare on."""
    learn, choose, compare = (f"{len(part):,}" for part in parts)
    chosen = "the epoch"
    if recipe.pretrained.threshold == "chosen":
        chosen = "epoch, calibration and threshold"
    stalled = enumerated([f"{int(part['stalled'].sum()):,}" for part in parts])
    return (
        f"{learn} to learn, {choose} to choose {chosen}, {compare} to compare; {stalled} of them "
        f"stalled; split by {group or 'recording'}"
    )


def make_recipe(
    start: Bundle, group: str, epochs: int, learning_rate: float, seed: int, keep: bool = False
) -> Recipe:
    """Build the recipe of a fine-tuning: the bundle's settings with a lower learning rate.

    With `keep`, calibration and threshold stay those of the bundle, too.
    """
    trained = start.spec.provenance.get("recipe", {})
    training = trained.get("training", {})
    stages = training.get("stages") or [{}]
    # The calibration, which may be kept, corrects for how often the net saw stalls.
    balance = {key: training[key] for key in ("class_weight", "stalled_share") if key in training}
    stage = {"epochs": epochs, "learning_rate": learning_rate}
    content = {
        "name": f"{start.spec.name}-tuned",
        "data": {"validation": VALIDATION_SHARE, "group": group},
        "outline": start.spec.outline,
        "clip": start.spec.clip,
        "net": start.spec.net,
        "pretrained": {
            "source": "bundle",
            "file": str(start.path),
            "threshold": "kept" if keep else "chosen",
        },
        "augment": trained.get("augment") or {"rotate": 0.75, "flip": 0.75, "reverse": 0.5},
        "training": {
            "stages": [stage | {"appearance": stages[-1].get("appearance")}],
            "warm_up": 0.1,
            "weight_decay": 1e-3,
            "batch_size": BATCH_SIZE,
            "monitor": "val_pr_auc",
            **balance,
        },
        "seed": seed,
    }
    return Recipe.parse(content, "fine-tuning")


def _score(model: Bundle, recipe: Recipe, clips: Store, rows: pd.DataFrame) -> Scored:
    net = load_net(model)
    scores = thresholds.rounded(model.spec.calibration.score(fit.score(net, recipe, clips, rows)))
    threshold = model.spec.threshold
    calls = [thresholds.call(score, threshold) == "stalled" for score in scores]
    return Scored.check(rows["stalled"].to_numpy(), scores, calls, (threshold,))
