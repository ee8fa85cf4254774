"""Looks: what the ranges of a microscope change in the recordings, and what they leave alone."""

import numpy as np
import pytest

from stallscan.errors import SettingsError
from stallscan.simulate import SimulateSettings, look, make_plan, region
from stallscan.simulate.look import LookSettings, read_look

SMALL = {"height": 128, "width": 128}


def _plan(row=0, **ranges):
    return make_plan(0, row, False, SimulateSettings(**SMALL, look=LookSettings(**ranges)))


def _grey(**ranges):
    settings = SimulateSettings(**SMALL, look=LookSettings(**ranges))
    return region(0, 2, False, settings)[0][..., 1].astype(float)


def test_the_look_of_the_competition_is_the_default():
    assert read_look("competition") == LookSettings() == SimulateSettings().look


def test_the_wide_look_contains_that_of_the_competition():
    wide, usual = read_look("wide"), LookSettings()
    assert 0 < wide.share < 1
    for name in LookSettings.model_fields.keys() - {"share", "clear", "steep", "crossed"}:
        low, high = getattr(wide, name)
        assert high > low
        if (limits := getattr(usual, name)) is not None:
            assert low <= limits[0] <= limits[1] <= high


def test_ranges_replace_what_the_project_has_and_leave_the_rest():
    plain = _plan()
    mine = _plan(um_per_px=(0.5, 0.5), step_um=(2, 2), photons=(7, 9))
    assert (mine.truth.um_per_px, mine.truth.step_um) == (0.5, 2)
    assert 7 <= mine.microscope.photons <= 9
    assert mine.truth.project == plain.truth.project
    assert _plan(gamma=(2, 2)).microscope.photons == plain.microscope.photons


@pytest.mark.parametrize("row", [60, 162])
def test_a_segment_between_two_frames_is_in_focus_in_the_nearest(row):
    truth = _plan(row, step_um=(5, 5), psf_z_um=(0.6, 0.6)).truth
    away = np.abs(5.0 * np.arange(truth.frames)[:, None] - truth.line_um[:, 2]).min(axis=1)
    assert away.min() > 1.8  # beyond the half width of the PSF
    assert truth.first_in_focus == truth.last_in_focus == away.argmin()
    assert truth.frames_in_focus == 1


def test_values_of_many_recordings_fill_the_range():
    steps = [look.draw(np.random.default_rng(seed), (0.5, 2.0)) for seed in range(300)]
    assert 0.5 <= min(steps) < 0.52
    assert 1.9 < max(steps) <= 2.0
    assert 0.88 < np.median(steps) < 1.14  # log-uniform
    assert look.draw(np.random.default_rng(0), (0, 0)) == 0


def test_gamma_and_row_noise_show():
    plain = _grey()
    assert _grey(gamma=(2, 2)).mean() < 0.8 * plain.mean()
    rows = [
        np.abs(np.diff(grey.mean(axis=2), axis=1)).mean()
        for grey in (plain, _grey(row_noise=(20, 20)))
    ]
    assert rows[1] > 1.5 * rows[0]


def test_no_blur_is_none():
    sharp = _grey(blur_along_px=(0, 0), blur_across_px=(0.5, 0.5))
    both = _grey(blur_along_px=(1.2, 1.2), blur_across_px=(0.5, 0.5))
    along = [np.abs(np.diff(grey, axis=2)).mean() for grey in (sharp, both)]
    assert along[0] > 1.3 * along[1]


def test_a_look_of_ones_own_is_read_from_a_file(tmp_path):
    (tmp_path / "mine.yaml").write_text("step_um: [2, 2.5]\n")
    assert read_look(tmp_path / "mine.yaml") == LookSettings(step_um=(2, 2.5))


def test_a_share_of_the_recordings_has_the_look():
    steps = [round(_plan(row, share=0.25, step_um=(3, 3)).truth.step_um, 6) for row in range(40)]
    assert 4 <= steps.count(3) <= 16
    others = [round(_plan(row).truth.step_um, 6) for row in range(40)]
    assert {step == other for step, other in zip(steps, others, strict=True) if step != 3} == {True}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("share: 0\n", "share"),
        ("step_um: [2, 1]\n", r"step_um.*2 to 1 is not a range"),
        ("um_per_px: [50, 50]\n", "within 0.2 to 5"),
        ("gamma: [0, 1]\n", "not a range"),
        ("photons: [0, 5]\n", "not a range"),
        ("step_um: [-1, 1]\n", "not a range"),
        ("stepum: [1, 2]\n", "stepum"),
    ],
)
def test_a_wrong_look_is_refused(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(SettingsError, match=message):
        read_look(tmp_path / "mine.yaml")


def test_an_unknown_look_names_the_shipped_ones():
    with pytest.raises(SettingsError, match="competition, wide"):
        read_look("wild")
