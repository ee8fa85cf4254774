"""The run folder of a training: which training it holds, and how far that got."""

import contextlib
import logging
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from stallscan import files, runs, words
from stallscan.errors import InputError, SettingsError
from stallscan.recipes.recipe import Recipe
from stallscan.runs import HELD_OUT_NAME, OUT_OF_FOLD_NAME
from stallscan.training import ranks, start
from stallscan.training.data import Data

RECIPE_NAME = "recipe.yaml"  # in the run folder: the resolved recipe
STORE_NAME = "store"  # in the run folder: the clips, unless there were some already
DATA_NAME = "data.sha256"  # in the run folder: hashes, see `claim_data`
CHECKPOINTS = "checkpoints"  # in the run folder, until its bundle is written
# A folder with any of these has at least one finished epoch.
RESULTS = ("history.csv", "bundle", HELD_OUT_NAME)
# A folder with any of these but without a recipe belongs to something else.
OUTPUTS = ("bundle", "history.csv", CHECKPOINTS, HELD_OUT_NAME, OUT_OF_FOLD_NAME)

log = logging.getLogger("stallscan")


@contextlib.contextmanager
def claim(run: Path, recipe: Recipe) -> Iterator[None]:
    """Hold a run folder as its only writer, with the resolved recipe in it.

    Raises
    ------
    InputError
        If another process writes into the folder, or it holds another run.
    """
    with runs.hold(run) if ranks.rank() == 0 else contextlib.nullcontext():
        with ranks.first_process_first():
            now = recipe.model_dump(mode="json")
            if ranks.rank() == 0 and not has_results(run):
                _refuse_foreign(run / RECIPE_NAME)
                left = (CHECKPOINTS, f"fold-*/{CHECKPOINTS}", DATA_NAME)
                remove_failed(run / RECIPE_NAME, now, "a training", left)
            runs.claim(run / RECIPE_NAME, now, "a training", OUTPUTS)
        yield


def check(run: Path, recipe: Recipe) -> None:
    """Raise InputError if `claim` would refuse the folder for what it holds; write nothing."""
    before = runs.read_note(run / RECIPE_NAME, "a training")
    if before is not None and has_results(run):
        runs.refuse_other(run, before, recipe.model_dump(mode="json"), "a training")
    elif before is not None:
        _refuse_foreign(run / RECIPE_NAME)


def _refuse_foreign(note: Path) -> None:
    """Raise InputError if a recipe is not resolved: a user wrote it, so it must not be replaced."""
    before = runs.read_note(note, "a training")
    if before is None:
        return
    try:
        is_ours = Recipe.parse(before, str(note)).model_dump(mode="json") == before
    except SettingsError:
        is_ours = False
    if not is_ours:
        raise InputError(
            f"{note}: would be replaced by the resolved recipe of the training. Choose another "
            "folder with -o, or move this file"
        )


def has_begun(run: Path) -> bool:
    """Return whether a run folder is bound to its recordings and labels."""
    return (run / DATA_NAME).is_file()


def has_results(run: Path) -> bool:
    """Return whether a run folder holds at least one finished epoch of training."""
    folders = [run, *run.glob("fold-*")]
    return any((folder / name).exists() for folder in folders for name in RESULTS)


def remove_failed(note: Path, now: Mapping[str, Any], kind: str, left: Iterable[str]) -> None:
    """Remove what a start with other settings left that ended without a result.

    Prepared clips stay if no setting of outline or clip has changed.

    Parameters
    ----------
    note : Path
        File with the settings of the earlier start, in the run folder. Nothing is removed if there
        is none, or if the settings are the same.
    now : mapping
        The new settings, as for `runs.claim`.
    kind : str
        As in `runs.claim`.
    left : iterable of str
        Patterns of the files and folders to remove, relative to the run folder.
    """
    run, before = note.parent, runs.read_note(note, kind)
    if before is None or before == now:
        return
    changed = runs.differences(before, now)
    log.info(
        "%s: replaces %s with other settings that had no result yet (%s)",
        run,
        kind,
        words.listed(changed, runs.DIFFERENCES_NAMED, separator="; "),
    )
    # The names are dotted: clip.size, or recipes.mc3_18.clip.size.
    if any(re.match(r"(\S+\.)?(clip|outline)\.", each) for each in changed):
        shutil.rmtree(run / STORE_NAME, ignore_errors=True)
    for path in (path for pattern in left for path in run.glob(pattern)):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    note.unlink()


def claim_data(run: Path, data: Data, recipe: Recipe) -> None:
    """Record in the run folder what it learns from, or refuse a run on anything else.

    Hashes of filenames and labels, of what else determines splits and targets, and of the weights
    to start from. Older runs recorded only the first.

    Raises
    ------
    InputError
        If the folder holds a run on other recordings, or from other weights.
    """
    path = run / DATA_NAME
    hashes = [data.sha256, data.hash_uses(recipe), start.sha256(recipe) or "-"]
    before = path.read_text(encoding="utf-8").split() if path.is_file() else []
    if before != hashes[: len(before)] and has_results(run):
        what = "on other recordings, labels or groups"
        if before[:2] == hashes[:2]:
            what = f"from other weights than {recipe.pretrained.file} has now"
        raise InputError(
            f"{run}: holds a run {what}. Choose another folder with -o, or remove this one"
        )
    files.write_text(path, "\n".join(hashes) + "\n")
