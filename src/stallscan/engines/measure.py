"""How far an export is from the net that it was made of."""

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

# Of the labelled recordings int8 is calibrated on at most so many, and at most this share. Chosen:
# NNCF itself takes 300 pictures, and a clip is dozens.
CALIBRATED_ON = 100
CALIBRATED_SHARE = 1 / 3
Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Labelled:
    """Labelled clips that exports of one bundle are calibrated and measured on."""

    store: Store
    calibration: tuple[str, ...]
    measured: tuple[str, ...]
    labels: NDArray[np.bool_]
    simulated: bool

    def clips(self) -> Iterator[Frames]:
        """Read the clips that are measured on."""
        return map(self.store.read, self.measured)


def read_labelled(
    bundle: Bundle, data: Path, folder: Path, precision: Precision, seed: int, progress: Progress
) -> Labelled:
    """Prepare the recordings of a data folder as the bundle sees them, and part them."""
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
            f"{data}: {len(measured)} recordings are left to measure on, "
            f"{labels[count:].sum()} of them stalled; stalled and flowing ones are needed"
        )
    return Labelled(
        prepared.store, tuple(calibration), tuple(measured), labels[count:], prepared.simulated
    )


def logits_of(runs: choose.Engine, labelled: Labelled) -> Floats:
    """Score the clips that are measured on: float64 (clips,)."""
    return np.array(list(runs.stream(labelled.clips())), np.float64)


def change_of(bundle: Bundle, labelled: Labelled, wanted: Floats, logits: Floats) -> Change:
    """Compare calls and order of the recordings."""
    threshold = bundle.spec.threshold

    def measure(logits: Floats) -> metrics.Metrics:
        scores = bundle.spec.calibration.score(logits)
        return metrics.measure(
            Scored.check(
                labelled.labels, scores, thresholds.rounded(scores) >= threshold, (threshold,)
            )
        )

    before, now = measure(wanted), measure(logits)
    if before.roc_auc is None or now.roc_auc is None:
        raise AssertionError("both classes are among the recordings, which was checked")
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
