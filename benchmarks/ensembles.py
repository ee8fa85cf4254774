"""Calls of single bundles and of ensembles on recordings where stalls are rare, side by side.

For each bundle: the default cut of 0.5, and the threshold that its own validation scores let expect
to be best at the prevalence. For all together: the vote of a majority, each at that threshold, and
the mean of the calibrated scores. All thresholds are chosen on what the bundles held back in their
training; the recordings measured on choose nothing.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import cyclopts
import numpy as np
from common import HERE, machine, markdown, publish, say, show_progress, version
from numpy.typing import NDArray

from stallscan.bundle import disk, ensemble, spec
from stallscan.bundle.bundle import Ensemble
from stallscan.bundle.ensemble import EnsembleSettings
from stallscan.calls import predict
from stallscan.calls.predictions import read_predictions
from stallscan.catalog.tables import read_labels
from stallscan.scores import bootstrap, calibration, metrics
from stallscan.scores.metrics import Scored

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Way:
    """One way to call, and what it called."""

    name: str
    scored: Scored


def main(
    bundle_folders: list[Path],
    /,
    *,
    corpus: Path,
    out: Path,
    prevalence: float = 0.046,
    page: Path = HERE / "ensembles.md",
) -> None:
    """Predict with each bundle, call in every way, and write the table.

    Parameters
    ----------
    bundle_folders
        Three bundles or more, with validation.csv beside each, as training leaves it.
    corpus
        A folder of simulated recordings, none of which a bundle was trained on.
    out
        Folder for the predictions of each bundle; those that stand are used.
    prevalence
        Share of stalled that thresholds are chosen for.
    page
        The table.
    """
    labels = read_labels(corpus / "train_labels.csv").set_index("filename")["stalled"]
    members = [disk.load(folder) for folder in bundle_folders]
    tables = []
    for number, member in enumerate(members, start=1):
        folder = out / f"{number}-{member.spec.name}"
        shown = show_progress(f"{member.label}: predicted")
        predict.predict([corpus / "train"], folder, member.path, progress=shown)
        tables.append(read_predictions(folder / "predictions.csv").set_index("filename"))
    scored = np.logical_and.reduce([table["score"].notna() for table in tables])
    names = tables[0].index[scored]
    say(f"{len(names)} of {len(scored)} recordings have a score")
    truth = labels.loc[names].to_numpy(np.int64)
    scores = np.stack([table.loc[names, "score"].to_numpy(np.float64) for table in tables])
    ways = []
    for member, own in zip(members, scores, strict=True):
        moved = member.at(prevalence).spec
        shifted = calibration.shift(own, member.spec.prevalence, prevalence)
        # As a biologist would who reads a score as it stands.
        ways.append(_way(f"{member.label}, cut 0.5", truth, own, 0.5))
        ways.append(
            _way(f"{member.label}, chosen {moved.threshold:.3f}", truth, shifted, moved.threshold)
        )
    needed = len(members) // 2 + 1
    with tempfile.TemporaryDirectory() as joined_in:
        voted = _join(bundle_folders, Path(joined_in) / "vote", EnsembleSettings(needed=needed))
        mean = _join(bundle_folders, Path(joined_in) / "mean", EnsembleSettings())
    for name, model in ((f"vote of {needed} among {len(members)}", voted), ("mean", mean)):
        joined = model.at(prevalence).spec
        combined = spec.combine(joined, scores)
        ways.append(_way(f"{name}, chosen", truth, combined, joined.threshold))
    first = max(members, key=lambda one: float(one.spec.metrics["validation"]["mcc"]))
    place = 2 * members.index(first)
    lead = (
        f"{len(names):,} **simulated** recordings, {truth.sum()} of them stalled "
        f"({truth.mean():.1%}), that no bundle was trained on and that chose nothing. "
        f"Thresholds are chosen for {prevalence:.1%} on what the bundles held back, where "
        f"{members[0].spec.prevalence:.0%} were stalled. {version()}, {machine()}."
    )
    pairs = [
        ("chosen threshold against 0.5", ways[place], ways[place + 1]),
        ("mean against the vote", ways[-2], ways[-1]),
        ("mean against the best single bundle", ways[place + 1], ways[-1]),
    ]
    tail = (
        f"The best single bundle is the one with the highest MCC in its own validation: "
        f"{first.label}. Intervals are 95 %, of a bootstrap; differences are paired. The score of "
        "a vote is no probability.\n"
    )
    publish(page, "Single bundles and ensembles", lead, [_table(ways), _gains(pairs), tail])


def _join(folders: list[Path], out: Path, settings: EnsembleSettings) -> Ensemble:
    ensemble.join(folders, out, settings)
    model = disk.load_any(out)
    assert isinstance(model, Ensemble)
    return model


def _way(name: str, truth: NDArray[np.int64], scores: Floats, threshold: float) -> Way:
    return Way(name, Scored.check(truth, scores, scores >= threshold, (threshold,)))


def _table(ways: list[Way]) -> str:
    rows = []
    for way in ways:
        measured = metrics.measure(way.scored)
        interval = bootstrap.mcc_interval(measured.confusion, measured.prevalence)
        cells = measured.confusion
        rows.append(
            [
                way.name,
                f"{measured.mcc:.3f}",
                f"{interval.low:.3f} to {interval.high:.3f}" if interval else "-",
                f"{measured.recall:.3f}",
                f"{measured.specificity:.4f}",
                f"{cells.true_stalled + cells.false_stalled} ({cells.true_stalled})",
                f"{measured.roc_auc:.3f}",
            ]
        )
    head = ["", "MCC", "95 %", "sensitivity", "specificity", "called stalled (right)", "ROC AUC"]
    return markdown(head, rows)


def _gains(pairs: list[tuple[str, Way, Way]]) -> str:
    rows = []
    for name, before, after in pairs:
        gain = metrics.measure(after.scored).mcc - metrics.measure(before.scored).mcc
        interval = bootstrap.mcc_gain(before.scored, after.scored)
        told = f"{interval.low:+.3f} to {interval.high:+.3f}" if interval else "-"
        rows.append([name, f"{gain:+.3f}", told])
    return markdown(["difference in MCC", "", "95 %"], rows)


if __name__ == "__main__":
    cyclopts.run(main)
