"""The test split of a competition folder: recordings, submission form and, if any, labels."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from stallscan import words
from stallscan.catalog import tables
from stallscan.errors import InputError


@dataclass(frozen=True)
class TestPart:
    """The recordings to submit calls for."""

    folder: Path
    names: tuple[str, ...]  # filenames, from the metadata
    form: Path | None
    labels: Path | None

    def known(self) -> pd.DataFrame | None:
        """Read the labels of its recordings; None without a table of labels."""
        if self.labels is None:
            return None
        table = tables.read_labels(self.labels)
        return table[table["filename"].isin(self.names)]

    @classmethod
    def find(cls, data: Path) -> "TestPart | None":
        """Find the test split in a data folder; None if there is none.

        Raises
        ------
        InputError
            If its metadata names recordings that are missing.
        """
        path = _optional(data, "test_metadata.csv")
        if path is None:
            return None
        names = tuple(tables.read_metadata(path)["filename"])
        missing = [name for name in names if not (data / "test" / name).is_file()]
        if missing:
            raise InputError(
                f"{data / 'test'}: {len(missing):,} of the {len(names):,} recordings in "
                f"{path.name} are missing: {words.listed(missing)}. Download them, or move "
                f"{path.name} away to run without a test split"
            )
        return cls(
            data / "test",
            names,
            _optional(data, "submission_format.csv"),
            _optional(data, "test_labels.csv"),
        )


def _optional(data: Path, name: str) -> Path | None:
    return next((path for path in (data / name, data / f"{name}.gz") if path.is_file()), None)
