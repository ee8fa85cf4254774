"""The test part of a competition folder: recordings, form and, where there are any, labels."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from stallscan import words
from stallscan.catalog import tables
from stallscan.errors import InputError


@dataclass(frozen=True)
class TestPart:
    """The recordings that are called for the competition.

    Attributes
    ----------
    folder : Path
        Holds them.
    names : tuple of str
        Their filenames, by the metadata.
    form, labels : Path or None
        Tables, where there are such.
    """

    folder: Path
    names: tuple[str, ...]
    form: Path | None
    labels: Path | None

    def known(self) -> pd.DataFrame | None:
        """Read the labels of its recordings; None where there is no table of them."""
        if self.labels is None:
            return None
        table = tables.read_labels(self.labels)
        return table[table["filename"].isin(self.names)]

    @classmethod
    def find(cls, data: Path) -> "TestPart | None":
        """Look for the test part of a data folder.

        Raises
        ------
        InputError
            If its metadata name recordings that are not there.
        """
        path = _optional(data, "test_metadata.csv")
        if path is None:
            return None
        names = tuple(tables.read_metadata(path)["filename"])
        missing = [name for name in names if not (data / "test" / name).is_file()]
        if missing:
            raise InputError(
                f"{data / 'test'}: {len(missing):,} of the {len(names):,} recordings in "
                f"{path.name} are missing: {words.listed(missing)}; download them, or move "
                f"{path.name} away to do without a test part"
            )
        return cls(
            data / "test",
            names,
            _optional(data, "submission_format.csv"),
            _optional(data, "test_labels.csv"),
        )


def _optional(data: Path, name: str) -> Path | None:
    return next((path for path in (data / name, data / f"{name}.gz") if path.is_file()), None)
