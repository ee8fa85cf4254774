"""Centre lines that `stallscan segment` finds in real stacks, against labels drawn by people.

The reference is the centre line of each labelled vessel, from `vessels.labels`. Of the real stacks
only numbers are written to the page; overviews go to OUT_DIR, which must be outside the repository.
"""

import json
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import cyclopts
import numpy as np
import pandas as pd
import tifffile
from common import HERE, machine, markdown, publish, say, version
from cyclopts import Parameter
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from stallscan import files
from stallscan.recordings.raw import open_stack
from stallscan.report.segments import write_overview
from stallscan.vessels.labels import Network, read_network
from stallscan.vessels.segment import Segmented, SegmentSettings, find_segments

F64 = NDArray[np.float64]
NEAR_VOXELS = 2.0
# A true segment of a simulated stack is found if a line is this close over this share of it.
NEAR_UM, COMPLETE = 3.0, 0.8
SIMULATED_NAME = "simulated.json"
# Half the side of the window whose median stands for the tissue around a point, pixels.
AROUND_PX = 10


class Real(NamedTuple):
    """A stack, its labels, its voxel size as published, and what it was used for."""

    stack: str
    labels: str
    voxel_um: tuple[float, float, float]
    role: str


# The data set's metadata state the voxel sizes of the first five. It has none for Leakage, assumed
# to be like noLeakage, and refers to a similar stack for lowContrast.
REAL = {
    "BBB_noLeakage": Real(
        "poon2015_BBB_noLeakage_BM4D_denoised.tif",
        "poon2015_BBB_noLeakage_manualLabel_v2.tif",
        (5.0, 0.994, 0.994),
        "chosen on",
    ),
    "lowerRes_hiSNR": Real(
        "burgess2014_lowerRes_hiSNR_BM4D_denoised.tif",
        "burgess2014_lowerRes_hiSNR_labels_v1.tif",
        (5.0, 1.59, 1.59),
        "chosen on",
    ),
    "plaqueVessels": Real(
        "poon2015_plaqueVessels_BM4D_denoised.tif",
        "poon2015_plaqueVessels_label_underSegmented.tif",
        (5.0, 2.485, 2.485),
        "reported",
    ),
    "bbbDisruption": Real(
        "burgess2014_bbbDisruption_BM4D_denoised.tif",
        "burgess2014_bbbDisruption_labels_v1.tif",
        (5.0, 0.994, 0.994),
        "reported",
    ),
    "noisySparseVessels": Real(
        "burgess2014_noisySparseVessels_BM4D_denoised.tif",
        "burgess2014_noisySparseVessels_labels_v1.tif",
        (5.0, 0.994, 0.994),
        "reported",
    ),
    "BBB_Leakage": Real(
        "poon2015_BBB_Leakage_BM4D_denoised.tif",
        "poon2015_BBB_Leakage_manualLabels_v2.tif",
        (5.0, 0.994, 0.994),
        "reported",
    ),
    "lowContrastVessels": Real(
        "santos2015_lowContrastVessels_BM4D_denoised.tif",
        "santos2015_lowContrastVessels_labelsMarc.tif",
        (5.0, 0.621, 0.621),
        "reported",
    ),
}


def main(
    out_dir: Path,
    *,
    real: Path = HERE.parents[1] / "shared" / "real" / "stacks",
    simulated: Path | None = None,
    only: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
) -> None:
    """Measure the stacks that OUT_DIR has no result of, and write segments.md.

    Parameters
    ----------
    out_dir
        Folder for results and overviews.
    real
        Folder with the real stacks.
    simulated
        Also measure this stack: the folder of 'stallscan simulate --stack'.
    only
        Measure these, and write no page.
    """
    for name in only or REAL:
        path = out_dir / f"{name}.json"
        if not path.is_file():
            say(f"{name}: finding segments")
            files.write_json(path, measure(name, real, out_dir))
    path = out_dir / SIMULATED_NAME
    if simulated is not None and not path.is_file():
        files.write_json(path, measure_simulated(simulated, out_dir))
    if not only:
        truth = json.loads(path.read_text()) if path.is_file() else None
        _publish({name: json.loads((out_dir / f"{name}.json").read_text()) for name in REAL}, truth)


def measure(name: str, folder: Path, out_dir: Path) -> dict[str, Any]:
    """Find the segments of a stack, and compare them with its labels."""
    of = REAL[name]
    settings = SegmentSettings()
    stack = tifffile.imread(folder / of.stack)
    labelled = tifffile.imread(folder / of.labels) > 0
    start, start_cpu = time.monotonic(), time.process_time()
    found = find_segments(stack, of.voxel_um, settings)
    seconds, cpu_seconds = time.monotonic() - start, time.process_time() - start_cpu
    write_overview(out_dir / f"{name}.png", stack.max(axis=0), found, of.voxel_um)
    capillaries, every = _reference(read_network(folder / of.labels, of.voxel_um), of, settings)
    return {
        "planes": len(stack),
        "megavoxels": stack.size / 1e6,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    } | compare(found, stack, labelled, capillaries, every)


def _reference(network: Network, of: Real, settings: SegmentSettings) -> tuple[F64, F64]:
    """Return points on the labelled capillaries, and on all labelled vessels: z, y, x in voxels."""
    lines = [segment.line[:, ::-1] / of.voxel_um - 0.5 for segment in network.segments]
    small = [
        float(np.median(segment.radius_um)) <= settings.capillary_radius_um
        for segment in network.segments
    ]
    capillaries = [line for line, is_small in zip(lines, small, strict=True) if is_small]
    return np.concatenate([np.zeros((0, 3)), *capillaries]), np.concatenate(lines)


def compare(
    found: Segmented, stack: NDArray[Any], labelled: NDArray[np.bool_], capillaries: F64, every: F64
) -> dict[str, Any]:
    """Return counts and shares of points 1 um apart on lines that were found, and on labelled ones.

    Parameters
    ----------
    found : Segmented
        From `find_segments`.
    stack : ndarray
        (Z, H, W), any numeric type.
    labelled : ndarray
        bool (Z, H, W).
    capillaries, every : ndarray
        float64 (n, 3): points on labelled capillaries, and on all labelled vessels, in voxels.
    """
    line = np.concatenate([np.zeros((0, 3)), *(each.line for each in found.capillaries)])
    away = ndimage.distance_transform_edt(~labelled)
    outside = away[tuple(_voxels(line, stack.shape).T)] > NEAR_VOXELS
    # What lines would reach by chance: the mirror image of the same lines.
    mirrored = line * [1, 1, -1] + [0, 0, stack.shape[2] - 1]
    known = _contrast(stack, capillaries)
    new = _contrast(stack, line[outside])
    least = float(np.percentile(known, 25)) if len(known) else np.inf
    return {
        "segments": len(found.capillaries),
        "found_um": len(line),
        "labelled_um": len(capillaries),
        "all_labelled_um": len(every),
        "precision": _share_near(line, every),
        "precision_volume": float(1 - outside.mean()) if len(line) else 0.0,
        "recall": _share_near(capillaries, line),
        "chance": _share_near(mirrored, every),
        "outside_bright": float((new >= least).mean()) if len(new) else 0.0,
    }


def measure_simulated(folder: Path, out_dir: Path) -> dict[str, Any]:
    """Find the segments of a simulated stack, and compare them with the true ones."""
    settings = SegmentSettings()
    with open_stack(folder / "stack.tif") as planes:
        assert planes.voxel_um is not None
        found = find_segments(planes, planes.voxel_um, settings)
        write_overview(out_dir / "simulated.png", planes.brightest, found, planes.voxel_um)
        sides_um = np.array(planes.voxel_um)
        shape = planes.shape
    about = pd.read_csv(folder / "segments.csv").set_index("segment")
    points = pd.read_csv(folder / "centrelines.csv")
    truth = {
        int(str(number)): rows[["z", "y", "x"]].to_numpy() * sides_um
        for number, rows in points.groupby("segment")
    }
    small = about.index[about["radius_um"] <= settings.capillary_radius_um]
    lines = [each.line * sides_um for each in found.capillaries]
    found_tree = cKDTree(np.concatenate(lines))
    true_tree = cKDTree(np.concatenate(list(truth.values())))
    reached = [(found_tree.query(truth[number])[0] <= NEAR_UM).mean() for number in small]
    right = np.array([(true_tree.query(line)[0] <= NEAR_UM).mean() for line in lines])
    depth_um = np.array([np.median(line[:, 0]) for line in lines])
    at_face = np.minimum(depth_um, shape[0] * sides_um[0] - depth_um) <= NEAR_UM
    return {
        "shape": list(shape),
        "voxel_um": sides_um.tolist(),
        "true": len(small),
        "found": len(lines),
        "complete": int((np.array(reached) >= COMPLETE).sum()),
        "covered": float(
            (found_tree.query(np.concatenate([truth[each] for each in small]))[0] <= NEAR_UM).mean()
        ),
        "false": int((right < 0.5).sum()),
        "false_at_face": int(((right < 0.5) & at_face).sum()),
    }


def _voxels(line: F64, shape: tuple[int, ...]) -> NDArray[np.int64]:
    return np.clip(np.rint(line).astype(np.int64), 0, np.array(shape) - 1)


def _share_near(line: F64, other: F64) -> float:
    """Return the share of points within `NEAR_VOXELS` of the other line."""
    if not len(line) or not len(other):
        return 0.0
    return float((cKDTree(other).query(line)[0] <= NEAR_VOXELS).mean())


def _contrast(stack: NDArray[Any], line: F64) -> F64:
    """Return the brightness at each point relative to the median around it in the plane."""
    offsets = np.mgrid[-AROUND_PX : AROUND_PX + 1 : 2, -AROUND_PX : AROUND_PX + 1 : 2].reshape(
        2, -1
    )
    z, y, x = _voxels(line, stack.shape).T
    rows = np.clip(y[:, None] + offsets[0], 0, stack.shape[1] - 1)  # (n, k)
    columns = np.clip(x[:, None] + offsets[1], 0, stack.shape[2] - 1)
    around = stack[z[:, None], rows, columns].astype(np.float64)
    here = stack[z, y, x].astype(np.float64)
    return np.asarray((here + 1) / (np.median(around, axis=1) + 1))


def _say_simulated(truth: dict[str, Any]) -> str:
    return (
        f"**Simulated stack** of {truth['shape']} voxels of {truth['voxel_um']} um (planes, rows, "
        f"columns): of {truth['true']} true capillary segments, {truth['complete']} have a line "
        f"within {NEAR_UM:g} um over {COMPLETE:.0%} of their length; {truth['covered']:.3f} of "
        f"their whole length has one. {truth['found']} segments were found, {truth['false']} of "
        "them false: less than half of their length is that close to a true vessel. "
        f"{truth['false_at_face']} of these lie on the first or last plane, where vessels beyond "
        "it shine in.\n"
    )


def _publish(results: dict[str, dict[str, Any]], truth: dict[str, Any] | None) -> None:
    accuracy = [
        [
            name,
            REAL[name].role,
            f"{of['labelled_um'] / 1000:.1f} of {of['all_labelled_um'] / 1000:.1f}",
            f"{of['segments']}",
            f"{of['found_um'] / 1000:.1f}",
            f"{of['recall']:.3f}",
            f"{of['precision']:.3f}",
            f"{of['precision_volume']:.3f}",
            f"{of['chance']:.3f}",
            f"{of['outside_bright']:.2f}",
        ]
        for name, of in results.items()
    ]
    speed = [
        [
            name,
            " x ".join(f"{side:g}" for side in REAL[name].voxel_um),
            f"{of['planes']}",
            f"{of['megavoxels']:.1f}",
            f"{of['cpu_seconds']:.0f}",
            f"{of['cpu_seconds'] / of['megavoxels']:.1f}",
        ]
        for name, of in results.items()
    ]
    publish(
        HERE / "segments.md",
        "Segments of real stacks",
        LEAD.format(version=version(), machine=machine()),
        [
            markdown(
                [
                    *("stack", "used for", "labelled capillaries, mm of all", "segments found"),
                    *("mm", "recall", "precision", "in labels", "by chance", "bright outside"),
                ],
                accuracy,
            ),
            markdown(
                ["stack", "voxel, um", "planes", "million voxels", "CPU s", "per million voxels"],
                speed,
            ),
            *([] if truth is None else [_say_simulated(truth)]),
        ],
    )


LEAD = """\
{version}, {machine}. Seven real two-photon stacks of mouse vessels with labels drawn by people.
Settings were chosen on two of them and are reported on the other five. BBB_Leakage shows the same
field as BBB_noLeakage, which was chosen on, so it is no independent evidence. The labels of
plaqueVessels are drawn so wide that hardly any vessel counts as a capillary;
its recall says nothing.

*Recall*: the share of the length of labelled capillaries (radius up to 5 um) within 2 voxels of a
line that was found. *Precision*: the share of the found length within 2 voxels of the centre line
of any labelled vessel. *In labels*: within 2 voxels of a labelled voxel. *By chance*: the precision
of the mirror image of the found lines. *Bright outside*: of the found length that is further than 2
voxels from any label, the share with at least the contrast that three quarters of the labelled
capillaries have; where it is high, the labels miss vessels. 2 voxels are 10 um in depth. CPU time
is of one core of a machine that was busy with other work."""


if __name__ == "__main__":
    cyclopts.run(main)
