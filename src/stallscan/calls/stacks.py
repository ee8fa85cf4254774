"""Call the regions of a raw stack, with the rows, files and resuming of any other prediction.

The clips of the regions become a store in the run folder, which is then predicted. Report and
review read the same store.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stallscan import files, runs
from stallscan.bundle import disk
from stallscan.calls import inputs, predict
from stallscan.calls.predict import PredictionSummary
from stallscan.clips import fill
from stallscan.clips.regions import prepare_regions, sources_of
from stallscan.engines.choose import Which
from stallscan.recordings.raw import Stack
from stallscan.runs import CLIPS_NAME, STACK_NAME
from stallscan.vessels.regions import Field, Region, Regions, describe_regions

# Beside predictions.csv: where the regions are, and the segments that were found where no regions
# were given.
REGIONS_NAME = "regions.csv"
SEGMENTS_NAME = "segments"
# docs/facts.md 1: 0.4 % of the capillaries of healthy mice are stalled, 2 % in Alzheimer's models.
PREVALENCE = 0.02
REGION_COLUMNS = (
    *("region", "filename", "row0", "row1", "col0", "col1", "first", "stop"),
    *("area_um2", "remark"),
)

Progress = Callable[[int, int], None]


def field_of(stack: Stack) -> Field:
    """Return what `regions` needs to know about a stack."""
    return Field(stack.shape, stack.voxel_um)


def predict_stack(
    stack: Stack,
    regions: Regions,
    out: str | Path,
    bundle: str | Path = disk.DEFAULT,
    *,
    source: str = "",
    prevalence: float | None = PREVALENCE,
    engine: Which = "auto",
    cutting: Progress = lambda _done, _of: None,
    predicting: Progress = lambda _done, _of: None,
) -> PredictionSummary:
    """Score and call regions of a stack; an interrupted run resumes where it left off.

    Parameters
    ----------
    stack : Stack
        From `raw.open_stack`.
    regions : list
        From `region_files.read_regions`; names are unique.
    out : str or Path
        Folder for the files of `predict.predict`, and ``stack.json``, ``regions.csv``, ``clips/``.
    source : str
        Name of the file with the regions; empty if they were found in the stack.
    bundle, engine
        As in `predict.predict`.
    prevalence : float or None
        Expected share of stalled vessels, for which scores are converted and the threshold is
        chosen; None takes that of the bundle's validation split.
    cutting, predicting : callable
        Progress of the two steps.

    Raises
    ------
    InputError
        If `out` holds another run, or cannot be written; or the members of an ensemble need
        different clips.
    BundleError
        If the bundle cannot be used.
    """
    out = Path(out)
    view = inputs.view_of(bundle)
    sources = sources_of(stack.path, regions)
    with runs.hold(out):
        runs.claim(out / STACK_NAME, _describe(stack, regions), "a stack", (runs.PREDICTIONS_NAME,))
        files.write_rows(out / REGIONS_NAME, REGION_COLUMNS, _tabulate(stack, regions))
    by_name = {source.filename: each for source, each in zip(sources, regions, strict=True)}
    fill.fill(
        out / CLIPS_NAME,
        sources,
        lambda todo: prepare_regions(stack, by_name, todo, [view]),
        view.outline,
        view.clip,
        cutting,
    )
    return predict.predict(
        [out / CLIPS_NAME],
        out,
        bundle,
        prevalence=prevalence,
        progress=predicting,
        engine=engine,
        stack={
            "name": stack.name,
            "axis": stack.axis,
            "regions": len(regions),
            "source": source,
        },
    )


def _describe(stack: Stack, regions: Regions) -> dict[str, Any]:
    """Return what must be the same for a run to be resumed."""
    return {"stack": stack.describe(), "regions": describe_regions(regions)}


def _tabulate(stack: Stack, regions: Regions) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of the table of regions; those that cannot be used have no box."""
    pixel_um2 = stack.voxel_um[1] * stack.voxel_um[2]
    for source, each in zip(sources_of(stack.path, regions), regions, strict=True):
        if isinstance(each, Region):
            area = f"{each.mask.sum() * pixel_um2:.0f}"
            row = (*each.box, *(each.frames or ("", "")), area, each.remark)
        else:
            row = (*[""] * 7, each.reason)
        yield (each.name, source.filename, *row)
