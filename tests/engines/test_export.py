"""Exports: what is written, what is measured, and what is refused."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from stallscan.bundle import disk, ensemble
from stallscan.bundle.ensemble import EnsembleSettings
from stallscan.bundle.spec import BundleSpec
from stallscan.clips import fill
from stallscan.clips.clip import Clip, ClipSettings
from stallscan.clips.prepare import Prepared
from stallscan.clips.traits import Traits
from stallscan.engines import export, exports
from stallscan.engines.measure import change_of
from stallscan.engines.openvino_engine import OpenVinoEngine, has_bf16
from stallscan.engines.torch_engine import TorchEngine
from stallscan.errors import BundleError, InputError
from stallscan.nets import build
from stallscan.nets.settings import NetSettings
from stallscan.recordings.find import Source
from stallscan.recordings.recording import Box
from stallscan.scores.calibration import Calibration
from stallscan.vessels.outline import OutlineSettings
from tests.engines.test_engines import _clips

COUNT = 40


@pytest.fixture
def copy(bundle_dir, tmp_path):
    return shutil.copytree(bundle_dir, tmp_path / "copy")


@pytest.fixture(scope="module")
def data(bundle_dir, tmp_path_factory):
    """Return a folder of clips, every second stalled, as `stallscan simulate --clips` writes it."""
    folder = tmp_path_factory.mktemp("data")
    names = [f"{index}.mp4" for index in range(COUNT)]
    spec = disk.load(bundle_dir).spec

    def make(sources):
        traits = Traits(*[50.0] * len(Traits._fields))
        rng = np.random.default_rng(1)
        for index, source in enumerate(sources):
            pixels = next(_clips(seed=index))
            # Hold some clips still, so that the nets have something to tell apart.
            still = rng.random() < 0.5
            pixels[..., 0] = np.where(still, pixels[:1, ..., 0], pixels[..., 0])
            yield Prepared(source, "ok", clips=(Clip(pixels, Box(0, 9, 0, 9), traits),))

    sources = [Source(name, folder / name) for name in names]
    fill.fill(folder / "store", sources, make, spec.outline, spec.clip)
    head = "filename,url,project_id,num_frames,crowd_score,tier1,micro,nano\n"
    rows = [f"{name},s3://x/{name},A,7,0.0,True,True,False\n" for name in names]
    (folder / "train_metadata.csv").write_text(head + "".join(rows))
    labels = pd.DataFrame({"filename": names, "stalled": np.arange(COUNT) % 2})
    labels.to_csv(folder / "train_labels.csv", index=False)
    (folder / "simulation.json").write_text("{}")
    return folder


def _save(folder, net, **clip):
    """Save and load a bundle of any net, with random weights."""
    torch.manual_seed(0)
    spec = BundleSpec(
        name=net.name,
        outline=OutlineSettings(),
        clip=ClipSettings(size=32, **clip),
        net=net,
        calibration=Calibration(),
        threshold=0.5,
        prevalence=0.3,
        frames=(5, 12),
        simulated=True,
    )
    weights = {} if net.is_feature_model else build.build(net).state_dict()
    disk.save(folder, spec, weights, "card\n")
    return disk.load(folder)


def test_f32_is_written_with_its_measured_deviation(copy):
    summaries = export.export(copy)
    assert len(summaries) == 1
    assert "8 clips" in summaries[0]
    names = {path.name for path in (copy / "openvino").glob("[!.]*")}
    assert names == {"f32.xml", "f32.bin", "exports.json"}
    record = json.loads((copy / "openvino" / "exports.json").read_text())
    assert record["f32"]["weights_sha256"] == disk.load(copy).spec.weights_sha256
    assert record["f32"]["logit_difference"] < 1e-5
    assert record["bf16"] is record["int8"] is None


@pytest.mark.parametrize(
    "net",
    [
        NetSettings(name="quarters_resnet18"),
        NetSettings(name="quarters_resnet18", normalisation="running"),
        pytest.param(NetSettings(name="r3d_18"), marks=pytest.mark.slow),
        pytest.param(NetSettings(name="mc3_18"), marks=pytest.mark.slow),
        pytest.param(NetSettings(name="r2plus1d_18"), marks=pytest.mark.slow),
        pytest.param(
            NetSettings(name="r2plus1d_18", normalisation="running"), marks=pytest.mark.slow
        ),
        # On clips this small, the last layers have too few values for statistics of their own.
        pytest.param(
            NetSettings(name="densenet121_3d", normalisation="running"), marks=pytest.mark.slow
        ),
        pytest.param(
            NetSettings(name="resnet101_3d", normalisation="running"), marks=pytest.mark.slow
        ),
    ],
    ids=lambda net: f"{net.name}-{net.normalisation}",
)
def test_published_nets_give_the_logits_of_torch(net, tmp_path, monkeypatch):
    # What the export is checked on itself takes long with these nets.
    monkeypatch.setattr(export, "CHECKED_ON", 2)
    model = _save(tmp_path / "b", net)
    export.export(model.path)
    reference, engine = TorchEngine(model, "cpu"), OpenVinoEngine.of(model)
    rng = np.random.default_rng(0)
    for count in (7, 10):
        pixels = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
        expected = reference.logit(pixels)
        assert abs(engine.logit(pixels) - expected) <= 1e-4 * max(1, abs(expected))


@pytest.mark.slow
def test_clips_of_a_fixed_length_are_exported_for_it(tmp_path):
    model = _save(tmp_path / "b", NetSettings(name="quarters_resnet18"), frames=8)
    export.export(model.path)
    with pytest.raises(RuntimeError):
        OpenVinoEngine.of(model).logit(np.zeros((9, 32, 32, 3), np.uint8))


@pytest.mark.slow
def test_each_member_of_an_ensemble_is_exported(copy, other_bundle_dir, tmp_path):
    ensemble.join([copy, other_bundle_dir], tmp_path / "two", EnsembleSettings(needed=1))
    assert len(export.export(tmp_path / "two")) == 2
    for member in disk.load_any(tmp_path / "two").members:
        assert exports.find(member, "f32").is_file()


def test_features_cannot_be_exported(tmp_path, caplog):
    net = NetSettings(name="features", mean=(0.2, 0.0), std=(0.2, 1.0))
    model = _save(tmp_path / "b", net, channels="grey+mask")
    with pytest.raises(BundleError, match="features has no net to export"):
        export.export(model.path)
    assert not (model.path / "openvino").exists()
    export.export_if_missing(tmp_path / "b")
    assert caplog.text == ""  # it predicts without torch as it is


def test_an_export_that_deviates_from_torch_is_refused_and_leaves_nothing(copy, monkeypatch):
    monkeypatch.setattr(export, "LIMIT_F32", 1e-12)
    with pytest.raises(InputError, match=r"f32 .*1e-12.*--engine torch"):
        export.export(copy)
    assert not (copy / "openvino").exists()


def test_bf16_is_measured_and_can_then_be_chosen(copy, data):
    if not has_bf16():
        pytest.skip("this processor cannot compute in bf16")
    model = disk.load(copy)
    with pytest.raises(BundleError, match=r"stallscan export .* --precision bf16"):
        exports.find(model, "bf16")
    summaries = export.export(copy, "bf16", data, limit=1.0)
    assert f"{COUNT} simulated recordings" in summaries[0]
    bf16 = exports.read(model).bf16
    assert bf16.change.recordings == COUNT
    assert bf16.change.stalled == COUNT // 2
    assert 0 < bf16.logit_difference < 0.1
    assert exports.find(model, "bf16").name == "bf16.xml"
    # The exports are independent: no f32 was written, and writing it leaves bf16 as it is.
    with pytest.raises(BundleError, match="f32"):
        exports.find(model, "f32")
    export.export(copy)
    assert exports.read(model).bf16 == bf16


@pytest.mark.slow
def test_int8_is_not_measured_on_its_calibration_recordings(copy, data):
    pytest.importorskip("nncf")
    summaries = export.export(copy, "int8", data, limit=1.0, seed=4)
    assert "27 clips" in summaries[0]
    model = disk.load(copy)
    int8 = exports.read(model).int8
    assert int8.change.recordings == COUNT - round(COUNT / 3)
    assert int8.wider == ()
    assert "FakeQuantize" in exports.find(model, "int8").read_text()
    clip = next(_clips())
    difference = OpenVinoEngine.of(model, "int8").logit(clip) - TorchEngine(model, "cpu").logit(
        clip
    )
    assert 0 < abs(difference) < 1


@pytest.mark.slow
def test_int8_leaves_ever_more_layers_at_f32_and_then_gives_up(copy, data, caplog, monkeypatch):
    pytest.importorskip("nncf")
    measure = change_of

    def worse(*given):
        return measure(*given).model_copy(update={"roc_auc_change": -0.02})

    # Random weights order the recordings by chance at any precision, so fake the change.
    monkeypatch.setattr(export, "change_of", worse)
    named = r"int8 .*-0\.0200.* 0\.01 .*Convolution.*--limit"
    with caplog.at_level("INFO", "stallscan"), pytest.raises(InputError, match=named):
        export.export(copy, "int8", data, limit=0.01)
    tried = [text for text in caplog.messages if text.startswith("int8")]
    assert "27 recordings" in tried[0]
    assert len(tried) == 4
    assert len(tried[3]) > len(tried[2]) > len(tried[1]) > len(tried[0])
    assert not (copy / "openvino").exists()


def test_missing_data_and_wrong_options_are_named(copy, data, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"bf16 .*--data"):
        export.export(copy, "bf16")
    with pytest.raises(InputError, match="--limit 0"):
        export.export(copy, "bf16", data, limit=0)
    one_class = shutil.copytree(data, tmp_path / "one_class")
    labels = pd.read_csv(one_class / "train_labels.csv").assign(stalled=0)
    labels.to_csv(one_class / "train_labels.csv", index=False)
    with pytest.raises(InputError, match=r"one_class: 40 .*\b0 of them stalled"):
        export.export(copy, "bf16", one_class)


@pytest.mark.slow
def test_a_damaged_record_is_replaced(copy):
    export.export(copy)
    (copy / "openvino" / "exports.json").write_text("{")
    with pytest.raises(BundleError, match=r"exports\.json: "):
        exports.find(disk.load(copy), "f32")
    export.export(copy)
    assert exports.find(disk.load(copy), "f32").name == "f32.xml"


def test_an_export_with_a_logit_that_is_not_finite_is_refused(copy, monkeypatch):
    monkeypatch.setattr(OpenVinoEngine, "logit", lambda *_: float("nan"))
    with pytest.raises(InputError, match=r"copy: .*f32 .*finite.*--engine"):
        export.export(copy)
    assert not (copy / "openvino").exists()


@pytest.mark.slow
def test_a_copy_is_exported_in_place_of_the_bundle(bundle_dir, tmp_path):
    export.export(bundle_dir, out=tmp_path / "copy")
    assert exports.find(disk.load(tmp_path / "copy"), "f32").is_file()
    assert not (bundle_dir / "openvino").exists()


def test_an_export_is_not_written_through_a_link(copy, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (copy / "openvino").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"openvino: .*cp -rL"):
        export.export(copy)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_the_installed_bundle_is_not_written_to(tmp_path):
    with pytest.raises(InputError, match="-o FOLDER"):
        export.export("default")
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(InputError, match=tmp_path.name):
        export.export("default", out=tmp_path)
