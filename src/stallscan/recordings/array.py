"""Arrays saved by numpy, read as recordings."""

import zipfile
from pathlib import Path

import numpy as np

from stallscan.errors import UnreadableError
from stallscan.recordings.colours import Array, check_opaque
from stallscan.recordings.levels import scale_of
from stallscan.recordings.limits import LIMITS, Limits
from stallscan.recordings.recording import ArrayDecoder, Recording, check_shape, collect, of_frames


def read_npy(path: Path, hold_bytes: int, limits: Limits = LIMITS) -> Recording:
    """Read an array (T, H, W), (T, H, W, 3) or (T, H, W, 4) of numbers; no pickles.

    Four channels are taken as red, green, blue and opacity.

    Raises
    ------
    UnreadableError
        If it is not such an array, or beyond the limits.
    """
    array = _open_npy(path)
    _check_npy(array, path)
    limits.check_count(path, len(array))
    limits.check_frame(path, array.shape[1], array.shape[2], array[0].nbytes)
    is_colour = array.ndim == 4
    if is_colour and array.shape[3] == 4:
        for frame in array:
            check_opaque(frame[..., 3], path)
        array = array[..., :3]
    if array.dtype == np.uint8:
        return of_frames(path, array, len(array))
    scale = scale_of(path, array.dtype, lambda: iter(array), is_colour=is_colour)
    decoder = ArrayDecoder(lambda: map(scale, array))
    return collect(path, decoder, hold_bytes, lambda: len(array), [])


def _open_npy(path: Path) -> Array:
    try:
        # Not np.load, which takes archives and pickles for arrays too.
        return np.lib.format.open_memmap(path, mode="r")
    # Whatever numpy's parser stumbles over in a damaged header is raised as it comes.
    except Exception as error:  # noqa: BLE001
        reason = str(error)
    if "Python objects" in reason:
        reason = "it holds Python objects; save an array of numbers"
    elif "greater than file size" in reason:
        reason = "the end of the file is missing; copy or download it again"
    elif reason.startswith("the magic string") and zipfile.is_zipfile(path):
        reason = "it is an archive, npz; save the one array by numpy.save"
    raise UnreadableError(f"{path}: not readable as npy ({reason})")


def _check_npy(array: Array, path: Path) -> None:
    shape = array.shape
    if array.dtype.kind not in "uif":
        raise UnreadableError(f"{path}: npy values of type {array.dtype} are not supported")
    if len(shape) == 3 and shape[2] in (3, 4) and 0 not in shape:
        raise UnreadableError(
            f"{path}: the array has shape {shape}: one picture in colour, not the frames of a "
            "recording. Save an array (frames, rows, columns, 3)"
        )
    if len(shape) == 4 and shape[3] > 4 and shape[1] in (3, 4):
        raise UnreadableError(
            f"{path}: the array has shape {shape}, with the channels before rows and columns. "
            "Move them to the end: numpy.moveaxis(array, 1, -1)"
        )
    check_shape((*shape[:3], 3) if len(shape) == 4 and shape[3] == 4 else shape, path)
