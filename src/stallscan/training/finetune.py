"""Fine-tuning: a bundle and a laboratory's own labels in, a bundle for its microscope out."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stallscan import files, words
from stallscan.bundle import disk
from stallscan.bundle.bundle import Bundle
from stallscan.bundle.net import load_net
from stallscan.catalog import groups, names, split, text
from stallscan.catalog.groups import MOUSE_COLUMNS
from stallscan.catalog.names import match
from stallscan.catalog.tables import LABELS, labels_of
from stallscan.clips import fill, store
from stallscan.clips.prepare import Preprocessing
from stallscan.clips.store import Store
from stallscan.errors import InputError
from stallscan.recipes.recipe import Recipe
from stallscan.recordings import find
from stallscan.scores import bootstrap, metrics, thresholds
from stallscan.scores.metrics import Interval, Metrics, Scored
from stallscan.training import fit, train
from stallscan.training.data import Data, Progress
from stallscan.words import listed

# What laboratories and the competition call what recordings must not be torn apart by.
# chosen: fewer groups cannot be parted three ways (training, validation, held out)
FEWEST_GROUPS = 6
# Fewer mice than this cannot say whether a gain is more than chance: with none at all, 2.5 % of the
# draws are to lie above 0, and with five mice 3 % do already.
FEWEST_HELD_OUT = 6
# chosen: of what is not held out, to choose epoch, calibration and threshold by
VALIDATION_SHARE = 0.25
# chosen: a tenth of the rate that the shipped net was trained with
EPOCHS, LEARNING_RATE, BATCH_SIZE = 12, 2e-4, 4

log = logging.getLogger("stallscan")


@dataclass(frozen=True)
class Side:
    """One bundle on the recordings held out.

    Attributes
    ----------
    bundle : str
        Its name and the beginning of its hash.
    measured : Metrics
        At its own threshold.
    mcc_interval : Interval or None
        95 %, drawn by group where there is one; None where too many draws lack a class, or a
        single group is held out.
    """

    bundle: str
    measured: Metrics
    mcc_interval: Interval | None


@dataclass(frozen=True)
class Gain:
    """The bundle before and after, on recordings that neither was trained or chosen on.

    Attributes
    ----------
    folder : Path
        The run folder.
    before, after : Side
        The bundle given, and the new one.
    gain : Interval or None
        95 % of the difference in MCC, by bootstrap over the groups; None where it cannot be told.
    group : str
        The column that groups are named by; empty: there is none.
    groups : int
        How many were held out (recordings where there is no column).
    """

    folder: Path
    before: Side
    after: Side
    gain: Interval | None
    group: str
    groups: int

    def as_rows(self) -> list[tuple[str, str, str]]:
        """Give the name of each figure, and what it was before and after."""
        before, after = self.before.measured, self.after.measured
        share = words.percent(before.prevalence)
        figures = [
            (f"MCC at {share} stalled", before.mcc, after.mcc),
            ("sensitivity", before.recall, after.recall),
            ("specificity", before.specificity, after.specificity),
            ("ROC AUC", before.roc_auc, after.roc_auc),
            (f"PR AUC at {share} stalled", before.pr_auc, after.pr_auc),
        ]
        rows = [(name, _say(old), _say(new)) for name, old, new in figures]
        old, new = (_say_interval(side.mcc_interval) for side in (self.before, self.after))
        return [rows[0], ("   95 % interval", old, new), *rows[1:]]

    def __str__(self) -> str:
        rows = [("", self.before.bundle, self.after.bundle), *self.as_rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        by = f"drawn by {self.group}" if self.group else "drawn by recording, which flatters"
        gain = self.after.measured.mcc - self.before.measured.mcc
        verdict = f"MCC {gain:+.3f} "
        if self.groups < FEWEST_HELD_OUT:
            verdict += f"(too few of {self.group} to say more: {self.groups} held out)"
        elif self.gain is None:
            verdict += "(too few of one class are held out to say more)"
        else:
            verdict += f"({self.gain.low:+.3f} to {self.gain.high:+.3f}): "
            verdict += (
                "better" if self.gain.low > 0 else "worse" if self.gain.high < 0 else "within noise"
            )
        held_out = f"{self.before.measured.count} recordings held out, {by}"
        return "\n".join([held_out, *lines, verdict, f"bundle -> {self.folder / 'bundle'}"])


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
    progress: Progress = lambda _done, _of: None,
) -> Gain:
    """Train a bundle further on labelled recordings, and compare it with what it was.

    The recordings are parted three ways, groups kept together: trained on, used to choose epoch,
    calibration and threshold, and held out for the comparison.

    Parameters
    ----------
    start : str or Path
        The bundle to begin with: name of a shipped one, or a folder.
    recordings : sequence of str or Path
        Files and folders, as `find.list_recordings` takes them, or one store of their clips.
    labels : Path
        As `tables.read_labels` takes them; better with a column that names the mouse.
    run : Path
        The run folder.
    group : str, optional
        That column; default: the first of `MOUSE_COLUMNS` with at least `FEWEST_GROUPS` different
        values. Empty splits by recording.
    hold_out : float
        Share held out, above 0 and below 1.
    epochs : int
        At most; the best one on the validation part is kept.
    learning_rate : float
        Peak.
    seed : int
        Of the split and the training.
    progress : callable
        Called with how many recordings are prepared, of how many.

    Returns
    -------
    Comparison
        Also written into the run folder, as ``comparison.csv``.

    Raises
    ------
    StallscanError
        If bundle, labels or recordings cannot be used, or there are too few of a class.
    """
    before = disk.load(start)
    if before.spec.net.is_feature_model:
        raise InputError(
            f"{before.path}: its net is features, which is fitted at once and not trained further; "
            "'stallscan train baseline' fits it to recordings of your own"
        )
    table, group = _read_table(labels, group)
    recipe = make_recipe(before, group, epochs, learning_rate, seed)
    with train.claim(run, recipe):
        return _fine_tune(before, recordings, table, labels, run, recipe, group, hold_out, progress)


def _fine_tune(
    before: Bundle,
    recordings: Sequence[str | Path],
    table: pd.DataFrame,
    labels: Path,
    run: Path,
    recipe: Recipe,
    group: str,
    hold_out: float,
    progress: Progress,
) -> Gain:
    made, table = _prepare(recordings, table, recipe, labels, run / "store", progress)
    selected = {"all": set(table["filename"])}
    simulated = before.spec.simulated and _are_simulated(recordings)
    data = Data.of(made, table, selected, simulated)
    rest, held_out = (
        split.split_grouped(data.table, hold_out, recipe.seed, group)
        if group
        else split.split_stratified(data.table, hold_out, recipe.seed)
    )
    train.train_prepared(recipe, Data.of(made, rest, selected, simulated), run)
    after = disk.load(run / "bundle")
    scored = [_score(model, recipe, made, held_out) for model in (before, after)]
    held_out = held_out.assign(score_before=scored[0].scores, score_after=scored[1].scores)
    files.write_text(run / "held_out.csv", held_out.to_csv(index=False))
    mice = held_out[group].to_numpy() if group else np.arange(len(held_out))
    drawn_by = mice if group else None
    gain = bootstrap.mcc_gain(scored[0], scored[1], drawn_by)
    comparison = Gain(
        folder=run,
        before=measure(before, scored[0], drawn_by),
        after=measure(after, scored[1], drawn_by),
        gain=gain,
        group=group,
        groups=len(set(mice.tolist())),
    )
    rows = pd.DataFrame(comparison.as_rows(), columns=["figure", "before", "after"])
    files.write_text(run / "comparison.csv", rows.to_csv(index=False))
    return comparison


def make_recipe(start: Bundle, group: str, epochs: int, learning_rate: float, seed: int) -> Recipe:
    """Write the recipe of a fine-tuning: all as in the bundle, but gently."""
    trained_with = start.spec.provenance.get("recipe", {}).get("augment")
    content = {
        "name": f"{start.spec.name}-tuned",
        "data": {"validation": VALIDATION_SHARE, "group": group},
        "outline": start.spec.outline,
        "clip": start.spec.clip,
        "net": start.spec.net,
        "pretrained": {"source": "bundle", "file": start.path},
        "augment": trained_with or {"rotate": 0.75, "flip": 0.75, "reverse": 0.5},
        "training": {
            "stages": [{"epochs": epochs, "learning_rate": learning_rate}],
            "warm_up": 0.1,
            "weight_decay": 1e-3,
            "batch_size": BATCH_SIZE,
            "monitor": "val_pr_auc",
        },
        "seed": seed,
    }
    return Recipe.parse(content, "fine-tuning")


def measure(model: Bundle, scored: Scored, groups: NDArray[np.generic] | None = None) -> Side:
    """Measure one side of the comparison.

    Parameters
    ----------
    model : Bundle
        Whose calls they are.
    scored : Scored
        (N,), the recordings held out.
    groups : ndarray, optional
        (N,): recordings with the same value are drawn together for the interval.
    """
    measured = metrics.measure(scored)
    rates = (
        bootstrap.smoothed_rates(measured.confusion)
        if groups is None
        else bootstrap.group_rates(scored, groups)
    )
    draws = bootstrap.of_rates(rates, measured.prevalence)["mcc"]
    return Side(model.label, measured, bootstrap.interval(draws))


def _read_table(labels: Path, group: str | None) -> tuple[pd.DataFrame, str]:
    """Read filename and label, and the group's column as text; say which column that is."""
    cells = text.read(labels, LABELS)
    table = labels_of(cells)

    def column(name: str) -> list[str] | None:
        if cells.header.count(name) > 1:
            raise InputError(f"{labels}: column {name} stands twice; remove or rename one of them")
        return cells.column(name) if name in cells.header else None

    if group is None:
        group = groups.find_column(column, FEWEST_GROUPS)
        if not group:
            log.warning(
                "%s: no column names the mouse (%s) for at least %d of them: recordings of one "
                "mouse may end on both sides of the comparison, which flatters",
                labels,
                ", ".join(MOUSE_COLUMNS),
                FEWEST_GROUPS,
            )
    group = group.lower()  # as all headers are read
    if group:
        found = column(group)
        if found is None:
            raise InputError(f"{labels}: there is no column {group} to group recordings by")
        kept = table.index
        lines = [f"line {cells.lines[row]} ({cells.filenames[row]})" for row in kept]
        remedy = "fill it in, or split by recording with --group ''"
        checked = groups.check_cells(labels, group, [found[row] for row in kept], lines, remedy)
        _refuse_two_groups(cells, group, found)
        table = table.assign(**{group: checked})
    return table.reset_index(drop=True), group


def _refuse_two_groups(cells: text.Text, group: str, found: Sequence[str]) -> None:
    """Raise InputError if rows of one recording name different mice."""
    first: dict[str, int] = {}
    for row, name in enumerate(names.forms(cells.filenames)):
        before = first.setdefault(name, row)
        if found[before] != found[row]:
            raise InputError(
                f"{cells.path}: {name} stands on lines {cells.lines[before]} and "
                f"{cells.lines[row]}, with different {group}; keep one of the rows"
            )


def _prepare(
    recordings: Sequence[str | Path],
    table: pd.DataFrame,
    recipe: Recipe,
    labels: Path,
    folder: Path,
    progress: Progress,
) -> tuple[Store, pd.DataFrame]:
    """Make the clips of labelled recordings; return them, and the table with the clips' names."""
    made = store.open_if_store(recordings)
    if made is None:
        found = {source.filename: source for source in find.list_recordings(recordings)}
    else:
        start = recipe.pretrained.file
        made.require(
            Preprocessing(recipe.outline, recipe.clip), f"the bundle {start}", f"--bundle {start}"
        )
        made.warn_of_replaced()
        found = {row.filename: row.source for row in made.rows()}
    there = pd.Series(list(found), dtype=table["filename"].dtype)
    partner = match(there, table["filename"], labels)
    known = dict(zip(partner, there, strict=True))
    missing = [name for name in table["filename"] if name not in known]
    if missing:
        hint = names.contrast(list(found), table["filename"].tolist()) if len(known) < 2 else ""
        raise InputError(
            f"{labels}: {len(missing):,} of {len(table):,} labelled recordings were not found: "
            f"{listed(missing)}{f' ({hint})' if hint else ''}; labels name recordings as they lie "
            "below the folder that is given"
        )
    table = table.assign(filename=[known[name] for name in table["filename"]])
    if made is not None:
        progress(len(table), len(table))
        return made, table
    sources = [found[name] for name in table["filename"]]
    made = fill.build(folder, sources, recipe.outline, recipe.clip, progress=progress)
    return made, table


def _are_simulated(recordings: Sequence[str | Path]) -> bool:
    """Whether all recordings lie in folders that `stallscan simulate` wrote, or in their train/."""
    return all(
        any((folder / "simulation.json").is_file() for folder in (path, *path.parents[:2]))
        for path in map(Path, recordings)
    )


def _score(model: Bundle, recipe: Recipe, clips: Store, rows: pd.DataFrame) -> Scored:
    net = load_net(model)
    scores = thresholds.rounded(model.spec.calibration.score(fit.score(net, recipe, clips, rows)))
    threshold = model.spec.threshold
    calls = [thresholds.call(score, threshold) == "stalled" for score in scores]
    return Scored.check(rows["stalled"].to_numpy(), scores, calls, (threshold,))


def _say(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def _say_interval(interval: Interval | None) -> str:
    return f"{interval.low:.3f} to {interval.high:.3f}" if interval else "not defined"
