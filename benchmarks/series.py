"""How well stalls of simulated time series at one depth are found, by kind, interval and noise.

Everything is simulated. The method and its constants were chosen on series with other seeds, up to
316. Earlier versions were measured with seeds 201 to 210 and 401 to 410, which are not used again.
"""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import cyclopts
import numpy as np
from common import HERE, machine, markdown, publish, say, version
from cyclopts import Parameter

from stallscan import files
from stallscan.recordings.raw import open_stack
from stallscan.series import run, traces
from stallscan.series.settings import SeriesSettings
from stallscan.series.stallogram import STALLED, UNKNOWN, Stallogram, read_stallogram
from stallscan.series.summary import measure_rates, measure_segments
from stallscan.simulate.look import LookSettings
from stallscan.simulate.series import SERIES_NAME, TRUTH_NAME, Kind, simulate_series
from stallscan.simulate.series import SeriesSettings as Simulated
from stallscan.vessels.region_files import read_regions
from stallscan.vessels.regions import Field
from stallscan.vessels.segment_files import LINES_NAME

FIRST_SEED = 501
FRAMES, SIDE_PX, STALLED_SHARE = 150, 400, 0.2
# Photons per pixel from undiluted plasma: the range of the simulator is 5 to 150.
NOISE = {"low": (60.0, 120.0), "high": (15.0, 30.0)}
INTERVALS_S: dict[Kind, tuple[float, ...]] = {
    "two-photon": (0.5, 2.0),
    "bessel": (0.5,),
    "angiogram": (8.0,),
}


class Case(NamedTuple):
    """What is simulated in each of several series."""

    kind: Kind
    frame_s: float
    noise: str

    @property
    def name(self) -> str:
        """Of the file of results."""
        return f"{self.kind}-{self.frame_s:g}-{self.noise}"


def main(
    out_dir: Path,
    *,
    series: int = 10,
    others: int = 5,
    only: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
) -> None:
    """Measure the cases that OUT_DIR has no result of, and write series.md.

    Parameters
    ----------
    out_dir
        Folder for the results.
    series
        Simulated two-photon series of each case.
    others
        Series of each case of the other kinds.
    only
        Measure these kinds, and write no page.
    """
    cases = [
        Case(kind, frame_s, noise)
        for kind, intervals in INTERVALS_S.items()
        for frame_s in intervals
        for noise in NOISE
    ]
    for case in cases:
        if only and case.kind not in only:
            continue
        count = series if case.kind == "two-photon" else others
        for seed in range(FIRST_SEED, FIRST_SEED + count):
            path = out_dir / f"{case.name}-{seed}.json"
            if not path.is_file():
                say(f"{case.name}, seed {seed}")
                files.make_folder(out_dir)
                files.write_json(path, measure(case, seed))
    if not only:
        found = {case: sorted(out_dir.glob(f"{case.name}-*.json")) for case in cases}
        _publish(
            {
                case: [json.loads(path.read_text(encoding="utf-8")) for path in paths]
                for case, paths in found.items()
            }
        )


def measure(case: Case, seed: int) -> dict[str, Any]:
    """Simulate a series, find its stalls, and compare them with the truth."""
    look = LookSettings(photons=NOISE[case.noise])
    settings = Simulated(
        seed=seed,
        stalled=STALLED_SHARE,
        frames=FRAMES,
        height=SIDE_PX,
        width=SIDE_PX,
        frame_s=case.frame_s,
        kind=case.kind,
        look=look,
    )
    signal = "brightness" if case.kind == "angiogram" else "pattern"
    of_series = SeriesSettings.parse({"signal": signal}, "series")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulate_series(folder / "simulated", settings)
        truth = read_stallogram(folder / "simulated" / TRUTH_NAME)
        with open_stack(folder / "simulated" / SERIES_NAME) as stack:
            field = Field(stack.shape, stack.voxel_um)
            mean = traces.read_mean(stack, lambda _done, _of: None)
            regions = read_regions(folder / "simulated" / LINES_NAME, field)
            result = run.measure_series(stack, regions, mean, folder / "out", of_series)
    return compare(truth, result.stallogram, result.shortest_s)


def compare(truth: Stallogram, called: Stallogram, shortest_s: float) -> dict[str, Any]:
    """Compare a stall-o-gram with the truth: time points, and the figures of the whole series."""
    known = called.states != UNKNOWN
    stalled, right = truth.states == STALLED, called.states == truth.states
    same = Stallogram(truth.names, np.where(known, truth.states, UNKNOWN), truth.frame_s)
    every, seen, told = (measure_rates(each) for each in (truth, same, called))
    throughout = stalled.all(axis=1)
    return {
        "segments": len(truth.names),
        "unknown": told.unknown,
        "throughout": int(throughout.sum()),
        "throughout_known": int((throughout & known.any(axis=1)).sum()),
        "stalled_points": int((stalled & known).sum()),
        "stalled_right": int((stalled & right & known).sum()),
        "flowing_points": int((~stalled & known).sum()),
        "flowing_right": int((~stalled & right & known).sum()),
        "shortest_s": _number(shortest_s),
        # Of all segments; of those that are known; and as found in these.
        "prevalence": [_number(each.prevalence.value) for each in (every, seen, told)],
        "incidence": [_number(each.incidence.value) for each in (every, seen, told)],
        "new_per_min": [_number(each.new_per_min.value) for each in (every, seen, told)],
        "cumulative_s": [_mean_cumulative_s(each) for each in (truth, same, called)],
    }


def _mean_cumulative_s(stallogram: Stallogram) -> float | None:
    """Return the stalled time per known segment, s."""
    known = [each for each in measure_segments(stallogram) if each.observed_s]
    return float(np.mean([each.cumulative_s for each in known])) if known else None


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _publish(results: dict[Case, list[dict[str, Any]]]) -> None:
    heads = ["series", "interval, s", "noise"]
    points = [[*_cells(case), *_row_of_points(of)] for case, of in results.items()]
    figures = [[*_cells(case), *_row_of_figures(of)] for case, of in results.items()]
    publish(
        HERE / "series.md",
        "Stalls in simulated time series",
        LEAD.format(version=version(), machine=machine()),
        [
            markdown(
                [
                    *(*heads, "number", "segments", "unknown", "stalled points", "sensitivity"),
                    *("specificity", "shortest visible stall, s"),
                ],
                points,
            ),
            FIGURES,
            markdown(
                [
                    *(*heads, "prevalence", "known", "found", "incidence", "known", "found"),
                    *("new per min", "known", "found", "stalled s", "known", "found"),
                    "error of a series",
                ],
                figures,
            ),
        ],
    )


def _cells(case: Case) -> list[str]:
    return [case.kind, f"{case.frame_s:g}", case.noise]


def _row_of_points(of: list[dict[str, Any]]) -> list[str]:
    total = {key: sum(each[key] for each in of) for key in POINTS}
    shortest = [each["shortest_s"] for each in of if each["shortest_s"] is not None]
    return [
        f"{len(of)}",
        f"{total['segments']}",
        f"{total['unknown'] / total['segments']:.0%}",
        f"{total['stalled_points']:,}",
        _share(total["stalled_right"], total["stalled_points"], 3),
        _share(total["flowing_right"], total["flowing_points"], 4),
        f"{np.median(shortest):.3g}" if shortest else "-",
    ]


def _row_of_figures(of: list[dict[str, Any]]) -> list[str]:
    cells = []
    for name, form in FORMS.items():
        for place in range(3):
            values = [each[name][place] for each in of if each[name][place] is not None]
            cells.append(format(float(np.mean(values)), form) if values else "-")
    errors = [
        abs(each["prevalence"][2] - each["prevalence"][1])
        for each in of
        if each["prevalence"][2] is not None
    ]
    return [*cells, f"{np.mean(errors):.2%}" if errors else "-"]


def _share(part: int, whole: int, digits: int) -> str:
    return f"{part / whole:.{digits}f}" if whole else "-"


POINTS = (
    *("segments", "unknown", "stalled_points", "stalled_right", "flowing_points"),
    "flowing_right",
)
FORMS = {"prevalence": ".2%", "incidence": ".1%", "new_per_min": ".3f", "cumulative_s": ".1f"}

LEAD = """\
{version}, {machine}. **All series are simulated** (`stallscan simulate --stack --series`): 150
frames of 400 x 400 pixels, a fifth of the segments stalls at some time (in a tenth of these
throughout). Noise is low with 60 to 120 photons per pixel of undiluted plasma, and high with 15 to
30. The method and its constants were chosen on series with other seeds. Nothing is known about
real series.

Of the segments of the truth, with their true centre lines: *unknown* is the share that
`stallscan stack` leaves out. *Sensitivity* and *specificity* count time points of the other
segments. *Shortest visible stall* is what `stallscan stack` prints: the median over segments of the
shortest stall that would be found, in the median series."""

FIGURES = """\
The figures of a series, averaged over series: true in all segments, true in the segments that are
*known* (so that the difference is what leaving out others does), and as *found* in these. *Stalled
s* is the cumulative duration averaged over segments. *Error of a series* is the mean absolute
difference between the found and the known point prevalence.
"""


if __name__ == "__main__":
    cyclopts.run(main)
