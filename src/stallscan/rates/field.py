"""The stall rate of a single stack, as one row."""

from pathlib import Path

import pandas as pd

from stallscan import runs
from stallscan.calls.predictions import (
    DECIDED,
    OPEN,
    Predictions,
    is_simulated,
    of_simulated,
)
from stallscan.files import write_text
from stallscan.rates import notes
from stallscan.rates.correction import CallAccuracy, corrected
from stallscan.rates.rates import refuse_other_calls
from stallscan.rates.tables import RATE_COLUMNS, rate_cells

RATES_NAME = "rates.csv"
COLUMNS = ("field", *RATE_COLUMNS, *OPEN, "note")
NOT_CORRECTED = (
    "Not corrected for wrong calls, because their accuracy on such stacks is unknown. Label some "
    "regions, measure it (stallscan evaluate), and give metrics.json with --accuracy"
)
# Cells of the corrected rate.
_CORRECTED = ("rate", "low", "high", "rate_unclipped", "resolvable")


def write_rate(
    predictions: str | Path, field: str, out: str | Path, accuracy: CallAccuracy | None = None
) -> pd.DataFrame:
    """Write ``rates.csv`` with the stall rate of all regions of a stack, and return the table.

    Parameters
    ----------
    predictions : str or Path
        ``predictions.csv`` of the stack.
    field : str
        Name of the stack.
    out : str or Path
        Folder for the table.
    accuracy : CallAccuracy, optional
        Sensitivity and specificity of the calls. Without them, the cells of the corrected rate are
        empty.

    Raises
    ------
    InputError
        If the accuracy was measured on calls that were made in another way.
    """
    given = Predictions.read(predictions)
    predictions, table = given.path, given.table
    if accuracy is not None:
        decided = table[table["call"].isin(DECIDED)]
        refuse_other_calls(predictions, decided, given.run, accuracy)
    calls = table["call"].value_counts()
    stalled, flowing = (int(calls.get(call, 0)) for call in reversed(DECIDED))
    scored = stalled + flowing
    left_out = {call: int(calls.get(call, 0)) for call in OPEN}
    rate = None
    if scored:
        rate = corrected(stalled, scored, accuracy or CallAccuracy.stated(1.0, 1.0))
    cells = rate_cells(rate)
    if accuracy is None:
        cells |= dict.fromkeys(_CORRECTED, None)
        said = [NOT_CORRECTED]
    else:
        said = [notes.on_groups(accuracy)]
        said += notes.on_simulated(accuracy, is_simulated(given.run), of_simulated(given.run))
        said += notes.on_learned(int(given.was_learned.sum()))
        said.append(notes.on_left_out(accuracy, sum(left_out.values())))
        if rate is not None:
            said.append(notes.impossible(rate, accuracy) or notes.unresolved(rate, accuracy))
    row = {"field": field} | cells | left_out
    said.append(notes.left_open(left_out["review"], scored))
    note = " ".join(filter(None, said))
    rates = pd.DataFrame([row | {"note": note}], columns=list(COLUMNS))
    with runs.hold(out) as folder:
        write_text(folder / RATES_NAME, rates.to_csv(index=False, lineterminator="\n"))
    return rates
