import json
import re
import shutil

import pytest
import torch

from stallscan.bundle import disk
from stallscan.engines.torch_engine import TorchEngine
from stallscan.errors import BundleError


@pytest.fixture
def copy(bundle_dir, tmp_path):
    return shutil.copytree(bundle_dir, tmp_path / "copy")


def _edit(folder, **changes):
    path = folder / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_bundle_is_read_as_it_was_saved(bundle_dir):
    model = disk.load(bundle_dir)
    assert model.spec.name == "random"
    assert model.label.startswith("random@")
    again = disk.save(bundle_dir.parent / "again", model.spec, model.weights, "card")
    assert again == model.spec


def test_saving_replaces_a_bundle_and_leaves_nothing_else(copy):
    model = disk.load(copy)
    weights = {name: torch.zeros_like(tensor) for name, tensor in model.weights.items()}
    disk.save(copy, model.spec, weights, "card")
    assert all((tensor == 0).all() for tensor in disk.load(copy).weights.values())
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_all_files_of_a_bundle_have_the_same_permissions(copy):
    model = disk.load(copy)
    disk.save(copy, model.spec, model.weights, "card")
    assert len({path.stat().st_mode for path in copy.iterdir()}) == 1


def test_the_shipped_default_is_complete_and_marked_as_simulated():
    model = disk.load()
    assert model.spec.name == "default"
    assert model.spec.simulated
    assert "simulated" in (model.path / "README.md").read_text()
    assert sum(path.stat().st_size for path in model.path.iterdir()) < 8 * 2**20
    TorchEngine(model)
    assert model.spec.reference.trained == model.spec.provenance["trained_on"]
    assert model.at(0.046).spec.prevalence == 0.046


@pytest.mark.parametrize("name", ["bundle.json", "weights.safetensors"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(BundleError, match=re.escape(name)):
        disk.load(copy)


def test_a_flipped_byte_is_detected(copy):
    path = copy / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"weights\.safetensors"):
        disk.load(copy)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"format": 2}, r"\b2\b.*\b1\b"),
        ({"treshold": 0.5}, "treshold.*threshold"),
        ({"threshold": 1.5}, "threshold.*1"),
    ],
)
def test_an_invalid_spec_is_refused(copy, changes, named):
    _edit(copy, **changes)
    with pytest.raises(BundleError, match=rf"bundle\.json: .*{named}"):
        disk.load(copy)


def test_a_spec_that_is_not_json_is_refused(copy):
    (copy / "bundle.json").write_text("{")
    with pytest.raises(BundleError, match=r"bundle\.json"):
        disk.load(copy)


def test_weights_of_another_net_are_refused(copy):
    model = disk.load(copy)
    _edit(copy, net={**model.spec.net.model_dump(), "normalisation": "running"})
    weights = {name: tensor for name, tensor in model.weights.items() if name != "fc.bias"}
    disk.save(copy, model.spec, weights, "card")
    with pytest.raises(BundleError, match=r"copy.*fc\.bias"):
        TorchEngine(disk.load(copy))


def test_an_unknown_bundle_names_the_shipped_ones():
    with pytest.raises(BundleError, match=r"defalt.*default"):
        disk.load("defalt")


def test_weights_replaced_after_loading_are_refused(copy):
    model = disk.load(copy)
    other = {name: torch.zeros_like(tensor) for name, tensor in disk.load(copy).weights.items()}
    disk.save(copy, model.spec, other, "card")
    with pytest.raises(BundleError, match=r"weights\.safetensors"):
        _ = model.weights
