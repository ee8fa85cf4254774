"""Write calls in the format of the competition."""

from pathlib import Path

import pandas as pd

from stallscan import words
from stallscan.calls.decide import Calls
from stallscan.catalog import tables
from stallscan.catalog.names import match
from stallscan.errors import TableError
from stallscan.runs import SUBMISSION_NAME


def submit(calls: Calls, form: str | Path, out: Path) -> tuple[Path, str]:
    """Write ``submission.csv``: the names of the form in its order, each with 0 or 1.

    Parameters
    ----------
    calls : Calls
        At least all recordings of the form.
    form : str or Path
        ``submission_format.csv``, also gzipped.
    out : Path
        The folder for ``submission.csv``.

    Returns
    -------
    path : Path
    doubt : str
        A sentence with the number of recordings called neither flowing nor stalled, which count as
        flowing. Empty if there are none.

    Raises
    ------
    TableError
        If the form cannot be read, or names recordings without predictions.
    """
    wanted = tables.read_form(form)
    partners = match(calls.table["filename"], pd.Series(wanted, dtype=str), form)
    called = pd.Series(calls.table["call"].to_numpy(), partners)
    missing = [name for name in wanted if name not in called.index]
    if missing:
        raise TableError(
            f"{form}: {len(missing):,} of its {len(wanted):,} recordings are not among the "
            f"predictions: {words.listed(missing)}. Predict them, too"
        )
    chosen = called.loc[wanted]
    path = out / SUBMISSION_NAME
    stalled = (chosen == "stalled").astype(int).to_numpy()
    tables.write_table(pd.DataFrame({"filename": wanted, "stalled": stalled}), path)
    open_ = int((~chosen.isin(["flowing", "stalled"])).sum())
    if not open_:
        return path, ""
    be = "is" if open_ == 1 else "are"
    doubt = f"{words.counted(open_, 'recording')} without a call {be} submitted as flowing"
    return path, doubt
