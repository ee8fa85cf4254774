import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import video as torchvision_video

from stallscan.errors import InputError
from stallscan.nets import build, norm, published
from stallscan.nets.settings import FOCUSNET, NetSettings

MAKERS = {
    "r3d_18": torchvision_video.r3d_18,
    "mc3_18": torchvision_video.mc3_18,
    "r2plus1d_18": torchvision_video.r2plus1d_18,
}

CHANNELS = {"focusnet": 2, "focusnet40": 2, "stallnet": 2, "resnet101_3d": 1}
SMALL = ("focusnet", "stallnet", "quarters_resnet18")
DEEP = ("densenet121_3d", "resnet101_3d")
CONV_NETS = list(build.NETS)
SLOW_UNLESS_SMALL = [
    pytest.param(name, marks=() if name in SMALL else pytest.mark.slow) for name in CONV_NETS
]

SLOW_MAKERS = [
    pytest.param(name, marks=() if name == "r3d_18" else pytest.mark.slow) for name in MAKERS
]


def _settings(name, channels=None, **more):
    channels = channels or CHANNELS.get(name, 3)
    if name in FOCUSNET:
        return NetSettings(name=name, mean=(0, 0), std=(1, 1), normalisation="running")
    return NetSettings(name=name, mean=(0.4,) * channels, std=(0.2,) * channels, **more)


def _clips(name, count=8, frames=16, size=56):
    clips = torch.rand(count, CHANNELS.get(name, 3), frames, size, size)
    for number, clip in enumerate(clips):
        clip[:, :number] = clip[:, :1]  # so much stands still
        clip[0, :, : size * number // count] *= 0.1
    return clips


@pytest.mark.parametrize("name", SLOW_UNLESS_SMALL)
def test_a_clip_has_the_same_logit_alone_and_in_a_batch(name):
    torch.manual_seed(0)
    net = build.build(_settings(name)).eval()
    small = name in (*FOCUSNET, "stallnet")
    size = 64 if name in DEEP else 40 if small else 56
    clips = _clips(name, count=8 if small else 3, size=size)
    if name in FOCUSNET:  # its running statistics would be those of nothing
        with torch.no_grad():
            for _ in range(20):
                net.train()(clips)
        net.eval()
    if name == "resnet101_3d":  # rounding in its layers adds up to 4e-5 in float32
        net, clips = net.double(), clips.double()
    with torch.inference_mode():
        together = net(clips)
        alone = torch.stack([net(clip[None])[0] for clip in clips])
    assert together.shape == (len(clips),)
    assert together.std() > 1e-4
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SLOW_MAKERS)
def test_per_video_equals_torchvision_in_training_mode_with_a_batch_of_one(name):
    torch.manual_seed(0)
    net = build.build(_settings(name)).eval()
    theirs = MAKERS[name](weights=None)
    theirs.fc = torch.nn.Linear(512, 1)
    theirs.load_state_dict(net.state_dict())
    theirs.train()
    with torch.inference_mode():
        for clip in _clips(name, count=3, size=32):
            expected = theirs(clip[None])[0, 0]
            torch.testing.assert_close(net(clip[None])[0], expected, atol=1e-5, rtol=0)


def test_running_statistics_stay_those_of_batchnorm():
    torch.manual_seed(0)
    net = build.build(_settings("r3d_18", normalisation="running")).eval()
    clips = _clips("r3d_18", count=2, size=32)
    with torch.inference_mode():
        before = net(clips)
        net.train()(clips)
        after = net.eval()(clips)
    assert not torch.allclose(before, after)


@pytest.mark.parametrize(
    ("name", "count"), [("r3d_18", 33_371_472), ("mc3_18", 11_695_440), ("r2plus1d_18", 31_505_325)]
)
def test_published_parameter_counts_with_the_400_way_head(name, count):
    net = build.build(_settings(name))
    head = 512 * 400 + 400
    ours = sum(p.numel() for key, p in net.named_parameters() if not key.startswith("fc."))
    assert ours + head == count


def test_the_small_net_is_small():
    net = build.build(_settings("stallnet"))
    assert sum(p.numel() for p in net.parameters()) < 100_000


@pytest.mark.parametrize(
    ("name", "channels"),
    [("stallnet", 3), ("r3d_18", 1), ("quarters_resnet18", 2)],
)
def test_wrong_channels_are_refused(name, channels):
    with pytest.raises(InputError, match=r"clip\.channels"):
        build.build(NetSettings(name=name, mean=(0.1,) * channels, std=(0.1,) * channels))


@pytest.mark.parametrize("name", SLOW_UNLESS_SMALL)
def test_eight_clips_can_be_memorised(name):
    torch.manual_seed(0)
    normalisation = "per-video" if name in ("stallnet", *MAKERS) else "running"
    settings = _settings(name).model_copy(update={"normalisation": normalisation})
    net = build.build(settings).train()
    build.lay_out(net)
    clips, labels = _clips(name, frames=8, size=32), torch.tensor([0.0, 1.0] * 4)
    rates = {"stallnet": 1e-2, "r3d_18": 3e-4, "resnet101_3d": 3e-4} | dict.fromkeys(FOCUSNET, 1e-2)
    rate = rates.get(name, 1e-3)
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for _ in range(120):
        loss = F.binary_cross_entropy_with_logits(build.forward(net, clips), labels)
        if loss < 0.01:
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.01


@pytest.mark.parametrize("name", SLOW_UNLESS_SMALL)
def test_the_channels_last_layout_changes_no_logit(name):
    torch.manual_seed(0)
    net = build.build(_settings(name)).eval().double()
    clips = _clips(name, count=2, frames=9, size=64 if name in DEEP else 32).double()
    with torch.inference_mode():
        expected = build.forward(net, clips)
        build.lay_out(net)
        kernels = [m.weight for m in net.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]
        assert not all(kernel.is_contiguous() for kernel in kernels)
        logits = build.forward(net, clips)
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("name", ["stallnet", "r3d_18", "densenet121_3d", "quarters_resnet18"])
def test_a_net_can_be_copied_and_pickled(name):
    net = build.build(_settings(name)).eval()
    clips = _clips(name, count=1, size=64 if name in DEEP else 32)
    with torch.inference_mode():
        expected = net(clips)
        for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert torch.equal(other(clips), expected)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("name", DEEP)
def test_deep_nets_take_any_number_of_channels(name, channels):
    torch.manual_seed(0)
    net = build.build(_settings(name, channels)).eval()
    frames = 8 if name == "densenet121_3d" else 16
    with torch.inference_mode():
        assert net(torch.rand(1, channels, frames, 64, 64)).shape == (1,)


def test_the_densenet_is_that_of_monai_with_the_published_head():
    from monai.networks.nets.densenet import DenseNet121

    torch.manual_seed(0)
    net = build.build(_settings("densenet121_3d", normalisation="running")).eval()
    head = net.get_submodule("class_layers.out")
    assert [type(layer) for layer in head] == [nn.Linear, nn.Sigmoid, nn.Dropout, nn.Linear]
    assert (head[0].out_features, head[2].p, head[3].out_features) == (512, 0.5, 1)
    theirs = DenseNet121(spatial_dims=3, in_channels=3, out_channels=1).eval()
    theirs.class_layers.out = head
    theirs.load_state_dict(net.state_dict())
    clips = torch.rand(1, 3, 33, 48, 48)
    with torch.inference_mode():
        torch.testing.assert_close(net(clips), theirs(clips)[:, 0])


@pytest.mark.parametrize("frames", [1, 2, 3, 8, 9])
def test_halving_leaves_a_single_frame_and_traces_with_constant_kernels(frames):
    maps = torch.rand(2, 3, frames, 6, 8)
    halved = published.Halve()(maps)
    assert halved.shape == (2, 3, max(frames // 2, 1), 3, 4)
    if frames == 1:
        torch.testing.assert_close(halved[:, :, 0], F.avg_pool2d(maps[:, :, 0], 2))
    else:
        assert torch.equal(halved, F.avg_pool3d(maps, 2))
    torch.testing.assert_close(published._halved_by_constants(maps), halved)


def test_the_smallest_clips_of_the_densenet():
    net = build.build(_settings("densenet121_3d", normalisation="running")).eval()
    with torch.inference_mode():
        net(torch.rand(1, 3, 1, 29, 29))
        with pytest.raises(InputError, match=r"29 px, not 28.*clip\.size"):
            net(torch.rand(1, 3, 16, 28, 40))


def test_clips_too_small_for_normalisation_by_video_are_refused():
    net = build.build(_settings("densenet121_3d")).eval()
    with (
        torch.inference_mode(),
        pytest.raises(InputError, match=r"one value left.*clip\.size.*net\.normalisation"),
    ):
        net(torch.rand(2, 3, 8, 32, 32))


@pytest.mark.parametrize("frames", [4, 17, 18, 20, 23])
def test_quarters_are_those_of_array_split_two_by_two(frames):
    clips = torch.rand(2, 3, frames, 8, 8)
    picture = published._quarters(clips)
    parts = np.array_split(clips.numpy(), 4, axis=2)
    tiles = [picture[..., :8, :8], picture[..., :8, 8:], picture[..., 8:, :8], picture[..., 8:, 8:]]
    for tile, part in zip(tiles, parts, strict=True):
        np.testing.assert_allclose(tile, part.mean(axis=2), atol=1e-6)


def test_quarters_of_grey_clips_are_those_of_three_equal_channels():
    torch.manual_seed(0)
    net = build.build(_settings("quarters_resnet18", 1)).eval()
    clips = torch.rand(2, 1, 9, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(net(clips), net(clips.expand(-1, 3, -1, -1, -1)))
        with pytest.raises(InputError, match=r"4 frames.*3"):
            net(clips[:, :, :3])


def test_grey_and_mask_get_the_frame_difference_between_them():
    torch.manual_seed(0)
    net = build.build(NetSettings(name="mc3_18", mean=(0.2, 0.0), std=(0.2, 1.0))).eval()
    plain = build.build(_settings("mc3_18")).eval()
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
    net = build.build(settings).eval()
    clips = _clips("stallnet", count=2, frames=9, size=24)
    with torch.inference_mode():
        mean = build.score(net, clips, settings)
        for axes in ([2], [3], [4], [2, 4], [2, 3, 4]):
            torch.testing.assert_close(build.score(net, clips.flip(axes), settings), mean)
        assert not torch.allclose(build.score(net, clips, _settings("stallnet")), mean)


@pytest.mark.parametrize(
    "name", ["stallnet", "quarters_resnet18", pytest.param("r3d_18", marks=pytest.mark.slow)]
)
def test_stepped_sums_give_the_same_logits(name):
    """The copy for other runtimes has the same logits, and the net itself is unchanged."""
    torch.manual_seed(0)
    net = build.build(_settings(name)).eval().double()
    clip = _clips(name, count=1).double()
    stepped = norm.with_stepped_norm(net)
    norms = (norm.VideoNorm2d, norm.VideoNorm3d)
    assert all(type(module) not in norms for module in stepped.modules())
    assert any(type(module) in norms for module in net.modules())
    with torch.inference_mode():
        torch.testing.assert_close(stepped(clip), net(clip), atol=1e-9, rtol=0)
