"""Training, and scoring clips that were held out, for the scripts that compare recipes or nets."""

import time
from pathlib import Path

import numpy as np
from common import once

from stallscan.bundle import disk
from stallscan.catalog.tables import read_labels
from stallscan.clips.store import Store
from stallscan.engines.torch_engine import TorchEngine
from stallscan.recipes.recipe import Recipe
from stallscan.scores import thresholds
from stallscan.scores.metrics import Scored
from stallscan.training import labelled, train


def train_once(settings: Recipe, data: Path, clips: Path, run: Path) -> float:
    """Train into a run folder, or find it trained; the processor time that this took, in s.

    Of a run that was interrupted only the last sitting counts.

    Parameters
    ----------
    settings : Recipe
        What to train.
    data : Path
        Folder with the tables.
    clips : Path
        The store.
    run : Path
        The run folder.
    """

    def measure() -> float:
        start = time.process_time()  # of all threads; others may use the machine, too
        train.train(settings, labelled.from_folder(settings, data, clips), run)
        return time.process_time() - start

    return once(run / "seconds.json", measure)


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
    model = disk.load(folder)
    engine = TorchEngine(model)
    store = Store(clips)
    table = read_labels(labels / "train_labels.csv")
    table = table[[name in store for name in table["filename"]]]
    logits = [engine.logit(store.read(name)) for name in table["filename"]]
    scores = model.spec.calibration.score(np.array(logits))
    calls = np.array([thresholds.call(each, model.spec.threshold) for each in scores]) == "stalled"
    return Scored.check(table["stalled"].to_numpy(), scores, calls, (model.spec.threshold,))
