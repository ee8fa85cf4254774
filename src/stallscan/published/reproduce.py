"""Reproduce a published approach from the selection to the write-up, in one resumable run.

Every stage resumes where it left off: existing clips, trainings and predictions are kept. Calls,
figures and the page take seconds and are made again by every run.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pandas as pd
import torch

from stallscan import cores, runs, words
from stallscan.bundle import disk
from stallscan.calls import decide, predict, submission
from stallscan.calls.decide import Calls
from stallscan.calls.predictions import Predictions
from stallscan.calls.settings import CallSettings
from stallscan.catalog import tables
from stallscan.errors import InputError
from stallscan.nets import build
from stallscan.published import approaches, writeup
from stallscan.published.approaches import Approach, Model, Part
from stallscan.published.decisions import Decision, Member, list_decisions
from stallscan.published.results import Called, Change, Cut, Reproduction, Sample
from stallscan.published.test_part import TestPart
from stallscan.recipes.recipe import Recipe, read_recipe, shorten
from stallscan.report import history
from stallscan.scores.metrics import Scored
from stallscan.training import train
from stallscan.training.data import Data, prepare_data
from stallscan.training.folder import STORE_NAME, claim, has_results, remove_failed

NOTES_NAME = "reproduction.json"
MODELS = "models"  # in the output folder: a run folder for each net
# Settings that were not published, or that do not affect the result.
NO_CHANGE = ("seed", "data.seed", "training.workers")

log = logging.getLogger("stallscan")
Progress = Callable[[int, int], None]
# Opens the progress display of a long stage, by its name.
Display = Callable[[str], AbstractContextManager[Progress]]


def plan(
    approach: Approach,
    changes: Sequence[str] = (),
    epochs: int | None = None,
) -> dict[str, Recipe]:
    """Return the recipe of each model of an approach, by the model's name.

    All recipes draw the same recordings and the same split.

    Parameters
    ----------
    approach : Approach
        The approach.
    changes : sequence of str
        ``name=value`` for all models, which take precedence over the models' own changes.
    epochs : int, optional
        Epochs of each stage.

    Raises
    ------
    SettingsError
        If a setting is wrong or unknown.
    """
    recipes = {}
    for model in approach.models:
        settings = read_recipe(approach.name, [*model.changes, *changes])
        if epochs is not None:
            settings = shorten(settings, epochs)
        content = settings.model_dump()
        content["data"]["seed"] = settings.data_seed
        content["seed"] = settings.seed + model.seed
        recipes[model.name] = Recipe.parse(content, f"{approach.name}, {model.name}")
    return recipes


def run(
    name: str,
    data: Path,
    out: Path,
    display: Display,
    *,
    changes: Sequence[str] = (),
    epochs: int | None = None,
    clips: Path | None = None,
) -> Reproduction:
    """Reproduce a published approach: select, prepare, train, score, call, measure, write it up.

    An interrupted run resumes where it left off. Without a test split in the data folder, the
    results on it are left out.

    Parameters
    ----------
    name : str
        A key of `approaches.APPROACHES`.
    data : Path
        Folder with ``train_metadata.csv``, ``train_labels.csv`` and ``train/``. For the test split
        ``test_metadata.csv`` and ``test/``, and optionally ``submission_format.csv`` and
        ``test_labels.csv``. Each table may be gzipped.
    out : Path
        The output folder.
    display : callable
        Opens the progress display of a long stage.
    changes, epochs
        As in `plan`.
    clips : Path, optional
        A store of the clips to train on, if the data folder has no recordings.

    Raises
    ------
    StallscanError
        If data or settings cannot be used, or the folder holds another reproduction.
    """
    approach = approaches.find(name)
    planned = plan(approach, changes, epochs)
    for recipe in planned.values():  # the user may have named a net of their own
        build.try_net(recipe.net, recipe.clip.frames, recipe.clip.size)
    test = TestPart.find(data)
    with runs.hold(out):
        _claim(out, approach, planned)
        return _reproduce(approach, planned, data, test, out, display, clips)


def _reproduce(
    approach: Approach,
    planned: dict[str, Recipe],
    data: Path,
    test: TestPart | None,
    out: Path,
    display: Display,
    clips: Path | None,
) -> Reproduction:
    began = time.monotonic()
    first = next(iter(planned.values()))  # all recipes agree in what concerns the recordings
    prepared = _prepare(first, data, clips, out, display)
    members = []
    for number, model in enumerate(approach.models, start=1):
        log.info("net %d of %d: %s", number, len(approach.models), model.name)
        members += _train(approach, model, planned[model.name], prepared, out)
    if test is not None:
        for member in members:
            _score(member, test, out, display)
    decisions = list_decisions(approach, members)
    calls, doubts = _call_test(decisions, test, out) if test else ([], [])
    calls += [_call_validation(approach, decision) for decision in decisions]
    result = Reproduction(
        approach=approach,
        data=data,
        out=out,
        simulated=prepared.simulated,
        machine=_machine(),
        group=first.data.group,
        trained_on=Sample.of(len(prepared.table), prepared.table),
        test=Sample.of(len(test.names), test.known()) if test else None,
        changes=_compare(approach, planned, members),
        cuts=tuple(_cut(member) for member in members),
        calls=tuple(calls),
        final=decisions[-1].who,
        seconds=time.monotonic() - began,
        doubts=tuple(doubts),
    )
    writeup.write_writeup(result)
    return result


def _claim(out: Path, approach: Approach, planned: dict[str, Recipe]) -> None:
    """Record approach and settings in the folder; refuse a folder with results of other ones."""
    now = {
        "approach": approach.name,
        "recipes": {name: recipe.model_dump(mode="json") for name, recipe in planned.items()},
    }
    if not any(has_results(model) for model in (out / MODELS).glob("*")):
        remove_failed(out / NOTES_NAME, now, "a reproduction", [MODELS])
    outputs = (MODELS, writeup.METRICS_NAME, writeup.PAGE_NAME)
    runs.claim(out / NOTES_NAME, now, "a reproduction", outputs)


def _prepare(recipe: Recipe, data: Path, clips: Path | None, out: Path, display: Display) -> Data:
    """Select the recordings and prepare their clips, once for all nets."""
    with display("preparing clips") as show:
        return prepare_data(recipe, data, out / STORE_NAME, show, clips)


def _train(
    approach: Approach, model: Model, recipe: Recipe, prepared: Data, out: Path
) -> list[Member]:
    """Train a net, unless it is trained, and return its bundles."""
    folder = out / MODELS / model.name
    with claim(folder, recipe):
        train.train_prepared(recipe, prepared, folder)
    trained = sorted(folder.glob("fold-*")) or [folder]
    for training in trained:
        if not (training / "plots" / "history.svg").is_file():
            history.draw_history(training / "history.csv", training / "plots")
    if approach.parts == "snapshots":
        trained = sorted((folder / "snapshots").glob("snapshot-*"))
        if not trained:
            raise InputError(
                f"{folder}: {approach.name} averages snapshots of its net, but none was kept. Set "
                "training.snapshots to at least 1"
            )
    return [
        Member(
            name=model.name if training == folder else training.name,
            model=model,
            folder=training,
            spec=disk.load(training / "bundle").spec,
        )
        for training in trained
    ]


def _score(member: Member, test: TestPart, out: Path, display: Display) -> None:
    """Score the test split with one bundle."""
    with display(f"scoring with {member.name}") as show:
        predict.predict(
            [test.folder], _scores(out, member), member.folder / "bundle", progress=show
        )


def _scores(out: Path, member: Member) -> Path:
    return out / "test" / member.name


def _call_test(
    decisions: Sequence[Decision], test: TestPart, out: Path
) -> tuple[list[Called], list[str]]:
    """Make all calls of the test split, write the submission, and return the calls and doubts.

    If nothing can be called or measured, that is a doubt and not an error, so that the trainings,
    which may have taken days, are still written up.
    """
    known = test.known()
    results, doubts, silent = [], [], []
    if test.labels is not None and known is not None and known.empty:
        doubts.append(
            f"{test.labels.name} has no label of any recording of the test split, so nothing is "
            "measured on it."
        )
    everyone = {member.name: member for decision in decisions for member in decision.members}
    scored = {
        name: Predictions.read(_scores(out, member) / runs.PREDICTIONS_NAME)
        for name, member in everyone.items()
    }
    for decision in decisions:
        predictions = decision.join([scored[member.name] for member in decision.members])
        if not predictions.has_score.any():
            silent.append(decision.who)
            continue
        decided = decide.decide(predictions, decision.settings)
        folder = out / "calls" / decision.who / decision.at
        decide.write_calls(decided, folder)
        results.append(_called(decision, "test", decided.table, known))
        if (decision.who, decision.at) == (decisions[-1].who, "published"):
            doubts += _submit(decided, test, out)
    if silent:
        doubts.append(
            f"No calls of the test split by {words.listed(list(dict.fromkeys(silent)))}: "
            "none of its recordings has a score."
        )
    if decisions[-1].who in silent:
        doubts.append(f"There is no {runs.SUBMISSION_NAME}.")
    return results, doubts


def _submit(decided: Calls, test: TestPart, out: Path) -> list[str]:
    form = test.form
    if form is None:
        form = out / "test" / "submission_format.csv"
        tables.write_table(pd.DataFrame({"filename": test.names, "stalled": 0}), form)
    path, doubt = submission.submit(decided, form, out)
    return [f"{path.name}: {doubt}."] if doubt else []


def _call_validation(approach: Approach, decision: Decision) -> Called:
    """Call the validation split; with folds, by the one fold not trained on the recording."""
    paths = [member.folder / runs.HELD_OUT_NAME for member in decision.members]
    known = pd.concat([tables.read_labels(path) for path in paths]).drop_duplicates("filename")
    predictions = [Predictions.read(path) for path in paths]
    if approach.parts == "folds":
        folds = [
            decide.decide(fold, CallSettings(threshold=member.threshold(decision.at))).table
            for member, fold in zip(decision.members, predictions, strict=True)
        ]
        table = pd.concat(folds, ignore_index=True)
    else:
        table = decide.decide(decision.join(predictions), decision.settings).table
    return _called(decision, "validation", table, known)


def _called(
    decision: Decision, part: Part, table: pd.DataFrame, known: pd.DataFrame | None
) -> Called:
    """Match calls with labels, and measure recordings as they would be submitted."""
    counts = {str(call): int(count) for call, count in table["call"].value_counts().items()}
    scored = None
    if known is not None:
        rows = table.merge(known, on="filename")
        # Published figures include all submitted recordings; those without a call count as flowing.
        # On the validation split every recording has a call.
        rows = rows.fillna({"score": 0.0})
        if not rows.empty:
            scored = Scored.check(
                rows["stalled"], rows["score"], rows["call"] == "stalled", tuple(rows["threshold"])
            )
    return Called(decision.who, decision.at, part, counts, scored)


def _cut(member: Member) -> Cut:
    half, published = member.cut(0.5), member.cut(member.model.threshold)
    as_scores = {"published": published, "half": half, "chosen": member.spec.threshold}
    return Cut(member.name, member.model.decides, member.model.threshold, as_scores)


def _compare(
    approach: Approach, planned: dict[str, Recipe], members: Sequence[Member]
) -> tuple[Change, ...]:
    """List the differences from the published settings; once if the same for all models."""
    # Published and present value, by setting and model.
    differences: dict[str, dict[str, tuple[str, str]]] = {}
    published = plan(approach)
    for name, recipe in planned.items():
        before, now = (
            runs.flatten(each.model_dump(mode="json")) for each in (published[name], recipe)
        )
        for setting in before | now:
            pair = (before.get(setting, "none"), now.get(setting, "none"))
            if pair[0] != pair[1] and setting not in NO_CHANGE:
                differences.setdefault(setting, {})[name] = pair
    changes = []
    for setting, pairs in differences.items():
        if len(pairs) == len(planned) and len(set(pairs.values())) == 1:
            changes.append(Change(setting, *next(iter(pairs.values()))))
        else:
            changes += [Change(f"{setting} ({name})", *pair) for name, pair in pairs.items()]
    snapshots = next(iter(published.values())).training.snapshots
    if approach.parts == "snapshots" and len(members) < snapshots:
        changes.append(Change("snapshots kept", f"{snapshots}", f"{len(members)}"))
    return tuple(changes)


def _machine() -> str:
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"{cores.count_cores()} processor cores, no GPU"
