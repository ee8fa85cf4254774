"""What a bundle gets right and wrong on simulated recordings, by what is known about them.

    python benchmarks/by_truth.py PREDICTIONS.csv CORPUS

PREDICTIONS is the table that `stallscan predict CORPUS/train` wrote, CORPUS a folder of `stallscan
simulate`. For each kind of stall: how many are found, and the MCC if all stalls were of that kind
(with the specificity on all flowing recordings); for each kind of flow: how many are called so; and
both for each level of difficulty and each shape.
"""

import argparse
from pathlib import Path

import common
import pandas as pd

from stallscan.calls.predictions import read_predictions
from stallscan.scores import metrics

# Of the simulated corpus, and of the competition's test set (docs/facts.md 4).
PREVALENCES = (0.3, 0.046)
GROUPS = ("motion", "kind", "shape", "difficulty")


def main() -> None:
    """Join predictions and truth, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("predictions", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--page", type=Path, default=common.HERE / "by_truth.md")
    given = parser.parse_args()
    truth = pd.read_csv(given.corpus / "truth.csv")
    predictions = read_predictions(given.predictions).dropna(subset=["score"])
    rows = predictions.merge(truth, on="filename", validate="one_to_one")
    if rows.empty:
        parser.error(f"{given.predictions}: none of its recordings is in {given.corpus}")
    rows["right"] = (rows["call"] == "stalled") == (rows["stalled"] == 1)
    lead = (
        f"{len(rows):,} **simulated** recordings, {int(rows['stalled'].sum())} of them stalled, "
        f"bundle {', '.join(sorted(set(rows['bundle'])))}, {common.version()}. "
        "MCC is re-weighted to the prevalence that is stated."
    )
    head = [
        "",
        "stalled",
        "found",
        "flowing",
        "called so",
        *(f"MCC at {p:.1%}" for p in PREVALENCES),
    ]
    table = [describe("all", rows, rows)]
    for group in GROUPS:
        for name, some in rows.groupby(group):
            table.append(describe(f"{group}: {name}", some, rows))
    common.publish(given.page, "By what is known", lead, [common.markdown(head, table)])


def describe(name: str, some: pd.DataFrame, rows: pd.DataFrame) -> list[str]:
    """Count a group; where it has one label only, the other one's rate is that of all rows."""
    cells, rates = [], []
    for label in (1, 0):
        own = some[some["stalled"] == label]
        cells += [str(len(own)), f"{own['right'].mean():.3f}" if len(own) else "-"]
        rates.append((own if len(own) else rows[rows["stalled"] == label])["right"].mean())
    if not cells[0].isdigit() or int(cells[0]) == 0:
        return [name, *cells, *("-" for _ in PREVALENCES)]
    found, called_so = rates
    mcc = [float(metrics.reweighted_mcc(found, called_so, share)) for share in PREVALENCES]
    return [name, *cells, *(f"{value:.3f}" for value in mcc)]


if __name__ == "__main__":
    main()
