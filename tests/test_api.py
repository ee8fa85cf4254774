"""The public functions: cost of importing, agreement with the documentation, trusted code."""

import importlib.util
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import stallscan
from stallscan.bundle import disk, net
from stallscan.calls import predict
from stallscan.cli import calling
from stallscan.errors import (
    BundleError,
    InputError,
    NoOutlineError,
    SettingsError,
    TooShortError,
    UnreadableError,
)
from stallscan.nets import build
from stallscan.nets.settings import BUILT_IN, FEATURES, NetSettings
from stallscan.recipes import recipe
from stallscan.runs import PREDICTION_COLUMNS
from stallscan.training import finetune, rehearsal, train
from stallscan.training.labelled import LabelledRecordings
from tests import drawing

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "api.md"
SMALL = {"net.mean": [0.2, 0.0], "net.std": [0.2, 1.0], "clip.size": 16}
MODULE = """
import os
import torch

open(os.environ["STALLSCAN_TEST_MARK"], "w").close()


class MyNet(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = torch.nn.Conv3d(channels, 2, 3, padding=1)
        self.norm = torch.nn.BatchNorm3d(2)
        self.fc = torch.nn.Linear(2, 1)

    def forward(self, clips):
        return self.fc(self.norm(self.conv(clips)).amax((2, 3, 4)))[:, 0]


def column(channels):
    pool = torch.nn.AdaptiveAvgPool3d(1)
    return torch.nn.Sequential(pool, torch.nn.Flatten(), torch.nn.Linear(channels, 1))


class Squeezed(MyNet):
    def forward(self, clips):
        return self.fc(self.conv(clips).amax((2, 3, 4))).squeeze()


class Plain:
    def __init__(self, channels):
        pass


class Wide(MyNet):
    def __init__(self, channels, width):
        super().__init__(channels)


def number(channels):
    return channels


constant = 3
"""


def _python(code, cwd=None, **environment):
    command = [sys.executable, "-c", code]
    environment = {**os.environ, **environment}
    return subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=cwd, env=environment
    )


@pytest.fixture
def mynets(tmp_path, monkeypatch):
    """A module that creates a file when it is imported; return the path of that file."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "mynets.py").write_text(MODULE)
    (folder / "broken.py").write_text("class MyNet(")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("STALLSCAN_TEST_MARK", str(tmp_path / "mark"))
    monkeypatch.delitem(sys.modules, "mynets", raising=False)
    monkeypatch.setattr(build, "NETS", dict(build.NETS))
    yield tmp_path / "mark"
    sys.modules.pop("mynets", None)


def _bundle_with(folder, bundle_dir, name, weights=None):
    spec = disk.load(bundle_dir).spec
    changed = spec.model_copy(update={"net": spec.net.model_copy(update={"name": name})})
    disk.save(folder, changed, weights or disk.load(bundle_dir).weights, "card\n")
    return folder


def _bundle_of_mynet(folder, bundle_dir):
    """Write a bundle of MyNet, then unload the net and its module again."""
    build.import_net("mynets:MyNet")
    settings = NetSettings(name="mynets:MyNet", mean=(0.2, 0.0), std=(0.2, 1.0))
    weights = build.build(settings).state_dict()
    del build.NETS["mynets:MyNet"], sys.modules["mynets"]
    Path(os.environ["STALLSCAN_TEST_MARK"]).unlink()
    return _bundle_with(folder, bundle_dir, "mynets:MyNet", weights)


def test_import_brings_nothing_heavy():
    code = "import sys, stallscan; print(*sys.modules)"
    loaded = {name.partition(".")[0] for name in _python(code).stdout.split()}
    assert not loaded & {"numpy", "pandas", "cv2", "torch", "pydantic", "scipy", "av", "yaml"}


def test_prediction_and_clips_need_no_torch():
    code = (
        "import sys, stallscan; [getattr(stallscan, name) for name in stallscan.__all__];"
        "print('torch' in sys.modules)"
    )
    assert _python(code).stdout == "False\n"


def test_names():
    assert sorted(stallscan.__all__) == stallscan.__all__
    assert set(stallscan.__all__) <= set(dir(stallscan))
    assert not hasattr(stallscan, "nothing")
    for name in stallscan.__all__:
        assert callable(getattr(stallscan, name))
        # A module of that name would take the place of the function once it is imported.
        assert importlib.util.find_spec(f"stallscan.{name}") is None


def test_the_reference_has_every_name_and_each_docstring_every_parameter():
    assert set(re.findall(r"autofunction:: stallscan\.(\w+)$", PAGE.read_text(), re.M)) == set(
        stallscan.__all__
    )
    for name in stallscan.__all__:
        function = getattr(stallscan, name)
        for parameter in inspect.signature(function).parameters:
            if (name, parameter) != ("read_recording", "limits"):
                assert re.search(rf"\b{parameter}\b", function.__doc__), (name, parameter)
        assert "Raises\n" in function.__doc__, name


def test_a_net_that_takes_no_channels_is_refused(tmp_path, monkeypatch):
    (tmp_path / "takes_none.py").write_text("def make():\n    return None\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingsError, match=r"takes_none:make.*channels"):
        build.import_net("takes_none:make")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    drawing.write(folder / "a.mp4", count=12)
    drawing.write(folder / "b.mp4", count=12, contours=0)
    (folder / "c.mp4").write_bytes(b"no video")
    return folder


def test_predict_gives_the_rows_of_the_command(recordings, bundle_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    table = stallscan.predict(recordings, bundle=bundle_dir, engine="torch", processes=0)
    assert not list((tmp_path / "temporary").iterdir())
    assert list(table.columns) == list(PREDICTION_COLUMNS)
    assert table["status"].tolist()[1:] == ["no_outline", "unreadable"]
    assert table["reason"].iloc[1:].str.contains("mp4").all()
    summary = predict.predict([recordings], tmp_path / "out", bundle_dir, 0, engine="torch")
    written = pd.read_csv(summary.table, keep_default_na=False)
    assert written["reason"].tolist() == table["reason"].tolist()
    assert float(written["score"][0]) == table["score"][0]


def test_predict_keeps_a_run_where_it_is_asked_to(recordings, bundle_dir, tmp_path):
    model, seen = stallscan.load_bundle(bundle_dir), []
    files = [recordings / "b.mp4", recordings / "a.mp4"]
    table = stallscan.predict(
        files, bundle=model, out=tmp_path / "o", progress=lambda *both: seen.append(both)
    )
    assert (tmp_path / "o" / "predictions.csv").is_file()
    assert seen[-1] == (2, 2)
    assert len(table) == 2


def test_score_is_that_of_predict(recordings, bundle_dir):
    table = stallscan.predict(recordings / "a.mp4", bundle=bundle_dir, engine="torch")
    model = stallscan.load_bundle(bundle_dir)
    frames = stallscan.read_recording(recordings / "a.mp4").frames
    for given in (recordings / "a.mp4", stallscan.read_recording(recordings / "a.mp4"), frames):
        result = stallscan.score(given, bundle=model, engine="torch")
        assert (result.score, result.call) == (table["score"][0], table["call"][0])
    assert result.score == pytest.approx(float(model.score([[result.logit]])[0]), abs=1e-6)


def test_a_mask_stands_for_a_line(bundle_dir):
    plain = drawing.frames(12, contours=0)
    mask = np.zeros((96, 128), bool)
    mask[28:53, 15:50] = True
    scores = [stallscan.score(frames, mask, bundle=bundle_dir) for frames in (plain, plain[..., 0])]
    assert scores[0] == scores[1]
    assert (plain == plain[..., :1]).all()  # nothing was drawn into the caller's array
    settings = stallscan.load_bundle(bundle_dir).spec.clip
    clip = stallscan.make_clip(plain, settings, mask=mask)
    assert clip.box == (28 - 9, 53 + 8, 15 - 9, 50 + 8)
    drawn = stallscan.make_clip(drawing.frames(12), {"size": 32, "shape": "pad"})
    assert drawn.pixels.shape == (12, 32, 32, 3)


def test_masks_and_frames_that_make_no_sense_are_refused(bundle_dir):
    frames, mask = drawing.frames(12, contours=0), np.ones((96, 128), bool)
    for wrong in (mask[1:], mask.astype(np.uint8), ~mask, mask[None]):
        with pytest.raises(InputError, match="mask"):
            stallscan.score(frames, wrong, bundle=bundle_dir)
    with pytest.raises(NoOutlineError, match="<array>"):
        stallscan.score(frames, bundle=bundle_dir)
    with pytest.raises(NoOutlineError):
        stallscan.find_outline(frames)
    with pytest.raises(TooShortError):
        stallscan.score(frames[:2], mask, bundle=bundle_dir)
    for other in (frames.astype(float), frames[0, 0]):
        with pytest.raises(UnreadableError):
            stallscan.score(other, bundle=bundle_dir)
    with pytest.raises(SettingsError, match="size"):
        stallscan.make_clip(frames, {"sizes": 3}, mask=mask)


def test_a_bundle_at_another_prevalence(bundle_dir, recordings, monkeypatch):
    model = stallscan.load_bundle()
    table = stallscan.predict(recordings / "a.mp4", bundle=model.at(0.02))
    assert table["threshold"][0] == pytest.approx(model.at(0.02).spec.threshold, abs=1e-6)


def test_evaluate_takes_tables(tables):
    predictions, labels = tables
    by_path = stallscan.evaluate(predictions, labels, partial=True)
    frames = pd.read_csv(predictions), pd.read_csv(labels)
    assert stallscan.evaluate(*frames, partial=True).values == by_path.values


def test_simulated_recordings():
    frames, truth = stallscan.simulate_recording(True, seed=1, height=128, width=160)
    assert (frames.dtype, frames.shape[1:]) == (np.uint8, (128, 160, 3))
    assert truth.stalled
    with pytest.raises(SettingsError, match="height"):
        stallscan.simulate_recording(True, hight=128)


def test_built_in_nets_are_known_without_torch():
    assert set(BUILT_IN) == {FEATURES, *build.NETS}


@pytest.mark.parametrize(
    "name",
    ["resnet", "a:b:c", "a.b:c:d", ".a", "a.", "a..b", "a b.c", "a.1", "a:", "x." + "a" * 200],
)
def test_what_is_no_name_of_a_net_is_refused(name):
    with pytest.raises(SettingsError, match=r"net\.name"):
        recipe.Recipe.parse({"name": "n", "net": {"name": name}}, "r")


def test_a_recipe_is_read_without_importing(mynets):
    for name in ("mynets.MyNet", "mynets:MyNet"):
        settings = recipe.read_recipe("default", [f"net.name={name}"])
        assert settings.net.name == "mynets:MyNet"
    assert not mynets.exists()


def test_a_net_of_ones_own(mynets):
    settings = NetSettings(name="mynets.MyNet", mean=(0.2, 0.0), std=(0.2, 1.0))
    with pytest.raises(InputError, match="mynets:MyNet"):
        build.build(settings)
    build.import_net(settings.name)
    torch.manual_seed(0)
    made = build.build(settings).eval()
    clips = torch.rand(3, 2, 9, 8, 8)
    with torch.inference_mode():
        alone = torch.cat([made(clip[None]) for clip in clips])
        torch.testing.assert_close(build.forward(made, clips), alone)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("nomodule:MyNet", SettingsError),
        ("mynets:Missing", SettingsError),
        ("mynets:constant", SettingsError),
        ("mynets:Plain", SettingsError),
        ("mynets:Wide", SettingsError),
        ("broken:MyNet", SettingsError),
        ("mynets:number", InputError),
        ("mynets:column", InputError),
    ],
)
def test_what_is_no_net_is_refused(mynets, name, error):
    settings = NetSettings(name=name, mean=(0.2, 0.0), std=(0.2, 1.0))

    def use():
        build.import_net(settings.name)
        build.forward(build.build(settings), torch.rand(1, 2, 9, 8, 8))

    with pytest.raises(error):
        use()


@pytest.mark.parametrize("name", ["nomodule:MyNet", "stallscan.words:Excluded"])
def test_a_wrong_net_is_named_before_tables_are_read_and_torch_is_imported(tmp_path, name):
    words = ["train", "default", "nowhere", "--labels", "none.csv", "--set", f"net.name={name}"]
    code = (
        f"import sys; sys.argv[1:] = {[*words, '-o', str(tmp_path / 'run')]}\n"
        "from stallscan.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    done = _python(code, cwd=tmp_path)
    assert "net.name" in done.stderr
    assert name in done.stderr
    assert done.stdout == "False\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "shape"), [("column", r"\(1, 1\)"), ("Squeezed", r"\(\)")])
def test_an_own_net_is_tried_before_clips_are_cut(mynets, tmp_path, name, shape):
    settings = recipe.Recipe.parse(
        {
            "name": "own",
            "clip": {"size": 16, "channels": "grey+mask"},
            "net": {"name": f"mynets:{name}", "mean": [0.2, 0.0], "std": [0.2, 1.0]},
        },
        "own",
    )
    nothing = LabelledRecordings(pd.DataFrame(), {}, (), None, simulated=True)
    for use in (
        lambda: train.train(settings, nothing, tmp_path / "run"),
        lambda: rehearsal.rehearse(settings, nothing, tmp_path / "run").__enter__(),
    ):
        with pytest.raises(InputError, match=f"shape {shape}.*one logit per clip"):
            use()
    assert not (tmp_path / "run").exists()


def test_a_bundle_runs_no_code_unasked(mynets, bundle_dir, recordings, tmp_path):
    folder = _bundle_with(tmp_path / "b", bundle_dir, "mynets:MyNet")
    for open_it in (
        lambda: stallscan.predict(recordings, bundle=folder),
        lambda: stallscan.score(recordings / "a.mp4", bundle=stallscan.load_bundle(folder)),
        lambda: net.load_net(disk.load(folder)),
        # Before the labels are read.
        lambda: finetune.fine_tune(folder, [recordings], tmp_path / "none.csv", tmp_path / "run"),
    ):
        with pytest.raises(BundleError, match=r"mynets:MyNet.*trust"):
            open_it()
    assert not mynets.exists()
    assert "mynets" not in sys.modules


def test_a_loaded_module_is_not_trusted_either(mynets, bundle_dir, tmp_path):
    """``os`` is always loaded, and this would end the process."""
    folder = _bundle_with(tmp_path / "b", bundle_dir, "os:_exit")
    with pytest.raises(BundleError, match="os:_exit"):
        net.load_net(stallscan.load_bundle(folder))


def test_a_trusted_bundle_opens(mynets, bundle_dir, recordings, tmp_path):
    folder = _bundle_of_mynet(tmp_path / "b", bundle_dir)
    model = stallscan.load_bundle(folder, trust=True)
    assert mynets.exists()
    assert np.isfinite(stallscan.score(recordings / "a.mp4", bundle=model).logit)
    missing = _bundle_with(tmp_path / "m", bundle_dir, "nomodule:MyNet")
    with pytest.raises(BundleError, match="nomodule"):
        stallscan.load_bundle(missing, trust=True)


def test_the_command_line_trusts_where_it_is_told_to(
    mynets, bundle_dir, recordings, tmp_path, capsys
):
    folder = _bundle_of_mynet(tmp_path / "b", bundle_dir)
    given = {"bundle": str(folder), "out": tmp_path / "out", "engine": "torch"}
    with pytest.raises(BundleError, match="--trust"):
        calling.predict(recordings / "a.mp4", **given)
    assert not mynets.exists()
    calling.predict(recordings / "a.mp4", **given, trust=True)
    assert mynets.exists()
    assert "a.mp4" in capsys.readouterr().out
