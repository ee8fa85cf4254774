"""A simulated raw stack: its truth agrees with its pixels, and its metadata with its scene."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy import ndimage

from stallscan.errors import InputError
from stallscan.recordings.raw import open_stack
from stallscan.simulate import raw
from stallscan.simulate import stack as stacks
from stallscan.simulate.blood import STALLED_SHARE, STANDING_UM
from stallscan.simulate.look import LookSettings
from stallscan.simulate.series import SeriesSettings, draw_series
from stallscan.simulate.stack import RawPlan, RawSettings, draw_stack, simulate_stack
from stallscan.vessels.region_files import read_regions
from stallscan.vessels.regions import Field

SETTINGS = RawSettings(seed=3, stalled=0.2, frames=40, height=160, width=200)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simulated") / "stack"
    simulate_stack(out, SETTINGS)
    return out


@pytest.fixture(scope="module")
def plan() -> RawPlan:
    return draw_stack(SETTINGS)


def test_the_stack_states_its_voxels_and_is_read_as_it_is(folder: Path, plan: RawPlan) -> None:
    with open_stack(folder / "stack.tif") as stack:
        assert stack.shape == plan.scene.shape == (40, 160, 200)
        assert stack.axis == "depth"
        assert stack.voxel_um == pytest.approx(plan.voxel_um, rel=1e-4)
        assert stack.frame_s == pytest.approx(plan.microscope.frame_s)


def test_centre_lines_lie_on_the_vessels_of_the_pixels(folder: Path) -> None:
    values = tifffile.imread(folder / "stack.tif").astype(float)
    smooth = ndimage.gaussian_filter(values, (1, 1, 1))
    lines = pd.read_csv(folder / "centrelines.csv")
    places = np.rint(lines[["z", "y", "x"]].to_numpy()).astype(int)
    on = smooth[tuple(places.T)]
    assert (on > np.median(smooth)).mean() > 0.9
    # Not only on bright ground: a few um beside a line it is darker.
    beside = smooth[places[:, 0], places[:, 1], np.minimum(places[:, 2] + 12, 199)]
    assert np.median(on) > 1.3 * np.median(beside)


def test_labels_of_vessels_follow_the_centre_lines(folder: Path) -> None:
    labels = tifffile.imread(folder / "vessels.tif")
    lines = pd.read_csv(folder / "centrelines.csv")
    places = np.rint(lines[["z", "y", "x"]].to_numpy()).astype(int)
    found = labels[tuple(places.T)]
    # Where vessels join, one covers the other.
    assert (found == lines["segment"]).mean() > 0.9
    assert (found > 0).all()
    assert labels.shape == (40, 160, 200)


def test_the_truth_follows_the_definition_of_a_stall(folder: Path, plan: RawPlan) -> None:
    table = pd.read_csv(folder / "segments.csv")
    assert len(table) == len(plan.segments) > 10
    assert table["stalled"].sum() == round(0.2 * len(table))
    assert table["segment"].tolist() == list(range(1, len(table) + 1))
    for segment, stalled in zip(plan.segments, table["stalled"], strict=True):
        focus = slice(segment.first_in_focus, segment.last_in_focus + 1)
        moved = np.abs(plan.blood.speed_um_s[segment.vessel, focus]) * plan.microscope.frame_s
        assert ((moved < STANDING_UM).mean() >= STALLED_SHARE) == bool(stalled)
    names = pd.read_csv(folder / "labels.csv")
    with open_stack(folder / "stack.tif") as stack:
        regions = read_regions(folder / "centrelines.csv", Field(stack.shape, stack.voxel_um))
    assert names["filename"].tolist() == [f"stack.tif/{each.full_name}" for each in regions]
    assert [each.name for each in regions] == [f"{number}" for number in table["segment"]]
    assert names["stalled"].tolist() == table["stalled"].tolist()


def test_tiles_do_not_show(plan: RawPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    light = stacks.render(plan.scene, plan.blood, plan.microscope, _whole(plan))
    monkeypatch.setattr(raw, "TILE_PX", 96)
    for window in raw.tiles_of(plan.scene):
        tile = stacks.render(plan.scene, plan.blood, plan.microscope, window)
        whole = light[:, window.rows, window.columns]
        assert np.abs(tile - whole).max() < 0.02 * light.max()


def test_a_row_has_the_same_noise_in_all_tiles() -> None:
    look = LookSettings(row_noise=(20, 20), blur_along_px=(0, 0), blur_across_px=(0, 0))
    plan = draw_stack(RawSettings(frames=17, height=128, width=128, look=look))
    left, right = (
        stacks.film_raw(plan, stacks.Window(slice(32, 96), columns)).mean(axis=2)  # (T, 64)
        for columns in (slice(0, 64), slice(64, 128))
    )
    change = np.diff(left, axis=0).ravel(), np.diff(right, axis=0).ravel()
    assert np.corrcoef(*change)[0, 1] > 0.8


def _whole(plan: RawPlan) -> stacks.Window:
    return stacks.Window(slice(0, plan.scene.shape[1]), slice(0, plan.scene.shape[2]))


def test_the_same_seed_gives_the_same_stack(folder: Path, tmp_path: Path) -> None:
    simulate_stack(tmp_path, SETTINGS)
    for name in ("stack.tif", "segments.csv", "centrelines.csv", "vessels.tif", "labels.csv"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name
    with pytest.raises(InputError, match="other settings"):
        simulate_stack(tmp_path, SETTINGS.model_copy(update={"seed": 4}))


@pytest.mark.parametrize("seed", range(4))
def test_stacks_and_series_may_have_odd_sides(seed: int) -> None:
    size = {"seed": seed, "height": 201, "width": 201}
    for plan in (
        draw_stack(RawSettings(frames=40, **size)),
        draw_series(SeriesSettings(frames=20, **size)),
    ):
        assert plan.scene.shape[1:] == plan.scene.outline.line.shape == (201, 201)
        assert plan.microscope.static_black.shape == (201, 201)


def test_the_command_writes_a_stack(run: Callable[..., Any], tmp_path: Path) -> None:
    size = ("--frames", "20", "--size", "128", "144", "--stalled", "0.5", "--seed", "2")
    code, printed, _ = run("simulate", tmp_path / "out", "--stack", *size)
    assert code == 0
    assert "1 stack with" in printed
    assert tifffile.imread(tmp_path / "out" / "stack.tif").shape == (20, 128, 144)
    assert run("simulate", "--stack")[0] == 2
    assert run("simulate", tmp_path / "other", "--stack", "--clips")[0] == 2
    assert run("simulate", tmp_path / "other", "--frames", "20")[0] == 2
    assert not (tmp_path / "other").exists()
