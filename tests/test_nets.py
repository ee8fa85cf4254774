import urllib.error

import pytest
import safetensors.torch
import torch
from torchvision.models import video as torchvision_video

from stallscan import nets
from stallscan.errors import InputError
from stallscan.recipe import NetSettings, PretrainedSettings

MAKERS = {
    "r3d_18": torchvision_video.r3d_18,
    "mc3_18": torchvision_video.mc3_18,
    "r2plus1d_18": torchvision_video.r2plus1d_18,
}


def _settings(name, **more):
    channels = 2 if name == "stallnet" else 3
    return NetSettings(name=name, mean=(0.4,) * channels, std=(0.2,) * channels, **more)


def _clips(name, count=8, frames=16, size=56):
    return torch.rand(count, 2 if name == "stallnet" else 3, frames, size, size)


@pytest.mark.parametrize("name", nets.NETS)
def test_a_clip_gets_the_same_logit_alone_and_in_a_batch(name):
    torch.manual_seed(0)
    net = nets.build(_settings(name)).eval()
    clips = _clips(name)
    with torch.inference_mode():
        together = net(clips)
        alone = torch.stack([net(one[None])[0] for one in clips])
    assert together.shape == (8,)
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


@pytest.mark.parametrize(("name", "channels"), [("stallnet", 3), ("r3d_18", 2)])
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
