import numpy as np
import pytest
import torch

from stallscan.errors import InputError
from stallscan.nets import features, measures
from stallscan.nets.features import FeatureNet
from stallscan.nets.measures import FEATURES

NAMES = [name for name, _ in FEATURES]
WORDS = dict(FEATURES)
SIZE, FRAMES, PERIOD = 64, 20, 16


def _draw(moving=False, dark=6, width=6, noise=0.0, focus=4.0, upright=False, seed=0):
    """Draw a tube along the rows with a dark body of `dark` px in every 16 px."""
    random = np.random.default_rng(seed)
    rows, cols = np.arange(SIZE)[:, None], np.arange(SIZE)[None, :]
    tube = (abs(rows - 31.5) < width / 2) & (cols >= 4) & (cols < 60)
    inside = (abs(rows - 31.5) < width / 2 + 7) & (cols >= 1) & (cols < 63)
    start, moves = random.integers(PERIOD), random.integers(PERIOD, size=FRAMES)
    frames = []
    for frame in range(FRAMES):
        pattern = np.where((cols + start + moves[frame] * moving) % PERIOD < dark, 0.2, 1.0)
        light = 0.8 * np.exp(-(((frame - 9.5) / focus) ** 2) / 2)
        grey = 0.1 + light * pattern * tube + noise * random.standard_normal((SIZE, SIZE))
        frames.append(np.stack([grey.clip(0, 1), inside]))
    clip = torch.from_numpy(np.stack(frames, axis=1)).float()
    return (clip.transpose(2, 3) if upright else clip)[None]


def _measure(clip):
    return dict(zip(NAMES, measures.compute(clip)[0].tolist(), strict=True))


def test_features_separate_standing_from_moving_cells():
    still, moving = _measure(_draw(noise=0.02)), _measure(_draw(moving=True, noise=0.02))
    for name in ("same_next", "same_second", "same_third", "same_lowest"):
        assert still[name] > 0.9
        assert moving[name] < 0.3
    for name in ("dark_in_all", "dark_stays", "dark_in_mean", "mean_contrast"):
        assert still[name] > moving[name] + 0.2
    for name in ("change", "flicker"):
        assert moving[name] > 3 * still[name]
    assert moving["contrast"] == pytest.approx(still["contrast"], rel=0.15)


@pytest.mark.parametrize("dark", [3, 4, 6])
def test_the_dark_share_is_the_one_drawn(dark):
    still = _measure(_draw(dark=dark))
    assert still["dark_in_all"] == pytest.approx(dark / PERIOD, abs=0.07)
    assert still["dark_in_mean"] == pytest.approx(dark / PERIOD, abs=0.07)
    assert still["dark_stays"] == 1
    assert _measure(_draw(dark=dark, moving=True))["dark_in_all"] == 0


@pytest.mark.parametrize("width", [4, 6, 8, 10])
def test_width_and_length_are_those_of_the_tube(width):
    measured = _measure(_draw(dark=0, width=width))
    assert measured["width"] == pytest.approx(width, abs=1)
    assert measured["length"] == pytest.approx(56, rel=0.15)


def test_width_and_length_of_a_diagonal_tube():
    place = torch.arange(SIZE).float()
    across = (place[:, None] - place[None, :]) / 2**0.5
    along = (place[:, None] + place[None, :]) / 2**0.5 - 44.5
    grey = 0.1 + 0.7 * ((across.abs() < 3) & (along.abs() < 30)).float()
    inside = ((across.abs() < 10) & (along.abs() < 34)).float()
    clip = torch.stack([grey, inside])[None, :, None].expand(-1, -1, 8, -1, -1)
    measured = _measure(clip)
    assert measured["width"] == pytest.approx(6, abs=1)
    assert measured["length"] == pytest.approx(60, rel=0.15)


def test_frames_in_focus_are_those_above_the_share_of_the_peak():
    # exp(-x^2 / 2) is above 0.7 for |x| < 0.845, so 1.69 times the standard deviation in all
    for focus in (2.5, 4.0):
        frames = _measure(_draw(dark=0, focus=focus))["frames_in_focus"]
        assert frames == pytest.approx(1.69 * focus, abs=1.1)


def test_brightness_is_that_above_the_background():
    measured = _measure(_draw(dark=0, focus=100))
    assert np.exp(measured["brightness"]) == pytest.approx(0.8, rel=0.1)
    assert measured["inside_outside"] == pytest.approx(0.8 / 0.9, abs=0.03)
    assert measured["grain"] < _measure(_draw(dark=0, focus=100, noise=0.05))["grain"] - 0.02


def test_a_rotated_clip_has_the_same_features():
    level = measures.compute(_draw(moving=True))
    upright = measures.compute(_draw(moving=True, upright=True))
    torch.testing.assert_close(level, upright, atol=0.02, rtol=0.02)


def test_a_crossing_vessel_is_left_out():
    clip = _draw(moving=True, noise=0.02)
    crossed = clip.clone()
    crossed[:, 0, :, 20:27, :] = 0.9  # along the edge of the region, standing still
    assert abs(_measure(crossed)["same_next"] - _measure(clip)["same_next"]) < 0.15


def test_a_clip_gets_the_same_features_alone_and_in_a_batch():
    clips = torch.cat([_draw(moving=n % 2 == 0, noise=0.05, seed=n) for n in range(5)])
    alone = torch.cat([measures.compute(clip[None]) for clip in clips])
    torch.testing.assert_close(measures.compute(clips), alone, atol=1e-5, rtol=1e-5)


def test_black_frames_at_the_end_change_nothing():
    clip = _draw(moving=True, noise=0.05, focus=8)
    padded = torch.cat([clip, torch.zeros(1, 2, 7, SIZE, SIZE)], dim=2)
    expected = measures.compute(clip)
    torch.testing.assert_close(measures.compute(padded), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 3, 8])
@pytest.mark.parametrize("kind", ["black", "white", "noise", "no mask", "one pixel"])
def test_features_are_finite_for_any_clip(frames, kind):
    clip = torch.rand(1, 2, frames, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    clip[:, 1] = 0.0 if kind in ("no mask", "one pixel") else 1.0
    if kind == "one pixel":
        clip[:, 1, :, 30, 30] = 1
    if kind in ("black", "white"):
        clip[:, 0] = float(kind == "white")
    assert measures.compute(clip).isfinite().all()


def test_other_channels_are_refused():
    with pytest.raises(InputError, match=r"2 channels.*clip\.channels"):
        FeatureNet(3)


def _set(count):
    labels = [row % 2 for row in range(count)]
    clips = [_draw(moving=not label, noise=0.1, seed=n) for n, label in enumerate(labels)]
    return torch.cat(clips), labels


def test_the_fit_separates_an_easy_set_and_explains_it():
    clips, labels = _set(24)
    measured = measures.compute(clips).numpy()
    net = FeatureNet(2)
    features.fit(net, measured, labels, seed=0)
    logits = net(clips)
    assert ((logits > 0) == torch.tensor(labels).bool()).all()
    again = FeatureNet(2)
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(clips), logits)
    torch.testing.assert_close(net.score(torch.from_numpy(measured)), logits)
    assert features.explain(net, measured[1]).startswith("called stalled ")
    assert features.explain(net, measured[0]).startswith("called flowing ")


def test_a_stalled_clip_that_counts_more_gets_a_higher_logit():
    random = np.random.default_rng(0)
    measured = random.standard_normal((60, len(FEATURES))).astype(np.float32)
    labels = [0] * 45 + [1] * 15
    biases = []
    for weight in (1.0, None, 10.0):
        net = FeatureNet(2)
        features.fit(net, measured, labels, seed=0, stalled_weight=weight)
        biases.append(net.fc.bias.item())
    assert biases == sorted(biases)
    assert biases[0] < biases[2] - 1


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((4, len(FEATURES)), [0, 0, 0, 1], "3 and 1"),
        ((4, 3), [0, 0, 1, 1], "4 labels"),
        ((5, len(FEATURES)), [0, 0, 1, 1], "4 labels"),
    ],
)
def test_what_cannot_be_fitted_is_refused(shape, labels, message):
    with pytest.raises(InputError, match=message):
        features.fit(FeatureNet(2), np.zeros(shape, np.float32), labels, seed=0)


def _net_with(**weights):
    net = FeatureNet(2)
    with torch.no_grad():
        net.fc.weight.zero_()
        net.fc.bias.zero_()
        for name, weight in weights.items():
            net.fc.weight[0, NAMES.index(name)] = weight
        net.middle[NAMES.index("dark_in_all")] = 0.2
        net.middle[NAMES.index("same_next")] = 0.45
        net.spread[:] = 0.1
    return net


def _values(**values):
    row = np.zeros(len(FEATURES), np.float32)
    for name, value in values.items():
        row[NAMES.index(name)] = value
    return row


def test_explain_names_the_largest_contributions():
    net = _net_with(dark_in_all=1.0, same_next=0.8, flicker=-0.1)
    sentence = features.explain(net, _values(dark_in_all=0.62, same_next=0.91))
    assert sentence.startswith("called stalled ")
    assert f"{WORDS['dark_in_all']} is 62% (usual: 20%)" in sentence
    assert f"{WORDS['same_next']} is 0.91 (usual: 0.45)" in sentence
    assert WORDS["flicker"] not in sentence


def test_explain_omits_a_weak_second_reason():
    sentence = features.explain(_net_with(same_next=1.0), _values(same_next=0.05))
    assert sentence.startswith("called flowing ")
    assert sentence.endswith(f"{WORDS['same_next']} is 0.05 (usual: 0.45)")


def test_explain_follows_the_call_of_another_threshold():
    net, row = _net_with(dark_in_all=1.0, same_next=1.0), _values(dark_in_all=0.3, same_next=0.2)
    called = features.explain(net, row)
    assert called.startswith("called flowing ")
    assert WORDS["same_next"] in called
    other = features.explain(net, row, stalled=True)
    assert other.startswith("called stalled ")
    assert WORDS["dark_in_all"] in other
    row = _values(dark_in_all=0.1, same_next=0.2)
    # No feature contributes to stalled.
    assert features.explain(net, row, stalled=True).startswith("called stalled although ")


def test_explain_writes_brightness_as_a_share_of_white():
    row = _values(brightness=np.log(0.25), dark_in_all=0.2, same_next=0.45)
    assert "is 25% of white" in features.explain(_net_with(brightness=-1.0), row, stalled=True)
