"""A shard: one file of a store, with clips and everything known about their recordings.

A shard is a safetensors file in which each clip is a tensor named after its recording. The header
has a row for every recording, with or without a clip, and the settings the clips were made with.
Each row holds the hash of its clip, so the hash of the header covers every byte of the file.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from stallscan import files
from stallscan.clips.clip import ClipSettings
from stallscan.clips.prepare import Prepared, Preprocessing
from stallscan.clips.traits import Traits
from stallscan.errors import LostShardError, SettingsError, StoreError
from stallscan.recordings.find import Source
from stallscan.recordings.recording import Box, Frames
from stallscan.stamps import Stamp
from stallscan.vessels.outline import OutlineSettings

# Our key in safetensors' free metadata, which maps text to text.
HEADER_KEY = "stallscan"
# By hand: safe_open parses the whole header each time (1.0 ms instead of 0.5 ms per clip), its mmap
# kills the process if a file is truncated (SIGBUS), and it refuses file names that are not UTF-8.
# The format: the length of the header (8 bytes, little-endian), the header (JSON, padded with
# spaces so that the tensors start at a multiple of 8), the tensors.
PREFIX_BYTES, ALIGN_BYTES = 8, 8
# Our headers have 1 kB for each recording, and at most 128 recordings.
HEADER_BYTES = 64 * 2**20
# What a header that we did not write may raise.
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError)


class Row(NamedTuple):
    """What a shard records about one recording, mostly from `prepare.Prepared`."""

    filename: str
    path: str  # of the recording when its clip was made
    status: str
    reason: str
    frames: int | None
    frames_declared: int | None
    box: Box | None = None  # None without a clip, like the traits
    traits: Traits | None = None
    sha256: str = ""  # hash of the clip's pixels; empty without a clip
    stamp: Stamp | None = None  # None if there was no file, or in rows of older versions
    made: int = 0  # earlier preparations; of several rows the one with the highest number counts

    @classmethod
    def of(cls, prepared: Prepared) -> "Row":
        """Describe a prepared recording and the first of its clips."""
        source, clip = prepared.source, prepared.clip
        return cls(
            source.filename,
            str(source.path),
            prepared.status,
            prepared.reason,
            prepared.frames,
            prepared.frames_declared,
            *((clip.box, clip.traits, digest(clip.pixels).hex()) if clip else ()),
        )

    @classmethod
    def parse(cls, values: dict[str, Any]) -> "Row":
        """Return the row that a header holds as JSON; raise TypeError if it is malformed."""
        kinds = {"box": Box, "traits": Traits, "stamp": Stamp}
        nested = {name: kind(*values[name]) for name, kind in kinds.items() if values.get(name)}
        row = cls(**values | nested)
        # Not by pydantic, which would turn the integers among the traits into floats, and so change
        # the stamps of all rows.
        numbers = (*(row.box or ()), *(row.traits or ()), *(row.stamp or ())[:3])
        if not all(map(isinstance, row, _FIELD_TYPES)) or not {*map(type, numbers)} <= {int, float}:
            raise TypeError("a row has values of the wrong type")
        return row

    def as_stamp(self) -> Stamp:
        """Return a stamp that changes whenever the row's content or clip changes."""
        content = self._replace(stamp=None, made=0)
        return Stamp(0, 0, 0, files.sha256_of(json.dumps(content).encode()))

    def is_like(self, other: "Row") -> bool:
        """Whether both rows have the same content, whenever they were made."""
        return self._replace(stamp=None, made=0) == other._replace(stamp=None, made=0)

    @property
    def source(self) -> Source:
        """The recording."""
        return Source(self.filename, Path(self.path))

    @property
    def has_clip(self) -> bool:
        """Whether the shard has a clip of the recording."""
        return bool(self.sha256)


_NONE = type(None)
# In `Row`; tuples, because isinstance is slow with unions.
_FIELD_TYPES: tuple[Any, ...] = (
    *(str, str, str, str, (int, _NONE), (int, _NONE)),
    *((Box, _NONE), (Traits, _NONE), str, (Stamp, _NONE), int),
)


class Place(NamedTuple):
    """Where to find a recording's row and clip."""

    path: Path  # of the shard
    row: int  # index in the shard's header
    offset: int = 0  # position of the clip's first byte in the file
    frames: int = 0  # of the clip; 0 without a clip
    sha256: bytes = b""  # hash of the clip's pixels; empty without a clip


class Header(NamedTuple):
    """A shard without its pixels: the settings of its clips, and a row and place per recording."""

    view: Preprocessing
    rows: tuple[Row, ...]
    places: tuple[Place, ...]


def write_shard(path: Path, batch: Sequence[tuple[Row, Prepared]], view: Preprocessing) -> str:
    """Write a shard atomically and return the hash of its header, which `read_header` checks.

    Each filename may occur once. Raises `InputError` if the file cannot be written.
    """
    metadata = {
        "outline": view.outline.model_dump(mode="json"),
        "clip": view.clip.model_dump(mode="json"),
        "recordings": [row._asdict() for row, _ in batch],
    }
    clips = [
        (row.filename, np.ascontiguousarray(item.clip.pixels))  # uint8 (T, S, S, C)
        for row, item in batch
        if item.clip
    ]
    tensors: dict[str, Any] = {"__metadata__": {HEADER_KEY: json.dumps(metadata)}}
    end = 0
    for filename, pixels in clips:
        # Offsets count from the end of the header.
        start, end = end, end + pixels.nbytes
        tensors[filename] = {"dtype": "U8", "shape": pixels.shape, "data_offsets": (start, end)}
    content = json.dumps(tensors).encode()
    content += b" " * (-len(content) % ALIGN_BYTES)
    header = len(content).to_bytes(PREFIX_BYTES, "little") + content
    with files.atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(header)
        for _, pixels in clips:
            file.write(pixels.data)
    return files.sha256_of(header)


def read_header(path: Path, sha256: str) -> Header:
    """Read everything but the pixels, and check it against the hash from `write_shard`.

    Raises
    ------
    StoreError
        If the shard cannot be read or was written by another version; `LostShardError` if the file
        is missing or has another length than it should, or its header has changed.
    """
    if path.exists() and not path.is_file():  # opening a pipe would block
        raise StoreError(f"{path}: this shard of the store is not a regular file. Remove it")
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(PREFIX_BYTES)
        length = int.from_bytes(prefix, "little")
        # A damaged length may exceed memory.
        header = prefix + file.read(min(length, size, HEADER_BYTES))
    if files.sha256_of(header) != sha256:
        raise refusal(path, "is damaged: its header has changed since it was written")
    # The hash matches, so the header is as written, but not necessarily by us.
    try:
        tensors: dict[str, Any] = json.loads(header[PREFIX_BYTES:])
        metadata = json.loads(tensors.pop("__metadata__")[HEADER_KEY])
        view = Preprocessing(
            OutlineSettings.parse(metadata["outline"], str(path)),
            ClipSettings.parse(metadata["clip"], str(path)),
        )
        rows = tuple(map(Row.parse, metadata["recordings"]))
        places = _places(path, rows, tensors, view.clip, len(header))
        end = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    except (*_MALFORMED, SettingsError):
        raise StoreError(
            f"{path}: was written by another version of stallscan. Use that version, or make the "
            "store again in another folder"
        ) from None
    if size != len(header) + end:
        raise refusal(path, f"is damaged: it has {size:,} bytes instead of {len(header) + end:,}")
    return Header(view, rows, places)


def _places(
    path: Path,
    rows: tuple[Row, ...],
    tensors: dict[str, Any],
    settings: ClipSettings,
    header_bytes: int,
) -> tuple[Place, ...]:
    """Return where each clip is; raise an error of `_MALFORMED` if a tensor is not its clip."""
    places = []
    for number, row in enumerate(rows):
        place = Place(path, number)
        if row.has_clip:
            tensor = tensors[row.filename]
            frames, *rest = tensor["shape"]
            start, end = tensor["data_offsets"]
            if not all(type(number) is int for number in (frames, start, end)):
                raise TypeError("a tensor has a shape or place that is no whole number")
            shape = _shape(frames, settings)
            is_like = rest == list(shape[1:]) and end - start == math.prod(shape)
            if start < 0 or frames < 1 or not is_like:
                raise ValueError("a tensor has another shape than its clip")
            sha256 = bytes.fromhex(row.sha256)
            place = Place(path, number, header_bytes + start, frames, sha256)
        places.append(place)
    return tuple(places)


def _shape(frames: int, settings: ClipSettings) -> tuple[int, ...]:
    return frames, settings.size, settings.size, settings.channel_count


def read_clip(place: Place, settings: ClipSettings) -> Frames:
    """Read one clip, uint8 (T, S, S, C), and check its hash.

    Raises
    ------
    StoreError
        If the clip cannot be read or its pixels have changed.
    """
    shape = _shape(place.frames, settings)
    # Read, not mapped into memory: a mapped file that is truncated meanwhile kills the process.
    with _opened(place.path) as file:
        file.seek(place.offset)
        pixels = np.fromfile(file, np.uint8, math.prod(shape))  # (T * S * S * C,), fewer if cut
    if digest(pixels) != place.sha256:
        raise refusal(place.path, "is damaged: its pixels have changed since they were written")
    return pixels.reshape(shape)


def refusal(path: Path, what: str) -> LostShardError:
    """Return the error for a shard that must be made again."""
    return LostShardError(
        f"{path}: this shard of the store {what}. Remove the file and repeat the command that made "
        "the store, which prepares the shard's recordings again"
    )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise LostShardError(
            f"{path}: this shard of the store is missing. Repeat the command that made the store, "
            "which prepares the shard's recordings again"
        ) from None
    except OSError as error:
        raise StoreError(
            f"{path}: this shard of the store cannot be read ({error.strerror or error}). Check "
            "the disk and the file's permissions, and try again"
        ) from None


def digest(pixels: Frames) -> bytes:
    """Return the SHA-256 hash of the pixels of a clip."""
    return bytes.fromhex(files.sha256_of(np.ascontiguousarray(pixels).reshape(-1).data))
