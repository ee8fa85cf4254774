"""Time series from the command line: tables, pictures, refusals; and their simulator."""

import csv
import dataclasses
import itertools
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from stallscan.recordings.raw import open_stack
from stallscan.recordings.recording import Box
from stallscan.report.stallogram import sort_rows
from stallscan.series import find, traces
from stallscan.series.run import calls_of, check_settings, count_frames, measure_series
from stallscan.series.settings import SeriesSettings as StallSettings
from stallscan.series.stallogram import STALLED, UNKNOWN, Stallogram, read_stallogram
from stallscan.simulate.look import LookSettings
from stallscan.simulate.series import SeriesSettings, draw_series, simulate_series
from stallscan.vessels.region_files import read_regions
from stallscan.vessels.regions import Field, Region, Regions
from stallscan.vessels.segment import Segmented, SegmentSettings
from stallscan.vessels.slabs import Planes

Run = Callable[..., tuple[int, str, str]]
LOOK = LookSettings(photons=(120, 150), clear=0.0)
SETTINGS = SeriesSettings(
    seed=7, stalled=0.5, frames=120, height=256, width=256, frame_s=0.2, look=LOOK
)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simulated") / "series"
    simulate_series(out, SETTINGS)
    return out


@pytest.fixture(scope="module")
def angiogram(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simulated") / "angiogram"
    simulate_series(out, SETTINGS.model_copy(update={"kind": "angiogram", "frame_s": 8.0}))
    return out


def words(folder: Path) -> list[str | Path]:
    return ["stack", folder / "series.tif", "--regions", folder / "centrelines.csv"]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_simulated_file_says_what_it_is(simulated: Path) -> None:
    with open_stack(simulated / "series.tif") as stack:
        assert stack.axis == "time"
        assert stack.shape == (120, 256, 256)
        assert stack.frame_s == pytest.approx(0.2)
        assert not stack.notes


def test_the_true_stallogram_is_the_motion_of_the_blood(simulated: Path) -> None:
    plan = draw_series(SETTINGS)
    truth = read_stallogram(simulated / "true_stallogram.csv")
    assert len(truth.names) == len(plan.segments) >= 3
    for states, segment in zip(truth.states, plan.segments, strict=True):
        moved = np.abs(plan.blood.speed_um_s[segment.vessel]) * SETTINGS.frame_s
        assert ((moved < 0.5) == (states == STALLED)).all()
    stalling = (truth.states == STALLED).any(axis=1).sum()
    assert stalling == round(0.5 * len(plan.segments))


def test_an_angiogram_has_the_speeds_of_its_blood(angiogram: Path) -> None:
    for row in read(angiogram / "segments.csv"):
        stands_throughout = float(row["stalled_share"]) == 1
        assert (float(row["speed_um_s"]) > 0) != stands_throughout


def test_the_vessel_without_truth_never_pauses() -> None:
    for seed in range(16):
        plan = draw_series(SeriesSettings(seed=seed, frames=60, height=128, width=128, look=LOOK))
        assert (plan.blood.speed_um_s[0] != 0).all()
        moved = np.diff(plan.blood.start_um[0]) / plan.blood.frame_s
        assert np.allclose(moved, plan.blood.speed_um_s[0, :-1])


def test_an_angiogram_is_dark_where_blood_stands(angiogram: Path) -> None:
    frames = tifffile.imread(angiogram / "series.tif").astype(float)
    truth = read_stallogram(angiogram / "true_stallogram.csv")
    lines = read(angiogram / "centrelines.csv")
    changes = []
    for name, states in zip(truth.names, truth.states, strict=True):
        points = [(float(row["y"]), float(row["x"])) for row in lines if row["segment"] == name]
        rows, columns = np.rint(np.array(points)).astype(int).T
        level = frames[:, rows, columns].mean(axis=1)
        if 0 < (states == STALLED).sum() < len(states):
            changes.append(level[states == STALLED].mean() / level[states != STALLED].mean())
    assert changes
    assert np.median(changes) < 0.8


def test_a_series_gets_a_stallogram_and_no_stall_rate(
    run: Run, simulated: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, printed, said = run(*words(simulated), "-o", out)
    assert code == 0
    assert "point prevalence" in printed
    assert "called stalled" not in printed
    assert "simulated" in said
    assert not (out / "predictions.csv").exists()
    called = read_stallogram(out / "stallogram.csv")
    truth = read_stallogram(simulated / "true_stallogram.csv")
    assert called.names == truth.names
    known = called.states != UNKNOWN
    right = (called.states == truth.states)[known]
    assert known.any()
    assert (truth.states == STALLED)[known].any()
    assert right.mean() > 0.95
    (rates,) = read(out / "rates.csv")
    assert rates["recording"] == "time series"
    assert "simulated" in rates["note"]
    # Columns of a z-stack's stall rate would be taken for one.
    assert not {"rate", "called_rate", "stalled"} & set(rates)
    stalled = (called.states == STALLED).sum(axis=0) / known.sum(axis=0)
    assert float(rates["point_prevalence"]) == pytest.approx(stalled.mean(), rel=1e-4)
    segments = read(out / "series.csv")
    assert [row["region"] for row in segments] == list(called.names)
    for row, states in zip(segments, called.states, strict=True):
        if (states == UNKNOWN).all():
            assert row["remark"]
            assert row["stalls"] == ""
        else:
            assert float(row["cumulative_s"]) == pytest.approx(0.2 * (states == STALLED).sum())
    for name in ("stallogram.png", "overview.png"):
        assert cv2.imread(str(out / name)) is not None


def test_a_name_that_is_not_utf_8_is_escaped(run: Run, simulated: Path, tmp_path: Path) -> None:
    path, out = tmp_path / os.fsdecode(b"m\xfcs.tif"), tmp_path / "out"
    path.symlink_to(simulated / "series.tif")
    code, _, _ = run("stack", path, "--regions", simulated / "centrelines.csv", "-o", out)
    assert code == 0
    assert (out / "overview.png").exists()
    assert read(out / "rates.csv")[0]["field"] == r"m\xfcs.tif"


def test_the_same_run_again_gives_the_same_files_and_another_is_refused(
    run: Run, simulated: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(*words(simulated), "-o", out)[0] == 0
    before = {path.name: path.read_bytes() for path in out.glob("*.*")}
    assert run(*words(simulated), "-o", out)[0] == 0
    for name in ("stallogram.csv", "series.csv", "rates.csv", "stallogram.png", "series.json"):
        assert (out / name).read_bytes() == before[name]
    code, _, said = run(*words(simulated), "-o", out, "--least-s", "5")
    assert code == 2
    assert "least_s" in said
    settings = json.loads((out / "series.json").read_text())["settings"]
    assert settings["least_s"] == 1.0


def test_lines_of_another_run_are_not_replaced(run: Run, simulated: Path, tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    out = tmp_path / "out"
    assert run(*words(simulated), "-o", out)[0] == 0
    code, _, said = run("stack", simulated / "series.tif", "-o", out)
    assert code == 2
    assert "regions" in said
    assert not (out / "centrelines.csv").exists()
    # The truth of a simulation, or the result of 'stallscan segment'.
    other = tmp_path / "other"
    other.mkdir()
    (other / "centrelines.csv").write_text("segment,z,y,x\n")
    code, _, said = run("stack", simulated / "series.tif", "-o", other)
    assert code == 2
    assert "centrelines.csv" in said
    assert (other / "centrelines.csv").read_text() == "segment,z,y,x\n"


@pytest.mark.parametrize(
    ("settings", "option", "value"),
    # A series of 24 s.
    [
        ({"least_s": 13.0}, "least_s", 12.0),
        ({"least_s": 12.0, "visible_s": 9.0}, "visible_s", 12.0),
        ({"least_s": 0.2, "visible_s": 0.3}, "visible_s", 0.4),
    ],
)
def test_settings_that_leave_nothing_known_are_refused(
    run: Run, simulated: Path, tmp_path: Path, settings: dict[str, float], option: str, value: float
) -> None:
    given = [(f"--{name.replace('_', '-')}", number) for name, number in settings.items()]
    code, _, said = run(*words(simulated), "-o", tmp_path / "out", *itertools.chain(*given))
    assert code == 2
    assert said.strip().endswith(f" {value:g}")
    assert f"--{option.replace('_', '-')}" in said
    assert not (tmp_path / "out").exists()
    with open_stack(simulated / "series.tif") as stack:
        check_settings(stack, StallSettings.model_validate(settings | {option: value}))
        check_settings(stack, StallSettings(signal="brightness", least_s=13.0))


def test_frames_are_registered(simulated: Path, tmp_path: Path) -> None:
    frames = tifffile.imread(simulated / "series.tif")[:20]
    moved = [(0, 0), (3, -2)] * 10  # rows, columns
    shifted = np.stack(
        [np.roll(frame, shift, axis=(0, 1)) for frame, shift in zip(frames, moved, strict=True)]
    )
    metadata = {"axes": "TYX", "unit": "um", "finterval": 0.2}
    path = tmp_path / "shifted.tif"
    tifffile.imwrite(path, shifted, imagej=True, resolution=(1, 1), metadata=metadata)
    with open_stack(path) as stack:
        mean = traces.read_mean(stack, lambda _done, _of: None)
        registration = traces.Registration(mean, 1.0)
        found = np.array([registration.shift_of(stack.values(index)) for index in range(20)])
    assert np.median(found[1::2] - found[::2], axis=0) == pytest.approx([3, -2], abs=0.5)


def test_the_vessel_of_an_area_is_found_and_its_ends_are_left_out() -> None:
    mask = np.zeros((40, 80), np.uint8)
    cv2.line(mask, (10, 20), (70, 20), 1, 5)
    mean = 100 + np.float32(400) * mask
    region = Region("1", "1f3a", Box(0, 40, 0, 80), np.ones((40, 80), bool))
    line, tissue = traces.find_line(region, mean, 1.0)
    assert line is not None
    assert np.abs(line[:, 0] - 20).max() < 1.5
    assert 10 < line[:, 1].min() < 17
    assert 63 < line[:, 1].max() < 70
    assert tissue == 100


@pytest.fixture(scope="module")
def stretched(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated series with each row twice, so that pixels are 0.525 x 1.05 um."""
    out = tmp_path_factory.mktemp("stretched")
    frames = np.repeat(tifffile.imread(simulated / "series.tif"), 2, axis=1)
    metadata = {"axes": "TYX", "unit": "um", "finterval": 0.2}
    path = out / "series.tif"
    tifffile.imwrite(path, frames, imagej=True, resolution=(1 / 1.05, 2 / 1.05), metadata=metadata)
    return path


def test_pixels_that_are_not_square_change_nothing(
    simulated: Path, stretched: Path, tmp_path: Path
) -> None:
    with open_stack(simulated / "series.tif") as stack:
        regions = read_regions(simulated / "centrelines.csv", Field(stack.shape, stack.voxel_um))
    double: Regions = []
    for region in regions:
        assert isinstance(region, Region)
        assert region.line is not None
        row0, row1, col0, col1 = region.box
        box, mask = Box(2 * row0, 2 * row1, col0, col1), np.repeat(region.mask, 2, axis=0)
        line = region.line * [2, 1] + [0.5, 0]
        double.append(dataclasses.replace(region, box=box, mask=mask, line=line))
    for path, drawn in ((simulated / "series.tif", regions), (stretched, double)):
        with open_stack(path) as stack:
            mean = traces.read_mean(stack, lambda _done, _of: None)
            measure_series(stack, drawn, mean, tmp_path / path.parent.name, StallSettings())
    for name in ("stallogram.csv", "series.csv"):
        once, twice = (tmp_path / each.name / name for each in (simulated, stretched.parent))
        assert twice.read_text() == once.read_text()


def test_traces_are_in_memory_once(simulated: Path) -> None:
    lines = [(np.full((40, 2), 60 + at / 20, np.float32), 0.0) for at in range(1500)]
    with open_stack(simulated / "series.tif") as stack:
        square, mean = traces.SquareStack(stack), np.zeros(stack.shape[1:], np.float32)
        tracemalloc.start()
        try:
            none = np.zeros(0, int)
            read, _ = traces.read_traces(square, mean, lines, none, lambda _done, _of: None)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    held = sum(trace.values.nbytes for trace in read)
    assert held == 1500 * 40 * 120 * 4
    assert peak < 1.8 * held


def test_a_short_vessel_across_narrow_rows_is_too_short(stretched: Path) -> None:
    with open_stack(stretched) as stack:
        square = traces.SquareStack(stack)
        assert square.shape == (120, 256, 256)
        assert square.side_um == pytest.approx(1.05)
        frame = stack.values(0)
        assert frame is not None
        mean = square.resize(frame)
        assert (mean == frame[::2]).all()
        for count, is_long in ((16, False), (40, True)):  # 8 and 21 um
            line = np.column_stack([100.0 + np.arange(count), np.full(count, 50.0)])
            mask = np.ones((80, 41), bool)
            region = Region("1", "1f3a", Box(80, 160, 30, 71), mask, line=line)
            resized = square.resize_region(region)
            assert resized.box == Box(40, 80, 30, 71)
            found, _ = traces.find_line(resized, mean, square.side_um)
            assert (found is not None) == is_long
            if found is not None:
                assert found[0] == pytest.approx([(line[0, 0] + 0.5) / 2 - 0.5 + 4, 50], abs=0.6)


def test_an_angiogram_is_read_by_its_brightness(run: Run, angiogram: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(*words(angiogram), "-o", out, "--signal", "brightness")[0] == 0
    called = read_stallogram(out / "stallogram.csv")
    truth = read_stallogram(angiogram / "true_stallogram.csv")
    known = called.states != UNKNOWN
    assert known.any()
    assert (called.states == truth.states)[known].mean() > 0.95


def test_segments_are_found_without_regions(run: Run, simulated: Path, tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    out = tmp_path / "out"
    code, printed, _ = run("stack", simulated / "series.tif", "-o", out)
    assert code == 0
    assert "point prevalence" in printed
    found = np.array([(float(row["y"]), float(row["x"])) for row in read(out / "centrelines.csv")])
    true = [(float(row["y"]), float(row["x"])) for row in read(simulated / "centrelines.csv")]
    near = [np.hypot(*(found - point).T).min() < 4 for point in true]
    assert np.mean(near) > 0.7


def test_the_planes_of_a_mean_are_computed_when_they_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mean = np.random.default_rng(0).uniform(0, 900, (600, 500)).astype(np.float32)
    dark = np.float32(np.percentile(mean, 5))

    def check(planes: Planes, sides_um: tuple[float, ...], settings: SegmentSettings) -> Segmented:
        assert planes.shape == (17, 600, 500)
        assert (planes[8:9][0] == dark + (mean - dark)).all()
        assert (planes[0:2] < planes[2:4]).mean() > 0.9
        return Segmented((), (), np.zeros((1, 1), bool))

    monkeypatch.setattr(find, "find_segments", check)
    tracemalloc.start()
    try:
        assert find.find_lines(mean, (1.0, 1.0)) == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 * mean.nbytes


@pytest.mark.parametrize(
    "options",
    [["--prevalence", "0.1"], ["--engine", "torch"], ["--bundle", "other"]],
)
def test_options_of_calls_are_refused_for_a_series(
    run: Run, simulated: Path, tmp_path: Path, options: list[str]
) -> None:
    code, _, said = run(*words(simulated), "-o", tmp_path / "out", *options)
    assert code == 2
    assert options[0] in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options", [["--signal", "brightness"], ["--least-s", "2"], ["--visible-s", "9"]]
)
def test_options_of_a_series_are_refused_for_a_stack(
    run: Run, tmp_path: Path, options: list[str]
) -> None:
    stack = np.random.default_rng(0).integers(0, 900, (20, 64, 64)).astype(np.uint16)
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, stack, imagej=True, metadata={"axes": "ZYX"})
    wanted = ["stack", path, "--voxel-um", "1", "1", "1", "-o", tmp_path / "out", *options]
    code, _, said = run(*wanted)
    assert code == 2
    assert options[0] in said


def test_a_folder_of_a_z_stack_is_refused(run: Run, simulated: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "rates.csv").write_text("field,rate\n")
    code, _, said = run(*words(simulated), "-o", out)
    assert code == 2
    assert "rates.csv" in said


@pytest.mark.parametrize(
    ("least_s", "frame_s", "frames"), [(1.0, 0.1, 10), (1.0, 8.0, 1), (1.0, 0.3, 4), (2.0, 1.0, 2)]
)
def test_the_least_duration_in_frames(least_s: float, frame_s: float, frames: int) -> None:
    assert count_frames(least_s, frame_s) == frames


def test_rows_of_the_picture_and_words_of_the_overview() -> None:
    table = np.array([[0, 0, 0], [-1, -1, -1], [0, 0, 1], [1, 0, 0]], np.int8)
    stallogram = Stallogram(("a", "b", "c", "d"), table, 1.0)
    assert sort_rows(stallogram) == [3, 2, 0, 1]
    assert calls_of(stallogram) == ["flowing", "unscorable", "stalled", "stalled"]


def test_a_simulation_needs_a_stack_for_a_series(run: Run, tmp_path: Path) -> None:
    code, _, said = run("simulate", tmp_path / "out", "--series", "bessel")
    assert code == 2
    assert "--stack" in said
    code, _, said = run("simulate", tmp_path / "out", "--stack", "--frame-s", "2")
    assert code == 2
    assert "--series" in said
