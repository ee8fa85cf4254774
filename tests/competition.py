"""A small competition in a bucket: tables in its form, and recordings that stand in for its own."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

FIRST_NAME = 100000


class Competition(NamedTuple):
    """The tables, and the content of the recordings by filename."""

    metadata: Path
    labels: Path
    test_metadata: Path
    content: dict[str, bytes]

    def names(self, flag: str) -> list[str]:
        """Return the names of the recordings with a flag."""
        table = pd.read_csv(self.metadata)
        return table.loc[table[flag], "filename"].tolist()


def publish(bucket, folder: Path, recordings: list[bytes], count: int = 12) -> Competition:
    """Store recordings in a bucket, in turn under `count` names, and 3 of them as the test set.

    A third is micro, a sixth nano, and half of the nano ones are stalled.
    """
    names = [f"{FIRST_NAME + row}.mp4" for row in range(count)]
    tests = [f"{FIRST_NAME + count + row}.mp4" for row in range(3)]
    every = {name: recordings[row % len(recordings)] for row, name in enumerate([*names, *tests])}
    urls = {
        name: bucket.put(f"{'test' if name in tests else 'train'}/{name}", content)
        for name, content in every.items()
    }
    table = pd.DataFrame({"filename": names})
    table["url"] = table["filename"].map(urls)
    table["project_id"] = ["A" if row % 2 else "C" for row in range(count)]
    table["num_frames"] = 8
    table["crowd_score"] = [0.0, 0.0227686] * (count // 2)
    table["tier1"] = [row % 2 == 0 for row in range(count)]
    table["micro"] = [row % 3 == 0 for row in range(count)]
    table["nano"] = [row % 6 == 0 for row in range(count)]
    folder.mkdir()
    paths = [folder / name for name in ("metadata.csv", "labels.csv", "test.csv")]
    table.to_csv(paths[0], index=False)
    labels = [int(row % 12 == 0) for row in range(count)]
    pd.DataFrame({"filename": names, "stalled": labels}).to_csv(paths[1], index=False)
    test = pd.DataFrame({"filename": tests, "url": [urls[name] for name in tests]})
    test.assign(num_frames=8).to_csv(paths[2], index=False)
    return Competition(*paths, every)
