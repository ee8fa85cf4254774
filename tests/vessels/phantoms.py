"""Stacks of tubes whose course and radius are known."""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Um = tuple[float, float, float]
# A tube: its points z, y, x in um, and its radius in um.
Tube = tuple[Sequence[Um], float]


def image(
    extent_um: Um,
    sides_um: Um,
    tubes: Sequence[Tube],
    noise: float = 4.0,
    seed: int = 0,
) -> NDArray[np.uint8]:
    """Return tubes of brightness 120 on 10, blurred as by a microscope, with noise: (Z, H, W)."""
    shape = [round(size / side) for size, side in zip(extent_um, sides_um, strict=True)]
    axes = [(np.arange(n) + 0.5) * side for n, side in zip(shape, sides_um, strict=True)]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)  # (Z, H, W, 3)
    inside = np.zeros(shape, bool)
    for points, radius_um in tubes:
        for start, stop in itertools.pairwise(points):
            axis = np.subtract(stop, start)
            along = np.clip((places - start) @ axis / (axis @ axis), 0, 1)
            away = np.linalg.norm(places - start - along[..., None] * axis, axis=-1)
            inside |= away <= radius_um
    blur_um = np.array([1.5, 0.8, 0.8])
    soft = ndimage.gaussian_filter(inside.astype(np.float32), blur_um / sides_um)
    rng = np.random.default_rng(seed)
    values = 10 + 110 * soft + rng.normal(0, noise, shape)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def sample(points: Sequence[Um], step_um: float = 0.5) -> NDArray[np.float64]:
    """Return points on the middle of a tube: float64 (n, 3), z, y, x in um."""
    parts = [
        np.linspace(start, stop, max(2, round(np.linalg.norm(np.subtract(stop, start)) / step_um)))
        for start, stop in itertools.pairwise(points)
    ]
    return np.concatenate(parts)
