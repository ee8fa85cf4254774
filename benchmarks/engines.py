"""What the engines gain on eager torch in float32, and what they change, for trained bundles."""

import importlib.metadata
import json
import sys
import tempfile
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import median

import cyclopts
import engine_job
import measured
import numpy as np
from common import HERE, machine, markdown, publish, say, show_progress, version
from numpy.typing import NDArray

from stallscan import files
from stallscan.bundle import disk
from stallscan.bundle.bundle import Bundle
from stallscan.engines import exports
from stallscan.engines.choose import PRECISIONS, Engine
from stallscan.errors import BundleError, InputError
from stallscan.recipes.recipe import Recipe
from stallscan.recipes.settings import DataSettings
from stallscan.scores import metrics
from stallscan.scores.metrics import Metrics, Scored
from stallscan.training.data import Data, prepare_data

EAGER = engine_job.EAGER
NAMES = (EAGER, *PRECISIONS)
CORES = (1, 2)
# How many times as fast as eager torch on two cores a published net is to be; R(2+1)D and others.
GOALS = {
    "openvino": {"r2plus1d_18": 1.9, "": 1.15},
    "openvino-bf16": {"r2plus1d_18": 3.5, "": 2.2},
    "openvino-int8": {"r2plus1d_18": 4.0, "": 4.0},
}
LIMIT_F32 = 1e-4  # of the logit, as a share of max(1, |logit|)
LIMIT_AUC = 0.005
Logits = NDArray[np.float64]


@dataclass
class Measured:
    """What was measured of one engine of a bundle.

    Attributes
    ----------
    seconds : dict
        A clip, of each run, by the number of cores.
    logits : ndarray or None
        float64 (N,), of the labelled recordings.
    refused : str
        Why the engine cannot be used; empty if it can.
    """

    seconds: dict[int, list[float]] = field(default_factory=lambda: {cores: [] for cores in CORES})
    logits: Logits | None = None
    refused: str = ""


def main(
    bundle_folders: list[Path],
    /,
    *,
    data: Path,
    out: Path,
    limit: int = 200,
    frames: int = 40,
    clips: int = 12,
    repeats: int = 3,
    page: Path = HERE / "engines.md",
) -> None:
    """Time every engine of every bundle, score labelled recordings, and write the tables.

    Parameters
    ----------
    bundle_folders
        Trained bundles, with the exports that are to be measured (stallscan export).
    data
        Labelled recordings, a folder as 'stallscan train' takes it, that no bundle was trained on
        and no int8 export was calibrated on.
    out
        Folder for prepared clips and for the logits of eager torch, which a later call uses again.
    limit
        Score at most so many recordings; the largest nets take seconds for each in eager torch.
    frames
        Of the clips that are timed; of a bundle whose clips all have the same length, that length.
    clips
        How many are timed in a run.
    repeats
        Runs of each engine.
    page
        The tables, a Markdown file.
    """
    files.make_folder(out)
    tables, wider = [], []
    simulated = True
    for folder in bundle_folders:
        model = disk.load(folder)
        prepared = _prepare(model, data, out, limit)
        simulated &= prepared.simulated
        names = prepared.table["filename"].tolist()
        labels = prepared.table["stalled"].to_numpy(dtype=bool)
        found = {name: Measured() for name in NAMES}
        # Speed first: other engines are not open then.
        length = model.spec.clip.frames or frames
        timed = np.stack(
            [
                np.take(prepared.store.read(name), range(length), axis=0, mode="wrap")
                for name in islice(names, clips)
            ]
        )
        _time(model, timed, found, repeats)
        for name in NAMES:
            if not found[name].refused:
                found[name].logits = _logits(model, name, prepared, out)
        size = model.spec.clip.size
        head = f"## {model.label}: {model.spec.net.name}, {length} frames of {size} px\n"
        tables += [head, _table(model, labels, found)]
        tables += [f"{name}: {one.refused}\n" for name, one in found.items() if one.refused]
        wider += _wider(model)
    heads = ["bundle", "engine", "kept at f32"]
    lead = (
        f"Milliseconds a clip: median of {repeats} runs of each engine, in turn, over {clips} "
        "clips in a fresh process on so many cores, with the engine open and warm. *Eager* is "
        "torch in float32: the plain published net where the bundle's is one, else our own torch "
        f"engine. Logits, ROC AUC and MCC are those of at most {limit} "
        f"{'**simulated** ' if simulated else ''}recordings; MCC at the bundle's threshold, the "
        "difference of a logit as a share of max(1, |logit|). ROC AUC and MCC are left out where "
        f"one pair of recordings would move ROC AUC by {LIMIT_AUC:g}. {version()}, "
        f"torch {importlib.metadata.version('torch')}, "
        f"OpenVINO {importlib.metadata.version('openvino')}, {machine()}."
    )
    kept = ["## What stays wider in int8\n", markdown(heads, wider)] if wider else []
    publish(page, "Engines", lead, [*tables, *kept])


def _prepare(model: Bundle, data: Path, out: Path, limit: int) -> Data:
    """Prepare labelled recordings as the bundle sees them; once for bundles that see them alike."""
    spec = model.spec
    recipe = Recipe(
        name=spec.name,
        data=DataSettings(rule="all", limit=limit),
        outline=spec.outline,
        clip=spec.clip,
        net=spec.net,
    )
    view = spec.outline.model_dump_json() + spec.clip.model_dump_json()
    folder = out / f"store-{files.sha256_of(view.encode())[:8]}"
    return prepare_data(recipe, data, folder, show_progress("prepared"))


def _time(
    model: Bundle, timed: NDArray[np.uint8], found: dict[str, Measured], repeats: int
) -> None:
    """Run every engine in turn on every number of cores, over and over."""
    with tempfile.TemporaryDirectory(prefix="stallscan-") as temporary:
        path = Path(temporary) / "clips.npy"
        np.save(path, timed)
        for name in NAMES:
            try:
                engine_job.open_engine(model, name)
            except (BundleError, InputError) as error:
                # A page names no folders.
                found[name].refused = str(error).replace(str(model.path), "BUNDLE")
                say(str(error))
        usable = [name for name in NAMES if not found[name].refused]
        for _ in range(repeats):
            for cores in CORES:
                for name in usable:
                    job = [sys.executable, HERE / "engine_job.py", model.path, name, path, cores]
                    seconds = float(measured.watch(job).printed.splitlines()[-1])
                    found[name].seconds[cores].append(seconds)
                    say(f"{model.label}, {name}, {cores} cores: {seconds * 1000:.1f} ms a clip")


def _logits(model: Bundle, name: str, prepared: Data, out: Path) -> Logits:
    """Score the labelled recordings; those of eager torch are read where they are known."""
    key = f"{model.spec.weights_sha256}{prepared.sha256}"
    path = out / f"eager-{files.sha256_of(key.encode())[:16]}.json"
    if name == EAGER and path.is_file():
        return np.array(json.loads(path.read_text(encoding="utf-8")), np.float64)
    engine: Engine = engine_job.open_engine(model, name)
    names = prepared.table["filename"].tolist()
    update = show_progress(f"{model.label}, {name}: scored")
    logits = []
    for logit in engine.stream(map(prepared.store.read, names)):
        logits.append(logit)
        update(len(logits), len(names))
    if name == EAGER:
        files.write_json(path, logits)
    return np.array(logits, np.float64)


def _table(model: Bundle, labels: NDArray[np.bool_], found: dict[str, Measured]) -> str:
    eager = found[EAGER]
    if eager.logits is None:
        raise BundleError(f"{model.path}: eager torch cannot run it: {eager.refused}")
    before = _measure(model, labels, eager.logits)
    # One pair of recordings that changes places moves ROC AUC by this.
    is_fine = 1 / (labels.sum() * (~labels).sum()) < LIMIT_AUC
    rows = []
    for name, one in found.items():
        if one.logits is None:
            rows.append([name, *["-"] * (2 * len(CORES)), "not usable", *["-"] * 5])
            continue
        now = _measure(model, labels, one.logits)
        scale = np.maximum(1, np.abs(eager.logits))
        difference = float((np.abs(one.logits - eager.logits) / scale).max())
        auc_change = (now.roc_auc or 0) - (before.roc_auc or 0) if is_fine else None
        gains = [median(eager.seconds[cores]) / median(one.seconds[cores]) for cores in CORES]
        rows.append(
            [
                name,
                *(f"{median(one.seconds[cores]) * 1000:.1f}" for cores in CORES),
                *(f"{gain:.2f}" for gain in gains),
                _verdict(model, name, gains[-1], difference, auc_change),
                f"{difference:.1e}",
                *(["-"] * 4 if auc_change is None else _calls(now, before, auc_change)),
            ]
        )
    head = ["engine", "ms, one core", "two", "times eager, one core", "two", "goal, two"]
    return markdown([*head, "logit", "ROC AUC", "change", "MCC", "change"], rows)


def _calls(now: Metrics, before: Metrics, auc_change: float) -> list[str]:
    return [
        f"{now.roc_auc or 0:.4f}",
        f"{auc_change:+.4f}",
        f"{now.mcc:.3f}",
        f"{now.mcc - before.mcc:+.3f}",
    ]


def _verdict(
    model: Bundle, name: str, gain: float, difference: float, auc_change: float | None
) -> str:
    """Say whether a published net gained what is wanted on two cores, and changed little enough."""
    if name == EAGER or model.spec.net.name not in engine_job.PUBLISHED:
        return "-"
    goals = GOALS[name]
    wanted = goals.get(model.spec.net.name, goals[""])
    said = [f"{wanted:g} **missed**" if gain < wanted else f"{wanted:g} met"]
    if name == "openvino" and difference > LIMIT_F32:
        said.append(f"logit within {LIMIT_F32:g} **missed**")
    if name != "openvino" and auc_change is None:
        said.append("ROC AUC: too few recordings")
    elif name != "openvino" and auc_change is not None and abs(auc_change) >= LIMIT_AUC:
        said.append(f"ROC AUC within {LIMIT_AUC:g} **missed**")
    return ", ".join(said)


def _measure(model: Bundle, labels: NDArray[np.bool_], logits: Logits) -> Metrics:
    threshold = model.spec.threshold
    scores = model.spec.calibration.score(logits)
    return metrics.measure(Scored.check(labels, scores, scores >= threshold, (threshold,)))


def _wider(model: Bundle) -> list[list[str]]:
    """List what the exports of a bundle say that they keep wider."""
    record = exports.read(model)
    return [
        [model.label, name, ", ".join(export.wider)]
        for name, precision in PRECISIONS.items()
        if (export := record.of(precision)) is not None and export.wider
    ]


if __name__ == "__main__":
    cyclopts.run(main)
