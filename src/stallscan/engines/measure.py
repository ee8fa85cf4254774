"""Measure how an export changes the calls of a bundle."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stallscan.bundle.bundle import Bundle
from stallscan.clips.store import Store
from stallscan.engines import choose
from stallscan.engines.exports import Change, Precision
from stallscan.errors import InputError
from stallscan.recipes.recipe import Recipe
from stallscan.recipes.settings import DataSettings
from stallscan.recordings.recording import Frames
from stallscan.scores import metrics, thresholds
from stallscan.scores.metrics import Scored
from stallscan.training.data import prepare_data

# int8 is calibrated on at most this many of the labelled recordings, and at most this share.
# Chosen: NNCF's default is 300 images, and one clip holds dozens.
CALIBRATED_ON = 100
CALIBRATED_SHARE = 1 / 3
Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Labelled:
    """Labelled clips for calibrating and measuring the exports of one bundle."""

    store: Store
    calibration: tuple[str, ...]  # filenames; disjoint from `measured`
    measured: tuple[str, ...]
    labels: NDArray[np.bool_]  # (measured,), True for stalled
    simulated: bool

    def clips(self) -> Iterator[Frames]:
        """Read the clips to measure on, each uint8 (T, S, S, C)."""
        return map(self.store.read, self.measured)


def read_labelled(
    bundle: Bundle, data: Path, folder: Path, precision: Precision, seed: int, progress: Progress
) -> Labelled:
    """Prepare the recordings of a data folder with the bundle's settings, and split them.

    Raises
    ------
    InputError
        If the data folder is unusable, or a class is missing after the split.
    """
    recipe = Recipe(
        name=bundle.spec.name,
        data=DataSettings(rule="all"),
        outline=bundle.spec.outline,
        clip=bundle.spec.clip,
        net=bundle.spec.net,
    )
    asks = (f"the bundle {bundle.label}", f"--bundle {bundle.path}")
    prepared = prepare_data(recipe, data, folder, progress, asks=asks)
    table = prepared.table.iloc[np.random.default_rng(seed).permutation(len(prepared.table))]
    count = 0
    if precision == "int8":
        count = min(CALIBRATED_ON, round(CALIBRATED_SHARE * len(table)))
    names, labels = table["filename"].tolist(), table["stalled"].to_numpy(dtype=bool)
    calibration, measured = names[:count], names[count:]
    if not 0 < labels[count:].sum() < len(measured) or (precision == "int8" and not calibration):
        raise InputError(
            f"{data}: {len(measured)} recordings remain to measure on, "
            f"{labels[count:].sum()} of them stalled. Add recordings until both classes remain"
        )
    return Labelled(
        prepared.store, tuple(calibration), tuple(measured), labels[count:], prepared.simulated
    )


def logits_of(engine: choose.Engine, labelled: Labelled) -> Floats:
    """Return the logits of the clips to measure on: float64 (clips,)."""
    return np.array(list(engine.stream(labelled.clips())), np.float64)


def change_of(bundle: Bundle, labelled: Labelled, expected: Floats, logits: Floats) -> Change:
    """Compute how MCC and ROC AUC change from the expected logits to those of an export.

    Both arrays are (clips,), in the order of `labelled.measured`.
    """
    threshold = bundle.spec.threshold

    def measure(logits: Floats) -> metrics.Metrics:
        scores = bundle.spec.calibration.score(logits)
        return metrics.measure(
            Scored.check(
                labelled.labels, scores, thresholds.rounded(scores) >= threshold, (threshold,)
            )
        )

    before, now = measure(expected), measure(logits)
    # `read_labelled` has checked that both classes are present.
    assert before.roc_auc is not None
    assert now.roc_auc is not None
    return Change(
        recordings=len(labelled.labels),
        stalled=int(labelled.labels.sum()),
        simulated=labelled.simulated,
        threshold=threshold,
        mcc=round(before.mcc, 6),
        roc_auc=round(before.roc_auc, 6),
        mcc_change=round(now.mcc - before.mcc, 6),
        roc_auc_change=round(now.roc_auc - before.roc_auc, 6),
    )
