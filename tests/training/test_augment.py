"""Augmentation: how often, how strong and in which order clips are changed."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stallscan.recipes.settings import AugmentSettings
from stallscan.training import augment

# Geometric changes that all frames share, each strong enough to be visible
SHARED = {
    "rotate": {"rotate": 1},
    "flip": {"flip": 1},
    "tilt": {"tilt": 1, "tilt_degrees": 40},
    "rescale": {"rescale": 1, "rescale_share": 0.3},
    "shift": {"shift": 1, "shift_share": 0.15},
    "crop": {"crop": 1, "crop_share": 0.3},
    "elastic": {"elastic": 1, "elastic_px": 4},
}
ALL = {
    **{key: value for change in SHARED.values() for key, value in change.items()},
    **{"reverse": 1, "drop": 1, "drop_share": 0.5, "jitter": 1, "jitter_px": 3},
    **{"brightness": 1, "gamma": 1, "blur": 2, "noise": 0.1},
}


def _only(**changes):
    return AugmentSettings(**{"rotate": 0, "flip": 0, **changes})


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _disc(frames=3, size=64, row=24, col=38, radius=9, channels=2):
    rows, cols = np.mgrid[:size, :size]
    inside = (rows - row) ** 2 + (cols - col) ** 2 <= radius**2
    frame = torch.from_numpy(np.where(inside, np.uint8(255), np.uint8(0)))  # (S, S)
    return frame[None, ..., None].repeat(frames, 1, 1, channels)


def _flat(level, frames=1, size=32, channels=1):
    return torch.full((frames, size, size, channels), level, dtype=torch.uint8)


def _centre(picture):
    """Compute the centre of mass of each frame of (T, S, S): (T, 2), row before column."""
    weight = picture.double()
    centres = torch.arange(picture.shape[-1], dtype=torch.double) + 0.5
    total = weight.sum((1, 2))
    return torch.stack([(weight.sum(2) @ centres) / total, (weight.sum(1) @ centres) / total], -1)


def _many(clip, changes, count=200):
    generator = _seeded(1)
    return [augment.apply(clip, changes, generator) for _ in range(count)]


def _within(hits, count, share):
    """Return whether a count is within 4 standard deviations of a binomial share."""
    return abs(hits - count * share) <= 4 * math.sqrt(count * share * (1 - share))


@pytest.mark.parametrize("change", ["rotate", "flip"])
def test_rotations_and_flips_are_as_frequent_as_published(change):
    clip = torch.tensor([[0, 1], [2, 3]], dtype=torch.uint8)[None, ..., None]
    changed = {
        "rotate": [torch.rot90(clip, turns, dims=(1, 2)) for turns in (1, 2, 3)],
        "flip": [torch.flip(clip, dims=dims) for dims in ((1,), (2,), (1, 2))],
    }[change]
    published = AugmentSettings()
    only = _only(**{change: getattr(published, change)})
    augmented = _many(clip, only, 10_000)
    counts = [sum(torch.equal(result, kind) for result in augmented) for kind in changed]
    assert _within(sum(counts), 10_000, 0.25)
    assert all(_within(count, 10_000, 0.25 / 3) for count in counts)
    assert sum(torch.equal(result, clip) for result in augmented) == 10_000 - sum(counts)


def test_rotations_and_flips_are_drawn_independently():
    clip = torch.arange(9, dtype=torch.uint8).view(1, 3, 3, 1)
    augmented = _many(clip, AugmentSettings(), 10_000)
    # Unchanged: neither of them, or a turn by 180 degrees and both flips, which cancel out.
    undone = 0.75**2 + (0.25 / 3) ** 2
    assert _within(sum(torch.equal(result, clip) for result in augmented), 10_000, undone)


def test_rotate_flip_and_reverse_take_the_first_draws_in_this_order():
    clip = torch.arange(4 * 9, dtype=torch.uint8).view(4, 3, 3, 1)
    for seed in range(50):
        generator = _seeded(seed)
        expected = clip
        if torch.rand((), generator=generator) < 0.5:
            turns = 1 + int(torch.randint(3, (), generator=generator))
            expected = torch.rot90(expected, turns, dims=(1, 2))
        if torch.rand((), generator=generator) < 0.5:
            dims = ((1,), (2,), (1, 2))[int(torch.randint(3, (), generator=generator))]
            expected = torch.flip(expected, dims=dims)
        if torch.rand((), generator=generator) < 0.5:
            expected = torch.flip(expected, dims=(0,))
        changes = AugmentSettings(rotate=0.5, flip=0.5, reverse=0.5)
        assert torch.equal(augment.apply(clip, changes, _seeded(seed)), expected)


@pytest.mark.parametrize(
    "name", ["reverse", "tilt", "rescale", "shift", "crop", "elastic", "drop", "jitter", "levels"]
)
def test_each_change_is_as_frequent_as_its_chance(name):
    clip = torch.randint(0, 256, (16, 16, 16, 1), dtype=torch.uint8, generator=_seeded())
    changes = _only(**{name: 0.3, "noise": 0.2 if name == "levels" else 0})
    augmented = _many(clip, changes, 400)
    assert _within(sum(not torch.equal(result, clip) for result in augmented), 400, 0.3)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_nothing_changes_with_all_chances_0(channels):
    clip = torch.randint(0, 256, (9, 16, 16, channels), dtype=torch.uint8, generator=_seeded())
    for augmented in _many(clip, _only(), 20):
        assert torch.equal(augmented, clip)
    without_levels = _only(levels=0, brightness=1, gamma=1, blur=3, noise=0.3)
    for augmented in _many(clip, without_levels, 20):
        assert torch.equal(augmented, clip)


@pytest.mark.parametrize(
    "changes",
    [
        {"tilt": 1, "tilt_degrees": 0},
        {"rescale": 1, "rescale_share": 0},
        {"shift": 1, "shift_share": 0},
        {"crop": 1, "crop_share": 0},
        {"elastic": 1, "elastic_px": 0},
        {"drop": 1, "drop_share": 0},
        {"jitter": 1, "jitter_px": 0},
    ],
)
def test_nothing_changes_with_a_strength_of_0(changes):
    clip = torch.randint(0, 256, (17, 20, 20, 2), dtype=torch.uint8, generator=_seeded())
    clip[..., 1] = torch.where(clip[..., 1] > 127, 255, 0)
    assert torch.equal(augment.apply(clip, _only(**changes), _seeded()), clip)


def test_the_same_generator_state_gives_the_same_clip():
    clip = torch.randint(0, 256, (20, 24, 24, 3), dtype=torch.uint8, generator=_seeded())
    kept = clip.clone()
    everything = AugmentSettings(**ALL)
    torch.manual_seed(1)
    first = augment.apply(clip, everything, _seeded(5))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(augment.apply(clip, everything, _seeded(5)), first)
    assert torch.equal(torch.get_rng_state(), state)
    other = augment.apply(clip, everything, _seeded(6))
    assert other.shape != first.shape or not torch.equal(other, first)
    assert torch.equal(clip, kept)


def test_the_number_of_threads_changes_nothing():
    # Workers have result thread and the main process has all; both must make the same batches.
    clip = torch.randint(0, 256, (20, 112, 112, 3), dtype=torch.uint8, generator=_seeded())
    before = torch.get_num_threads()
    augmented = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            augmented.append(_many(clip, AugmentSettings(**ALL), 5))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, other) for result, other in zip(*augmented, strict=True))


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_identical_frames_stay_identical(channels):
    frame = torch.randint(0, 256, (1, 24, 24, channels), dtype=torch.uint8, generator=_seeded())
    clip = frame.repeat(20, 1, 1, 1)
    changes = AugmentSettings(**{**ALL, "jitter": 0, "noise": 0})
    for augmented in _many(clip, changes, 20):
        assert (augmented == augmented[:1]).all()
    for change in ({"jitter": 1}, {"noise": 0.2}):
        augmented = augment.apply(clip, _only(**change), _seeded())[..., 0]
        assert len(torch.unique(augmented.flatten(1), dim=0)) == 20


@pytest.mark.parametrize("name", [*SHARED, "all"])
def test_masks_stay_binary_and_follow_the_picture(name):
    clip = _disc()
    changes = {key: value for change in SHARED.values() for key, value in change.items()}
    moved = 0
    for augmented in _many(clip, _only(**SHARED.get(name, changes)), 40):
        assert set(augmented[..., 1].unique().tolist()) == {0, 255}
        # Apart from rounding of positions, the mask is where the image is brighter than half.
        picture, mask = augmented[..., 0] > 127, augmented[..., 1] > 0
        assert (picture & mask).sum() / (picture | mask).sum() > 0.9
        moved += not torch.equal(augmented[..., 1], clip[..., 1])
    assert moved >= 30  # some are drawn too weak for the mask to change


@pytest.mark.parametrize("changes", [{"jitter": 1, "jitter_px": 4}, {"gamma": 1, "blur": 3}])
def test_masks_ignore_jitter_and_levels(changes):
    clip = _disc(frames=12)
    augmented = augment.apply(clip, _only(**changes, noise=0.1, brightness=0.5), _seeded())
    assert torch.equal(augmented[..., 1], clip[..., 1])
    assert not torch.equal(augmented[..., 0], clip[..., 0])


def test_a_mask_may_differ_between_frames():
    clip = torch.cat([_disc(2, row=20), _disc(2, row=44)])
    augmented = augment.apply(clip, _only(**SHARED["tilt"]), _seeded())
    picture, mask = augmented[..., 0] > 127, augmented[..., 1] > 0
    assert ((picture & mask).sum((1, 2)) / (picture | mask).sum((1, 2)) > 0.9).all()


def test_tilt_turns_about_the_middle_by_up_to_the_angle():
    clip = _disc(frames=1, channels=1, radius=6)
    start = _centre(clip[..., 0])[0] - 32
    turned = []
    for augmented in _many(clip, _only(tilt=1, tilt_degrees=20)):
        now = _centre(augmented[..., 0])[0] - 32
        assert abs(now.norm() - start.norm()) < 0.05
        angle = torch.atan2(now[0], now[1]) - torch.atan2(start[0], start[1])
        turned.append(math.degrees(angle))
        assert abs(augmented.sum() / clip.sum() - 1) < 0.03
    assert -20.5 < min(turned) < -18
    assert 18 < max(turned) < 20.5
    assert abs(np.mean(turned)) < 3


def test_rescale_changes_the_size_by_up_to_the_share():
    clip = _disc(frames=1, channels=1, row=31.5, col=31.5, radius=16)
    sizes = [
        math.sqrt((augmented > 127).sum() / (clip > 127).sum())
        for augmented in _many(clip, _only(rescale=1, rescale_share=0.2))
    ]
    assert 0.78 < min(sizes) < 0.83
    assert 1.17 < max(sizes) < 1.22


def test_shift_moves_rows_and_columns_by_up_to_the_share():
    clip = _disc(frames=1, channels=1)
    augmented = _many(clip, _only(shift=1, shift_share=0.1))
    moved = torch.cat([_centre(result[..., 0]) for result in augmented]) - _centre(clip[..., 0])
    assert moved.abs().max() < 6.5
    assert (moved.amin(0) < -5.5).all()
    assert (moved.amax(0) > 5.5).all()
    assert abs(np.corrcoef(moved.T)[0, 1]) < 0.25


def test_pixels_from_outside_the_image_are_black():
    black = [
        augmented.unique().tolist()
        for augmented in _many(_flat(200), _only(shift=1, shift_share=0.3), 20)
    ]
    assert all(levels == [0, 200] for levels in black)


def test_crop_enlarges_and_brings_in_no_black():
    size, period = 64, 4
    stripes = (torch.arange(size) // period % 2 * 255).to(torch.uint8)
    clip = stripes[None, None, :, None].expand(1, size, size, 1)
    edges = []
    for augmented in _many(clip, _only(crop=1, crop_share=0.25)):
        row = augmented[0, 10, :, 0] > 127
        edges.append(int((row[1:] != row[:-1]).sum()))
    # 16 stripes; three quarters of them are 12
    assert min(edges) in (11, 12)
    assert max(edges) == 15
    assert all(
        (augmented == 200).all()
        for augmented in _many(_flat(200), _only(crop=1, crop_share=0.5), 20)
    )


def test_elastic_displaces_smoothly_and_by_the_deviation():
    # A ramp along the columns: one level per third of a pixel
    clip = (30 + 3 * torch.arange(64)).to(torch.uint8).expand(1, 64, 64)[..., None]
    inner = (slice(None), slice(12, -12), slice(12, -12), 0)
    moved = torch.stack(
        [
            (augmented[inner].float() - clip[inner].float()) / 3
            for augmented in _many(clip, _only(elastic=1, elastic_px=3), 300)
        ]
    )
    # A strength drawn uniformly from 0 to 3 px has a mean square of 3.
    assert abs(moved.square().mean().sqrt() / math.sqrt(3) - 1) < 0.1
    assert abs(moved.mean()) < 0.15
    steps = (moved[..., 1:] - moved[..., :-1]).square().mean().sqrt()
    assert steps < 0.15 * moved.square().mean().sqrt() + 0.15
    assert moved[0, 0].std() > 0.05


def test_drop_removes_up_to_its_share_and_keeps_the_order():
    clip = torch.arange(60, dtype=torch.uint8).view(60, 1, 1, 1).expand(60, 8, 8, 1)
    kept = [
        augmented[:, 0, 0, 0].tolist()
        for augmented in _many(clip, _only(drop=1, drop_share=0.1), 600)
    ]
    assert {60 - len(frames) for frames in kept} == {1, 2, 3, 4, 5, 6}
    assert all(frames == sorted(set(frames)) for frames in kept)
    missing = [frame for frames in kept for frame in set(range(60)) - set(frames)]
    assert np.bincount(missing, minlength=60).min() > 10


@pytest.mark.parametrize(("frames", "fewest"), [(20, 8), (9, 8), (8, 8), (5, 5), (1, 1)])
def test_drop_leaves_eight_frames(frames, fewest):
    clip = torch.zeros((frames, 8, 8, 1), dtype=torch.uint8)
    augmented = [len(result) for result in _many(clip, _only(drop=1, drop_share=0.95))]
    assert min(augmented) == fewest


def test_jitter_moves_each_frame_by_itself_and_repeats_the_edge():
    clip = _disc(frames=40, channels=1)
    furthest = 0.0
    for augmented in _many(clip, _only(jitter=1, jitter_px=2), 30):
        moved = _centre(augmented[..., 0]) - _centre(clip[..., 0])
        assert moved.abs().max() < 2.05
        assert moved.std(0).min() > 0
        furthest = max(furthest, float(moved.abs().max()))
    assert furthest > 1.7
    white = augment.apply(_flat(200, frames=9), _only(jitter=1, jitter_px=3), _seeded())
    assert (white == 200).all()


def test_jitter_in_a_tilted_clip_does_not_move_the_black_corners():
    changes = _only(jitter=1, jitter_px=3, tilt=1, tilt_degrees=30)
    augmented = augment.apply(_flat(200, frames=9), changes, _seeded())
    assert augmented.unique().tolist() == [0, 200]
    assert (augmented == augmented[:1]).all()


def test_brightness_multiplies_or_divides():
    augmented = torch.cat(
        [result.unique() for result in _many(_flat(90), _only(brightness=0.5))]
    ).int()
    assert 60 <= augmented.min() < 63
    assert 131 < augmented.max() <= 135


def test_gamma_keeps_black_and_white():
    clip = torch.tensor([0, 64, 255], dtype=torch.uint8).expand(1, 3, 3)[..., None]
    augmented = torch.stack([result[0, 0, :, 0] for result in _many(clip, _only(gamma=0.5))]).int()
    assert (augmented[:, 0] == 0).all()
    assert (augmented[:, 2] == 255).all()
    lowest, highest = 255 * (64 / 255) ** 1.5, 255 * (64 / 255) ** (1 / 1.5)
    assert lowest - 1 < augmented[:, 1].min() < lowest + 2
    assert highest - 3 < augmented[:, 1].max() < highest + 1


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_blur_flattens_and_keeps_the_mean(channels):
    clip = torch.randint(0, 256, (3, 48, 48, channels), dtype=torch.uint8, generator=_seeded())

    def gradient(pixels):
        return float(pixels[..., 0].float().diff(dim=1).abs().mean())

    gradients = []
    for augmented in _many(clip, _only(blur=3), 30):
        gradients.append(gradient(augmented) / gradient(clip))
        assert abs(augmented[..., 0].float().mean() - clip[..., 0].float().mean()) < 2
    assert min(gradients) < 0.1
    assert max(gradients) <= 1


def test_blur_has_its_deviation_at_most():
    clip = torch.zeros((1, 41, 41, 1), dtype=torch.uint8)
    clip[:, 20] = 255
    widths = []
    for augmented in _many(clip, _only(blur=3), 100):
        profile = augmented[0, :, 20, 0].double()
        variance = (profile * (torch.arange(41) - 20) ** 2).sum() / profile.sum()
        widths.append(math.sqrt(variance))
    assert abs(max(widths) - 3) < 0.2
    assert min(widths) < 0.5


def test_noise_has_its_deviation_and_is_grey():
    clip = _flat(128, frames=2, channels=3)
    augmented = torch.stack(_many(clip, _only(noise=0.05))).float() - 128
    deviations = augmented.std((1, 2, 3, 4))
    assert abs(deviations.max() / (0.05 * 255) - 1) < 0.06
    assert deviations.min() < 2
    assert abs(augmented.mean()) < 0.1
    assert (augmented == augmented[..., :1]).all()


def test_saturated_levels_stay_in_range():
    clip = torch.cat([_flat(0), _flat(255)])
    for augmented in _many(clip, _only(noise=0.02, gamma=0.5), 50):
        assert augmented[0].max() < 40
        assert augmented[1].min() > 215
    white = [augmented.min() for augmented in _many(_flat(200), _only(brightness=2, gamma=1), 200)]
    # No level wraps around to dark: (200 / 255 / 3) ** 2 * 255 is 17.
    assert min(white) >= 17
    assert max(white) == 255


CHANCES = ("rotate", "flip", "reverse", "tilt", "rescale", "shift", "crop", "elastic", "drop")
CHANCES += ("jitter", "levels")
STRENGTHS = {
    "tilt_degrees": 180,
    "rescale_share": 0.95,
    "shift_share": 0.95,
    "crop_share": 0.95,
    "elastic_px": 20,
    "drop_share": 0.95,
    "jitter_px": 20,
    "brightness": 2,
    "gamma": 2,
    "blur": 10,
    "noise": 0.5,
}


@settings(max_examples=150, deadline=None)
@given(
    chances=st.fixed_dictionaries(dict.fromkeys(CHANCES, st.sampled_from([0, 0.5, 1]))),
    strengths=st.fixed_dictionaries(
        {name: st.one_of(st.just(0), st.floats(0, most)) for name, most in STRENGTHS.items()}
    ),
    frames=st.integers(1, 20),
    size=st.integers(8, 24),
    channels=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_any_settings_return_a_valid_clip(chances, strengths, frames, size, channels, seed):
    shape = (frames, size, size, channels)
    clip = torch.randint(0, 256, shape, dtype=torch.uint8, generator=_seeded(seed))
    if channels == 2:
        clip[..., 1] = torch.where(clip[..., 1] > 127, 255, 0)
    kept = clip.clone()
    augmented = augment.apply(clip, AugmentSettings(**chances, **strengths), _seeded(seed))
    assert augmented.dtype == torch.uint8
    assert augmented.shape[1:] == clip.shape[1:]
    assert min(frames, 8) <= len(augmented) <= frames
    if channels == 2:
        assert set(augmented[..., 1].unique().tolist()) <= {0, 255}
    assert torch.equal(clip, kept)
