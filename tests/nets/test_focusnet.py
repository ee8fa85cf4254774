import copy
import functools
import warnings

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from stallscan.nets import build, focusnet
from stallscan.nets.settings import NetSettings

SETTINGS = NetSettings(name="focusnet", normalisation="running", mean=(0.0, 0.0), std=(1.0, 1.0))
SIZE = 40
FRAMES = 24


@functools.cache
def _fitted():
    """Build a net whose running statistics are those of some clips."""
    torch.manual_seed(0)
    net = build.build(SETTINGS)
    clips = torch.cat([_clip(seed) for seed in range(4)])
    with torch.no_grad():
        for _ in range(20):
            net(clips)
    return net.eval()


def _net():
    return copy.deepcopy(_fitted())


def _mask():
    mask = torch.zeros(SIZE, SIZE)
    mask[8:32, 12:28] = 1
    mask[7, 12:28], mask[8:32, 28] = 0.3, 0.8  # as resizing leaves its edge
    return mask


def _clip(seed=0, frames=60, sharp=(20, 32)):
    """Make a clip, (1, 2, T, S, S), with structure in some frames and little noise in all."""
    rng = np.random.default_rng(seed)
    grey = 0.3 + 0.01 * rng.standard_normal((frames, SIZE, SIZE))
    columns = np.arange(SIZE)
    for frame in range(*sharp):
        grey[frame] += 0.15 * np.sin(columns + rng.uniform(0, 2 * np.pi))
    clip = torch.from_numpy(grey.astype(np.float32)).clamp(0, 1)
    return torch.stack([clip, _mask().expand_as(clip)])[None]


def _in_focus(clip):
    length = torch.full((len(clip),), clip.shape[2])
    return focusnet.in_focus(clip[:, 0], (clip[:, 1, :1] >= 0.5).float(), length, FRAMES)


def _logit(net, clip):
    with torch.inference_mode():
        return float(build.forward(net, clip)[0])


@pytest.mark.parametrize("sharp", [(0, 10), (20, 32), (50, 60), (36, 60)])
def test_the_frames_in_focus_are_taken(sharp):
    clip = _clip(sharp=sharp)
    clip[0, 0] += torch.arange(60)[:, None, None] / 1e3  # tells frames from each other
    grey, shown = _in_focus(clip)
    assert shown.all()
    inside = _mask() >= 0.5
    wanted = [torch.nonzero((clip[0, 0][:, inside] == each[inside]).all(1)) for each in grey[0]]
    taken = torch.cat(wanted)[:, 0].tolist()
    assert taken == list(range(taken[0], taken[0] + FRAMES))
    assert set(range(*sharp)) <= set(taken)


def test_frames_out_of_focus_do_not_matter():
    net, clip = _net(), _clip()
    expected = _logit(net, clip)
    taken, _ = _in_focus(clip)
    inside = _mask() >= 0.5
    first = next(
        row for row in range(60) if torch.equal(clip[0, 0, row][inside], taken[0, 0][inside])
    )
    other = clip.clone()
    other[:, 0, :first] = 0.3
    other[:, 0, first + FRAMES :] = 0.3
    assert _logit(net, other) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("frames", [12, 24, 60])
def test_frames_appended_to_a_shorter_clip_of_a_batch_do_not_matter(frames):
    net, clip = _net(), _clip(frames=frames, sharp=(frames - 10, frames))
    expected = _logit(net, clip)
    padded = torch.cat([clip, torch.zeros(1, 2, 30, SIZE, SIZE)], dim=2)
    assert _logit(net, padded) == pytest.approx(expected, abs=1e-5)
    longer = _clip(seed=1, frames=frames + 30)
    assert _logit(net, torch.cat([padded, longer])) == pytest.approx(expected, abs=1e-5)


def test_neither_gain_nor_surround_matter():
    net, clip = _net(), _clip()
    expected = _logit(net, clip)
    darker = clip.clone()
    darker[:, 0] = darker[:, 0] * 0.6 + 0.15
    assert _logit(net, darker) == pytest.approx(expected, abs=2e-4)
    still = clip.clone()
    still[:, 0] = still[:, 0, 25:26]
    assert abs(_logit(net, still) - expected) > 2e-3
    black, noise = clip.clone(), clip.clone()
    outside = _mask() < 0.5
    black[0, 0, :, outside] = 0
    noise[0, 0, :, outside] = torch.rand(60, int(outside.sum()))
    for changed in (black, noise):
        assert _logit(net, changed) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 10, 23])
def test_short_clips_are_filled_up_with_frames_that_do_not_count(frames):
    clip = _clip()[:, :, 15 : 15 + frames]
    grey, shown = _in_focus(clip)
    assert grey.shape == (1, FRAMES, SIZE, SIZE)
    assert shown[0].tolist() == [1.0] * frames + [0.0] * (FRAMES - frames)
    assert np.isfinite(_logit(_net(), clip))


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_an_even_clip_and_one_without_a_mask_have_a_logit(level):
    net, clip = _net(), _clip()
    clip[:, 0] = level
    assert np.isfinite(_logit(net, clip))
    clip[:, 1] = 0
    assert np.isfinite(_logit(net, clip))


def test_windows_are_averaged_and_what_lies_outside_the_image_is_black():
    images = torch.zeros(1, 2, 6, 6)
    images[0, 0, 2, 3] = 9.0
    images[0, 1] = 1.0
    averaged = focusnet._box(images, 3)
    expected = torch.zeros(6, 6)
    expected[1:4, 2:5] = 1.0
    torch.testing.assert_close(averaged[0, 0], expected)
    assert averaged[0, 1, 2, 2] == pytest.approx(1)
    assert averaged[0, 1, 0, 2] == pytest.approx(2 / 3)
    assert averaged[0, 1, 5, 5] == pytest.approx(4 / 9)


def test_the_second_net_looks_at_more_frames_with_the_same_weights():
    first = _net()
    second = build.build(SETTINGS.model_copy(update={"name": "focusnet40"})).eval()
    second.load_state_dict(first.state_dict())
    short = _clip(frames=12, sharp=(2, 10))  # both take all of its frames
    assert _logit(second, short) == pytest.approx(_logit(first, short), abs=1e-5)
    long = _clip(frames=60, sharp=(10, 50))
    assert abs(_logit(second, long) - _logit(first, long)) > 1e-3


def test_its_exported_form_has_the_same_logits():
    net = _net()
    clips = torch.cat([_clip(seed) for seed in range(3)])
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated; OpenVINO's converter needs it
        traced = torch.jit.trace(net, clips[:1])
        torch.testing.assert_close(traced(clips[1:2]), net(clips[1:2]), atol=1e-5, rtol=0)


def test_half_precision_does_not_round_what_the_blocks_see():
    net, clip = _net(), _clip()
    seen = []
    net.blocks[0].register_forward_pre_hook(lambda _block, inputs: seen.append(inputs[0]))
    _logit(net, clip)
    with torch.autocast("cpu", torch.bfloat16):
        _logit(net, clip)
    assert torch.equal(*seen)


@pytest.mark.parametrize("name", ["focusnet", "focusnet40"])
def test_it_is_small_and_within_its_budget(name):
    from torch.utils.flop_counter import FlopCounterMode

    net = build.build(SETTINGS.model_copy(update={"name": name})).eval()
    assert sum(weights.numel() for weights in net.parameters()) < 100_000
    clip = torch.rand(1, 2, 56, 64, 64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(clip)
    assert counter.get_total_flops() < 4e9


@pytest.mark.parametrize(
    "changes", [{"normalisation": "per-video"}, {"mean": (0.2, 0.0)}, {"std": (0.2, 1.0)}]
)
def test_scales_that_it_would_not_expect_are_refused(changes):
    with pytest.raises(ValidationError, match="scales its input itself"):
        NetSettings(**(SETTINGS.model_dump() | changes))
