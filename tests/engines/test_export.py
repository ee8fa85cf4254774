"""Exports: what is written, measured and refused."""

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
    """Clips, every second labelled stalled, as `stallscan simulate --clips` writes them."""
    folder = tmp_path_factory.mktemp("data")
    names = [f"{index}.mp4" for index in range(COUNT)]
    spec = disk.load(bundle_dir).spec

    def make(sources):
        traits = Traits(*[50.0] * len(Traits._fields))
        rng = np.random.default_rng(1)
        for index, source in enumerate(sources):
            pixels = next(_clips(seed=index))
            # What is dark keeps its place in some, to some extent.
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
    """A bundle of any net, with random weights."""
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
    disk.save(folder, spec, build.build(net).state_dict(), "card\n")
    return disk.load(folder)


def test_f32_is_written_with_what_it_was_measured_to_be(copy):
    said = export.export(copy)
    assert len(said) == 1
    assert "on 8 clips the logits are within" in said[0]
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
        # Of clips as small as these the last layers have too few values to normalise by themselves.
        pytest.param(
            NetSettings(name="densenet121_3d", normalisation="running"), marks=pytest.mark.slow
        ),
        pytest.param(
            NetSettings(name="resnet101_3d", normalisation="running"), marks=pytest.mark.slow
        ),
    ],
    ids=lambda net: f"{net.name}-{net.normalisation}",
)
def test_published_nets_give_the_logits_of_torch(net, tmp_path):
    model = _save(tmp_path / "b", net)
    export.export(model.path)
    reference, found = TorchEngine(model, "cpu"), OpenVinoEngine.of(model)
    rng = np.random.default_rng(0)
    for count in (7, 10):
        pixels = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
        wanted = reference.logit(pixels)
        assert abs(found.logit(pixels) - wanted) <= 1e-4 * max(1, abs(wanted))


def test_clips_of_a_fixed_length_are_exported_for_it(tmp_path):
    model = _save(tmp_path / "b", NetSettings(name="quarters_resnet18"), frames=8)
    export.export(model.path)
    with pytest.raises(RuntimeError):
        OpenVinoEngine.of(model).logit(np.zeros((9, 32, 32, 3), np.uint8))


def test_each_member_of_an_ensemble_is_exported(copy, other_bundle_dir, tmp_path):
    ensemble.join([copy, other_bundle_dir], tmp_path / "two", EnsembleSettings(needed=1))
    assert len(export.export(tmp_path / "two")) == 2
    for member in disk.load_any(tmp_path / "two").members:
        assert exports.find(member, "f32").is_file()


def test_features_have_no_other_form(tmp_path, caplog):
    net = NetSettings(name="features", mean=(0.2, 0.0), std=(0.2, 1.0))
    model = _save(tmp_path / "b", net, channels="grey+mask")
    with pytest.raises(BundleError, match="features has no form for OpenVINO; torch runs it"):
        export.export(model.path)
    assert not (model.path / "openvino").exists()
    export.export_if_missing(tmp_path / "b")
    assert "predicts with torch only" in caplog.text


def test_an_export_that_is_not_like_torch_is_refused_and_leaves_nothing(copy, monkeypatch):
    monkeypatch.setattr(export, "LIMIT_F32", 1e-12)
    with pytest.raises(InputError, match="f32 export is refused: its logits differ"):
        export.export(copy)
    assert not (copy / "openvino").exists()


def test_bf16_is_measured_and_then_can_be_chosen(copy, data):
    if not has_bf16():
        pytest.skip("this processor cannot compute in bf16")
    model = disk.load(copy)
    with pytest.raises(BundleError, match=r"no bf16 export; make it with .* --precision bf16"):
        exports.find(model, "bf16")
    said = export.export(copy, "bf16", data, limit=1.0)
    assert f"on {COUNT} simulated recordings MCC" in said[0]
    made = exports.read(model).bf16
    assert made.change.recordings == COUNT
    assert made.change.stalled == COUNT // 2
    assert 0 < made.logit_difference < 0.1
    assert exports.find(model, "bf16").name == "bf16.xml"
    # It stands by itself: f32 was not asked for, and once made leaves it as it is.
    with pytest.raises(BundleError, match="no f32 export"):
        exports.find(model, "f32")
    export.export(copy)
    assert exports.read(model).bf16 == made


def test_int8_is_measured_on_recordings_that_it_was_not_calibrated_on(copy, data):
    pytest.importorskip("nncf")
    said = export.export(copy, "int8", data, limit=1.0, seed=4)
    assert "int8, on 27 clips" in said[0]
    model = disk.load(copy)
    made = exports.read(model).int8
    assert made.change.recordings == COUNT - round(COUNT / 3)
    assert made.wider == ()
    assert "FakeQuantize" in exports.find(model, "int8").read_text()
    clip = next(_clips())
    difference = OpenVinoEngine.of(model, "int8").logit(clip) - TorchEngine(model, "cpu").logit(
        clip
    )
    assert 0 < abs(difference) < 1


@pytest.mark.slow
def test_int8_keeps_more_and_more_layers_wider_and_then_gives_up(copy, data, caplog, monkeypatch):
    pytest.importorskip("nncf")
    measure = change_of

    def worse(*given):
        return measure(*given).model_copy(update={"roc_auc_change": -0.02})

    # Random weights order recordings by chance, whatever they are rounded to.
    monkeypatch.setattr(export, "change_of", worse)
    with caplog.at_level("INFO", "stallscan"), pytest.raises(InputError) as refused:
        export.export(copy, "int8", data, limit=0.01)
    assert "int8 export is refused, although" in str(refused.value)
    assert "ROC AUC by -0.0200, the limit is 0.01" in str(refused.value)
    tried = [text for text in caplog.messages if text.startswith("int8")]
    assert tried[0].startswith("int8, with nothing at f32: on 27 recordings MCC changes by")
    assert len(tried) == 4
    assert len(tried[3]) > len(tried[2]) > len(tried[1]) > len(tried[0])
    assert not (copy / "openvino").exists()


def test_what_is_missing_is_said(copy, data, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="measured on labelled recordings; give their folder"):
        export.export(copy, "bf16")
    with pytest.raises(InputError, match="limit of 0"):
        export.export(copy, "bf16", data, limit=0)
    one = shutil.copytree(data, tmp_path / "one")
    labels = pd.read_csv(one / "train_labels.csv").assign(stalled=0)
    labels.to_csv(one / "train_labels.csv", index=False)
    with pytest.raises(InputError, match="40 recordings are left to measure on, 0 of them stalled"):
        export.export(copy, "bf16", one)


def test_a_damaged_record_is_begun_anew(copy):
    export.export(copy)
    (copy / "openvino" / "exports.json").write_text("{")
    with pytest.raises(BundleError, match="not readable as a record"):
        exports.find(disk.load(copy), "f32")
    export.export(copy)
    assert exports.find(disk.load(copy), "f32").name == "f32.xml"


def test_an_export_that_gives_no_number_is_refused(copy, monkeypatch):
    monkeypatch.setattr(OpenVinoEngine, "logit", lambda *_: float("nan"))
    with pytest.raises(InputError, match="f32 export is refused: for some clip it gives no finite"):
        export.export(copy)
    assert not (copy / "openvino").exists()


def test_a_copy_is_exported_in_place_of_the_bundle(bundle_dir, tmp_path):
    export.export(bundle_dir, out=tmp_path / "copy")
    assert exports.find(disk.load(tmp_path / "copy"), "f32").is_file()
    assert not (bundle_dir / "openvino").exists()


def test_an_export_is_not_written_through_a_link(copy, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (copy / "openvino").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is a link"):
        export.export(copy)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_the_installed_bundle_is_not_written_to(tmp_path):
    with pytest.raises(InputError, match="-o FOLDER"):
        export.export("default")
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(InputError, match="is not empty"):
        export.export("default", out=tmp_path)
