"""Training: a recipe and a folder of labelled recordings in, a run folder with a bundle out.

Folds give a bundle each, and the mean of them as an ensemble.
"""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as lightning
import safetensors.torch
import torch
from torch import nn

from stallscan import files, runs, words
from stallscan.bundle import disk, ensemble
from stallscan.bundle.ensemble import EnsembleSettings
from stallscan.bundle.reference import Reference
from stallscan.bundle.spec import SPEC_NAME, BundleSpec
from stallscan.catalog import split
from stallscan.errors import InputError
from stallscan.nets import build, features
from stallscan.recipes.recipe import Recipe
from stallscan.runs import HELD_OUT_NAME, OUT_OF_FOLD_NAME
from stallscan.scores import metrics
from stallscan.scores.calibration import fit_calibration
from stallscan.scores.thresholds import best_mcc_threshold, call, rounded
from stallscan.templates import render
from stallscan.training import fit, ranks, start
from stallscan.training.data import Data, Progress, TrainValidation, prepare_data

RECIPE_NAME = "recipe.yaml"  # in the run folder: the recipe, resolved
CHECKPOINTS = "checkpoints"  # in the run folder, until its bundle is written
# Without a recipe beside them these are not of a training.
OUTPUTS = ("bundle", "history.csv", CHECKPOINTS, HELD_OUT_NAME, OUT_OF_FOLD_NAME)


@dataclass(frozen=True)
class TrainingSummary:
    """What a training left in the run folder.

    Attributes
    ----------
    folder : Path
        The run folder.
    bundles : tuple of BundleSpec
        One, or one for each fold; the folds together are the ensemble in ``bundle``.
    held_out : Scored
        The recordings held back: the validation part, or all, each scored by the net that was not
        trained on it. They chose epochs and thresholds, so their figures flatter.
    """

    folder: Path
    bundles: tuple[BundleSpec, ...]
    held_out: metrics.Scored

    def __str__(self) -> str:
        what, where = "the validation part", self.folder / "bundle"
        if len(self.bundles) > 1:
            what = f"{len(self.bundles)} folds, each recording held back once"
        measured = metrics.measure(self.held_out)
        return (
            f"bundle -> {where}; on {what}, which chose epoch and threshold: "
            f"MCC {measured.mcc:.3f} at {words.percent(measured.prevalence)} stalled"
        )


def train(
    recipe: Recipe,
    data: Path,
    run: Path,
    progress: Progress = lambda _done, _of: None,
    clips: Path | None = None,
) -> TrainingSummary:
    """Train a net as the recipe says and write its bundle into the run folder.

    A run that was interrupted goes on where it was: prepared clips and finished folds and stages
    are kept, and a stage resumes from its last epoch's checkpoint. Processes that
    `ranks.process_group` joined train one net together.

    Parameters
    ----------
    recipe : Recipe
        The experiment. A net of one's own that it names is imported, which runs its module.
    data : Path
        Folder with ``train_metadata.csv``, ``train_labels.csv`` (or ``.gz``) and ``train/``.
    run : Path
        The run folder.
    progress : callable
        Called with how many recordings are prepared, of how many.
    clips : Path, optional
        A store of the recordings' clips, where the data folder has neither.

    Raises
    ------
    StallscanError
        If recipe, tables or recordings cannot be used, or the run folder holds another run.
    """
    # Here, and not where it is built: of other recipes the net may be named by a bundle.
    build.import_net(recipe.net.name)
    with claim(run, recipe):
        with ranks.first_process_first():
            # By the file, which has what was set on the command line, too.
            asks = (f"the recipe {recipe.name}", f"--recipe {run / RECIPE_NAME}")
            prepared = prepare_data(recipe, data, run / "store", progress, clips, asks)
        return train_prepared(recipe, prepared, run)


def train_prepared(recipe: Recipe, prepared: Data, run: Path) -> TrainingSummary:
    """Train on recordings that are prepared, inside a `claim` of the run folder for the recipe.

    Parameters
    ----------
    recipe, run
        As in `train`.
    prepared : Data
        The recordings.
    """
    base = prepared.restrict(prepared.table, recipe.data.rule)
    group = recipe.data.group or None
    splits = (
        split.folds(base, recipe.data.folds, recipe.data_seed, group)
        if recipe.data.folds
        else [
            split.split_grouped(base, recipe.data.validation, recipe.data_seed, group)
            if group
            else split.split_stratified(base, recipe.data.validation, recipe.data_seed)
        ]
    )
    # All before any: what is missing in the last fold is better said now than in hours.
    for _, validation in splits:
        _check_classes(recipe, prepared, validation)
    with ranks.first_process_first():
        _claim_data(run, prepared)
    if not recipe.data.folds:
        spec = _train_part(recipe, prepared, splits[0][1], run)
        held_out = _read_held_out(run)
        return _summary(run, [spec], held_out)
    specs, parts = [], []
    for fold, (_, validation) in enumerate(splits):
        folder = files.make_folder(run / f"fold-{fold}")
        specs.append(_train_part(recipe, prepared, validation, folder))
        parts.append(_read_held_out(folder).assign(fold=fold))
    held_out = pd.concat(parts).sort_values("filename", kind="stable")
    if ranks.rank() == 0:
        files.write_text(run / OUT_OF_FOLD_NAME, held_out.to_csv(index=False))
        folders = [run / f"fold-{fold}" / "bundle" for fold in range(len(specs))]
        ensemble.join(folders, run / "bundle", EnsembleSettings(name=recipe.name))
    ranks.wait()
    return _summary(run, specs, held_out)


@contextlib.contextmanager
def claim(run: Path, recipe: Recipe) -> Iterator[None]:
    """Be the only writer of a run folder, with the resolved recipe in it.

    Raises
    ------
    InputError
        If another process writes into the folder, or it holds another run.
    """
    with runs.hold(run) if ranks.rank() == 0 else contextlib.nullcontext():
        with ranks.first_process_first():
            now = recipe.model_dump(mode="json")
            runs.claim(run / RECIPE_NAME, now, "a training", OUTPUTS)
        yield


def _claim_data(run: Path, data: Data) -> None:
    """Note the recordings in the run folder; refuse a folder of a run on other ones."""
    path = run / "data.sha256"
    if path.is_file() and path.read_text(encoding="utf-8").strip() != data.sha256:
        raise InputError(
            f"{run}: holds a run on other recordings or labels; choose another folder with -o, or "
            "remove this one"
        )
    files.write_text(path, data.sha256 + "\n")


def _check_classes(recipe: Recipe, data: Data, validation: pd.DataFrame) -> None:
    """Raise InputError if the validation part or a stage's training part lacks a class."""
    rest = _not_held_out(recipe, data, validation)
    parts = {"the part held back": validation}
    for number, stage in enumerate(recipe.training.stages, start=1):
        rule = stage.rule or recipe.data.rule
        parts[f"the training part of stage {number} (rule {rule})"] = data.restrict(rest, rule)
    for name, part in parts.items():
        stalled = int(part["stalled"].sum())
        if not 0 < stalled < len(part):
            raise InputError(
                f"{name} has {stalled} stalled and {len(part) - stalled} flowing recordings; both "
                "are needed: give more recordings, fewer folds, or another rule or group"
            )


def _not_held_out(recipe: Recipe, data: Data, validation: pd.DataFrame) -> pd.DataFrame:
    rest = data.table[~data.table["filename"].isin(validation["filename"])]
    if group := recipe.data.group:
        rest = rest[~rest[group].isin(validation[group])]
    return rest


def _train_part(recipe: Recipe, data: Data, validation: pd.DataFrame, run: Path) -> BundleSpec:
    """Train on all that is not held back, stage by stage, and write the bundle."""
    if (run / "bundle" / SPEC_NAME).is_file() and (run / HELD_OUT_NAME).is_file():
        return disk.load(run / "bundle").spec  # a fold that an earlier call finished
    rest = _not_held_out(recipe, data, validation)
    lightning.seed_everything(recipe.seed, workers=True, verbose=False)
    net = build.build(recipe.net)
    start.load(net, recipe)
    first_epoch, best_epoch = 0, 0
    learned: list[pd.DataFrame] = []
    for number, stage in enumerate(recipe.training.stages, start=1):
        part = data.restrict(rest, stage.rule or recipe.data.rule)
        learned.append(part)
        trained_on = TrainValidation.of(data.store, part, validation)
        if isinstance(net, features.FeatureNet):
            fit.fit_features(net, recipe, trained_on, run / "history.csv")
            continue
        folder = run / CHECKPOINTS / f"stage-{number}"
        best = fit.fit_stage(
            net, recipe, stage, trained_on, run / "history.csv", folder, first_epoch
        )
        best_epoch = first_epoch + best
        first_epoch += stage.epochs
    if ranks.rank() == 0:
        every = pd.concat(learned).drop_duplicates("filename")
        _write_bundles(net, recipe, data, replace(trained_on, train=every), run, best_epoch)
        # Several times as large as the bundle, and of no use once it stands.
        shutil.rmtree(run / CHECKPOINTS, ignore_errors=True)
    ranks.wait()
    return disk.load(run / "bundle").spec


def _write_bundles(
    net: nn.Module, recipe: Recipe, data: Data, parts: TrainValidation, run: Path, epoch: int
) -> None:
    """Write the bundle, and one for each snapshot of the last stage."""
    folder = run / CHECKPOINTS / f"stage-{len(recipe.training.stages)}"
    best = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for snapshot in sorted(folder.glob("snapshot-*.safetensors")):
        net.load_state_dict(safetensors.torch.load_file(snapshot))
        _write_bundle(net, recipe, data, parts, run / "snapshots" / snapshot.stem, -1)
    net.load_state_dict(best)
    _write_bundle(net, recipe, data, parts, run, epoch)


def _write_bundle(
    net: nn.Module, recipe: Recipe, data: Data, parts: TrainValidation, run: Path, epoch: int
) -> None:
    logits = fit.score(net, recipe, parts.store, parts.validation)
    labels = parts.validation["stalled"].to_numpy(dtype=np.int64)
    calibration = fit_calibration(logits, labels)
    scores = rounded(calibration.score(logits))
    threshold = best_mcc_threshold(scores, labels)
    scored = metrics.Scored.check(labels, scores, scores >= threshold, (threshold,))
    measured = metrics.measure(scored).as_json()
    traits = data.store.traits(parts.train["filename"])
    # Clips may be cut or filled to a length of their own.
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
        prevalence=float(labels.mean()),
        frames=(int(min(frames)), int(max(frames))),
        simulated=data.simulated,
        reference=Reference.of(traits, scores),
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
    table = parts.validation[["filename", "stalled"]].assign(
        logit=logits,
        score=scores,
        call=[call(score, threshold) for score in scores],
        threshold=threshold,
    )
    files.make_folder(run)
    files.write_text(run / HELD_OUT_NAME, table.to_csv(index=False))
    disk.save(run / "bundle", spec, net.state_dict(), _card(spec))


def _read_held_out(run: Path) -> pd.DataFrame:
    # A recording may be called NA, or by a number.
    return pd.read_csv(run / HELD_OUT_NAME, dtype={"filename": str}, keep_default_na=False)


def _summary(run: Path, specs: Sequence[BundleSpec], held_out: pd.DataFrame) -> TrainingSummary:
    labels = held_out["stalled"].to_numpy(np.int64)
    thresholds = tuple(sorted(set(held_out["threshold"])))
    scored = metrics.Scored.check(
        labels, held_out["score"].to_numpy(), held_out["call"] == "stalled", thresholds
    )
    return TrainingSummary(run, tuple(specs), scored)


def _card(spec: BundleSpec) -> str:
    """Model card: what the bundle is, what it was trained on, and what its figures mean."""
    measured = spec.metrics["validation"]
    return render("card.md.j2", spec=spec, measured=measured) + "\n"
