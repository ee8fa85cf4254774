"""Engines: the choice, their agreement, and prediction without torch."""

import ctypes
import json
import shutil
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from stallscan import cores
from stallscan.bundle import bundle, disk, ensemble
from stallscan.bundle.ensemble import EnsembleSettings
from stallscan.calls import predict
from stallscan.clips.store import Store
from stallscan.engines import choose, export, exports, stream
from stallscan.engines.openvino_engine import OpenVinoEngine
from stallscan.engines.torch_engine import TorchEngine
from stallscan.errors import BundleError, EngineError, InputError
from stallscan.simulate import SimulateSettings
from stallscan.simulate.corpus import simulate_clips
from tests import drawing


def _clips(count=6, size=32, seed=0):
    rng = np.random.default_rng(seed)
    for index in range(count):
        pixels = rng.integers(0, 256, (7 + 5 * index, size, size, 2), np.uint8)
        pixels[..., 1] = 0
        pixels[:, 8:-8, 8:-8, 1] = 255
        yield pixels


@pytest.fixture(scope="module")
def exported_dir(bundle_dir, tmp_path_factory):
    folder = shutil.copytree(bundle_dir, tmp_path_factory.mktemp("exported") / "random")
    export.export(folder)
    return folder


@pytest.fixture(scope="module")
def other_exported_dir(other_bundle_dir, tmp_path_factory):
    folder = shutil.copytree(other_bundle_dir, tmp_path_factory.mktemp("exported") / "random")
    export.export(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for index in range(6):
        drawing.write(folder / f"{index}.mp4", seed=index, count=6 + index)
    return folder


@pytest.fixture
def copy(exported_dir, tmp_path):
    return shutil.copytree(exported_dir, tmp_path / "copy")


def _edit(folder, **changes):
    """Change the record of the f32 export."""
    path = folder / "openvino" / "exports.json"
    content = json.loads(path.read_text())
    content["f32"] |= changes
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("views", ["one", "flips"])
def test_openvino_gives_the_logits_of_torch_for_clips_of_any_length(exported_dir, views):
    model = disk.load(exported_dir)
    net = model.spec.net.model_copy(update={"views": views})
    spec = model.spec.model_copy(update={"net": net})
    reference = TorchEngine(bundle.Bundle(model.path, spec), "cpu")
    engine = OpenVinoEngine.of(bundle.Bundle(model.path, spec))
    for pixels in _clips():
        assert engine.logit(pixels) == pytest.approx(reference.logit(pixels), abs=1e-5)


def test_the_shipped_export_was_made_from_the_shipped_weights_and_agrees_with_torch(tmp_path):
    """Uses simulated vessels: on noise, an engine that sums imprecisely still agrees."""
    model = disk.load()
    settings = SimulateSettings(count=8, stalled=0.5, seed=5)
    simulate_clips(tmp_path, settings, model.spec.outline, model.spec.clip, processes=1)
    clips = Store(tmp_path / "store")
    reference, engine = TorchEngine(model, "cpu"), OpenVinoEngine.of(model)
    for row in clips.rows():
        pixels = clips.read(row.filename)
        expected = reference.logit(pixels)
        assert abs(engine.logit(pixels) - expected) <= 2e-5 * max(1, abs(expected))


@pytest.mark.parametrize("kind", [TorchEngine, OpenVinoEngine.of])
def test_a_stream_keeps_the_order_and_the_gaps(exported_dir, kind):
    engine = kind(disk.load(exported_dir))
    clips = [None, *_clips(), None, None]
    logits = list(engine.stream(iter(clips)))
    expected = [None if pixels is None else engine.logit(pixels) for pixels in clips]
    assert logits == expected
    assert len(set(logits)) == 7


def test_a_limit_of_cores_leaves_the_threads_of_torch_as_they_were(exported_dir):
    import torch

    engine, clips = TorchEngine(disk.load(exported_dir), "cpu"), list(_clips(3))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = list(engine.stream(clips))
        with cores.limited(1):
            stream = engine.stream(clips)
            limited = [next(stream)]
            assert torch.get_num_threads() == 1
            limited += stream
        assert limited == pytest.approx(expected, abs=1e-4)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_stream_reads_a_bounded_number_of_clips_ahead(exported_dir):
    engine = OpenVinoEngine.of(disk.load(exported_dir))
    taken = []
    clip = next(_clips())

    def clips():
        for index in range(500):
            taken.append(index)
            yield clip

    stream = engine.stream(clips())
    next(stream)
    assert len(taken) <= 2 * engine.count
    before = threading.active_count()
    stream.close()
    assert threading.active_count() < before


def _hang(self, pixels):
    """Hang in native code, as a deadlock does."""
    if len(pixels) > 20:
        ctypes.CDLL(None).sleep(5)
    return float(len(pixels))


@pytest.mark.skipif(sys.platform == "win32", reason="no such function of the C library")
@pytest.mark.parametrize("kind", [TorchEngine, OpenVinoEngine])
def test_an_engine_that_hangs_ends_the_run_and_keeps_its_rows(
    kind, exported_dir, tmp_path, monkeypatch
):
    drawing.write(tmp_path / "in" / "0.mp4")
    drawing.write(tmp_path / "in" / "1.mp4", count=21)
    monkeypatch.setattr(kind, "logit", _hang)
    monkeypatch.setattr(stream, "CLIP_S", 0.3)
    name = "torch" if kind is TorchEngine else "openvino"
    with pytest.raises(EngineError, match=rf"{name} .*0\.3 s.*--engine.*-o"):
        predict.predict([tmp_path / "in"], tmp_path, exported_dir, processes=0, engine=name)
    assert list(pd.read_csv(tmp_path / "predictions.csv")["filename"]) == ["0.mp4"]


def test_a_longer_clip_and_more_views_get_more_time(monkeypatch):
    given = []
    monkeypatch.setattr(stream, "in_threads", lambda *args: given.append(args[3]) or iter(()))
    list(stream.stream("torch", float, [], 1, "one"))
    list(stream.stream("torch", float, [], 1, "flips"))
    assert [given[0](np.zeros((count, 1))) for count in (1, 100, 300)] == [600, 600, 1800]
    assert given[1](np.zeros((1, 1))) == 4800


THREADS = """
import sys, threading
from stallscan.engines.openvino_engine import openvino

def use():
    barrier.wait()
    openvino.Type.f32.to_dtype()

sys.setswitchinterval(1e-6)
barrier = threading.Barrier(8)
threads = [threading.Thread(target=use) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_openvino_may_be_used_first_by_several_threads():
    """Two in three such processes would hang if the module did not fill OpenVINO's type tables."""
    for _ in range(3):
        subprocess.run([sys.executable, "-c", THREADS], check=True, timeout=60)


HANDED_ON = """
import signal, sys, threading
from stallscan.bundle import disk
from stallscan.engines.openvino_engine import OpenVinoEngine

engines = [OpenVinoEngine.of(disk.load("default"))]
thread = threading.Thread(target=engines.clear)
thread.start()
thread.join()
signal.signal(signal.SIGINT, lambda *_: print("obeyed"))
signal.raise_signal(signal.SIGINT)
"""


def test_a_signal_after_another_thread_released_an_engine_is_no_crash():
    done = subprocess.run(
        [sys.executable, "-c", HANDED_ON], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "obeyed\n")


FROZEN = """
import ctypes, time
from stallscan.engines import watchdog
watchdog.FROZEN_S = 2
watchdog.start()
time.sleep(4)
print("alive", flush=True)
ctypes.PyDLL(None).sleep(60)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no such function of the C library")
def test_a_frozen_interpreter_is_killed_with_a_message():
    done = subprocess.run(
        [sys.executable, "-c", FROZEN], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == "alive\n"
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("stallscan: error: ")


def test_an_error_in_a_stream_is_raised(exported_dir):
    engine = OpenVinoEngine.of(disk.load(exported_dir))
    with pytest.raises(RuntimeError):
        list(engine.stream([np.zeros((8, 7, 9, 2), np.uint8)]))


def _without_gpu(monkeypatch):
    monkeypatch.setattr(choose, "_may_have_gpu", lambda: False)


def test_auto_takes_openvino_where_the_bundle_carries_an_export(exported_dir, monkeypatch):
    _without_gpu(monkeypatch)
    chosen = choose.choose(disk.load(exported_dir))
    assert chosen.name == "openvino"
    assert [each.name for each in chosen.engines] == ["openvino"]


def test_auto_takes_torch_on_a_gpu(exported_dir, monkeypatch):
    monkeypatch.setattr(choose, "_may_have_gpu", lambda: True)
    monkeypatch.setattr("stallscan.engines.torch_engine.has_gpu", lambda: True)
    on_gpu = SimpleNamespace(device=SimpleNamespace(type="cuda"))
    monkeypatch.setattr("stallscan.engines.torch_engine.TorchEngine", lambda _bundle: on_gpu)
    model = disk.load(exported_dir)
    chosen = choose.choose(model)
    assert (chosen.name, chosen.engines) == ("torch", (on_gpu,))
    assert "cuda" in chosen.reason
    monkeypatch.setattr("stallscan.engines.torch_engine.has_gpu", lambda: False)
    assert choose.choose(model).name == "openvino"


def test_auto_takes_torch_and_gives_the_reason_where_openvino_cannot_be_used(
    bundle_dir, exported_dir, monkeypatch
):
    _without_gpu(monkeypatch)
    chosen = choose.choose(disk.load(bundle_dir))
    assert chosen.name == "torch"
    assert f"stallscan export {bundle_dir}" in chosen.reason
    monkeypatch.setattr(choose, "has_torch", lambda: False)
    assert choose.choose(disk.load(exported_dir)).name == "openvino"
    for path, engine in ((bundle_dir, "auto"), (exported_dir, "torch")):
        with pytest.raises(InputError, match=r"pip install '\.\[train\]'"):
            choose.choose(disk.load(path), engine)


def test_an_ensemble_runs_on_one_engine(
    other_bundle_dir, exported_dir, other_exported_dir, tmp_path, monkeypatch
):
    _without_gpu(monkeypatch)
    settings = EnsembleSettings(needed=1)
    for name, members in (
        ("both", [exported_dir, other_exported_dir]),
        ("one", [exported_dir, other_bundle_dir]),
    ):
        ensemble.join(members, tmp_path / name, settings)
    assert choose.choose(disk.load_any(tmp_path / "both")).name == "openvino"
    chosen = choose.choose(disk.load_any(tmp_path / "one"))
    assert [each.name for each in chosen.engines] == ["torch", "torch"]


def test_after_training_only_what_lacks_an_export_is_exported(
    exported_dir, other_bundle_dir, tmp_path
):
    ensemble.join([exported_dir, other_bundle_dir], tmp_path / "joined", EnsembleSettings(needed=1))
    done, lacking = disk.load_any(tmp_path / "joined").members
    before = exports.find(done, "f32").stat().st_mtime_ns
    export.export_if_missing(tmp_path / "joined")
    assert exports.has(lacking, "f32")
    assert exports.find(done, "f32").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"weights_sha256": "0" * 64}, r"openvino: .*weights.*stallscan export"),
        ({"bin_sha256": "0" * 64}, r"f32\.bin: .*stallscan export"),
        ({"logit_difference": 0.1}, r"openvino: .* 0\.1 .*0\.0001.*--engine"),
        ({"nonsense": 1}, r"exports\.json: .*nonsense.*stallscan export"),
    ],
)
def test_an_unusable_export_is_refused(copy, changes, named, monkeypatch):
    _without_gpu(monkeypatch)
    _edit(copy, **changes)
    model = disk.load(copy)
    with pytest.raises(BundleError, match=named):
        choose.choose(model, "openvino")
    assert choose.choose(model).name == "torch"


def test_an_export_that_changes_calls_by_more_than_its_limit_is_refused(copy):
    change = {
        **{"recordings": 100, "stalled": 30, "simulated": True, "threshold": 0.5},
        **{"mcc": 0.7, "roc_auc": 0.9, "mcc_change": 0.0, "roc_auc_change": -0.02},
    }
    _edit(copy, change=change, limit=0.005)
    with pytest.raises(BundleError, match=r"100 recordings.*\+0\.0000.*-0\.0200.*0\.005"):
        exports.find(disk.load(copy), "f32")
    _edit(copy, limit=0.02)
    assert exports.find(disk.load(copy), "f32").name == "f32.xml"


def test_saving_a_bundle_again_removes_its_exports(copy):
    model = disk.load(copy)
    disk.save(copy, model.spec, model.weights, "card")
    with pytest.raises(BundleError, match=r"copy: .*stallscan export"):
        exports.find(disk.load(copy), "f32")


def test_engines_give_the_same_table_and_a_run_stays_with_its_own(
    folder, exported_dir, tmp_path, monkeypatch
):
    _without_gpu(monkeypatch)
    for name in ("torch", "openvino"):
        predict.predict([folder], tmp_path / name, exported_dir, processes=0, engine=name)
    tables = [pd.read_csv(tmp_path / name / "predictions.csv") for name in ("torch", "openvino")]
    scores = [table.pop("score") for table in tables]
    assert scores[0].to_numpy() == pytest.approx(scores[1].to_numpy(), abs=3e-6)
    pd.testing.assert_frame_equal(*tables)
    out = tmp_path / "torch"
    whole = (out / "predictions.csv").read_text()
    (out / "predictions.csv").write_text("".join(whole.splitlines(keepends=True)[:3]))
    with pytest.raises(InputError, match=r"engine .*torch.*openvino"):
        predict.predict([folder], out, exported_dir, processes=0, engine="openvino")
    assert predict.predict([folder], out, exported_dir, processes=0).resumed == 2
    assert (out / "predictions.csv").read_text() == whole
    assert json.loads((out / "run.json").read_text())["engine"] == "torch"


def test_an_ensemble_predicts_with_openvino(folder, exported_dir, other_exported_dir, tmp_path):
    both = tmp_path / "two"
    ensemble.join([exported_dir, other_exported_dir], both, EnsembleSettings(needed=2))
    for name in ("torch", "openvino"):
        predict.predict([folder], tmp_path / name, both, processes=0, engine=name)
    tables = [pd.read_csv(tmp_path / name / "predictions.csv") for name in ("torch", "openvino")]
    assert (tables[0]["call"] == tables[1]["call"]).all()
    assert tables[0]["score"].to_numpy() == pytest.approx(tables[1]["score"].to_numpy(), abs=3e-6)


def test_prediction_with_openvino_imports_nothing_heavy(folder, exported_dir, tmp_path):
    code = (
        "import sys; from pathlib import Path; from stallscan.calls import predict;"
        "done = predict.predict([sys.argv[1]], Path(sys.argv[2]), sys.argv[3], engine='openvino');"
        "heavy = {'torch', 'torchvision', 'pytorch_lightning', 'monai', 'sklearn', 'pandas'};"
        "print(done.calls, sorted(heavy & set(sys.modules)), sys.modules['openvino_telemetry'])"
    )
    command = [sys.executable, "-c", code, folder / "0.mp4", tmp_path, exported_dir]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.strip().endswith("[] None")
    assert "1" in output


def test_auto_takes_torch_where_openvino_cannot_use_the_export(exported_dir, monkeypatch):
    def fails(*_args):
        raise BundleError("OpenVINO 1 cannot use it")

    model = disk.load(exported_dir)
    assert choose.choose(model).name == "openvino"
    monkeypatch.setattr(OpenVinoEngine, "of", fails)
    chosen = choose.choose(model)
    assert chosen.name == "torch"
    assert "OpenVINO 1 cannot use it" in chosen.reason
    with pytest.raises(BundleError, match="OpenVINO 1"):
        choose.choose(model, "openvino")
