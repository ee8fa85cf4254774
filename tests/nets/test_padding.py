import copy

import pytest
import torch
from torch import nn

from stallscan.errors import InputError
from stallscan.nets import build, padding
from stallscan.nets.settings import NetSettings

CHANNELS = {"stallnet": 2, "resnet101_3d": 1}
PADDED = [name for name in build.NETS if name != "features"]


def _settings(name, normalisation):
    channels = CHANNELS.get(name, 3)
    means = (0.4,) * channels
    return NetSettings(name=name, normalisation=normalisation, mean=means, std=means)


def _clips(name, frames, size=32):
    """Clips of so many frames, padded to the longest with what must not be seen."""
    clips = torch.rand(len(frames), CHANNELS.get(name, 3), max(frames), size, size)
    if name == "stallnet":
        clips[:, 1] = (clips[:, 1, :1] > 0.5).float()
    for clip, count in zip(clips, frames, strict=True):
        clip[:, count:] = 7.0
    return clips


def _build(name, normalisation, frames):
    """Make a net whose running statistics are those of some clips, as after training."""
    torch.manual_seed(1)
    net = build.build(_settings(name, normalisation))
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.BatchNorm3d | nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.inference_mode():
        build.forward(net.train(), *frames)
    return net


def _alone(net, clips, frames):
    return torch.cat([net(c[None, :, :n]) for c, n in zip(clips, frames.tolist(), strict=True)])


DEEP = ("densenet121_3d", "resnet101_3d")
# Of the clips of a batch; float64 allows so few. In the nets of 18 layers they end as 2, 2 and 1.
FRAMES = (12, 9, 5)
# float64 is slow on a processor: the small nets stand for the others where time is short.
SLOW_UNLESS_SMALL = [
    pytest.param(name, marks=() if name in ("stallnet", "quarters_resnet18") else pytest.mark.slow)
    for name in PADDED
]


def _size(name):
    # Deep nets need a larger picture for more than one value to be left to normalise.
    return 64 if name in DEEP else 32


@pytest.mark.parametrize("normalisation", ["per-video", "running"])
@pytest.mark.parametrize("name", SLOW_UNLESS_SMALL)
def test_a_padded_clip_gets_the_logit_it_has_alone(name, normalisation):
    frames = torch.tensor(FRAMES)
    clips = _clips(name, frames.tolist(), _size(name))
    net = _build(name, normalisation, (clips, frames)).eval().double()
    clips = clips.double()
    with torch.inference_mode():
        alone = _alone(net, clips, frames)
        together = build.forward(net, clips, frames)
        unmasked = net(clips)
    torch.testing.assert_close(together, alone, atol=1e-9, rtol=0)
    # The 7s do matter where they are seen, so their absence is no accident.
    assert (unmasked - alone)[1:].abs().min() > 1e-4
    torch.testing.assert_close(unmasked[0], alone[0], atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("normalisation", "training"),
    [
        ("per-video", False),
        pytest.param("per-video", True, marks=pytest.mark.slow),
        ("running", False),
    ],
)
@pytest.mark.parametrize("name", PADDED)
@pytest.mark.slow
def test_so_it_does_within_the_rounding_of_float32(name, normalisation, training):
    # With fewer frames there are so few values to normalise by that the rounding grows.
    frames = torch.tensor([24, 19, 17])
    clips = _clips(name, frames.tolist(), _size(name))
    net = _build(name, normalisation, (clips, frames)).train(training)
    with torch.inference_mode():
        alone = _alone(net, clips, frames)
        together = build.forward(net, clips, frames)
    # The rounding of 101 layers makes as much when clips of equal length share a batch.
    tolerance = 3e-4 if name == "resnet101_3d" else 1e-5
    torch.testing.assert_close(together, alone, atol=tolerance, rtol=0)


@pytest.mark.parametrize("frames", [(40, 17, 1), (9, 2, 3), (33, 32, 29)])
@pytest.mark.slow
def test_densenet_at_lengths_that_halve_to_nothing(frames):
    lengths = torch.tensor(frames)
    clips = _clips("densenet121_3d", frames, 64)
    net = _build("densenet121_3d", "running", (clips, lengths)).eval()
    with torch.inference_mode():
        alone = _alone(net, clips, lengths)
        together = build.forward(net, clips, lengths)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_batchnorm_in_training_takes_its_statistics_from_valid_frames(layout):
    torch.manual_seed(2)
    norm = padding.prepare(nn.BatchNorm3d(3))
    theirs = nn.BatchNorm3d(3)
    maps = torch.randn(2, 3, 5, 4, 4).to(memory_format=layout)
    maps[1, :, 2:] = 100.0
    maps.requires_grad_()
    with padding.padded(torch.tensor([5, 2]), 5):
        normal = norm(maps)
    valid = torch.cat([maps[0], maps[1, :, :2]], dim=1)[None].detach().requires_grad_()
    expected = theirs(valid)[0]
    torch.testing.assert_close(torch.cat([normal[0], normal[1, :, :2]], dim=1), expected)
    for mine, other in zip(norm.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine, other)
    assert not normal[1, :, 2:].any()
    (normal**3).sum().backward()
    (expected**3).sum().backward()
    torch.testing.assert_close(
        torch.cat([maps.grad[0], maps.grad[1, :, :2]], dim=1), valid.grad[0], atol=1e-4, rtol=1e-4
    )
    assert not maps.grad[1, :, 2:].any()


@pytest.mark.parametrize("name", SLOW_UNLESS_SMALL)
def test_gradients_are_those_of_the_clips_alone(name):
    frames = torch.tensor(FRAMES[1:])
    clips = _clips(name, frames.tolist(), _size(name))
    net = _build(name, "running", (clips, frames)).eval().double()
    clips = clips.double()
    other = copy.deepcopy(net)
    build.forward(net, clips, frames).sum().backward()
    _alone(other, clips, frames).sum().backward()
    for mine, theirs in zip(net.parameters(), other.parameters(), strict=True):
        scale = float(theirs.grad.abs().max()) + 1e-6
        torch.testing.assert_close(mine.grad / scale, theirs.grad / scale, atol=1e-7, rtol=0)


@pytest.mark.parametrize("normalisation", ["per-video", "running"])
@pytest.mark.slow
def test_padded_clips_train_in_bfloat16(normalisation):
    torch.manual_seed(0)
    net = build.build(_settings("r3d_18", normalisation)).train()
    net = net.to(memory_format=torch.channels_last_3d)
    clips = _clips("r3d_18", (8, 3)).to(memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = build.forward(net, clips, torch.tensor([8, 3]))
    logits.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


def test_without_padding_the_layers_are_those_of_torch():
    torch.manual_seed(3)
    plain = nn.Sequential(nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4), nn.MaxPool3d(2))
    prepared = padding.prepare(copy.deepcopy(plain))
    clips = torch.rand(2, 2, 8, 8, 8)
    expected = plain(clips)
    for frames in (None, torch.tensor([8, 8])):
        with padding.padded(frames, 8):
            assert padding.counts(8) is None
            assert torch.equal(prepared(clips), expected)


@pytest.mark.parametrize("kernel", [1, 2, 3, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("layer", [nn.Conv3d, nn.MaxPool3d])
def test_a_layers_valid_frames_are_as_many_as_it_makes_alone(layer, kernel, stride, dilation):
    if layer is nn.Conv3d:
        shape = {"in_channels": 1, "out_channels": 2, "padding": kernel // 2}
    else:
        shape = {"padding": kernel // 2 if dilation == 1 else 0}
    plain = layer(**shape, kernel_size=kernel, stride=stride, dilation=dilation)
    net = padding.prepare(plain).double()
    clips = torch.rand(12, 1, 26, 14, 14, dtype=torch.float64)
    frames = torch.arange(15, 27)
    with padding.padded(frames, 26):
        together = net(clips)
        valid = padding.counts(together.shape[2])
    for count, clip, maps, left in zip(frames.tolist(), clips, together, valid, strict=True):
        alone = net(clip[None, :, :count])[0]
        assert alone.shape[1] == left
        torch.testing.assert_close(maps[:, :left], alone)


def test_what_is_behind_the_end_is_filled_and_pooled_over_no_more():
    maps = torch.arange(8.0).reshape(2, 1, 4)
    with padding.padded(torch.tensor([4, 1]), 4):
        assert padding.mean_over_time(maps).tolist() == [[1.5], [4.0]]
        assert padding.max_over_time(-maps).tolist() == [[0.0], [-4.0]]
        filled = padding.fill(maps[..., None, None], -1.0)
    assert filled.flatten().tolist() == [0, 1, 2, 3, 4, -1, -1, -1]


@pytest.mark.parametrize("frames", [(0, 4), (5, 4), (-1, 4)])
def test_impossible_numbers_of_frames_are_refused(frames):
    with (
        pytest.raises(ValueError, match="valid frames must be from 1 to 4"),
        padding.padded(torch.tensor(frames), 4),
    ):
        pass


def test_a_clip_shorter_than_a_kernel_is_refused():
    net = padding.prepare(nn.Conv3d(1, 1, 3))
    with (
        padding.padded(torch.tensor([8, 2]), 8),
        pytest.raises(InputError, match="a clip of 2 frames is too short"),
    ):
        net(torch.rand(2, 1, 8, 4, 4))


def test_layers_that_are_not_known_are_refused():
    for layer in (nn.ConvTranspose3d(1, 1, 3), nn.AvgPool3d(2), nn.GroupNorm(1, 4)):
        with pytest.raises(TypeError, match="is not known to leave out padded frames"):
            padding.prepare(nn.Sequential(layer))


def test_maps_of_equal_length_and_other_valid_frames_are_noticed():
    # 8 frames become 4 by either, 5 become 3 by the one and 2 by the other.
    up, down = nn.Conv3d(1, 1, 1, stride=2), nn.Conv3d(1, 1, 2, stride=2)
    for net in (up, down):
        padding.prepare(net)
    clips = torch.rand(2, 1, 8, 8, 8)
    with padding.padded(torch.tensor([8, 5]), 8):
        up(clips)
        with pytest.raises(RuntimeError, match="feature maps of 4 frames"):
            down(clips)


def test_padding_is_forgotten_after_an_error():
    with pytest.raises(KeyError), padding.padded(torch.tensor([2, 4]), 4):
        raise KeyError
    assert padding.counts(4) is None
