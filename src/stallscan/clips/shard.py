"""A shard: one file of a store, with clips and all that is known of their recordings.

It is a safetensors file. A clip stands in it under its recording's name; the header has a row for
every recording, with or without a clip, and the settings that the clips were made with. A row holds
the hash of its clip, so the hash of the header speaks for every byte of the file.
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

# Of what safetensors lets a file say about itself: text by name.
HEADER_KEY = "stallscan"
# By hand: safe_open parses the whole header each time (1.0 ms instead of 0.5 ms per clip), its mmap
# kills the process if a file is truncated (SIGBUS), and it refuses file names that are not UTF-8.
# A safetensors file begins with the length of its header, 8 bytes, little-endian. The header is
# JSON, filled up with spaces, so that the tensors begin at a multiple of 8.
PREFIX_BYTES, ALIGN_BYTES = 8, 8


class Row(NamedTuple):
    """What is known of a recording, as `prepare.Prepared` has it.

    Attributes
    ----------
    filename, status, reason, frames, frames_declared
        As there.
    path : str
        Where the recording lay.
    box, traits
        As in `clip.Clip`; None where there is no clip.
    sha256 : str
        Hash of the clip's pixels; empty where there is none.
    stamp : Stamp or None
        What the recording's file was like; None where there was none, or it was not noted.
    made : int
        How often the recording was done before: of several rows the one with the most counts.
    """

    filename: str
    path: str
    status: str
    reason: str
    frames: int | None
    frames_declared: int | None
    box: Box | None = None
    traits: Traits | None = None
    sha256: str = ""
    stamp: Stamp | None = None
    made: int = 0

    @classmethod
    def of(cls, prepared: Prepared) -> "Row":
        """Say what became of a recording; the first of its clips is meant."""
        source, clip = prepared.source, prepared.clip
        return cls(
            source.filename,
            str(source.path),
            prepared.status,
            prepared.reason,
            prepared.frames,
            prepared.frames_declared,
            *((clip.box, clip.traits, _digest(clip.pixels).hex()) if clip else ()),
        )

    @classmethod
    def parse(cls, values: dict[str, Any]) -> "Row":
        """Take the row as it stands in a header."""
        kinds = {"box": Box, "traits": Traits, "stamp": Stamp}
        given = {name: kind(*values[name]) for name, kind in kinds.items() if values.get(name)}
        return cls(**values | given)

    def as_stamp(self) -> Stamp:
        """Stand for all that the row says of a recording, its clip included."""
        said = self._replace(stamp=None, made=0)
        return Stamp(0, 0, 0, files.sha256_of(json.dumps(said).encode()))

    def is_like(self, other: "Row") -> bool:
        """Tell whether both say the same of a recording, whenever they were made."""
        return self._replace(stamp=None, made=0) == other._replace(stamp=None, made=0)

    @property
    def source(self) -> Source:
        """The recording."""
        return Source(self.filename, Path(self.path))

    @property
    def has_clip(self) -> bool:
        """Whether there is a clip of it."""
        return bool(self.sha256)


class Place(NamedTuple):
    """Where a recording's row and clip stand.

    Attributes
    ----------
    path : Path
        The shard.
    row : int
        Number of its row there.
    offset : int
        Of the first byte of its clip, in the file.
    frames : int
        Of its clip; 0 where there is none.
    sha256 : bytes
        Hash of the clip's pixels; empty where there is none.
    """

    path: Path
    row: int
    offset: int = 0
    frames: int = 0
    sha256: bytes = b""


class Header(NamedTuple):
    """What is read of a shard without its pixels.

    Attributes
    ----------
    view : Preprocessing
        The settings that its clips were made with.
    rows : tuple of Row
        One a recording.
    places : tuple of Place
        Of each of them.
    """

    view: Preprocessing
    rows: tuple[Row, ...]
    places: tuple[Place, ...]


def write_shard(path: Path, batch: Sequence[tuple[Row, Prepared]], view: Preprocessing) -> str:
    """Write a shard in one atomic step.

    Parameters
    ----------
    path : Path
        Where.
    batch : sequence of Row and Prepared
        What became of the recordings, with its row; no name stands there twice.
    view : Preprocessing
        The settings that their clips were made with.

    Returns
    -------
    str
        Hash of the header, which `read_header` wants to see again.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    about = {
        "outline": view.outline.model_dump(mode="json"),
        "clip": view.clip.model_dump(mode="json"),
        "recordings": [row._asdict() for row, _ in batch],
    }
    clips = [
        (row.filename, np.ascontiguousarray(item.clip.pixels)) for row, item in batch if item.clip
    ]
    tensors: dict[str, Any] = {"__metadata__": {HEADER_KEY: json.dumps(about)}}
    end = 0
    for filename, pixels in clips:
        start, end = end, end + pixels.nbytes
        tensors[filename] = {"dtype": "U8", "shape": pixels.shape, "data_offsets": (start, end)}
    content = json.dumps(tensors).encode()
    content += b" " * (-len(content) % ALIGN_BYTES)
    raw = len(content).to_bytes(PREFIX_BYTES, "little") + content
    # By hand: what safetensors writes nobody but the owner may read, and if it is killed it leaves
    # a file behind that nothing removes.
    with files.atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(raw)
        for _, pixels in clips:
            file.write(pixels.data)
    return files.sha256_of(raw)


def read_header(path: Path, sha256: str) -> Header:
    """Read all but the pixels.

    Parameters
    ----------
    path : Path
        The shard.
    sha256 : str
        What `write_shard` returned.

    Raises
    ------
    StoreError
        If it cannot be read or was written by another version; `LostShardError` if the file is
        missing, cut short or too long, or its header is not the one that was written.
    """
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(PREFIX_BYTES)
        length = int.from_bytes(prefix, "little")
        # A length that is damaged may be more than there can be in memory.
        raw = prefix + file.read(min(length, size))
    if files.sha256_of(raw) != sha256:
        raise refusal(path, "is damaged: its header is not the one that was written")
    # From here on all is as it was written.
    tensors: dict[str, Any] = json.loads(raw[PREFIX_BYTES:])
    about = json.loads(tensors.pop("__metadata__")[HEADER_KEY])
    end = len(raw) + max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    if size != end:
        raise refusal(path, f"is damaged: it has {size:,} of {end:,} bytes")
    try:
        view = Preprocessing(
            OutlineSettings.parse(about["outline"], str(path)),
            ClipSettings.parse(about["clip"], str(path)),
        )
        rows = tuple(map(Row.parse, about["recordings"]))
    except (KeyError, TypeError, SettingsError):
        raise StoreError(
            f"{path}: was written by another version of stallscan; use that one, or make the store "
            "anew in another folder"
        ) from None
    places = []
    for number, row in enumerate(rows):
        place = Place(path, number)
        if row.has_clip:
            tensor = tensors[row.filename]
            offset, frames = len(raw) + tensor["data_offsets"][0], tensor["shape"][0]
            place = Place(path, number, offset, frames, bytes.fromhex(row.sha256))
        places.append(place)
    return Header(view, rows, tuple(places))


def read_clip(place: Place, settings: ClipSettings) -> Frames:
    """Read one clip, and make sure that it is the one that was written.

    Parameters
    ----------
    place : Place
        From the header.
    settings : ClipSettings
        The clip was made with.

    Returns
    -------
    ndarray
        uint8 (T, S, S, C).

    Raises
    ------
    StoreError
        If it cannot be read, or is another one.
    """
    shape = (place.frames, settings.size, settings.size, settings.channel_count)
    # Not mapped into memory: if the file is cut short meanwhile, that would kill the process.
    with _opened(place.path) as file:
        file.seek(place.offset)
        pixels = np.fromfile(file, np.uint8, math.prod(shape))
    if _digest(pixels) != place.sha256:
        raise refusal(place.path, "is damaged: it holds other pixels than were written")
    return pixels.reshape(shape)


def refusal(path: Path, what: str) -> LostShardError:
    """Say what is wrong with a shard, and what to do."""
    return LostShardError(
        f"{path}: this shard of the store {what}; remove the file and start the command that made "
        "the store again, which makes its recordings anew"
    )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise LostShardError(
            f"{path}: this shard of the store is missing; start the command that made the store "
            "again, which makes its recordings anew"
        ) from None
    except OSError as error:
        raise StoreError(
            f"{path}: this shard of the store cannot be read ({error.strerror or error}); see that "
            "it can, and start again"
        ) from None


def _digest(pixels: Frames) -> bytes:
    return bytes.fromhex(files.sha256_of(np.ascontiguousarray(pixels).reshape(-1).data))
