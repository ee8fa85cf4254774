"""How well bundles carry over: the shift suite, consistency, warnings, and real recordings.

    python benchmarks/transfer.py OUT_DIR BUNDLE [BUNDLE ...] [--count 100] [--real FOLDER]

For each bundle, on **simulated** recordings: ROC AUC and MCC on each family of `shifts.py`, which
differ from the default simulator in one respect each; how far the score of one recording moves
under the changes of `calls.changes`, which needs no labels; and whether a warning goes with
wrong calls. The few real recordings are reported, and never used to choose anything.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import common
import numpy as np
import pandas as pd
import shifts
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from stallscan import files
from stallscan.bundle import disk
from stallscan.bundle.bundle import Bundle, Ensemble
from stallscan.calls import changes
from stallscan.clips import prepare
from stallscan.engines import choose
from stallscan.recordings import find
from stallscan.recordings.find import Source
from stallscan.scores import bootstrap, metrics
from stallscan.scores.calibration import log_odds
from stallscan.scores.metrics import Scored

Floats = NDArray[np.float64]

STALLED = "100109_stalled.mp4"
# 104611 has no label: nine nets trained on real recordings call it flowing (docs/facts.md 9).
FLOWING = ("104611.mp4", "100750_flowing.mp4", "200149_flowing.mp4")
# Families by which nothing is chosen, and the default simulator, are not part of mean and lowest.
APART = ("plain", "second")
COVERED = (1.0, 0.9, 0.8, 0.7)  # shares of the recordings that are called, the surest first


@dataclass(frozen=True)
class Measured:
    """What a bundle says of N recordings.

    Attributes
    ----------
    names : tuple of str
        Of the recordings that it scored.
    scores : ndarray
        (N, 1 + changes), of the recording and of each change.
    odds : ndarray
        (N, members), log-odds of each member's score of the recording.
    """

    names: tuple[str, ...]
    scores: Floats
    odds: Floats


def main() -> None:
    """Write the suite, measure the bundles, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("bundles", nargs="+")
    parser.add_argument("--count", type=int, default=100, help="recordings of each family")
    parser.add_argument("--real", type=Path, help="folder with the real recordings")
    parser.add_argument("--page", type=Path, default=common.HERE / "transfer.md")
    given = parser.parse_args()
    shifts.write_suite(given.out, given.count)
    models = {name: disk.load_any(name) for name in given.bundles}
    suites = {name: measure_suite(model, given.out) for name, model in models.items()}
    labels = {name: read_labels(given.out / name) for name in families()}
    real: dict[str, Measured] = {}
    if given.real is not None:
        sources = find.list_recordings([given.real / each for each in (STALLED, *FLOWING)])
        real = {name: measure(model, sources) for name, model in models.items()}
    lead = (
        f"{common.version()}; {given.count} **simulated** recordings of each family, "
        f"{shifts.STALLED:.0%} of them stalled, but for the real ones at the end. MCC is at the "
        f"bundle's own threshold. Mean and lowest are of all families but {' and '.join(APART)}: "
        "nothing was chosen by `second`."
    )
    tables = [
        "ROC AUC (95 % interval) and MCC:\n",
        compare_families(models, suites, labels),
        "Movement of the score of one recording (standard deviation over the changes), and calls "
        "that a change changes:\n",
        compare_consistency(models, suites, real),
        "Whether a warning goes with wrong calls, over all families: its ROC AUC for 'wrong', and "
        "the share of wrong calls among the surest recordings:\n",
        compare_warnings(models, suites, labels),
    ]
    tables += [compare_pairs(name, found) for name, found in real.items()]
    common.publish(given.page, "What carries over", lead, tables)


def families() -> dict[str, str]:
    """Return each family of the suite, and in what it differs."""
    named = {name: family.what for name, family in shifts.FAMILIES.items()}
    return named | {name: what for name, (what, _) in shifts.OTHERS.items()}


def read_labels(folder: Path) -> pd.Series:
    """Read the labels of a family, 0 or 1, by filename."""
    return pd.read_csv(folder / "labels.csv", dtype={"filename": str}).set_index("filename")[
        "stalled"
    ]


def measure_suite(model: Bundle | Ensemble, out: Path) -> dict[str, Measured]:
    """Score all recordings of all families with all changes; what was measured before is read."""
    measured = {}
    for name in families():
        wanted = read_labels(out / name).index
        path = out / name / f"{model.label}-{len(wanted)}-{len(changes.CHANGES)}.npz"
        if not path.is_file():
            common.say(f"measuring {model.label} on {name}")
            found = measure(
                model, [Source(each, out / name / "recordings" / each) for each in wanted]
            )
            with files.atomic_path(path) as new, new.open("wb") as file:
                np.savez(file, names=found.names, scores=found.scores, odds=found.odds)
        with np.load(path) as kept:
            names = tuple(kept["names"].tolist())
            measured[name] = Measured(names, kept["scores"], kept["odds"])
    return measured


def measure(model: Bundle | Ensemble, sources: Sequence[Source]) -> Measured:
    """Score recordings and their changes; those that have no call are left out."""
    members = model.members
    engines = choose.choose(model).engines
    names, logits = [], []
    for prepared in prepare.many(sources, views=[member.spec.view for member in members]):
        if prepared.status != "ok":
            common.say(f"{prepared.source.filename} is left out: {prepared.reason}")
            continue
        names.append(prepared.source.filename)
        logits.append(
            [
                list(engine.stream(changes.with_changes([clip.pixels], member.spec.clip)))
                for engine, member, clip in zip(engines, members, prepared.clips, strict=True)
            ]
        )
    every = np.array(logits, np.float64)  # (N, members, views)
    by_member = np.moveaxis(every, 1, 0)  # (members, N, views)
    odds = np.stack(
        [
            log_odds(member.score([each[:, 0]]))
            for member, each in zip(members, by_member, strict=True)
        ]
    )
    scores = model.score(by_member.reshape(len(members), -1)).reshape(len(names), -1)
    return Measured(tuple(names), scores, odds.T)


def scored_of(model: Bundle | Ensemble, measured: Measured, labels: pd.Series) -> Scored:
    """Return labels, scores and calls of a family."""
    scores = measured.scores[:, 0]
    threshold = model.spec.threshold
    wanted = labels.loc[list(measured.names)].to_numpy()
    return Scored.check(wanted, scores, scores >= threshold, (threshold,))


def compare_families(
    models: dict[str, Bundle | Ensemble],
    suites: dict[str, dict[str, Measured]],
    labels: dict[str, pd.Series],
) -> str:
    """Return the table of all families, with the mean and the lowest."""
    rows: list[list[str]] = []
    areas: dict[str, list[float]] = {name: [] for name in models}
    for family, what in families().items():
        row = [family, what]
        for name, model in models.items():
            scored = scored_of(model, suites[name][family], labels[family])
            found = metrics.measure(scored)
            if found.roc_auc is None:
                raise SystemExit(f"{family}: both labels are needed; raise --count")
            interval = bootstrap.interval(bootstrap.draw(scored).roc_auc)
            row += [f"{found.roc_auc:.3f} ({common.show_interval(interval)})", f"{found.mcc:.3f}"]
            if family not in APART:
                areas[name].append(found.roc_auc)
        rows.append(row)
    for what, take in (("mean", np.mean), ("lowest", np.min)):
        cells = [cell for name in models for cell in (f"{take(areas[name]):.3f}", "")]
        rows.append([what, "", *cells])
    head = ["family", "differs in", *[cell for name in models for cell in (name, "MCC")]]
    return common.markdown(head, rows)


def compare_consistency(
    models: dict[str, Bundle | Ensemble],
    suites: dict[str, dict[str, Measured]],
    real: dict[str, Measured],
) -> str:
    """Return a row for the default simulator, for all families, and for each real recording."""
    rows = []
    for name, model in models.items():
        groups = {
            "simulated, plain": suites[name]["plain"].scores,
            "simulated, all": np.concatenate([each.scores for each in suites[name].values()]),
        }
        if name in real:
            for recording, scores in zip(real[name].names, real[name].scores, strict=True):
                groups[f"real, {Path(recording).stem}"] = scores[None]
        for group, scores in groups.items():
            calls = scores >= model.spec.threshold  # (N, views)
            turned = (calls[:, 1:] != calls[:, :1]).any(axis=1).mean()
            moved = np.abs(log_odds(scores[:, 1:]) - log_odds(scores[:, :1])).mean(axis=0)
            rows.append(
                [
                    f"{name}: {group}",
                    f"{len(scores)}",
                    f"{scores.std(axis=1).mean():.3f}",
                    f"{turned:.0%}",
                    *(f"{value:.2f}" for value in moved),
                ]
            )
    words = [f"log-odds, {change}" for change in changes.CHANGES]
    return common.markdown(["", "recordings", "score", "other call", *words], rows)


def compare_warnings(
    models: dict[str, Bundle | Ensemble],
    suites: dict[str, dict[str, Measured]],
    labels: dict[str, pd.Series],
) -> str:
    """Return for each warning how well it tells wrong calls, and the errors without the warned."""
    rows = []
    for name, model in models.items():
        scored = [scored_of(model, suites[name][family], labels[family]) for family in families()]
        wrong = np.concatenate([each.calls != each.labels for each in scored])
        scores = np.concatenate([each.scores for each in suites[name].values()])
        cut = float(log_odds(model.spec.threshold))
        near = -np.abs(log_odds(scores[:, 0]) - cut)
        calls = scores >= model.spec.threshold
        warnings = {
            "score near the threshold": near,
            "movement of the score": scores.std(axis=1),
            "movement of the log-odds": log_odds(scores).std(axis=1),
            "changes that change the call": (calls[:, 1:] != calls[:, :1]).mean(axis=1),
            "nearest to the threshold over all changes": -np.abs(log_odds(scores) - cut).min(axis=1)
            + 100 * (calls[:, 1:] != calls[:, :1]).mean(axis=1),
        }
        if len(model.members) > 1:
            each = [measured.odds.std(axis=1) for measured in suites[name].values()]
            warnings["disagreement of the members"] = np.concatenate(each)
        for warning, values in warnings.items():
            order = np.argsort(values, kind="stable")
            errors = [wrong[order[: round(share * len(order))]].mean() for share in COVERED]
            area = roc_auc_score(wrong, values)
            rows.append([f"{name}: {warning}", f"{area:.3f}", *(f"{each:.1%}" for each in errors)])
    head = ["warning", "ROC AUC", *(f"{share:.0%} called" for share in COVERED)]
    return common.markdown(head, rows)


def compare_pairs(name: str, found: Measured) -> str:
    """Say which real pairs a bundle puts in the right order."""
    scores = dict(zip(found.names, found.scores[:, 0], strict=True))
    right = sum(scores[STALLED] > scores[each] for each in FLOWING)
    shown = ", ".join(f"{each} {scores[each]:.2f}" for each in (STALLED, *FLOWING))
    return f"{name}: real pairs in the right order: {right} of {len(FLOWING)} ({shown}).\n"


if __name__ == "__main__":
    main()
