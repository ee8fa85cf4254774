"""Explain calls of the baseline in words."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from stallscan import files
from stallscan.bundle import disk
from stallscan.clips import prepare
from stallscan.engines.feature_engine import load_model
from stallscan.errors import BundleError
from stallscan.nets import features, measures
from stallscan.recordings import find
from stallscan.scores import thresholds


class Explanation(NamedTuple):
    """The call of one recording and its reasons in a sentence, or why there is no call."""

    filename: str
    words: str


def explain(
    paths: Sequence[str | Path], bundle: str | Path, processes: int | None = None
) -> Iterator[Explanation]:
    """Explain in words how a bundle of the baseline calls each recording.

    Parameters
    ----------
    paths : sequence of str or Path
        Files and folders, as `find.list_recordings` takes them.
    bundle : str or Path
        A bundle whose net is ``features``.
    processes : int, optional
        Decoding processes. By default one per core; 0 decodes in this process.

    Yields
    ------
    Explanation
        For every recording, in order.

    Raises
    ------
    InputError
        If there are no recordings.
    BundleError
        If the bundle cannot be used, or its net has no named features.
    """
    model = disk.load(bundle)
    if not model.spec.net.is_feature_model:
        raise BundleError(
            f"{model.path}: its net is {model.spec.net.name}, whose calls cannot be explained. "
            "Give a bundle that 'stallscan train baseline' made"
        )
    spec, baseline = model.spec, load_model(model)
    for prepared in prepare.many(find.list_recordings(paths), [spec.view], processes):
        # As in prediction, a recording with a clip may still get no call.
        if prepared.clip is None or prepared.status != "ok":
            words = f"no call: {prepared.reason or prepared.status}"
        else:
            row = measures.measure(prepared.clip.pixels)  # (features,)
            score = spec.calibration.score(float(baseline.score(row[None])[0]))
            stalled = thresholds.call(float(thresholds.rounded(score)), spec.threshold) == "stalled"
            words = features.explain(baseline, row, stalled)
        yield Explanation(prepared.source.filename, words)


def write(explanations: Iterable[Explanation], out: Path) -> int:
    """Write explanations as a table with the columns filename and explanation; return their number.

    Raises
    ------
    InputError
        If `out` is a file of another kind, or cannot be written.
    """
    columns = ("filename", "explanation")
    files.refuse_foreign(out, [files.csv_line(columns)], "a table of 'stallscan explain'")
    rows = list(explanations)
    files.write_rows(out, columns, rows)
    return len(rows)
