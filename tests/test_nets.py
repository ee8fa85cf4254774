import copy
import pickle
import urllib.error

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torchvision.models import video as torchvision_video

from stallscan import nets
from stallscan.errors import InputError
from stallscan.recipe import NetSettings, PretrainedSettings

MAKERS = {
    "r3d_18": torchvision_video.r3d_18,
    "mc3_18": torchvision_video.mc3_18,
    "r2plus1d_18": torchvision_video.r2plus1d_18,
}


CHANNELS = {"stallnet": 2, "features": 2, "resnet101_3d": 1}
DEEP = ("densenet121_3d", "resnet101_3d")
# The features have tests of their own.
CONV_NETS = [name for name in nets.NETS if name != "features"]
SLOW_UNLESS_SMALL = [
    pytest.param(name, marks=() if name in ("stallnet", "quarters_resnet18") else pytest.mark.slow)
    for name in CONV_NETS
]


def _settings(name, channels=None, **more):
    channels = channels or CHANNELS.get(name, 3)
    return NetSettings(name=name, mean=(0.4,) * channels, std=(0.2,) * channels, **more)


def _clips(name, count=8, frames=16, size=56):
    return torch.rand(count, CHANNELS.get(name, 3), frames, size, size)


@pytest.mark.parametrize("name", CONV_NETS)
def test_a_clip_gets_the_same_logit_alone_and_in_a_batch(name):
    torch.manual_seed(0)
    net = nets.build(_settings(name)).eval()
    clips = _clips(name, count=8 if name == "stallnet" else 3, size=64 if name in DEEP else 56)
    if name == "resnet101_3d":  # the rounding of its layers makes 4e-5 in float32
        net, clips = net.double(), clips.double()
    with torch.inference_mode():
        together = net(clips)
        alone = torch.stack([net(one[None])[0] for one in clips])
    assert together.shape == (len(clips),)
    assert together.std() > 1e-4
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MAKERS)
def test_per_video_equals_torchvision_in_training_mode_with_a_batch_of_one(name):
    torch.manual_seed(0)
    net = nets.build(_settings(name)).eval()
    theirs = MAKERS[name](weights=None)
    theirs.fc = torch.nn.Linear(512, 1)
    theirs.load_state_dict(net.state_dict())
    theirs.train()
    with torch.inference_mode():
        for one in _clips(name, count=3):
            expected = theirs(one[None])[0, 0]
            torch.testing.assert_close(net(one[None])[0], expected, atol=1e-5, rtol=0)


def test_running_statistics_stay_those_of_batchnorm():
    torch.manual_seed(0)
    net = nets.build(_settings("r3d_18", normalisation="running")).eval()
    clips = _clips("r3d_18", count=2)
    with torch.inference_mode():
        before = net(clips)
        net.train()(clips)
        after = net.eval()(clips)
    assert not torch.allclose(before, after)


@pytest.mark.parametrize(
    ("name", "count"), [("r3d_18", 33_371_472), ("mc3_18", 11_695_440), ("r2plus1d_18", 31_505_325)]
)
def test_published_parameter_counts_with_the_400_way_head(name, count):
    net = nets.build(_settings(name))
    head = 512 * 400 + 400
    ours = sum(p.numel() for key, p in net.named_parameters() if not key.startswith("fc."))
    assert ours + head == count


def test_the_small_net_is_small():
    net = nets.build(_settings("stallnet"))
    assert sum(p.numel() for p in net.parameters()) < 100_000


@pytest.mark.parametrize(
    ("name", "channels"), [("stallnet", 3), ("r3d_18", 1), ("quarters_resnet18", 2)]
)
def test_wrong_channels_are_refused(name, channels):
    with pytest.raises(InputError, match="channels"):
        nets.build(NetSettings(name=name, mean=(0.1,) * channels, std=(0.1,) * channels))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_state_dict_in_torchvisions_names_loads(tmp_path, suffix):
    state = MAKERS["mc3_18"](weights=None).state_dict()
    path = tmp_path / f"kinetics{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    net = nets.build(_settings("mc3_18"))
    nets.load_pretrained(net, "mc3_18", PretrainedSettings(source="file", file=path))
    loaded = net.state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state if not key.startswith("fc."))
    assert loaded["fc.weight"].shape == (1, 512)


def test_weights_of_another_net_are_refused(tmp_path):
    torch.save(MAKERS["r3d_18"](weights=None).state_dict(), tmp_path / "a.pt")
    net = nets.build(_settings("r2plus1d_18"))
    with pytest.raises(InputError, match="do not fit the net r2plus1d_18"):
        nets.load_pretrained(
            net, "r2plus1d_18", PretrainedSettings(source="file", file=tmp_path / "a.pt")
        )


def test_a_failed_download_says_what_to_do(monkeypatch):
    def fail(*_args, **_kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    net = nets.build(_settings("r3d_18"))
    with pytest.raises(InputError, match=r"could not be downloaded.*source: file.*source: none"):
        nets.load_pretrained(net, "r3d_18", PretrainedSettings(source="kinetics"))


def test_there_are_no_kinetics_weights_for_our_net():
    net = nets.build(_settings("stallnet"))
    with pytest.raises(InputError, match="no Kinetics-400 weights for stallnet"):
        nets.load_pretrained(net, "stallnet", PretrainedSettings(source="kinetics"))


@pytest.mark.parametrize("name", SLOW_UNLESS_SMALL)
def test_eight_clips_can_be_learned_by_heart(name):
    torch.manual_seed(0)
    normalisation = "per-video" if name in ("stallnet", *MAKERS) else "running"
    net = nets.build(_settings(name, normalisation=normalisation)).train()
    net = net.to(memory_format=torch.channels_last_3d)
    clips, labels = _clips(name, size=32), torch.tensor([0.0, 1.0] * 4)
    rate = {"stallnet": 1e-2, "r3d_18": 3e-4, "resnet101_3d": 3e-4}.get(name, 1e-3)
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for _ in range(120):
        loss = F.binary_cross_entropy_with_logits(nets.forward(net, clips), labels)
        if loss < 0.01:
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.01


@pytest.mark.parametrize("name", SLOW_UNLESS_SMALL)
def test_the_layout_of_channels_last_changes_nothing(name):
    torch.manual_seed(0)
    net = nets.build(_settings(name)).eval().double()
    clips = _clips(name, count=2, frames=9, size=64 if name in DEEP else 32).double()
    frames = torch.tensor([9, 7])
    with torch.inference_mode():
        expected = nets.forward(net, clips), nets.forward(net, clips, frames)
        net = net.to(memory_format=torch.channels_last_3d)
        clips = clips.to(memory_format=torch.channels_last_3d)
        found = nets.forward(net, clips), nets.forward(net, clips, frames)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["stallnet", "r3d_18", "densenet121_3d", "quarters_resnet18"])
def test_a_net_can_be_copied_and_pickled(name):
    net = nets.build(_settings(name)).eval()
    clips = _clips(name, count=1, size=64)
    with torch.inference_mode():
        expected = net(clips)
        for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert torch.equal(other(clips), expected)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("name", DEEP)
def test_deep_nets_take_any_number_of_channels(name, channels):
    torch.manual_seed(0)
    net = nets.build(_settings(name, channels)).eval()
    frames = 8 if name == "densenet121_3d" else 16
    with torch.inference_mode():
        assert net(torch.rand(1, channels, frames, 64, 64)).shape == (1,)


def test_the_densenet_is_that_of_monai_with_the_published_head():
    from monai.networks.nets.densenet import DenseNet121

    torch.manual_seed(0)
    net = nets.build(_settings("densenet121_3d", normalisation="running")).eval()
    head = net.get_submodule("class_layers.out")
    assert [type(layer) for layer in head] == [nn.Linear, nn.Sigmoid, nn.Dropout, nn.Linear]
    assert (head[0].out_features, head[2].p, head[3].out_features) == (512, 0.5, 1)
    theirs = DenseNet121(spatial_dims=3, in_channels=3, out_channels=1).eval()
    theirs.class_layers.out = head
    theirs.load_state_dict(net.state_dict())
    clips = torch.rand(1, 3, 33, 48, 48)
    with torch.inference_mode():
        torch.testing.assert_close(net(clips), theirs(clips)[:, 0])


def test_the_smallest_clips_of_the_densenet():
    net = nets.build(_settings("densenet121_3d", normalisation="running")).eval()
    with torch.inference_mode():
        net(torch.rand(1, 3, 1, 29, 29))
        with pytest.raises(InputError, match="needs clips of at least 29 px, not 28"):
            net(torch.rand(1, 3, 16, 28, 40))


def test_clips_too_small_for_normalisation_by_video_are_refused():
    net = nets.build(_settings("densenet121_3d")).eval()
    with (
        torch.inference_mode(),
        pytest.raises(InputError, match=r"one value left.*clip\.size.*net\.normalisation"),
    ):
        net(torch.rand(2, 3, 8, 32, 32))


@pytest.mark.parametrize("frames", [4, 17, 18, 20, 23])
def test_quarters_are_those_of_array_split_two_by_two(frames):
    clips = torch.rand(2, 3, frames, 8, 8)
    picture = nets._quarters(clips)
    parts = np.array_split(clips.numpy(), 4, axis=2)
    tiles = [picture[..., :8, :8], picture[..., :8, 8:], picture[..., 8:, :8], picture[..., 8:, 8:]]
    for tile, part in zip(tiles, parts, strict=True):
        np.testing.assert_allclose(tile, part.mean(axis=2), atol=1e-6)


def test_quarters_of_grey_clips_are_those_of_three_equal_channels():
    torch.manual_seed(0)
    net = nets.build(_settings("quarters_resnet18", 1)).eval()
    clips = torch.rand(2, 1, 9, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(net(clips), net(clips.expand(-1, 3, -1, -1, -1)))
        with pytest.raises(InputError, match="needs 4 frames, and a clip has 3"):
            net(clips[:, :, :3])


def _published(state):
    """Names as in the old files that torchvision offers for download."""
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
    net = nets.build(_settings("densenet121_3d", normalisation="running")).eval()
    head = net.class_layers.out[0].weight.clone()
    nets.load_pretrained(
        net, "densenet121_3d", PretrainedSettings(source="file", file=tmp_path / "densenet121.pth")
    )
    assert torch.equal(net.class_layers.out[0].weight, head)
    picture = torch.rand(1, 3, 64, 64)
    still = picture[:, :, None].expand(-1, -1, 40, -1, -1)
    # Beyond the first block, frames in the middle begin to see the zeros before and behind.
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
    net = nets.build(_settings("quarters_resnet18", 1))
    nets.load_pretrained(
        net, "quarters_resnet18", PretrainedSettings(source="file", file=tmp_path / "resnet18.pth")
    )
    loaded = net.state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state if not key.startswith("fc."))


def test_imagenet_weights_are_those_of_the_2d_net(monkeypatch):
    torch.manual_seed(0)
    state = torchvision.models.resnet18(weights=None).state_dict()
    asked = []

    def offer(url, *_args, **_kwargs):
        asked.append(url)
        return state

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offer)
    net = nets.build(_settings("quarters_resnet18"))
    nets.load_pretrained(net, "quarters_resnet18", PretrainedSettings(source="imagenet"))
    assert torch.equal(net.state_dict()["conv1.weight"], state["conv1.weight"])
    assert "resnet18" in asked[0]


def test_weights_for_other_channels_are_refused_with_the_reason(tmp_path):
    torch.save(torchvision.models.densenet121(weights=None).state_dict(), tmp_path / "a.pth")
    net = nets.build(_settings("densenet121_3d", 2))
    with pytest.raises(InputError, match=r"weights take 3 channels, and clip\.channels .* make 2"):
        nets.load_pretrained(
            net, "densenet121_3d", PretrainedSettings(source="file", file=tmp_path / "a.pth")
        )


@pytest.mark.parametrize("name", ["stallnet", "r3d_18", "resnet101_3d"])
def test_there_are_no_imagenet_weights_for_others(name):
    with pytest.raises(InputError, match=f"no ImageNet weights for {name}, only for densenet121"):
        nets.load_pretrained(nn.Identity(), name, PretrainedSettings(source="imagenet"))


def test_a_checkpoint_is_no_state_dict(tmp_path):
    torch.save({"state_dict": {}, "epoch": 3}, tmp_path / "last.ckpt")
    with pytest.raises(InputError, match="something else than a state dict"):
        nets.load_pretrained(
            nn.Identity(), "r3d_18", PretrainedSettings(source="file", file=tmp_path / "last.ckpt")
        )


def test_a_bundle_is_not_loaded_here(tmp_path):
    with pytest.raises(ValueError, match="loaded by train"):
        nets.load_pretrained(
            nn.Identity(), "r3d_18", PretrainedSettings(source="bundle", file=tmp_path)
        )


def test_grey_and_mask_get_the_frame_difference_between_them():
    torch.manual_seed(0)
    net = nets.build(NetSettings(name="mc3_18", mean=(0.2, 0.0), std=(0.2, 1.0))).eval()
    plain = nets.build(_settings("mc3_18")).eval()
    plain.load_state_dict(net.state_dict())
    clips = torch.rand(2, 2, 8, 32, 32)
    change = torch.zeros(2, 1, 8, 32, 32)
    change[:, :, :-1] = clips[:, :1, 1:] - clips[:, :1, :-1]
    with torch.inference_mode():
        expected = plain(torch.cat([clips[:, :1], change, clips[:, 1:]], dim=1))
        torch.testing.assert_close(net(clips), expected)


def test_flips_are_averaged_over_all_eight():
    torch.manual_seed(0)
    settings = _settings("stallnet", views="flips")
    net = nets.build(settings).eval()
    clips = _clips("stallnet", count=2, frames=9, size=24)
    with torch.inference_mode():
        one = nets.score(net, clips, settings)
        for axes in ([2], [3], [4], [2, 4], [2, 3, 4]):
            torch.testing.assert_close(nets.score(net, clips.flip(axes), settings), one)
        assert not torch.allclose(nets.score(net, clips, _settings("stallnet")), one)
