"""What a few labels of one's own are worth: fine-tuning on shifted **simulated** families.

    python benchmarks/few_labels.py OUT_DIR BUNDLE [BUNDLE ...]

For each bundle, family, number of labels and seed, a bundle is fine-tuned as the command does it
(30 % of the labels are held out for its own comparison, and a quarter of the rest choose epoch and
threshold), and measured on 200 other recordings of the family. What was measured before is read.
"""

import argparse
import json
from pathlib import Path

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
from stallscan.recordings import find
from stallscan.training import finetune

FAMILIES = ("steps-2", "saturated")
LABELS = (20, 50, 100, 300)
SEEDS = (0, 1, 2)
TESTED = 200
SPARE = 10  # of which no clip can be made, at most
Measured = tuple[float, float]  # ROC AUC, and MCC at the bundle's own threshold


def main() -> None:
    """Write the recordings, fine-tune on them, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("bundles", nargs="+")
    parser.add_argument("--page", type=Path, default=common.HERE / "few_labels.md")
    given = parser.parse_args()
    rows = []
    for family in FAMILIES:
        shifts.write_family(given.out, max(LABELS) + TESTED + SPARE, family)
        for name in given.bundles:
            start = disk.load(name)
            store = prepare(start, given.out / family)
            labels = pd.read_csv(given.out / family / "labels.csv", dtype={"filename": str})
            labels = labels[[each in store for each in labels["filename"]]]
            pool, tested = labels[:-TESTED], labels[-TESTED:]
            rows.append([family, name, "0", *show([measure(start, store, tested)])])
            for count in LABELS:
                found = [
                    tune_once(start, store, pool, tested, count, seed, given.out / family)
                    for seed in SEEDS
                ]
                rows.append([family, name, f"{count}", *show(found)])
    lead = (
        f"{common.version()}; **simulated** recordings. Mean and range over {len(SEEDS)} draws of "
        f"the labels, measured on {TESTED} other recordings of the family."
    )
    table = common.markdown(["family", "bundle", "labels", "runs", "ROC AUC", "MCC"], rows)
    common.publish(given.page, "What a few labels are worth", lead, [table])


def prepare(start: Bundle, folder: Path) -> Store:
    """Return the clips of a family as the bundle sees them."""
    view = start.spec.view
    sources = find.list_recordings([folder / "recordings"])
    clips = folder / f"clips-{start.label}"
    return fill.build(clips, sources, view.outline, view.clip, progress=common.show_progress("cut"))


def tune_once(
    start: Bundle,
    store: Store,
    pool: pd.DataFrame,
    tested: pd.DataFrame,
    count: int,
    seed: int,
    folder: Path,
) -> Measured:
    """Fine-tune on `count` labels, with the same share of stalled ones, and measure."""
    run = folder / "tuned" / f"{start.label}-{count}-{seed}"
    kept = run / "measured.json"
    if not kept.is_file():
        files.make_folder(run)
        drawn = split.limit(pool, count, seed)
        files.write_text(run / "labels.csv", drawn.to_csv(index=False))
        finetune.fine_tune(
            start.path, [store.folder], run / "labels.csv", run / "run", group="", seed=seed
        )
        tuned = measure(disk.load(run / "run" / "bundle"), store, tested)
        files.write_json(kept, tuned)
        common.say(f"{run.name}: {tuned}")
    area, mcc = json.loads(kept.read_text(encoding="utf-8"))
    return area, mcc


def measure(bundle: Bundle, store: Store, tested: pd.DataFrame) -> Measured:
    """Return ROC AUC and MCC of a bundle on clips."""
    engine = TorchEngine(bundle, "cpu")
    logits = [engine.logit(store.read(name)) for name in tested["filename"]]
    scores = bundle.spec.calibration.score(logits)
    labels = tested["stalled"].to_numpy()
    mcc = matthews_corrcoef(labels, scores >= bundle.spec.threshold)
    return float(roc_auc_score(labels, scores)), float(mcc)


def show(found: list[Measured]) -> list[str]:
    """Return the number of runs, and mean and range of both figures."""
    cells = [f"{len(found)}"]
    for values in np.transpose(found):
        ends = f" ({values.min():.3f} to {values.max():.3f})" if len(found) > 1 else ""
        cells.append(f"{values.mean():.3f}{ends}")
    return cells


if __name__ == "__main__":
    main()
