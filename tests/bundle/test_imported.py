import pandas as pd
import pytest
import safetensors.torch
import torch
from torchvision.models import video as torchvision_video

from stallscan.bundle import disk, imported
from stallscan.calls import predict
from stallscan.errors import InputError
from stallscan.nets.settings import NetSettings
from stallscan.recipes import recipe
from tests import drawing


def _net():
    torch.manual_seed(0)
    net = torchvision_video.mc3_18(weights=None)
    net.fc = torch.nn.Linear(512, 1)
    return net


@pytest.fixture
def settings():
    return recipe.read_recipe("third-place", ["net.name=mc3_18", "clip.size=48"])


@pytest.mark.parametrize("prefix", ["", "cnn."])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_state_dict_becomes_a_bundle_that_predicts(tmp_path, settings, prefix, suffix):
    net = _net()
    state = {prefix + name: tensor for name, tensor in net.state_dict().items()}
    path = tmp_path / f"published{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    spec = imported.import_weights(path, settings, tmp_path / "bundle", threshold=0.9)
    assert (spec.threshold, spec.net.name) == (0.9, "mc3_18")
    recording = drawing.write(tmp_path / "videos" / "a.mp4", seed=0)
    predict.predict([tmp_path / "videos"], tmp_path / "out", tmp_path / "bundle", processes=0)
    row = pd.read_csv(tmp_path / "out" / "predictions.csv").iloc[0]
    assert row["status"] == "ok"
    assert recording.is_file()
    loaded = disk.load(tmp_path / "bundle").weights
    assert all(torch.equal(loaded[name], tensor) for name, tensor in net.state_dict().items())
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert path.name in card
    assert "calibrated" in card


def test_only_the_same_import_replaces_a_bundle(tmp_path, settings):
    torch.save(_net().state_dict(), tmp_path / "mc3.pt")
    for _ in range(2):
        imported.import_weights(tmp_path / "mc3.pt", settings, tmp_path / "bundle")
    before = (tmp_path / "bundle" / "bundle.json").read_bytes()
    with pytest.raises(InputError, match=r"bundle: .*threshold.*0\.5.*0\.9.* -o"):
        imported.import_weights(tmp_path / "mc3.pt", settings, tmp_path / "bundle", threshold=0.9)
    net = _net()
    torch.nn.init.zeros_(net.fc.bias)
    torch.save(net.state_dict(), tmp_path / "mc3.pt")
    with pytest.raises(InputError, match=r"bundle: .*weights.* -o"):
        imported.import_weights(tmp_path / "mc3.pt", settings, tmp_path / "bundle")
    assert (tmp_path / "bundle" / "bundle.json").read_bytes() == before


def test_a_head_of_400_classes_is_refused(tmp_path, settings):
    torch.save(torchvision_video.mc3_18(weights=None).state_dict(), tmp_path / "kinetics.pt")
    with pytest.raises(InputError, match=r"kinetics\.pt.*mc3_18.*fc\.bias, fc\.weight"):
        imported.import_weights(tmp_path / "kinetics.pt", settings, tmp_path / "bundle")


def test_weights_of_another_net_are_refused(tmp_path, settings):
    other = settings.model_copy(update={"net": NetSettings(name="r3d_18")})
    torch.save(_net().state_dict(), tmp_path / "mc3.pt")
    with pytest.raises(InputError, match=r"mc3\.pt.*--net"):
        imported.import_weights(tmp_path / "mc3.pt", other, tmp_path / "bundle")


def test_code_in_a_pickle_is_not_executed(tmp_path, settings):
    torch.save({"a": imported.import_weights}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match=r"evil\.pt"):
        imported.import_weights(tmp_path / "evil.pt", settings, tmp_path / "bundle")
