"""Calls in the form that the competition takes."""

from pathlib import Path

import pandas as pd

from stallscan import words
from stallscan.calls.decide import Calls
from stallscan.catalog import tables
from stallscan.errors import TableError
from stallscan.runs import SUBMISSION_NAME


def submit(calls: Calls, form: str | Path, out: Path) -> tuple[Path, str]:
    """Write the competition's file: the names of its form in its order, each 0 or 1.

    Parameters
    ----------
    calls : Calls
        All recordings of the form, and perhaps others.
    form : str or Path
        ``submission_format.csv``, also gzipped.
    out : Path
        The folder for ``submission.csv``.

    Returns
    -------
    path : Path
    doubt : str
        Says how many were neither called flowing nor stalled, and count as flowing; or empty.

    Raises
    ------
    TableError
        If the form cannot be read, or names recordings that were not called.
    """
    wanted = tables.read_form(form)
    called = calls.table.set_index("filename")["call"]
    missing = [name for name in wanted if name not in called.index]
    if missing:
        raise TableError(
            f"{form}: {len(missing):,} of its {len(wanted):,} recordings are not among the "
            f"predictions: {words.listed(missing)}; predict them, too"
        )
    chosen = called.loc[wanted]
    path = out / SUBMISSION_NAME
    stalled = (chosen == "stalled").astype(int).to_numpy()
    tables.write_table(pd.DataFrame({"filename": wanted, "stalled": stalled}), path)
    open_ = int((~chosen.isin(["flowing", "stalled"])).sum())
    doubt = f"{open_:,} recordings without a call are submitted as flowing" if open_ else ""
    return path, doubt
