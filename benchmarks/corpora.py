"""The recordings that speed is measured on: simulated ones, and files under many names."""

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from common import show_progress

from stallscan import files
from stallscan.simulate import SimulateSettings
from stallscan.simulate.corpus import simulate


def simulated(out: Path, count: int) -> Path:
    """Simulate whole recordings, of the real ones' codec, size and length, or find them in `out`.

    Returns
    -------
    Path
        A folder as `stallscan simulate` writes it.
    """
    folder = out / f"simulated-{count}"
    simulate(folder, SimulateSettings(count=count), progress=show_progress("simulated"))
    return folder


def by_length(corpus: Path, count: int) -> list[Path]:
    """Choose recordings whose lengths are spread like those of all: one of each of equal groups."""
    truth = pd.read_csv(corpus / "truth.csv").sort_values(["frames", "filename"])
    places = [int((number + 0.5) * len(truth) / count) for number in range(count)]
    return [corpus / "train" / truth["filename"].iloc[place] for place in places]


def frames(corpus: Path, names: Sequence[str]) -> float:
    """Mean number of frames of some recordings of a corpus."""
    truth = pd.read_csv(corpus / "truth.csv").set_index("filename")["frames"]
    return float(truth.loc[list(names)].mean())


def link(paths: Sequence[Path], folder: Path, count: int) -> Path:
    """Fill a folder anew with so many names of some files, one after the other and again.

    Hard links: a symbolic link would be taken for the file itself, given twice.

    Parameters
    ----------
    paths : sequence of Path
        On the same disk as `folder`.
    folder : Path
        What stands there is removed.
    count : int
        Names.
    """
    if folder.exists():
        shutil.rmtree(folder)
    files.make_folder(folder)
    for number, path in enumerate(itertools.islice(itertools.cycle(paths), count)):
        (folder / f"{number:06d}{path.suffix}").hardlink_to(path)
    return folder
