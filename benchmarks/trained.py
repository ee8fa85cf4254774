"""Trained bundles on clips that were held out, for the scripts that compare recipes or nets."""

from pathlib import Path

import numpy as np

from stallscan import bundle as bundles
from stallscan import decide
from stallscan.metrics import Scored
from stallscan.store import Store
from stallscan.tables import read_labels
from stallscan.torch_engine import TorchEngine


def score(folder: Path, labels: Path, clips: Path) -> Scored:
    """Score the labelled clips of a store with a bundle, and call them at its threshold.

    Parameters
    ----------
    folder : Path
        The bundle.
    labels : Path
        Folder with ``train_labels.csv``; what it lists and the store lacks is left out.
    clips : Path
        The store.
    """
    model = bundles.load(folder)
    engine = TorchEngine(model)
    store = Store(clips)
    table = read_labels(labels / "train_labels.csv")
    table = table[[name in store for name in table["filename"]]]
    logits = [engine.logit(store.read(name)) for name in table["filename"]]
    scores = model.spec.calibration.score(np.array(logits))
    calls = np.array([decide.call(each, model.spec.threshold) for each in scores]) == "stalled"
    return Scored.check(table["stalled"].to_numpy(), scores, calls, (model.spec.threshold,))
