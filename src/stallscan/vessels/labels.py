"""Vessel networks (centre lines and radii) from stacks with labelled vessels."""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from stallscan.errors import InputError, install
from stallscan.vessels import centrelines
from stallscan.vessels.centrelines import SMOOTH_UM, SPECK_UM, Segment

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]
Rng = np.random.Generator

MARGIN_UM = 30.0  # chosen: no light reaches the field from farther away
HOLE_UM2 = 12.0  # chosen: cross-section of a capillary; a smaller hole in a plane is an error
ISOTROPIC = 1.5  # chosen: a larger ratio of the sides of a voxel distorts a skeleton
SURFACE_UM = 1.5  # chosen: blur within the planes if planes are far apart
LEVEL = 0.3  # chosen: below 0.5, so that vessels in a single plane keep their width
FINE = np.array([1, 2, 2])  # skeleton steps per voxel along z, y, x, see `skeletonize_vessels`
PAD_UM = 12.0  # chosen: a skeleton ends a radius before the face, so faces are moved outwards


@dataclass(frozen=True)
class Network:
    """Vessels in a box that starts at 0, 0, 0 and extends `extent_um` along x, y, z."""

    segments: tuple[Segment, ...]
    extent_um: tuple[float, float, float]


def read_network(path: Path, um_per_voxel: tuple[float, float, float]) -> Network:
    """Read a label stack, and compute the centre lines and radii of its vessels.

    Parameters
    ----------
    path : Path
        TIFF stack (planes, rows, columns) of integers; 0 is background.
    um_per_voxel : tuple of float
        Size of a voxel along z, y, x in um, each above 0.

    Returns
    -------
    Network
        At least one segment; vessels that leave the stack end on its faces.

    Raises
    ------
    InputError
        If scikit-image is missing, or the file is not such a stack or shows no vessel.
    """
    mask, sides_um = _make_cubes(_read_mask(path), um_per_voxel)  # (D, H, W) and (3,), z, y, x
    shape = np.array(mask.shape)
    pad = np.minimum(np.rint(PAD_UM / sides_um).astype(int), shape - 1)
    # Mirror the stack at its faces, as `place` mirrors the lines. "reflect" mirrors at the centres
    # of the outer voxels.
    mask = _fill(np.pad(mask, [(n, n) for n in pad], mode="reflect"))
    steps = skeletonize_vessels(mask)  # (n, 3)
    voxels = steps / FINE
    radius_um = _measure_radius(mask, voxels, sides_um)
    inside = ((voxels >= pad) & (voxels <= pad + shape - 1)).all(axis=1)
    place_um = ((voxels - pad + 0.5) * sides_um)[inside, ::-1]  # (m, 3), x, y, z
    extent_um = (shape * sides_um)[::-1]
    segments = centrelines.clean(centrelines.trace(steps[inside], place_um, radius_um[inside]))
    if not segments:
        raise InputError(
            f"{path}: no labelled vessel is at least {SPECK_UM:g} um long. "
            "Check the voxel size, and that the stack holds labels"
        )
    segments = centrelines.reach_faces(segments, extent_um, float(max(sides_um)))
    sigma_um = max(SMOOTH_UM, 1.5 * float(max(sides_um)))
    x_um, y_um, z_um = extent_um.tolist()
    return Network(
        tuple(centrelines.smooth(segment, sigma_um) for segment in segments), (x_um, y_um, z_um)
    )


def place(network: Network, rng: Rng, extent_um: tuple[float, float, float]) -> Network:
    """Fill a field of `extent_um` (x, y, z) with a network, at random position and orientation.

    The network is continued by mirror images of itself.

    Returns
    -------
    Network
        The segments, whole, that come within `MARGIN_UM` of the field. A vessel that meets its
        mirror image forms one segment with it.
    """
    # Swapping x and y, together with the flips, covers all quarter turns about z.
    order = [1, 0, 2] if rng.random() < 0.5 else [0, 1, 2]
    size, extent = np.array(network.extent_um)[order], np.array(extent_um)
    flips = rng.random(3) < 0.5
    shift = rng.random(3) * size
    first = np.floor((shift - MARGIN_UM) / size).astype(int)
    last = np.floor((shift + extent + MARGIN_UM) / size).astype(int)
    copies = itertools.product(*map(range, first.tolist(), (last + 1).tolist()))
    kept: list[Segment] = []
    for copy in np.array(list(copies)):
        # Every other copy is a mirror image, so that vessels continue across the faces.
        mirrored = (copy % 2 == 1) != flips
        for segment in network.segments:
            line = segment.line[:, order]  # (n, 3)
            # A vessel within a face equals its mirror image: keep only one of them.
            flat = [(np.abs(line - face) < SMOOTH_UM).all(axis=0) for face in (0, size)]
            if ((flat[0] | flat[1]) & (copy % 2 == 1)).any():
                continue
            line = np.where(mirrored, size - line, line) + copy * size - shift
            if ((line > -MARGIN_UM) & (line < extent + MARGIN_UM)).all(axis=1).any():
                kept.append(replace(segment, line=line))
    return Network(tuple(centrelines.join(centrelines.number_ends(kept))), extent_um)


def _read_mask(path: Path) -> Mask:
    try:
        stack = tifffile.imread(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file. Name a TIFF stack of labels") from None
    # tifffile can raise almost anything on a damaged file.
    except Exception as error:  # noqa: BLE001
        remedy = "Copy or export it again"
        if "imagecodecs" in str(error):
            remedy = f"Install imagecodecs with: {install('imagecodecs')}"
        raise InputError(f"{path}: not readable as a TIFF stack ({error}). {remedy}") from None
    # A last axis of up to 4 holds the colours of a single image.
    is_stack = stack.ndim == 3 and min(stack.shape[:2]) > 1 and stack.shape[2] > 4
    if not is_stack or stack.dtype.kind not in "uib":
        raise InputError(
            f"{path}: is an array of {stack.dtype} with shape {stack.shape}, not a label stack. "
            "Save integer labels as (planes, rows, columns), with at least 2 planes and rows"
        )
    if not stack.any():
        raise InputError(f"{path}: all labels are 0. Label the vessels with other integers")
    return np.asarray(stack != 0)


def _make_cubes(mask: Mask, um_per_voxel: tuple[float, float, float]) -> tuple[Mask, F64]:
    """Fill holes in the planes, and resample voxels that are far from cubes.

    Returns the mask (D, H, W) and the sides of its voxels in um (3,). In thick planes, an oblique
    vessel has terraces, and its skeleton a spur on each of them; so the stack is blurred by half
    the distance of the planes before the surface is computed again.
    """
    sides_um = np.array(um_per_voxel, np.float64)
    plane = ndimage.generate_binary_structure(3, 1)
    plane[[0, 2]] = False  # neighbours within a plane only
    holes, _ = ndimage.label(~mask, plane)
    small = np.bincount(holes.ravel()) * sides_um[1] * sides_um[2] < HOLE_UM2
    small[0] = False
    mask = mask | small[holes]
    if max(sides_um) <= ISOTROPIC * min(sides_um):
        return mask, sides_um
    # chosen: at most four voxels per longest side; more only take time
    side_um = max(min(sides_um), max(sides_um) / 4)
    wanted = np.rint(mask.shape * sides_um / side_um).astype(int)
    soft = mask.astype(np.float32)
    for axis, count in enumerate(wanted.tolist()):
        soft = _stretch(soft, axis, count)
    sides_um = mask.shape * sides_um / wanted
    sigma_um = np.maximum(0.5 * np.array(um_per_voxel), SURFACE_UM)
    soft = ndimage.gaussian_filter(soft, sigma_um / sides_um, truncate=3)
    return np.asarray(soft > LEVEL), sides_um


def _fill(mask: Mask) -> Mask:
    """Fill cavities, around which a skeleton would form a shell."""
    outside, count = ndimage.label(~mask)
    touching = np.zeros(count + 1, bool)
    for axis in range(3):
        for face in (0, -1):
            touching[np.take(outside, face, axis)] = True
    touching[0] = False
    return np.asarray(~touching[outside])


def _stretch(values: NDArray[np.float32], axis: int, count: int) -> NDArray[np.float32]:
    """Interpolate linearly to `count` voxels along an axis, which keep the same extent."""
    size = values.shape[axis]
    if size == count:
        return values
    position = np.clip((np.arange(count) + 0.5) * size / count - 0.5, 0, size - 1)
    low = np.minimum(position.astype(int), max(size - 2, 0))
    shape = [1, 1, 1]
    shape[axis] = count
    weight = (position - low).astype(np.float32).reshape(shape)
    above = np.take(values, np.minimum(low + 1, size - 1), axis)
    return np.asarray(np.take(values, low, axis) * (1 - weight) + above * weight)


def skeletonize_vessels(mask: Mask) -> NDArray[np.int64]:
    """Return the voxels of the skeleton: int64 (n, 3), in planes, half rows and half columns.

    scikit-image removes voxels from one side of a vessel and then from the other. A vessel of even
    width becomes a single layer, which is then eroded from its end. With a row between each two
    rows, and a column between each two columns, all widths are odd.
    """
    try:
        from skimage.morphology import skeletonize
    except ImportError:
        raise InputError(
            f"finding centre lines needs scikit-image. Install it with: {install('skimage')}"
        ) from None
    # (D, H, W) -> (D, 2 H - 1, 2 W - 1); the rows and columns between are vessel if both sides are.
    fine = np.repeat(np.repeat(mask, 2, axis=1), 2, axis=2)[:, :-1, :-1]
    fine[:, 1::2] &= fine[:, 2::2]
    fine[..., 1::2] &= fine[..., 2::2]
    skeleton = skeletonize(fine, method="lee")  # type: ignore[no-untyped-call]
    return np.argwhere(skeleton)


def _measure_radius(mask: Mask, voxels: F64, sides_um: F64) -> F64:
    """Return the distance in um from each voxel of a skeleton to the surface: float64 (n,).

    A tree of the voxels just outside gives the same as a distance transform of the whole stack, in
    a tenth of the time. A skeleton may be up to a voxel off the centre of its vessel, so the
    largest distance of the voxel and its six neighbours is used.
    """
    outside = np.argwhere(~mask & ndimage.binary_dilation(mask)) * sides_um
    if not len(outside):  # the whole stack is vessel
        return np.full(len(voxels), float(np.max(mask.shape * sides_um)))
    steps = np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)])
    around = (voxels[:, None] + steps) * sides_um  # (n, 7, 3)
    distance, _ = cKDTree(outside).query(around)
    # Distances are to the centre of the outer voxel, half a voxel beyond the surface. That offsets
    # the roughness of the surface, of which the innermost voxel is the nearest.
    return np.asarray(distance.max(axis=1))
