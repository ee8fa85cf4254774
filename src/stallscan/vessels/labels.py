"""A real vessel network from a stack in which vessels are labelled: centre lines and radii."""

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

MARGIN_UM = 30.0  # chosen: what is farther from the field sends it no light
HOLE_UM2 = 12.0  # chosen: a capillary's cross-section; a smaller hole in a plane is a slip
ISOTROPIC = 1.5  # chosen: voxels longer than this along one axis bend a skeleton
SURFACE_UM = 1.5  # chosen: blur along the planes where planes are far apart
LEVEL = 0.3  # chosen: below 0.5, so that vessels seen in one plane of several keep their width
FINE = np.array([1, 2, 2])  # steps of a skeleton in a voxel, see `_skeletonize`
PAD_UM = 12.0  # chosen: a skeleton stops a radius short of a cut face, so faces are moved away


@dataclass(frozen=True)
class Network:
    """Vessels in a box that begins at 0, 0, 0.

    Attributes
    ----------
    segments : tuple of Segment
        From branching to branching.
    extent_um : tuple of float
        Size of the box along x, y, z.
    """

    segments: tuple[Segment, ...]
    extent_um: tuple[float, float, float]


def read_network(path: Path, um_per_voxel: tuple[float, float, float]) -> Network:
    """Find the centre lines and radii of the vessels in a label stack.

    Parameters
    ----------
    path : Path
        TIFF stack (planes, rows, columns) of integers; all but 0 is vessel.
    um_per_voxel : tuple of float
        Size of a voxel along z, y, x in um, each above 0.

    Returns
    -------
    Network
        At least one segment; vessels that leave the stack end on its faces.

    Raises
    ------
    InputError
        If scikit-image is missing, or the file is no such stack or shows no vessel.
    """
    mask, sides_um = _make_cubes(_read_mask(path), um_per_voxel)
    shape = np.array(mask.shape)
    pad = np.minimum(np.rint(PAD_UM / sides_um).astype(int), shape - 1)
    # Mirrored over the faces, as `place` does with the lines; about the middle of the outer voxels.
    mask = _fill(np.pad(mask, [(n, n) for n in pad], mode="reflect"))
    steps = _skeletonize(mask)
    voxels = steps / FINE
    radius_um = _measure_radius(mask, voxels, sides_um)
    inside = ((voxels >= pad) & (voxels <= pad + shape - 1)).all(axis=1)
    place_um = ((voxels - pad + 0.5) * sides_um)[inside, ::-1]
    extent_um = (shape * sides_um)[::-1]
    segments = centrelines.clean(centrelines.trace(steps[inside], place_um, radius_um[inside]))
    if not segments:
        raise InputError(
            f"{path}: no labelled vessel is {SPECK_UM:g} um long; "
            "check the size of a voxel, and that the stack holds labels"
        )
    segments = centrelines.reach_faces(segments, extent_um, float(max(sides_um)))
    sigma_um = max(SMOOTH_UM, 1.5 * float(max(sides_um)))
    x_um, y_um, z_um = extent_um.tolist()
    return Network(
        tuple(centrelines.smooth(segment, sigma_um) for segment in segments), (x_um, y_um, z_um)
    )


def place(network: Network, rng: Rng, extent_um: tuple[float, float, float]) -> Network:
    """Fill a field with a network: turned, flipped, shifted, and mirrored where it is too small.

    Parameters
    ----------
    network : Network
        From `read_network`.
    rng : Generator
        Source of turn, flips and shift.
    extent_um : tuple of float
        Size of the field along x, y, z.

    Returns
    -------
    Network
        The segments, whole, that come within `MARGIN_UM` of the field. A vessel that meets its
        mirror image is one segment with it.
    """
    # Quarter turns about z are a swap of x and y with flips.
    order = [1, 0, 2] if rng.random() < 0.5 else [0, 1, 2]
    size, extent = np.array(network.extent_um)[order], np.array(extent_um)
    flips = rng.random(3) < 0.5
    shift = rng.random(3) * size
    first = np.floor((shift - MARGIN_UM) / size).astype(int)
    last = np.floor((shift + extent + MARGIN_UM) / size).astype(int)
    copies = itertools.product(*map(range, first.tolist(), (last + 1).tolist()))
    kept: list[Segment] = []
    for copy in np.array(list(copies)):
        # Every other copy is a mirror image, so that vessels go on across the faces.
        mirrored = (copy % 2 == 1) != flips
        for segment in network.segments:
            line = segment.line[:, order]
            # What lies in a face is its own mirror image.
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
        raise InputError(f"{path}: no such file; a TIFF stack of labels is expected") from None
    # Whatever tifffile's code stumbles over in a damaged file is raised as it comes.
    except Exception as error:  # noqa: BLE001
        hint = f"; install it with: {install('imagecodecs')}" if "imagecodecs" in str(error) else ""
        raise InputError(f"{path}: not readable as a TIFF stack ({error}){hint}") from None
    if stack.ndim != 3 or stack.dtype.kind not in "uib" or min(stack.shape[:2]) < 2:
        raise InputError(
            f"{path}: an array of {stack.dtype} {stack.shape}; "
            "expected a stack of integer labels (planes, rows, columns)"
        )
    if not stack.any():
        raise InputError(f"{path}: every label is 0; expected vessels labelled with other numbers")
    return np.asarray(stack != 0)


def _make_cubes(mask: Mask, um_per_voxel: tuple[float, float, float]) -> tuple[Mask, F64]:
    """Fill holes in the planes, and bring voxels that are far from cubes to cubes.

    Thick planes make terraces of an oblique vessel, and a skeleton has a spur on each of them; so
    they are blurred by half their distance before the surface is found anew.
    """
    sides_um = np.array(um_per_voxel, np.float64)
    plane = ndimage.generate_binary_structure(3, 1)
    plane[[0, 2]] = False
    holes, _ = ndimage.label(~mask, plane)
    small = np.bincount(holes.ravel()) * sides_um[1] * sides_um[2] < HOLE_UM2
    small[0] = False
    mask = mask | small[holes]
    if max(sides_um) <= ISOTROPIC * min(sides_um):
        return mask, sides_um
    # chosen: four cubes in the longest side; more take time and show nothing new
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
    """Fill cavities, around which a skeleton would be a shell."""
    outside, count = ndimage.label(~mask)
    touching = np.zeros(count + 1, bool)
    for axis in range(3):
        for face in (0, -1):
            touching[np.take(outside, face, axis)] = True
    touching[0] = False
    return np.asarray(~touching[outside])


def _stretch(values: NDArray[np.float32], axis: int, count: int) -> NDArray[np.float32]:
    """Interpolate linearly to `count` voxels along an axis; the faces stay where they are."""
    have = values.shape[axis]
    if have == count:
        return values
    at = np.clip((np.arange(count) + 0.5) * have / count - 0.5, 0, have - 1)
    low = np.minimum(at.astype(int), max(have - 2, 0))
    shape = [1, 1, 1]
    shape[axis] = count
    weight = (at - low).astype(np.float32).reshape(shape)
    above = np.take(values, np.minimum(low + 1, have - 1), axis)
    return np.asarray(np.take(values, low, axis) * (1 - weight) + above * weight)


def _skeletonize(mask: Mask) -> NDArray[np.int64]:
    """Find the voxels of the skeleton: int64 (n, 3), planes, half rows and half columns.

    scikit-image takes voxels off one side of a vessel, then off the other; one of even width comes
    to a single layer in between and is eaten up from its end. With rows between the rows and
    columns between the columns these widths are odd.
    """
    try:
        from skimage.morphology import skeletonize
    except ImportError:
        raise InputError(
            f"label stacks need scikit-image; install it with: {install('skimage')}"
        ) from None
    fine = np.repeat(np.repeat(mask, 2, axis=1), 2, axis=2)[:, :-1, :-1]
    fine[:, 1::2] &= fine[:, 2::2]
    fine[..., 1::2] &= fine[..., 2::2]
    skeleton = skeletonize(fine, method="lee")  # type: ignore[no-untyped-call]
    return np.argwhere(skeleton)


def _measure_radius(mask: Mask, voxels: F64, sides_um: F64) -> F64:
    """Distance in um from each voxel of a skeleton to the surface: float64 (n,).

    It is the distance transform, but from a tree of the voxels just outside: a transform of the
    whole stack takes ten times as long. A skeleton runs up to a voxel beside the middle of its
    vessel, so the largest distance among the voxel and its six neighbours counts.
    """
    outside = np.argwhere(~mask & ndimage.binary_dilation(mask)) * sides_um
    if not len(outside):  # all is vessel
        return np.full(len(voxels), float(np.max(mask.shape * sides_um)))
    steps = np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)])
    around = (voxels[:, None] + steps) * sides_um
    distance, _ = cKDTree(outside).query(around)
    # To the centre of the outer voxel, half a voxel beyond the surface: that makes up for the
    # roughness of a surface of voxels, of which the innermost one is nearest.
    return np.asarray(distance.max(axis=1))
