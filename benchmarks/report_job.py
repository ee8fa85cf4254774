"""The job of `report_scale.py`, a process of its own: write a report of a folder of links."""

import functools
import json
import pickle
import sys
import time
from pathlib import Path

from stallscan.report import cards, report

whole = cards.make_clip


@functools.cache
def _once(_inode: int, path: Path, margin_px: int) -> bytes:
    return pickle.dumps(whole(path, margin_px))


def make_clip(path: Path, margin_px: int) -> cards.Clip:
    """Make each clip once and return a copy of it for every link, as a worker process would."""
    inode = path.stat().st_ino
    if inode not in first_of:
        first_of[inode] = path
    clip: cards.Clip = pickle.loads(_once(inode, first_of[inode], margin_px))
    return clip


first_of: dict[int, Path] = {}


def main() -> None:
    """Write the report of ``FOLDER/predictions.csv``: FOLDER OUT MOST_CARDS."""
    folder, out, most = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    paths = sorted((folder / "recordings").iterdir())
    for path in paths[:most]:
        make_clip(path, 20)  # encoding is not what is measured
    vars(cards)["make_clip"] = make_clip
    start = time.perf_counter()
    settings = report.ReportSettings(max_cards=most)
    written = report.write_report(folder / "predictions.csv", out, settings=settings, processes=0)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "cards": written.cards, "empty": written.without_clip}))


if __name__ == "__main__":
    main()
