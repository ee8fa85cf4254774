"""Regions of a raw stack, from the command line: rows, resuming, the rate and the picture."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from stallscan.calls.predictions import read_predictions
from stallscan.clips.store import Store
from stallscan.report.stored import CUT, NO_CLIP, Stored
from stallscan.review import run as review_run
from stallscan.simulate.stack import RawSettings, simulate_stack
from tests import memory

# The first of the segments, to save time.
COUNT = 5
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simulated") / "stack"
    simulate_stack(out, RawSettings(seed=3, stalled=0.2, frames=40, height=160, width=200))
    lines = (out / "centrelines.csv").read_text().splitlines(keepends=True)
    numbers = tuple(f"{number}," for number in range(1, 1 + COUNT))
    kept = [line for line in lines if line.startswith(("segment", *numbers))]
    (out / "regions.csv").write_text("".join(kept))
    return out


@pytest.fixture
def words(simulated: Path) -> list[str | Path]:
    return ["stack", simulated / "stack.tif", "--regions", simulated / "regions.csv"]


def test_each_region_gets_a_row_and_the_stack_a_rate(
    run: Run, words: list[str | Path], simulated: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, printed, _ = run(*words, "-o", out)
    assert code == 0
    assert str(out / "predictions.csv") in printed
    # Few vessels of a stack are stalled, and the threshold is chosen for that.
    assert "2 % expected" in printed
    assert json.loads((out / "run.json").read_text())["prevalence"] == 0.02
    own = tmp_path / "own"
    assert run(*words, "-o", own, "--prevalence", "bundle")[0] == 0
    thresholds = [read_predictions(each / "predictions.csv")["threshold"][0] for each in (out, own)]
    assert json.loads((own / "run.json").read_text())["prevalence"] > 0.02
    assert thresholds[0] < thresholds[1]
    table = read_predictions(out / "predictions.csv")
    with (simulated / "labels.csv").open(newline="") as file:
        labels = list(csv.DictReader(file))[:COUNT]
    assert table["filename"].tolist() == [row["filename"] for row in labels]
    assert table["call"].isin(["flowing", "stalled", "review", "unscorable"]).all()
    # Labels of regions of the same names at other places are not taken.
    others = [["filename", "stalled"], *([row["filename"][:-4] + "0000", 0] for row in labels)]
    with (tmp_path / "others.csv").open("w", newline="") as file:
        csv.writer(file).writerows(others)
    words = ["evaluate", out, "--labels", tmp_path / "others.csv", "--partial"]
    code, _, said = run(*words, "-o", tmp_path / "evaluation")
    assert code == 2
    assert "in common" in said
    with (out / "rates.csv").open(newline="") as file:
        (rate,) = csv.DictReader(file)
    assert int(rate["stalled"]) == (table["call"] == "stalled").sum()
    assert int(rate["scored"]) == table["call"].isin(["stalled", "flowing"]).sum()
    # The accuracy of the calls is unknown, so nothing is corrected.
    assert rate["rate"] == rate["low"] == ""
    assert "--accuracy" in rate["note"]
    picture = cv2.imread(str(out / "overview.png"))
    assert picture is not None
    assert picture.shape[1] == 200
    assert (picture.max(axis=-1) - picture.min(axis=-1) > 100).any()
    described = json.loads((out / "stack.json").read_text())["stack"]
    assert described["shape"] == [40, 160, 200]
    assert described["axis"] == "depth"
    with (out / "regions.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(labels)
    # A region has no video of its own, which is not missed.
    reviewed = review_run.read(out)
    assert {item.shown.note for item in reviewed.items if isinstance(item.shown, Stored)} == {CUT}
    assert reviewed.absent == NO_CLIP
    assert "5 regions from regions.csv" in run("methods", out)[1]


@pytest.mark.slow
def test_without_regions_the_segments_are_found(run: Run, simulated: Path, tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    out = tmp_path / "out"
    assert run("stack", simulated / "stack.tif", "-o", out)[0] == 0
    with (out / "segments" / "segments.csv").open(newline="") as file:
        found = [row["segment"] for row in csv.DictReader(file)]
    with (out / "regions.csv").open(newline="") as file:
        assert [row["region"] for row in csv.DictReader(file)] == found
    assert len(found) >= 3
    assert len(read_predictions(out / "predictions.csv")) == len(found)
    # The same as with the centre lines of 'stallscan segment'.
    lines, again = out / "segments" / "centrelines.csv", tmp_path / "again"
    assert run("stack", simulated / "stack.tif", "--regions", lines, "-o", again)[0] == 0
    scores = [read_predictions(each / "predictions.csv")["score"] for each in (out, again)]
    np.testing.assert_allclose(scores[0], scores[1], atol=0.02)
    names = [list(read_predictions(each / "predictions.csv")["filename"]) for each in (out, again)]
    assert names[0] == names[1]
    # A finished run is left as it is.
    before = (out / "predictions.csv").stat().st_mtime_ns
    assert run("stack", simulated / "stack.tif", "-o", out)[0] == 0
    assert (out / "predictions.csv").stat().st_mtime_ns == before


@pytest.mark.slow
def test_evaluation_and_report_take_the_folder_of_a_stack(
    run: Run, words: list[str | Path], simulated: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(*words, "-o", out)[0] == 0
    labels = simulated / "labels.csv"
    assert run("evaluate", out, "--labels", labels, "-o", out / "evaluation")[0] == 0
    assert (out / "evaluation" / "metrics.json").exists()
    assert run("report", out, "-o", out / "report.html")[0] == 0
    # The cards show the clips: the regions are no files of their own.
    page = (out / "report.html").read_text()
    assert page.count("data-media=") > 0
    assert CUT in page
    assert "5 regions from regions.csv" in page
    assert "not found" not in page


def test_an_interrupted_run_resumes_and_another_stack_is_refused(
    run: Run,
    words: list[str | Path],
    simulated: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert run(*words, "-o", whole)[0] == 0
    assert run(*words, "-o", resumed)[0] == 0
    rows = (resumed / "predictions.csv").read_text().splitlines(keepends=True)
    (resumed / "predictions.csv").write_text("".join(rows[:3]))
    assert run(*words, "-o", resumed)[0] == 0
    assert f"{len(rows) - 3} of {len(rows) - 1} recordings to process" in caplog.text
    for name in ("predictions.csv", "traits.csv", "rates.csv", "regions.csv"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes(), name
    assert len(Store(resumed / "clips")) == len(rows) - 1
    code, _, said = run(*words, "-o", resumed, "--voxel-um", "1.2", "1", "1")
    assert code == 2
    assert "voxel_um" in said
    words[3] = simulated / "vessels.tif"
    code, _, said = run(*words, "-o", resumed)
    assert code == 2
    assert "regions" in said


def test_regions_that_cannot_be_used_are_rows(
    run: Run, words: list[str | Path], tmp_path: Path
) -> None:
    words[3] = tmp_path / "boxes.csv"
    lines = ["region,row0,row1,col0,col1", "in,40,90,60,120", "out,400,450,60,120"]
    words[3].write_text("\n".join(lines) + "\n")
    code, printed, _ = run(*words, "-o", tmp_path / "out")
    assert code == 0
    table = read_predictions(tmp_path / "out" / "predictions.csv")
    names = [name.rpartition("-")[0] for name in table["filename"]]
    assert names == ["stack.tif/in", "stack.tif/out"]
    assert table["status"].tolist()[1] == "out_of_view"
    assert "outside the image" in table["reason"][1]
    assert table["call"][1] == "unscorable"
    assert "1 recording without a call" in printed
    assert run(*words, "-o", tmp_path / "out", "--strict")[0] == 1


def test_accuracy_corrects_the_rate(run: Run, words: list[str | Path], tmp_path: Path) -> None:
    out, path = tmp_path / "out", tmp_path / "metrics.json"
    assert run(*words, "-o", out)[0] == 0
    row = read_predictions(out / "predictions.csv").iloc[0]
    counts = {"true_stalled": 40, "false_stalled": 5, "true_flowing": 200, "missed_stalled": 10}
    metrics = {
        "metrics": {"confusion": counts},
        "bundles": [row["bundle"]],
        "thresholds": [row["threshold"]],
    }
    path.write_text(json.dumps(metrics))
    code, printed, _ = run(*words, "-o", out, "--accuracy", path)
    assert code == 0
    assert "corrected for wrong calls" in printed
    with (out / "rates.csv").open(newline="") as file:
        (rate,) = csv.DictReader(file)
    assert 0 <= float(rate["low"]) <= float(rate["rate"]) <= float(rate["high"]) <= 1
    # The shipped model has seen only simulated recordings, and these were measured on others.
    assert "learned from simulated recordings only" in rate["note"]
    path.write_text(json.dumps(metrics | {"simulated": {"recordings": True}}))
    assert run(*words, "-o", out, "--accuracy", path)[0] == 0
    assert "measured on simulated recordings" in (out / "rates.csv").read_text()
    path.write_text(json.dumps(metrics | {"thresholds": [0.9]}))
    code, _, said = run(*words, "-o", out, "--accuracy", path)
    assert code == 2
    assert "threshold" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--channel", "2"], "no channel 2"),
        (["--percentiles", "99", "5"], "below"),
    ],
)
def test_wrong_options_are_named(
    run: Run, simulated: Path, tmp_path: Path, options: list[str], said: str
) -> None:
    code, _, printed = run("stack", simulated / "stack.tif", *options, "-o", tmp_path / "out")
    assert code == 2
    assert said in printed
    assert not (tmp_path / "out" / "predictions.csv").exists()


_PREDICT = """
import contextlib, sys
from stallscan.cli.main import main
sys.argv = ["stallscan", *sys.argv[1:]]
with contextlib.suppress(SystemExit):
    main()
"""


@memory.needs_proc
@pytest.mark.slow
def test_a_stack_of_two_gigabytes_takes_less_than_one_of_memory(tmp_path: Path) -> None:
    frames, side = 1000, 1024
    path = tmp_path / "stack.tif"
    rng = np.random.default_rng(0)
    tile = rng.integers(0, 500, (side, side), dtype=np.uint16)
    tile[::40] = 4000
    metadata = {"axes": "ZYX", "PhysicalSizeX": 1, "PhysicalSizeY": 1, "PhysicalSizeZ": 1}
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as tiff:
        planes = (np.roll(tile, index, axis=0) for index in range(frames))
        tiff.write(planes, shape=(frames, side, side), dtype=np.uint16, metadata=metadata)
    assert path.stat().st_size > 2e9
    corners = rng.integers(0, side - 60, (60, 2)).tolist()
    rows = [f"{i},{r},{r + 50},{c},{c + 55},{15 * i}" for i, (r, c) in enumerate(corners)]
    regions = tmp_path / "regions.csv"
    regions.write_text("\n".join(["region,row0,row1,col0,col1,z", *rows]) + "\n")
    out = tmp_path / "out"
    peak = memory.peak_bytes(_PREDICT, "stack", path, "--regions", regions, "-o", out)
    assert len(read_predictions(out / "predictions.csv")) == 60
    assert peak < 1e9
