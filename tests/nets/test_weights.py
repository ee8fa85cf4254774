import re
import shutil
import urllib.error

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn
from torchvision.models import video as torchvision_video

from stallscan.bundle import disk
from stallscan.clips.clip import ClipSettings
from stallscan.errors import InputError
from stallscan.nets import build
from stallscan.nets.settings import NetSettings
from stallscan.recipes.recipe import Recipe
from stallscan.recipes.settings import PretrainedSettings
from stallscan.training import start

MAKERS = {
    "r3d_18": torchvision_video.r3d_18,
    "mc3_18": torchvision_video.mc3_18,
    "r2plus1d_18": torchvision_video.r2plus1d_18,
}


def _settings(name, channels=3, **more):
    return NetSettings(name=name, mean=(0.4,) * channels, std=(0.2,) * channels, **more)


def _load(net, name, **given):
    recipe = Recipe(name="test", net=NetSettings(name=name), pretrained=PretrainedSettings(**given))
    start.load(net, recipe)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_state_dict_in_torchvisions_names_loads(tmp_path, suffix):
    state = MAKERS["mc3_18"](weights=None).state_dict()
    path = tmp_path / f"kinetics{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    net = build.build(_settings("mc3_18"))
    _load(net, "mc3_18", source="file", file=path)
    loaded = net.state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state if not key.startswith("fc."))
    assert loaded["fc.weight"].shape == (1, 512)


def test_weights_of_another_net_are_refused(tmp_path):
    torch.save(MAKERS["r3d_18"](weights=None).state_dict(), tmp_path / "a.pt")
    net = build.build(_settings("r2plus1d_18"))
    with pytest.raises(InputError, match=r"a\.pt.*r2plus1d_18"):
        _load(net, "r2plus1d_18", source="file", file=tmp_path / "a.pt")


def test_a_failed_download_suggests_a_file_or_no_weights(monkeypatch):
    def fail(*_args, **_kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    net = build.build(_settings("r3d_18"))
    with pytest.raises(InputError, match=r"source: file.*source: none"):
        _load(net, "r3d_18", source="kinetics")


def test_there_are_no_kinetics_weights_for_our_net():
    net = build.build(_settings("stallnet", 2))
    with pytest.raises(InputError, match=r"Kinetics-400.*stallnet.*source: none"):
        _load(net, "stallnet", source="kinetics")


def _published(state):
    """Rename tensors as in the old files that torchvision offers for download."""
    renamed = {}
    for key, value in state.items():
        if not key.endswith("num_batches_tracked"):
            for part in ("norm1", "norm2", "conv1", "conv2"):
                key = key.replace(f".{part}.", f".{part[:-1]}.{part[-1]}.")
            renamed[key] = value
    return renamed


@pytest.mark.parametrize("names", [dict, _published])
def test_2d_weights_are_inflated(tmp_path, names):
    torch.manual_seed(0)
    theirs = torchvision.models.densenet121(weights=None).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    torch.save(names(theirs.state_dict()), tmp_path / "densenet121.pth")
    net = build.build(_settings("densenet121_3d", normalisation="running")).eval()
    head = net.class_layers.out[0].weight.clone()
    _load(net, "densenet121_3d", source="file", file=tmp_path / "densenet121.pth")
    assert torch.equal(net.class_layers.out[0].weight, head)
    picture = torch.rand(1, 3, 64, 64)
    still = picture[:, :, None].expand(-1, -1, 40, -1, -1)
    # After the first block, the middle frames begin to see the zero padding at both ends.
    stem, their_stem = net.features[:5], theirs.features[:5]
    with torch.inference_mode():
        response, expected = stem(still), their_stem(picture)
    assert response.shape[2] == 10
    torch.testing.assert_close(response[:, :128, 5], expected[:, :128], atol=1e-4, rtol=1e-4)
    total = sum(p.sum() for p in net.features.parameters()).item()
    assert total == pytest.approx(sum(p.sum() for p in theirs.features.parameters()).item(), 1e-3)


def test_a_resnets_2d_weights_load_into_the_quarters(tmp_path):
    state = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    net = build.build(_settings("quarters_resnet18", 1))
    _load(net, "quarters_resnet18", source="file", file=tmp_path / "resnet18.pth")
    loaded = net.state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state if not key.startswith("fc."))


def test_imagenet_weights_are_those_of_the_2d_net(monkeypatch):
    torch.manual_seed(0)
    state = torchvision.models.resnet18(weights=None).state_dict()
    urls = []

    def offer(url, *_args, **_kwargs):
        urls.append(url)
        return state

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offer)
    net = build.build(_settings("quarters_resnet18"))
    _load(net, "quarters_resnet18", source="imagenet")
    assert torch.equal(net.state_dict()["conv1.weight"], state["conv1.weight"])
    assert "resnet18" in urls[0]


def test_weights_for_other_channels_are_refused_with_the_reason(tmp_path):
    torch.save(torchvision.models.densenet121(weights=None).state_dict(), tmp_path / "a.pth")
    net = build.build(_settings("densenet121_3d", 2))
    with pytest.raises(InputError, match=r"3 channels.*clip\.channels.* 2"):
        _load(net, "densenet121_3d", source="file", file=tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["stallnet", "r3d_18", "resnet101_3d"])
def test_there_are_no_imagenet_weights_for_others(name):
    with pytest.raises(InputError, match=f"ImageNet.*{name}.*densenet121"):
        _load(nn.Identity(), name, source="imagenet")


def test_a_checkpoint_is_not_a_state_dict(tmp_path):
    torch.save({"state_dict": {}, "epoch": 3}, tmp_path / "last.ckpt")
    with pytest.raises(InputError, match=r"last\.ckpt.*state_dict"):
        _load(nn.Identity(), "r3d_18", source="file", file=tmp_path / "last.ckpt")


@pytest.fixture
def from_bundle(bundle_dir):
    """A recipe that starts from the bundle of `bundle_dir`."""
    return Recipe(
        name="test",
        net=NetSettings(mean=(0.2, 0.0), std=(0.2, 1.0)),
        clip=ClipSettings(channels="grey+mask"),
        pretrained=PretrainedSettings(source="bundle", file=bundle_dir),
    )


def test_all_weights_of_a_bundle_are_loaded(from_bundle, bundle_dir):
    torch.manual_seed(99)
    net = build.build(from_bundle.net)
    start.load(net, from_bundle)
    weights = disk.load(bundle_dir).weights
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in weights.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"net": NetSettings(name="r3d_18")}, "stallnet.*r3d_18"),
        ({"clip": ClipSettings(channels="rgb")}, r"grey\+mask.*rgb"),
    ],
)
def test_a_bundle_of_another_kind_is_refused(from_bundle, change, message):
    with pytest.raises(InputError, match=message):
        start.load(nn.Identity(), from_bundle.model_copy(update=change))


def test_a_bundle_whose_net_has_changed_since_is_refused(from_bundle, bundle_dir):
    with pytest.raises(InputError, match=rf"{re.escape(str(bundle_dir))}: .*net stallnet.*weight"):
        start.load(nn.Linear(2, 1), from_bundle)


def test_a_folder_is_not_taken_for_the_shipped_bundle_of_its_name(
    bundle_dir, tmp_path, monkeypatch
):
    shutil.copytree(bundle_dir, tmp_path / "default")
    monkeypatch.chdir(tmp_path)
    own = disk.load("./default").spec.weights_sha256
    assert own != disk.load("default").spec.weights_sha256
    # As fine-tuning names it, and as --set pretrained.file=./default does.
    for file in (disk.load("./default").path, "./default"):
        given = Recipe(name="test", pretrained={"source": "bundle", "file": file})
        again = Recipe.parse(given.model_dump(mode="json"), "recipe.yaml")
        assert start.sha256(again) == own


@pytest.mark.parametrize("source", ["file", "bundle"])
def test_a_source_without_a_file_is_refused(source):
    with pytest.raises(InputError, match=rf"{source}.*pretrained\.file"):
        _load(nn.Identity(), "r3d_18", source=source)
