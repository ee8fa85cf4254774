import json
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


def test_who_may_read_one_file_of_a_bundle_may_read_them_all(copy):
    model = disk.load(copy)
    disk.save(copy, model.spec, model.weights, "card")
    assert len({path.stat().st_mode for path in copy.iterdir()}) == 1


def test_the_shipped_default_is_complete_and_says_that_it_is_simulated():
    model = disk.load()
    assert model.spec.name == "default"
    assert model.spec.simulated
    assert "simulated" in (model.path / "README.md").read_text()
    assert sum(path.stat().st_size for path in model.path.iterdir()) < 8 * 2**20
    TorchEngine(model)
    assert model.spec.reference.trained == model.spec.provenance["trained_on"]
    assert model.at(0.046).spec.prevalence == 0.046


@pytest.mark.parametrize("name", ["bundle.json", "weights.safetensors"])
def test_a_missing_part_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        disk.load(copy)


def test_a_flipped_byte_is_found(copy):
    path = copy / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match="its hash differs"):
        disk.load(copy)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format": 2}, "bundle format 2, this stallscan reads format 1"),
        ({"treshold": 0.5}, r"unknown setting treshold \(did you mean threshold\?\)"),
        ({"threshold": 1.5}, "threshold: .*less than or equal to 1"),
    ],
)
def test_a_wrong_spec_is_said(copy, changes, sentence):
    _edit(copy, **changes)
    with pytest.raises(BundleError, match=sentence):
        disk.load(copy)


def test_a_spec_that_is_no_json_is_said(copy):
    (copy / "bundle.json").write_text("{")
    with pytest.raises(BundleError, match="not readable as a bundle"):
        disk.load(copy)


def test_weights_of_another_net_are_refused(copy):
    model = disk.load(copy)
    _edit(copy, net={**model.spec.net.model_dump(), "normalisation": "running"})
    weights = {name: tensor for name, tensor in model.weights.items() if name != "fc.bias"}
    disk.save(copy, model.spec, weights, "card")
    with pytest.raises(BundleError, match="do not fit the net"):
        TorchEngine(disk.load(copy))


def test_an_unknown_bundle_names_the_shipped_ones():
    with pytest.raises(BundleError, match=r"no such bundle.*default"):
        disk.load("defalt")


def test_weights_that_were_replaced_after_loading_are_not_taken(copy):
    model = disk.load(copy)
    other = {name: torch.zeros_like(tensor) for name, tensor in disk.load(copy).weights.items()}
    disk.save(copy, model.spec, other, "card")
    with pytest.raises(BundleError, match="has changed since the bundle was opened"):
        _ = model.weights
