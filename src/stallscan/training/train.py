"""Train a recipe on a folder of labelled recordings; the result is a run folder with a bundle.

With folds, each fold has a bundle, and the run's bundle is their ensemble.
"""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as lightning
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stallscan import files, words
from stallscan.bundle import disk, ensemble
from stallscan.bundle.ensemble import EnsembleSettings
from stallscan.bundle.learned import DIGITS, shortened
from stallscan.bundle.reference import Reference
from stallscan.bundle.spec import SPEC_NAME, BundleSpec
from stallscan.catalog import split
from stallscan.errors import InputError
from stallscan.nets import build
from stallscan.recipes.recipe import Recipe
from stallscan.runs import HELD_OUT_NAME, OUT_OF_FOLD_NAME
from stallscan.scores import metrics
from stallscan.scores.calibration import fit_calibration
from stallscan.scores.thresholds import best_mcc_threshold, call, rounded
from stallscan.templates import render
from stallscan.training import baseline, fit, labelled, ranks, start
from stallscan.training.checkpoints import Place
from stallscan.training.data import Data, Progress, TrainValidation, prepare
from stallscan.training.folder import CHECKPOINTS, RECIPE_NAME, STORE_NAME, claim, claim_data
from stallscan.training.labelled import LabelledRecordings

Rows = Data | LabelledRecordings

log = logging.getLogger("stallscan")

# chosen: 20 recordings of a class leave its share of correct calls uncertain by up to 0.2 (95 %)
FEW_VALIDATED = 20


@dataclass(frozen=True)
class TrainingSummary:
    """The results of a training in its run folder.

    Attributes
    ----------
    folder : Path
        The run folder.
    bundles : tuple of BundleSpec
        One bundle, or one per fold; ``bundle`` is then the ensemble of the folds.
    held_out : Scored
        The validation split; with folds, all recordings, each scored by the net that was not
        trained on it. They chose epochs and thresholds, so figures on them are optimistic.
    """

    folder: Path
    bundles: tuple[BundleSpec, ...]
    held_out: metrics.Scored

    def __str__(self) -> str:
        what = "the validation split"
        if len(self.bundles) > 1:
            what = f"the validation splits of {len(self.bundles)} folds"
        measured = metrics.measure(self.held_out)
        return (
            f"bundle -> {self.folder / 'bundle'}; MCC {measured.mcc:.3f} at "
            f"the chosen threshold and {words.percent(measured.prevalence)} stalled, on {what} "
            "(optimistic: epoch and threshold were chosen on it)"
        )


def train(
    recipe: Recipe,
    data: Path | LabelledRecordings,
    run: Path,
    progress: Progress = lambda _done, _of: None,
) -> TrainingSummary:
    """Train a net with a recipe and write its bundle into the run folder.

    An interrupted run resumes where it left off: prepared clips and finished folds and stages are
    kept, and a stage resumes after its last finished epoch. Processes that joined
    `ranks.process_group` train one net together.

    Parameters
    ----------
    recipe : Recipe
        The experiment. If its net is one of the user's own, its module is imported and so executed.
    data : Path or LabelledRecordings
        A folder, as `labelled.from_folder` takes it, or the recordings themselves.
    run : Path
        The run folder.
    progress : callable
        Called with the number of recordings prepared and their total.

    Raises
    ------
    StallscanError
        If recipe, tables or recordings are unusable, or the run folder holds another run.
    """
    # Only here: in fine-tuning a bundle names the net, and a bundle must not execute code.
    build.try_net(recipe.net, recipe.clip.frames, recipe.clip.size)
    if isinstance(data, Path):
        data = labelled.from_folder(recipe, data)
    with claim(run, recipe):
        with ranks.first_process_first():
            # Name the file, because it includes the settings from the command line.
            asks = (f"the recipe {recipe.name}", f"--recipe {run / RECIPE_NAME}")
            prepared = prepare(data, recipe, run / STORE_NAME, progress, asks)
        return train_prepared(recipe, prepared, run)


def train_prepared(recipe: Recipe, prepared: Data, run: Path) -> TrainingSummary:
    """Train on prepared recordings; the caller must hold `claim` for the run folder."""
    parts = checked_splits(recipe, prepared)
    if ranks.rank() == 0 and recipe.pretrained.threshold == "chosen":
        _warn_of_few([validation for _, validation in parts])
    with ranks.first_process_first():
        claim_data(run, prepared, recipe)
    if not recipe.data.folds:
        spec = train_split(recipe, prepared, parts[0][1], run)
        return _summary(run, [spec], _read_held_out(run))
    specs, tables = [], []
    for fold, (_, validation) in enumerate(parts):
        folder = files.make_folder(run / f"fold-{fold}")
        specs.append(train_split(recipe, prepared, validation, folder, fold))
        tables.append(_read_held_out(folder).assign(fold=fold))
    held_out = pd.concat(tables).sort_values("filename", kind="stable")
    if ranks.rank() == 0:
        files.write_text(run / OUT_OF_FOLD_NAME, held_out.to_csv(index=False))
        folders = [run / f"fold-{fold}" / "bundle" for fold in range(len(specs))]
        ensemble.join(folders, run / "bundle", EnsembleSettings(name=recipe.name))
    ranks.wait()
    return _summary(run, specs, held_out)


def checked_splits(recipe: Recipe, recordings: Rows) -> list[split.Split]:
    """Return `splits`, or raise InputError if one lacks a class."""
    parts = splits(recipe, recordings)
    # Check all splits first: a class missing in the last fold would otherwise surface hours later.
    for _, validation in parts:
        _check_classes(recipe, recordings, validation)
    return parts


def splits(recipe: Recipe, prepared: Rows) -> list[split.Split]:
    """Return the training and the validation recordings of each fold; without folds, of one.

    Those that the bundle to start from has seen are in neither; `not_held_out` has them.
    """
    base = prepared.restrict(prepared.table, recipe.data.rule)
    if isinstance(prepared, Data):
        base = prepared.unseen(base)
    group = recipe.data.group or None
    if recipe.data.folds:
        return split.folds(base, recipe.data.folds, recipe.data_seed, group)
    if group:
        return [split.split_grouped(base, recipe.data.validation, recipe.data_seed, group)]
    return [split.split_stratified(base, recipe.data.validation, recipe.data_seed)]


def _check_classes(recipe: Recipe, data: Rows, validation: pd.DataFrame) -> None:
    """Raise InputError if the validation split or a stage's training split lacks a class."""
    rest = not_held_out(recipe, data, validation)
    splits = {"the validation split": validation}
    for number, stage in enumerate(recipe.training.stages, start=1):
        rule = stage.rule or recipe.data.rule
        splits[f"the training split of stage {number} (rule {rule})"] = data.restrict(rest, rule)
    for name, rows in splits.items():
        stalled = int(rows["stalled"].sum())
        if not 0 < stalled < len(rows):
            raise InputError(
                f"{name} has {stalled} stalled and {len(rows) - stalled} flowing recordings, and "
                "training needs both. Add recordings, or change data.folds, data.group or the rule"
            )


def _warn_of_few(splits: Sequence[pd.DataFrame]) -> None:
    """Warn if the smallest validation split is too small to choose threshold and calibration."""
    stalled_counts = [int(validation["stalled"].sum()) for validation in splits]
    counts = zip(stalled_counts, map(len, splits), strict=True)
    stalled, flowing = min(((some, of - some) for some, of in counts), key=min)
    if min(stalled, flowing) < FEW_VALIDATED:
        log.warning(
            "the smallest validation split has %d stalled and %d flowing recordings, so its choice "
            "of threshold and calibration is unreliable. Label more recordings, or change "
            "data.validation or data.folds",
            stalled,
            flowing,
        )


def not_held_out(recipe: Recipe, data: Rows, validation: pd.DataFrame) -> pd.DataFrame:
    """Return the recordings to train on, none of them in a group of the validation split."""
    rest = data.table[~data.table["filename"].isin(validation["filename"])]
    if group := recipe.data.group:
        rest = rest[~rest[group].isin(validation[group])]
    return rest


def train_split(
    recipe: Recipe, data: Data, validation: pd.DataFrame, run: Path, fold: int = 0
) -> BundleSpec:
    """Train on the recordings outside the validation split, stage by stage; write the bundle."""
    if (run / "bundle" / SPEC_NAME).is_file() and (run / HELD_OUT_NAME).is_file():
        return disk.load(run / "bundle").spec  # finished before the run was interrupted
    rest = not_held_out(recipe, data, validation)
    lightning.seed_everything(recipe.seed, workers=True, verbose=False)
    if recipe.net.is_feature_model:
        return _train_baseline(recipe, data, rest, validation, run)
    net = build.build(recipe.net)
    start.load(net, recipe)
    first_epoch, best_epoch = 0, 0
    learned: list[pd.DataFrame] = []
    for number, stage in enumerate(recipe.training.stages, start=1):
        part = data.restrict(rest, stage.rule or recipe.data.rule)
        learned.append(part)
        trained_on = TrainValidation.of(data.store, part, validation)
        folder = run / CHECKPOINTS / f"stage-{number}"
        best = fit.fit_stage(
            net,
            recipe,
            stage,
            trained_on,
            run / "history.csv",
            folder,
            first_epoch,
            place=_place(recipe, fold, number),
        )
        best_epoch = first_epoch + best
        first_epoch += stage.epochs
    if ranks.rank() == 0:
        every = pd.concat(learned).drop_duplicates("filename")
        _write_bundles(net, recipe, data, replace(trained_on, train=every), run, best_epoch)
        # Several times the size of the bundle, and useless once it is written.
        shutil.rmtree(run / CHECKPOINTS, ignore_errors=True)
    ranks.wait()
    return disk.load(run / "bundle").spec


def _place(recipe: Recipe, fold: int, stage: int) -> Place:
    """Describe where a stage, counted from 1, is in the training; the fold is counted from 0."""
    name, folds, stages = recipe.net.name, recipe.data.folds or 1, recipe.training.stages
    if folds > 1:
        name += f", fold {fold + 1} of {folds}"
    if len(stages) > 1:
        name += f", stage {stage} of {len(stages)}"
    after = sum(each.epochs for each in stages[stage:])
    each_fold = sum(each.epochs for each in stages)
    return Place(name, after + (folds - fold - 1) * each_fold)


def _train_baseline(
    recipe: Recipe, data: Data, rest: pd.DataFrame, validation: pd.DataFrame, run: Path
) -> BundleSpec:
    """Fit the baseline on the recordings outside the validation split; write the bundle."""
    stage = recipe.training.stages[0]
    part = data.restrict(rest, stage.rule or recipe.data.rule)
    parts = TrainValidation.of(data.store, part, validation)
    if ranks.rank() == 0:
        fitted = baseline.fit_baseline(recipe, parts, run / "history.csv")
        weights = {name: torch.from_numpy(array) for name, array in fitted.model.weights.items()}
        _write_bundle(weights, fitted.logits, recipe, data, parts, run, 0)
    ranks.wait()
    return disk.load(run / "bundle").spec


def _write_bundles(
    net: nn.Module, recipe: Recipe, data: Data, parts: TrainValidation, run: Path, epoch: int
) -> None:
    """Write the bundle, and one bundle for each snapshot of the last stage."""
    folder = run / CHECKPOINTS / f"stage-{len(recipe.training.stages)}"
    best = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for snapshot in sorted(folder.glob("snapshot-*.safetensors")):
        net.load_state_dict(safetensors.torch.load_file(snapshot))
        _write_net(net, recipe, data, parts, run / "snapshots" / snapshot.stem, -1)
    net.load_state_dict(best)
    _write_net(net, recipe, data, parts, run, epoch)


def _write_net(
    net: nn.Module, recipe: Recipe, data: Data, parts: TrainValidation, run: Path, epoch: int
) -> None:
    logits = fit.score(net, recipe, parts.store, parts.validation)
    _write_bundle(net.state_dict(), logits, recipe, data, parts, run, epoch)


def _write_bundle(
    weights: dict[str, Tensor],
    logits: NDArray[np.float64],
    recipe: Recipe,
    data: Data,
    parts: TrainValidation,
    run: Path,
    epoch: int,
) -> None:
    """Write the bundle; `logits` are those of the validation split, (rows,)."""
    labels = parts.validation["stalled"].to_numpy(dtype=np.int64)
    prevalence = float(labels.mean())
    kept = None
    if recipe.pretrained.threshold == "kept":
        kept = disk.load(str(recipe.pretrained.file)).spec
        calibration, threshold, prevalence = kept.calibration, kept.threshold, kept.prevalence
    else:
        calibration = fit_calibration(logits, labels)
        threshold = best_mcc_threshold(rounded(calibration.score(logits)), labels)
    scores = rounded(calibration.score(logits))
    scored = metrics.Scored.check(labels, scores, scores >= threshold, (threshold,))
    measured = metrics.measure(scored).as_json()
    traits = data.store.traits(parts.train["filename"])
    # Prefer the frames of the recordings: with clip.frames, clips are cut or padded to one length.
    frames = (
        traits["frames"] if len(traits) else list(map(data.store.frames, parts.train["filename"]))
    )
    spec = BundleSpec(
        name=recipe.name,
        outline=recipe.outline,
        clip=recipe.clip,
        net=recipe.net,
        calibration=calibration,
        threshold=threshold,
        prevalence=prevalence,
        frames=(int(min(frames)), int(max(frames))),
        simulated=data.simulated,
        # The scores by which a threshold is adapted to another prevalence.
        reference=Reference.of(
            traits, kept.reference.scores if kept and kept.reference else scores
        ),
        metrics={"validation": measured},
        provenance={
            **files.provenance(),
            "recipe": recipe.model_dump(mode="json"),
            "data_sha256": data.sha256,
            "trained_on": len(parts.train),
            "validated_on": len(parts.validation),
            "best_epoch": epoch,
            "torch": torch.__version__,
        },
    )
    identities = data.store.identities(parts.validation["filename"])
    table = parts.validation[["filename", "stalled"]].assign(
        logit=logits,
        score=scores,
        call=[call(score, threshold) for score in scores],
        threshold=threshold,
        # File names alone do not say whether two bundles held out the same recording.
        file_sha256=[identities[name][0][:DIGITS] for name in parts.validation["filename"]],
        clip_sha256=[identities[name][1][:DIGITS] for name in parts.validation["filename"]],
    )
    files.make_folder(run)
    files.write_text(run / HELD_OUT_NAME, table.to_csv(index=False))
    seen = [*parts.train["filename"], *parts.validation["filename"]]
    learned = shortened(data.store.hashes(seen))
    if recipe.pretrained.source == "bundle":
        learned |= disk.load(str(recipe.pretrained.file)).learned
    disk.save(run / "bundle", spec, weights, _card(spec), learned)


def _read_held_out(run: Path) -> pd.DataFrame:
    # Filenames stay text: a recording may be named NA, or with digits only.
    return pd.read_csv(run / HELD_OUT_NAME, dtype={"filename": str}, keep_default_na=False)


def _summary(run: Path, specs: Sequence[BundleSpec], held_out: pd.DataFrame) -> TrainingSummary:
    labels = held_out["stalled"].to_numpy(np.int64)
    thresholds = tuple(sorted(set(held_out["threshold"])))
    scored = metrics.Scored.check(
        labels, held_out["score"].to_numpy(), held_out["call"] == "stalled", thresholds
    )
    return TrainingSummary(run, tuple(specs), scored)


def _card(spec: BundleSpec) -> str:
    """Render the model card: what the bundle is, its training data and its metrics."""
    measured = spec.metrics["validation"]
    return render("card.md.j2", spec=spec, measured=measured) + "\n"
