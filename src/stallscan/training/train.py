"""Training: a recipe and a folder of labelled recordings in, a run folder with a bundle out.

Folds give a bundle each, and the mean of them as an ensemble.
"""

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as lightning
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import nn

from stallscan import files, runs, words
from stallscan.bundle import bundle as bundles
from stallscan.bundle import ensemble
from stallscan.bundle.bundle import BundleSpec
from stallscan.bundle.ensemble import EnsembleSettings
from stallscan.bundle.reference import Reference
from stallscan.catalog import select as catalogs
from stallscan.catalog.tables import HELD_OUT_NAME, OUT_OF_FOLD_NAME, read_labels, read_metadata
from stallscan.clips import store
from stallscan.clips.prepare import View
from stallscan.clips.store import Store
from stallscan.errors import InputError
from stallscan.nets import build, features
from stallscan.recipes.recipe import Recipe
from stallscan.recordings.video import Source
from stallscan.scores import metrics
from stallscan.scores.thresholds import best_mcc_threshold, call, fit_calibration, rounded
from stallscan.templates import render
from stallscan.training import fit, ranks, start
from stallscan.words import listed

RECIPE_NAME = "recipe.yaml"  # in the run folder: the recipe, resolved
CHECKPOINTS = "checkpoints"  # in the run folder, until its bundle is written
# Without a recipe beside them these are not of a training.
OUTPUTS = ("bundle", "history.csv", CHECKPOINTS, HELD_OUT_NAME, OUT_OF_FOLD_NAME)
log = logging.getLogger("stallscan")
Progress = Callable[[int, int], None]
Logits = NDArray[np.float64]


@dataclass(frozen=True)
class Data:
    """Labelled recordings, prepared.

    Attributes
    ----------
    store : Store
        Their clips.
    table : DataFrame
        Rows of the catalog that a rule of the data or of a stage selects and that have a clip.
    selected : dict of str to set of str
        Filenames that each rule selects.
    sha256 : str
        Hash of filenames and labels.
    simulated : bool
        Whether the folder says that its recordings are simulated.
    """

    store: Store
    table: pd.DataFrame
    selected: dict[str, set[str]]
    sha256: str
    simulated: bool

    @classmethod
    def of(
        cls, made: Store, wanted: pd.DataFrame, selected: dict[str, set[str]], simulated: bool
    ) -> "Data":
        """Take what is `wanted`, but, with a warning, what gave no clip or is not ok."""
        usable = wanted[[name in made for name in wanted["filename"]]].reset_index(drop=True)
        if len(usable) < len(wanted):
            log.warning(
                "%d of %d recordings have no clip in %s and are left out; its %s says why of those "
                "that it knows",
                len(wanted) - len(usable),
                len(wanted),
                made.folder,
                store.TABLE_NAME,
            )
        not_ok = made.not_ok()
        judged = usable[~usable["filename"].isin(not_ok)].reset_index(drop=True)
        if len(judged) < len(usable):
            names = usable.loc[usable["filename"].isin(not_ok), "filename"]
            log.warning(
                "%d recordings are damaged or cannot be judged, so that prediction would not call "
                "them, and are left out: %s",
                len(names),
                listed([f"{name} ({not_ok[name]})" for name in names]),
            )
        usable = judged
        content = usable[["filename", "stalled"]].to_csv(index=False).encode()
        return cls(made, usable, selected, files.sha256_of(content), simulated)

    def restrict(self, part: pd.DataFrame, rule: str) -> pd.DataFrame:
        """Keep of a part of `table` what a rule selects."""
        return part[part["filename"].isin(self.selected[rule])].reset_index(drop=True)


@dataclass(frozen=True)
class Summary:
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
) -> Summary:
    """Train a net as the recipe says and write its bundle into the run folder.

    A run that was interrupted goes on where it was: prepared clips and finished folds and stages
    are kept, and a stage resumes from its last epoch's checkpoint. Processes that `ranks.joined`
    brought together train one net together.

    Parameters
    ----------
    recipe : Recipe
        The experiment.
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
    with claim(run, recipe):
        with ranks.first_process_first():
            # By the file, which has what was set on the command line, too.
            asks = (f"the recipe {recipe.name}", f"--recipe {run / RECIPE_NAME}")
            prepared = prepare_data(recipe, data, run / "store", progress, clips, asks)
        return train_prepared(recipe, prepared, run)


def train_prepared(recipe: Recipe, prepared: Data, run: Path) -> Summary:
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
        catalogs.folds(base, recipe.data.folds, recipe.data_seed, group)
        if recipe.data.folds
        else [
            catalogs.split_grouped(base, recipe.data.validation, recipe.data_seed, group)
            if group
            else catalogs.split_stratified(base, recipe.data.validation, recipe.data_seed)
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


def prepare_data(
    recipe: Recipe,
    data: Path,
    folder: Path,
    progress: Progress,
    clips: Path | None = None,
    asks: tuple[str, str] | None = None,
) -> Data:
    """Select and prepare the recordings of a data folder.

    Parameters
    ----------
    recipe : Recipe
        The experiment.
    data : Path
        As in `train`. One that brings its clips in ``store/`` needs no recordings.
    folder : Path
        For the store of the clips that are made.
    progress : callable
        Called with how many recordings are prepared, of how many.
    clips : Path, optional
        A store that has the clips already.
    asks : tuple of str, optional
        Who asks for these clips, and how `stallscan prepare` is told so, as `Store.require` takes
        it; the recipe by its name if not given.

    Raises
    ------
    InputError
        If tables are missing or wrong, or too few recordings are left.
    StoreError
        If the clips that are there already were made with other settings.
    """
    table = catalogs.join_labels(
        read_metadata(_table(data, "train_metadata.csv")),
        read_labels(_table(data, "train_labels.csv")),
    )
    rules = {recipe.data.rule, *(stage.rule for stage in recipe.training.stages)} - {""}
    selected = {
        rule: set(catalogs.select(table, rule, recipe.data_seed)["filename"])
        for rule in sorted(rules)
    }
    wanted = table[table["filename"].isin(set().union(*selected.values()))]
    if recipe.data.limit:
        wanted = catalogs.limit(wanted, recipe.data.limit, recipe.data_seed)
    simulated = (data / "simulation.json").is_file()
    if clips is None and (data / "store" / store.MANIFEST_NAME).is_file():
        clips = data / "store"
    if clips is not None:
        made = Store(clips)
        asks = asks or (f"the recipe {recipe.name}", f"--recipe {recipe.name}")
        made.require(View(recipe.outline, recipe.clip), *asks)
        made.warn_of_replaced()
        progress(len(wanted), len(wanted))
    elif ranks.rank() > 0:
        made = Store(folder)  # the first process has made it
    else:
        sources = [Source(name, data / "train" / name) for name in wanted["filename"]]
        made = store.build(folder, sources, recipe.outline, recipe.clip, progress=progress)
    return Data.of(made, wanted, selected, simulated)


def _table(data: Path, name: str) -> Path:
    for path in (data / name, data / f"{name}.gz"):
        if path.is_file():
            return path
    raise InputError(
        f"{data}: {name} is missing; a data folder holds train_metadata.csv, train_labels.csv "
        "and the recordings in train/, or their clips in store/ (a store elsewhere: --store)"
    )


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
    if (run / "bundle" / bundles.SPEC_NAME).is_file() and (run / HELD_OUT_NAME).is_file():
        return bundles.load(run / "bundle").spec  # a fold that an earlier call finished
    rest = _not_held_out(recipe, data, validation)
    lightning.seed_everything(recipe.seed, workers=True, verbose=False)
    net = build.build(recipe.net)
    start.load(net, recipe)
    first_epoch, best_epoch = 0, 0
    learned: list[pd.DataFrame] = []
    for number, stage in enumerate(recipe.training.stages, start=1):
        part = data.restrict(rest, stage.rule or recipe.data.rule)
        learned.append(part)
        trained_on = fit.Parts.of(data.store, part, validation)
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
    return bundles.load(run / "bundle").spec


def _write_bundles(
    net: nn.Module, recipe: Recipe, data: Data, parts: fit.Parts, run: Path, epoch: int
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
    net: nn.Module, recipe: Recipe, data: Data, parts: fit.Parts, run: Path, epoch: int
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
    bundles.save(run / "bundle", spec, net.state_dict(), _card(spec))


def _read_held_out(run: Path) -> pd.DataFrame:
    # A recording may be called NA, or by a number.
    return pd.read_csv(run / HELD_OUT_NAME, dtype={"filename": str}, keep_default_na=False)


def _summary(run: Path, specs: Sequence[BundleSpec], held_out: pd.DataFrame) -> Summary:
    labels = held_out["stalled"].to_numpy(np.int64)
    thresholds = tuple(sorted(set(held_out["threshold"])))
    scored = metrics.Scored.check(
        labels, held_out["score"].to_numpy(), held_out["call"] == "stalled", thresholds
    )
    return Summary(run, tuple(specs), scored)


def _card(spec: BundleSpec) -> str:
    """Model card: what the bundle is, what it was trained on, and what its figures mean."""
    measured = spec.metrics["validation"]
    return render("card.md.j2", spec=spec, measured=measured) + "\n"
