"""What a few labels of one's own are worth: fine-tuning on shifted **simulated** families.

    python benchmarks/few_labels.py OUT_DIR BUNDLE

For each family, number of labels and seed, a bundle is fine-tuned as the command does it (30 % of
the labels are held out for its own comparison, and a quarter of the rest choose epoch and
threshold), and measured on 200 other recordings of the family. First the labels are drawn from a
pool in which 40 % are stalled. Then the pool is more like a laboratory's, with 10 % stalled, and
the labels are the first in one of two orders of the review page. What was measured before is read.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import common
import numpy as np
import pandas as pd
import shifts
from sklearn.metrics import matthews_corrcoef, roc_auc_score

from stallscan import files
from stallscan.bundle import disk
from stallscan.bundle.bundle import Bundle
from stallscan.catalog import split
from stallscan.clips import fill
from stallscan.clips.store import Store
from stallscan.engines.torch_engine import TorchEngine
from stallscan.errors import InputError
from stallscan.recordings import find
from stallscan.review.queues import Order, Queues
from stallscan.review.run import Item
from stallscan.scores import metrics
from stallscan.training import finetune

FAMILIES = ("steps-2", "saturated")
LABORATORY = "steps-2"  # the family of the second table
LABELS = (20, 50, 100, 300)
SEEDS = (0, 1, 2)
TESTED = 200
SPARE = 10  # of which no clip can be made, at most
POOL, FIRST, RARE = 600, 10_000, 0.1  # a pool: recordings, number of the first, share of stalled
ORDERS: tuple[Order, ...] = ("uncertain", "random")
# ROC AUC, MCC at the bundle's own threshold, and MCC at `RARE` stalled at the threshold for that.
Measured = tuple[float, float, float]


def main() -> None:
    """Write the recordings, fine-tune on them, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("bundle")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--page", type=Path, default=common.HERE / "few_labels.md")
    given = parser.parse_args()
    start = disk.load(given.bundle)
    drawn, ordered = [], []
    for family in given.families:
        folder = given.out / family
        shifts.write_family(folder, range(max(LABELS) + TESTED + SPARE), family)
        store, labels = prepare(start, folder)
        tested = Clips(store, labels[-TESTED:])
        before = measure(start, tested)
        drawn.append([family, "0", *show([before])])
        for count in LABELS:
            found = [
                tune(start, tested, store, split.limit(labels[:-TESTED], count, seed), folder, seed)
                for seed in SEEDS
            ]
            drawn.append([family, f"{count}", *show(found)])
        if family != LABORATORY:
            continue
        folder = given.out / f"{family}-pool"
        shifts.write_family(folder, range(FIRST, FIRST + POOL), family, RARE)
        store, labels = prepare(start, folder)
        ordered.append([family, "0", "", "", *show([before])])
        for order in ORDERS:
            queues = pick(start, store, labels, order)
            for count in LABELS:
                picked = [queue[:count] for queue in queues]
                found = [
                    tune(start, tested, store, each, folder / order, seed)
                    for seed, each in zip(SEEDS, picked, strict=True)
                ]
                stalled = ", ".join(str(each["stalled"].sum()) for each in picked)
                ordered.append([family, f"{count}", order, stalled, *show(found, before)])
    head = ["runs", "ROC AUC", "MCC", f"MCC at {RARE:.0%} stalled"]
    lead = (
        f"{common.version()}, bundle {start.label}; **simulated** recordings. Mean and range over "
        f"{len(SEEDS)} seeds, measured on {TESTED} other recordings of the family, 40 % stalled. "
        f"The second table draws from a pool of {POOL} with {RARE:.0%} stalled, in the orders of "
        "the review page; where labels lack a class, there is no training and the bundle stays as "
        "it was. That calibration and threshold stay those of the bundle was decided on simulated "
        f"recordings of one family, {LABORATORY}; this comparison is not tabulated."
    )
    tables = [
        common.markdown(["family", "labels", *head], drawn),
        common.markdown(["family", "labels", "order", "stalled among them", *head], ordered),
    ]
    common.publish(given.page, "What a few labels are worth", lead, tables)


class Clips(NamedTuple):
    """Labelled clips of a store."""

    store: Store
    labels: pd.DataFrame  # filename, stalled


def prepare(start: Bundle, folder: Path) -> Clips:
    """Return the clips of a family as the bundle sees them."""
    view = start.spec.view
    sources = find.list_recordings([folder / "recordings"])
    clips = folder / f"clips-{start.label}"
    store = fill.build(
        clips, sources, view.outline, view.clip, progress=common.show_progress("cut")
    )
    labels = pd.read_csv(folder / "labels.csv", dtype={"filename": str})
    return Clips(store, labels[[each in store for each in labels["filename"]]])


def pick(start: Bundle, store: Store, labels: pd.DataFrame, order: Order) -> list[pd.DataFrame]:
    """Return the labels of a pool in an order of the review page, for each of the seeds."""
    if order == "random":
        return [labels.sample(frac=1, random_state=seed) for seed in SEEDS]
    engine = TorchEngine(start, "cpu")
    scores = start.at(RARE).spec.calibration.score(
        [engine.logit(store.read(name)) for name in labels["filename"]]
    )
    items = [
        Item(name, Path(name), score=float(score), threshold=start.at(RARE).spec.threshold)
        for name, score in zip(labels["filename"], scores, strict=True)
    ]
    return [labels.iloc[Queues(items).arrange({}, "", order)]] * len(SEEDS)


def tune(
    start: Bundle, tested: Clips, store: Store, labels: pd.DataFrame, folder: Path, seed: int
) -> Measured | None:
    """Fine-tune on labels and measure; None if they lack a class."""
    run = folder / "tuned" / f"{start.label}-{len(labels)}-{seed}"
    kept = run / "measured.json"
    if not kept.is_file():
        shutil.rmtree(run, ignore_errors=True)  # of an interrupted run
        files.make_folder(run)
        files.write_text(run / "labels.csv", labels.to_csv(index=False))
        try:
            finetune.fine_tune(
                start.path, [store.folder], run / "labels.csv", run / "run", group="", seed=seed
            )
            tuned = measure(disk.load(run / "run" / "bundle"), tested)
        except InputError as error:
            common.say(f"{run}: {error}")
            tuned = None
        files.write_json(kept, tuned)
        common.say(f"{run}: {tuned}")
    measured = json.loads(kept.read_text(encoding="utf-8"))
    return None if measured is None else tuple(measured)


def measure(bundle: Bundle, clips: Clips) -> Measured:
    """Measure a bundle on clips."""
    engine = TorchEngine(bundle, "cpu")
    logits = [engine.logit(clips.store.read(name)) for name in clips.labels["filename"]]
    labels = clips.labels["stalled"].to_numpy(bool)
    rare = bundle.at(RARE).spec
    called = rare.calibration.score(logits) >= rare.threshold
    at_rare = metrics.reweighted_mcc(called[labels].mean(), 1 - called[~labels].mean(), RARE)
    scores = bundle.spec.calibration.score(logits)
    mcc = matthews_corrcoef(labels, scores >= bundle.spec.threshold)
    return float(roc_auc_score(labels, scores)), float(mcc), float(at_rare)


def show(found: list[Measured | None], before: Measured | None = None) -> list[str]:
    """Return the number of trainings, and mean and range of the figures."""
    cells = [f"{sum(each is not None for each in found)}"]
    every = [each if each is not None else before for each in found]
    for values in np.transpose([each for each in every if each is not None]):
        ends = f" ({values.min():.3f} to {values.max():.3f})" if len(values) > 1 else ""
        cells.append(f"{values.mean():.3f}{ends}")
    return cells


if __name__ == "__main__":
    main()
