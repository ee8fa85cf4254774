"""The detector: photon noise of dim and bright light, and the blur of any deviation."""

from types import SimpleNamespace

import numpy as np
import pytest

from stallscan.simulate.detector import detect


def _detect(light, photons, **changes):
    """Return one frame, float32 (h, w), of a detector whose only noise is that of the photons."""
    ideal = {"excess": 0.0, "read_noise": 0.0, "row_noise": 0.0, "blur_px": (0.0, 0.0)}
    scope = SimpleNamespace(photons=photons, **ideal | changes)
    return next(detect(light[None].astype(np.float32), scope, np.random.default_rng(0)))


@pytest.mark.parametrize("mean", [300, 1000, 1030, 3000, 10_000, 50_000])
def test_any_number_of_photons_has_poisson_noise(mean):
    counted = _detect(np.ones((200, 200)), mean)
    assert counted.mean() == pytest.approx(mean, rel=0.01)
    assert counted.var() == pytest.approx(mean, rel=0.04)


def test_the_gain_of_many_photons_is_random_too():
    assert _detect(np.ones((200, 200)), 3000, excess=0.5).var() == pytest.approx(3750, rel=0.04)


@pytest.mark.parametrize(("axis", "blur_px"), [(0, (0.0, 2.0)), (1, (2.0, 0.0)), (1, (6.0, 0.5))])
def test_a_blur_is_as_wide_as_its_deviation(axis, blur_px):
    point = np.zeros((101, 101))
    point[50, 50] = 1
    profile = _detect(point, 10_000, blur_px=blur_px).sum(axis=1 - axis)
    spread = np.sqrt(np.average((np.arange(101) - 50.0) ** 2, weights=profile))
    assert spread == pytest.approx(max(blur_px), rel=0.02)
