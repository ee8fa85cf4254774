"""Recordings from arrays saved by numpy."""

import zipfile
from pathlib import Path

import numpy as np

from stallscan.errors import UnreadableError
from stallscan.recordings.colours import Array, check_opaque
from stallscan.recordings.levels import scale_of
from stallscan.recordings.limits import LIMITS, Limits
from stallscan.recordings.recording import ArrayDecoder, Recording, check_shape, collect, of_frames


def read_npy(path: Path, hold_bytes: int, limits: Limits = LIMITS) -> Recording:
    """Read a numeric array: (T, H, W) grey, (T, H, W, 3) RGB or (T, H, W, 4) RGBA.

    Raises
    ------
    UnreadableError
        If the file is not such an array, or exceeds the limits.
    """
    array = _open_npy(path)
    _check_npy(array, path)
    limits.check_count(path, len(array), array.shape[1] * array.shape[2])
    limits.check_frame(path, array.shape[1], array.shape[2], array[0].nbytes)
    is_colour = array.ndim == 4
    if is_colour and array.shape[3] == 4:
        for frame in array:  # (H, W, 4)
            check_opaque(frame[..., 3], path)
        array = array[..., :3]
    if array.dtype == np.uint8:
        return of_frames(path, array, len(array))
    scale = scale_of(path, array.dtype, lambda: iter(array), is_colour=is_colour)
    decoder = ArrayDecoder(lambda: map(scale, array))
    return collect(path, decoder, hold_bytes, lambda: len(array), [])


def _open_npy(path: Path) -> Array:
    try:
        # np.load would accept archives and pickles, too.
        return np.lib.format.open_memmap(path, mode="r")
    # numpy's parser can raise almost anything on a damaged header.
    except Exception as error:  # noqa: BLE001
        reason = str(error)
    remedy = "Save the array again with numpy.save"
    if "Python objects" in reason:
        reason, remedy = "it holds Python objects", "Save an array of numbers"
    elif "greater than file size" in reason:
        reason, remedy = "the end of the file is missing", "Copy or download it again"
    elif reason.startswith("the magic string") and zipfile.is_zipfile(path):
        reason, remedy = "it is an npz archive", "Save the array by itself with numpy.save"
    raise UnreadableError(f"{path}: not readable as npy ({reason}). {remedy}")


def _check_npy(array: Array, path: Path) -> None:
    shape = array.shape
    if array.dtype.kind not in "uif":
        raise UnreadableError(
            f"{path}: values of type {array.dtype} are not supported. "
            "Save the array as integers or floating-point numbers"
        )
    if len(shape) == 3 and shape[2] in (3, 4) and 0 not in shape:
        raise UnreadableError(
            f"{path}: the array has shape {shape}, which is a single colour image. "
            "Save all frames as one array (frames, rows, columns, 3)"
        )
    if len(shape) == 4 and shape[3] > 4 and shape[1] in (3, 4):
        raise UnreadableError(
            f"{path}: the array has shape {shape}, with the channels before rows and columns. "
            "Move them to the end with numpy.moveaxis(array, 1, -1)"
        )
    check_shape((*shape[:3], 3) if len(shape) == 4 and shape[3] == 4 else shape, path)
