"""The projects agree with the real table, and are drawn with its frequencies."""

import numpy as np
import pandas as pd
import pytest

from stallscan.simulate.projects import PROJECTS, QUANTILES, draw_frame_count, draw_project

LETTERS = [project.letter for project in PROJECTS]


@pytest.fixture(scope="module")
def real_table(real_dir):
    folder = real_dir / "metadata"
    metadata = pd.read_csv(
        folder / "train_metadata.csv.gz", usecols=["filename", "project_id", "num_frames"]
    )
    labels = pd.read_csv(folder / "train_labels.csv.gz")
    # Side by side, because joining half a million names takes a second.
    assert metadata["filename"].equals(labels["filename"])
    return metadata.assign(stalled=labels["stalled"])


def test_figures_are_those_of_the_real_table(real_table):
    groups = dict(list(real_table.groupby("project_id")))
    assert sorted(groups) == LETTERS
    for project in PROJECTS:
        real = groups[project.letter]
        assert project.recordings == len(real), project.letter
        assert project.stalled == real["stalled"].sum(), project.letter
        frames = np.quantile(real["num_frames"], QUANTILES)
        assert np.abs(frames - project.frames).max() <= 0.5, project.letter


def test_figures_add_up_to_the_published_ones():
    # docs/facts.md 4: 12 projects without B, 573,048 recordings, 1,887 stalled, L has 444 with 133.
    assert "".join(LETTERS) == "ACDEFGHIJKLM"
    assert sum(project.recordings for project in PROJECTS) == 573_048
    assert sum(project.stalled for project in PROJECTS) == 1_887
    expert = PROJECTS[LETTERS.index("L")]
    assert (expert.recordings, expert.stalled) == (444, 133)
    assert min(project.frames[0] for project in PROJECTS) == 17
    assert max(project.frames[-1] for project in PROJECTS) == 434


@pytest.mark.parametrize("stalled", [True, False])
def test_projects_are_drawn_as_often_as_real_ones_with_the_label(stalled):
    rng, count = np.random.default_rng(0), 6000
    drawn = [draw_project(rng, stalled).letter for _ in range(count)]
    real = np.array([p.stalled if stalled else p.recordings - p.stalled for p in PROJECTS])
    wanted = real / real.sum()
    found = np.array([drawn.count(letter) for letter in LETTERS]) / count
    # Four standard errors, and one recording for what is as rare as L is among the flowing.
    assert (np.abs(found - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / count) + 1 / count).all()


def test_frame_counts_have_the_published_quartiles_and_range():
    rng = np.random.default_rng(1)
    counts = [draw_frame_count(rng, draw_project(rng, False)) for _ in range(10_000)]
    assert np.abs(np.percentile(counts, (25, 50, 75)) - (49, 56, 66)).max() <= 1
    assert min(counts) >= 17
    assert 150 < max(counts) <= 434
    # Of the real ones 5 % have more than 94 frames (computed from the real table).
    assert 91 <= np.percentile(counts, 95) <= 98


def test_each_project_keeps_its_own_frame_counts():
    for project in PROJECTS:
        rng = np.random.default_rng(2)
        counts = [draw_frame_count(rng, project) for _ in range(2000)]
        assert project.frames[0] <= min(counts) <= max(counts) <= project.frames[-1]
        quartiles = np.percentile(counts, (25, 50, 75))
        assert np.abs(quartiles - project.frames[2:5]).max() <= 2, project.letter


def test_projects_differ_in_optics():
    for name in ("psf_xy_um", "psf_z_um", "photons", "background", "um_per_px"):
        values = [getattr(project, name) for project in PROJECTS]
        assert len(set(values)) >= 5, name
        assert min(values) > 0, name
    assert all(0.85 <= project.um_per_px <= 1.15 for project in PROJECTS)
    assert all(0.9 <= project.step_um <= 1.1 for project in PROJECTS)
    photons = [project.photons for project in PROJECTS]
    assert max(photons) > 5 * min(photons)


def test_the_same_generator_draws_the_same():
    def draw():
        rng = np.random.default_rng(7)
        projects = [draw_project(rng, True) for _ in range(20)]
        return projects, [draw_frame_count(rng, project) for project in projects]

    assert draw() == draw()
