"""Every recipe, end to end on a simulated corpus; tests/cli runs the command itself."""

import pandas as pd
import pytest

from stallscan.bundle import disk
from stallscan.cli.commands import app
from stallscan.errors import SettingsError
from stallscan.recipes import recipe
from stallscan.simulate import SimulateSettings
from stallscan.simulate.corpus import simulate_clips
from stallscan.training import train

CORPUS = SimulateSettings(count=8, stalled=0.5, seed=3)
NAMES = sorted(path.stem for path in recipe.SHIPPED.glob("*.yaml"))
# Changes for this test, besides fewer clips and epochs. Tests download nothing, so there are no
# pretrained weights. Five folds take five times as long, and folds by project need more than eight
# recordings. A batch of four clips of 160 px does not fit into the memory of a small machine.
CHANGES = {
    "first-place": ("data.folds=2", "pretrained.source=none"),
    "second-place": ("training.batch_size=2",),
    "third-place": ("pretrained.source=none",),
    "matlab-prize": ("pretrained.source=none",),
    "accurate": ("data.folds=2", "data.group=''", "pretrained.source=none"),
}
# At full size these take too long for the slow suite, so only the GPU tests run them. Nets train
# in f32, because bf16 fails on a CPU with so few frames.
WIDE = "training.precision=32-true"
SMALLER = {
    "first-place": ("clip.size=48", "clip.frames=32", WIDE),
    "second-place": ("clip.size=32", WIDE),
    "third-place": ("clip.size=32",),
    "matlab-prize": ("clip.size=48",),
    "accurate": ("clip.size=32", "clip.frames=16", WIDE),
}
SIZES = [
    *(pytest.param(name, True, marks=pytest.mark.slow) for name in NAMES),
    *(pytest.param(name, False, marks=pytest.mark.gpu) for name in SMALLER),
]


@pytest.mark.timeout(1700)
@pytest.mark.parametrize(("name", "smaller"), SIZES)
def test_a_recipe_runs_from_clips_to_a_bundle_that_predicts(name, smaller, tmp_path):
    changes = [*CHANGES.get(name, ()), *(SMALLER.get(name, ()) if smaller else ())]
    settings = recipe.read_recipe(name, [*changes, "data.validation=0.25"])
    settings = recipe.shorten(settings, 1)
    data, run = tmp_path / "data", tmp_path / "run"
    simulate_clips(data, CORPUS, settings.outline, settings.clip, processes=1)
    train.train(settings, data, run)
    folders = sorted(run.glob("fold-*")) or [run]
    for folder in folders:
        spec = disk.load(folder / "bundle").spec
        assert spec.simulated
        assert spec.net == settings.net
        history = pd.read_csv(folder / "history.csv")
        stages = 1 if name == "baseline" else len(settings.training.stages)
        assert list(history["epoch"]) == list(range(stages))
        assert history["val_loss"].notna().all()
    if settings.training.snapshots:
        assert disk.load(run / "snapshots" / "snapshot-5" / "bundle")


@pytest.mark.parametrize("change", ["clip.channels=rgb", "net={mean: [0.2], std: [0.2]}"])
def test_channels_without_a_mean_are_refused(change):
    with pytest.raises(SettingsError, match=r"channels.*net\.mean.*net\.std"):
        recipe.read_recipe("default", [change])


def test_padded_clips_are_not_normalised_by_video():
    changes = ["training.lengths=pad", "net.normalisation=per-video"]
    with pytest.raises(SettingsError, match=r"training\.lengths.*net\.normalisation"):
        recipe.read_recipe("second-place", changes)


def test_a_printed_recipe_is_the_recipe(tmp_path, capsys):
    app(["recipe", "list"], result_action="return_value")
    assert capsys.readouterr().out.split() == NAMES
    for options in ([], ["--all"]):
        app(["recipe", "show", "accurate", *options], result_action="return_value")
        mine = tmp_path / "mine.yaml"
        mine.write_text(capsys.readouterr().out, encoding="utf-8")
        assert recipe.read_recipe(mine) == recipe.read_recipe("accurate")
        assert ("snapshots" in mine.read_text("utf-8")) is bool(options)
    with pytest.raises(SettingsError, match="did you mean default"):
        app(["recipe", "show", "defualt"], result_action="return_value")
