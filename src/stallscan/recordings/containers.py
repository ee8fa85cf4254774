"""Whether a video file is complete, and harmless, by the structure of its container.

FFmpeg reads whatever it finds, and does not report missing data. Containers write the size of each
element before its content, which shows that a file was truncated or damaged in the middle. FFmpeg
also believes any number of frames that an mp4 file declares, and takes memory for each.
"""

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from stallscan.errors import UnreadableError

# Programs disagree on whether the size of a RIFF file includes the 8 bytes before it.
RIFF_SLACK_BYTES = 8
# Samples of all tracks that an mp4 file may declare; FFmpeg takes 35 bytes for each. Uncompressed
# sound has the most: 29 million in 10 minutes.
MOST_SAMPLES = 30_000_000
# The index of an mp4 file; FFmpeg takes up to 9 times its size.
INDEX_BYTES = 128 * 2**20

# Where an mp4 file declares samples: the sizes of all of them ("stsz", "stz2"), or a run of them in
# a fragment ("trun"). The number follows 4 or 8 bytes after the name, and 8 bytes later if the box
# has a length of 64 bits, which a 1 before the name says. "cmov" is a zipped index.
_SAMPLES = re.compile(
    rb"\0\0\0\x01(?:(?:stsz|stz2)(?=.{16}(.{4}))|trun(?=.{12}(.{4})))"
    rb"|(?:stsz|stz2)(?=.{8}(.{4}))|trun(?=.{4}(.{4}))|cmov",
    re.DOTALL,
)
_CONTENT = (b"mdat", b"free", b"skip", b"wide")

# Element identifiers of EBML (RFC 8794) and Matroska (RFC 9559), marker bits included.
_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_IN_CLUSTER = frozenset({0xE7, 0xA7, 0xAB, 0xA3, 0xA0, 0xAF, 0xEC, 0xBF, 0x5854})
_IN_SEGMENT = frozenset(
    {
        _CLUSTER,
        0x114D9B74,  # SeekHead
        0x1549A966,  # Info
        0x1654AE6B,  # Tracks
        0x1C53BB6B,  # Cues
        0x1941A469,  # Attachments
        0x1043A770,  # Chapters
        0x1254C367,  # Tags
        0xEC,  # Void
        0xBF,  # CRC-32
    }
)


def is_whole(path: Path, form: str) -> bool:
    """Return whether a file holds everything that its sizes announce.

    `form` is the name of FFmpeg's demuxer. Loss of data that the container does not announce goes
    unnoticed: a GIF does not state its number of frames, a live stream not its length.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if "mp4" in form:
            return _is_whole_mp4(file, size)
        if "avi" in form:
            return _is_whole_riff(file, size)
        if "matroska" in form:
            return _is_whole_matroska(file, size)
        if "gif" in form:
            return _is_whole_gif(file)
    return True


def refuse_bomb(path: Path) -> None:
    """Raise UnreadableError if an mp4 file declares more samples than it can possibly mean.

    Other files are left alone. Their formats have an entry in the file for each frame.
    """
    samples = 0
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        for offset, length, kind in _boxes(file):
            # In AVI, GIF and Matroska files these bytes are no names.
            if kind in _CONTENT or not kind.isalnum():
                continue
            length = min(length, size - offset)
            if length > INDEX_BYTES and kind in (b"moov", b"moof"):
                raise UnreadableError(
                    f"{path}: its index takes {length / 2**20:,.0f} MiB (limit "
                    f"{INDEX_BYTES / 2**20:.0f} MiB). Export the recording again"
                )
            index = _read_at(file, offset, min(length, INDEX_BYTES))
            for counts in _SAMPLES.findall(index):
                if not any(counts):
                    raise UnreadableError(
                        f"{path}: its index is compressed. Export the recording again"
                    )
                samples += int.from_bytes(b"".join(counts))
    if samples > MOST_SAMPLES:
        raise UnreadableError(
            f"{path}: declares {samples:,} frames and samples of sound (limit {MOST_SAMPLES:,}). "
            "Export the recording again, without sound"
        )


def _boxes(file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Yield offset, length and name of the outermost boxes; the last may exceed the file."""
    offset = 0
    while len(head := _read_at(file, offset, 16)) >= 8:
        length, kind = struct.unpack(">I4s", head[:8])
        if length == 1 and len(head) == 16:  # a 64-bit length follows
            (length,) = struct.unpack(">Q", head[8:])
        if length == 0:  # up to the end of the file
            length = file.seek(0, os.SEEK_END) - offset
        if length < 8:  # not a box but appended bytes
            return
        yield offset, length, kind
        offset += length


def _is_whole_mp4(file: BinaryIO, size: int) -> bool:
    """Walk the boxes of a fragmented file; other files have an index of all their frames."""
    fragmented = False
    for offset, length, kind in _boxes(file):
        fragmented |= kind == b"moof"
        if offset + length > size:
            return not fragmented or kind not in (b"moof", b"mdat")
    return True


def _is_whole_riff(file: BinaryIO, size: int) -> bool:
    """Walk the RIFF chunks; files beyond 1 GB have several."""
    offset = 0
    while len(head := _read_at(file, offset, 8)) == 8 and head[:4] == b"RIFF":
        (length,) = struct.unpack("<I", head[4:])
        if length == 0xFFFFFFFF:  # FFmpeg's placeholder, replaced when the file is closed
            return True
        offset += 8 + length + length % 2  # chunks are padded to an even length
        if offset > size + RIFF_SLACK_BYTES:
            return False
    return True


def _is_whole_matroska(file: BinaryIO, size: int) -> bool:
    """Walk the elements down to the frames: FFmpeg skips elements that it does not understand."""
    offset = 0
    # Where the current segment and cluster end, 0 outside of them. One of unknown length ends with
    # its parent, or before the first element that cannot be inside it.
    segment_end = cluster_end = 0
    while offset < size:
        element = _parse_ebml(_read_at(file, offset, 12))
        if segment_end and offset >= segment_end:  # appended bytes
            return True
        if element is None:
            return False
        kind, header, length = element
        if offset >= cluster_end or (cluster_end == size and kind in _IN_SEGMENT - _IN_CLUSTER):
            cluster_end = 0
        allowed = _IN_CLUSTER if cluster_end else _IN_SEGMENT
        if segment_end and kind not in allowed:
            return False
        end = size if length is None else offset + header + length
        if end > size or (cluster_end and end > cluster_end):
            return False
        if kind == _SEGMENT and not segment_end:
            segment_end = end
        elif kind == _CLUSTER:
            cluster_end = end
        else:
            offset += length or 0
        offset += header
    return True


def _parse_ebml(head: bytes) -> tuple[int, int, int | None] | None:
    """Return the identifier of an element, the size of its header and that of its content.

    The size of the content is None if the file does not state it. The result is None if `head`
    is not the header of an element.
    """
    # The number of leading zero bits of each field is its number of further bytes.
    id_bytes = 9 - head[:1].ljust(1, b"\0")[0].bit_length()
    size_bytes = 9 - head[id_bytes : id_bytes + 1].ljust(1, b"\0")[0].bit_length()
    header = id_bytes + size_bytes
    if id_bytes > 4 or size_bytes > 8 or len(head) < header:
        return None
    length = int.from_bytes(head[id_bytes:header]) & ~(1 << 7 * size_bytes)
    unknown = length == (1 << 7 * size_bytes) - 1
    return int.from_bytes(head[:id_bytes]), header, None if unknown else length


def _is_whole_gif(file: BinaryIO) -> bool:
    """Walk the blocks to the trailer, or without one to the end of the last image."""
    head = file.read(13)
    if len(head) < 13:
        return False
    file.seek(_palette_bytes(head[10]), os.SEEK_CUR)
    after_image = False  # whether the file may end here: an image, and no control block for another
    while kind := file.read(1):
        if kind == b";":  # trailer
            return True
        if kind == b"!":  # extension; F9 is the graphic control of the next image
            after_image &= file.read(1) != b"\xf9"
        elif kind == b",":  # image
            image = file.read(9)
            if len(image) < 9:
                return False
            file.seek(_palette_bytes(image[8]) + 1, os.SEEK_CUR)
            after_image = True
        elif kind == b"\0":  # some programs pad with empty blocks
            continue
        else:
            return False
        while (length := file.read(1)) != b"\0":
            if not length or len(file.read(length[0])) < length[0]:
                return False
    return after_image


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _read_at(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)
    return file.read(count)
