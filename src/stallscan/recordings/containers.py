"""The outermost structure of video files: whether all is there that it announces.

FFmpeg reads whatever it finds. That a file was cut, or that a part in the middle cannot be found,
follows from the sizes that containers write before their content.
"""

import os
import struct
from pathlib import Path
from typing import BinaryIO

# Programs disagree whether the size of a RIFF file counts the 8 bytes before it.
RIFF_SLACK_BYTES = 8

# EBML (RFC 8794) and Matroska (RFC 9559): identifiers as they are written.
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
    """Return whether nothing is missing that the sizes in a file announce.

    What a container does not announce (a GIF the number of its frames, a live stream its length)
    cannot be missed.

    Parameters
    ----------
    path : Path
        The file.
    form : str
        Name of FFmpeg's demuxer.

    Raises
    ------
    OSError
        If the file cannot be read.
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


def _is_whole_mp4(file: BinaryIO, size: int) -> bool:
    """Follow the boxes of a fragmented file; other files have an index of all their frames."""
    place, fragmented = 0, False
    while len(head := _at(file, place, 16)) >= 8:
        length, kind = struct.unpack(">I4s", head[:8])
        if length == 1 and len(head) == 16:  # the length follows, in 64 bits
            (length,) = struct.unpack(">Q", head[8:])
        if length < 8:  # to the end of the file, or no box: something was appended
            return True
        fragmented |= kind == b"moof"
        place += length
        if place > size:
            return not fragmented or kind not in (b"moof", b"mdat")
    return True


def _is_whole_riff(file: BinaryIO, size: int) -> bool:
    """Follow the RIFF chunks, several in a file beyond 1 GB."""
    place = 0
    while len(head := _at(file, place, 8)) == 8 and head[:4] == b"RIFF":
        (length,) = struct.unpack("<I", head[4:])
        if length == 0xFFFFFFFF:  # FFmpeg writes this until it knows better
            return True
        place += 8 + length + length % 2
        if place > size + RIFF_SLACK_BYTES:
            return False
    return True


def _is_whole_matroska(file: BinaryIO, size: int) -> bool:
    """Follow the elements down to the frames: FFmpeg skips what it does not understand."""
    place = 0
    # Ends of the segment and of the cluster under way; an element of unknown length ends with its
    # parent, or where one begins that does not belong in it.
    segment_end = cluster_end = 0
    while place < size:
        element = _ebml(_at(file, place, 12))
        if segment_end and place >= segment_end:  # something was appended
            return True
        if element is None:
            return False
        kind, header, length = element
        if place >= cluster_end or (cluster_end == size and kind in _IN_SEGMENT - _IN_CLUSTER):
            cluster_end = 0
        allowed = _IN_CLUSTER if cluster_end else _IN_SEGMENT
        if segment_end and kind not in allowed:
            return False
        end = size if length is None else place + header + length
        if end > size or (cluster_end and end > cluster_end):
            return False
        if kind == _SEGMENT and not segment_end:
            segment_end = end
        elif kind == _CLUSTER:
            cluster_end = end
        else:
            place += length or 0
        place += header
    return True


def _ebml(head: bytes) -> tuple[int, int, int | None] | None:
    """Parse the header of an element: its identifier, its own length and that of its content.

    The content's length is None where the file does not tell it. None if this is no header.
    """
    id_bytes = 9 - head[:1].ljust(1, b"\0")[0].bit_length()
    size_bytes = 9 - head[id_bytes : id_bytes + 1].ljust(1, b"\0")[0].bit_length()
    header = id_bytes + size_bytes
    if id_bytes > 4 or size_bytes > 8 or len(head) < header:
        return None
    length = int.from_bytes(head[id_bytes:header]) & ~(1 << 7 * size_bytes)
    unknown = length == (1 << 7 * size_bytes) - 1
    return int.from_bytes(head[:id_bytes]), header, None if unknown else length


def _is_whole_gif(file: BinaryIO) -> bool:
    """Follow the blocks to the trailer, or to the end of the last image where it has none."""
    head = file.read(13)
    if len(head) < 13:
        return False
    file.seek(_palette_bytes(head[10]), os.SEEK_CUR)
    shown = False  # whether the last block is an image, not what describes the next one
    while kind := file.read(1):
        if kind == b";":
            return True
        if kind == b"!":
            shown &= file.read(1) != b"\xf9"
        elif kind == b",":
            image = file.read(9)
            if len(image) < 9:
                return False
            file.seek(_palette_bytes(image[8]) + 1, os.SEEK_CUR)
            shown = True
        elif kind == b"\0":  # some programs fill up with empty blocks
            continue
        else:
            return False
        while (length := file.read(1)) != b"\0":
            if not length or len(file.read(length[0])) < length[0]:
                return False
    return shown


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _at(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)
