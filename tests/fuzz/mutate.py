"""Mutations of files: of any bytes, and of the structures of the formats that stallscan reads.

Random flips rarely get past a format's outer structure, so most mutations take it apart, change one
place (a size, a count, an offset, a value, the order) and put it together again.
"""

import gzip
import json
import random
import re
import sqlite3
import struct
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

# Where parsers go wrong: around the ends of number types, of memory and of files.
NUMBERS = (
    *(0, 1, 2, 3, 4, 7, 8, 9, 16, 63, 64, 100, 127, 128, 255, 256, 1000, 4095, 4096, 4097, 10_000),
    *(10_001, 32767, 32768, 65535, 65536, 10**6, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40),
    *(2**53, 2**63 - 1, 2**63, 2**64 - 1),
)
TEXTS = (
    *(
        "",
        " ",
        "\0",
        "a\0b",
        "..",
        "../../../x",
        "/etc/passwd",
        "C:\\x",
        "nan",
        "inf",
        "1e999",
        "-",
    ),
    *("\ud800", "\u202e", "é" * 200, "a" * 5000, "%s%n", "{0}", "${HOME}", "<b>", "=1+1", '"', "'"),
    *("2001-99-99", "1" * 5000, "1:1:1:1", "!!timestamp x", "0x", "true", "null", "~", "filename"),
)
# Deep enough for the recursion of any parser in Python, and small.
DEEP = 3000
LARGEST = 2**18  # bytes; mutations never make files larger than this plus one part

Mutation = Callable[[bytes, random.Random, Sequence[bytes]], bytes]


def mutate(data: bytes, kind: str, rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """Change a file once to four times.

    Parameters
    ----------
    kind : str
        One of `KINDS`: how the file is built.
    corpus : sequence of bytes
        Other files of this kind, to take parts from.
    """
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        change = mutate_bytes if rng.random() < 0.25 else KINDS[kind]
        try:
            data = change(data, rng, corpus)
        # The file is no longer of this kind, after an earlier mutation.
        except Exception:  # noqa: BLE001
            data = mutate_bytes(data, rng, corpus)
    return data[: 2 * LARGEST]


def mutate_bytes(data: bytes, rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """Flip bits, overwrite numbers, cut, repeat, or splice with another file."""
    if not data:
        return rng.randbytes(rng.randrange(1, 64))
    place = rng.randrange(len(data))
    length = min(rng.choice((1, 2, 4, 8, 32, 256, 4096)), len(data) - place)
    match rng.randrange(9):
        case 0:
            changed = bytearray(data)
            for _ in range(rng.choice((1, 2, 8, 64))):
                changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            return bytes(changed)
        case 1:
            return data[:place] + _number(rng) + data[place + rng.choice((0, 1, 2, 4, 8)) :]
        case 2:
            return data[:place]
        case 3:
            return data[:place] + data[place + length :]
        case 4:
            return (
                data[:place] + data[place : place + length] * rng.choice((2, 3, 50)) + data[place:]
            )
        case 5:
            other = rng.choice(corpus) if corpus else data
            return data[:place] + other[rng.randrange(len(other) + 1) :]
        case 6:
            return data[:place] + rng.randbytes(length) + data[place + length :]
        case 7:
            return data[:place] + bytes(length) + data[place + length :]
        case _:
            return data + rng.choice((b"\0", b"\r\n", data[:length], rng.randbytes(length)))


def _number(rng: random.Random) -> bytes:
    """Return a number as text or binary, in either order of bytes."""
    value = rng.choice(NUMBERS) + rng.choice((-1, 0, 0, 1))
    size = rng.choice((1, 2, 4, 8))
    if rng.random() < 0.1:
        return str(value).encode()
    return (value % 256**size).to_bytes(size, rng.choice(("big", "little")))


_BOXES = frozenset(
    {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf", b"mvex", b"moof", b"traf"}
)


def mutate_mp4(data: bytes, rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """Change, repeat, remove or move a box; the sizes of the boxes around it mostly follow."""
    boxes = [(place, size) for place, size, _ in _walk_boxes(data, 0, len(data))]
    place, size = rng.choice(boxes)
    if data[place + 4 : place + 8] == b"mdat" and rng.random() < 0.7:
        place, size = rng.choice(boxes)
    box = data[place : place + size]
    match rng.randrange(6):
        case 0:
            new = b""
        case 1:
            new = box * rng.choice((2, 3, 20))
        case 2:
            other = rng.choice(boxes)
            new = data[other[0] : other[0] + min(other[1], 4096)]
        case 3:
            new = (
                box[:4]
                + rng.choice((b"free", b"stts", b"stsz", b"moov", b"edts", b"avcC"))
                + box[8:]
            )
        case 4:
            new = _number(rng)[:4].rjust(4, b"\0") + box[4:]
        case _:  # a word of the content: counts and tables are made of these
            inside = bytearray(box)
            for _ in range(rng.choice((1, 1, 4))):
                word = 8 + 4 * rng.randrange(max((min(size, 400) - 8) // 4, 1))
                inside[word : word + 4] = struct.pack(">I", rng.choice(NUMBERS) % 2**32)
            new = bytes(inside)
    changed = bytearray(data[:place] + new + data[place + size :])
    if rng.random() < 0.8:
        for start, length in boxes:
            if start < place and start + length >= place + size and length < 2**32:
                wanted = max(length + len(new) - size, 0)
                changed[start : start + 4] = struct.pack(">I", wanted)
    return bytes(changed)


def _walk_boxes(data: bytes, start: int, end: int) -> Any:
    while start + 8 <= end:
        size, kind = struct.unpack(">I4s", data[start : start + 8])
        size = min(size, end - start) if size >= 8 else end - start
        yield start, size, kind
        if kind in _BOXES:
            yield from _walk_boxes(data, start + 8, start + size)
        start += size


def mutate_gif(data: bytes, rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """Change the screen, or a block: an image's place and size, an extension, the codes."""
    if rng.random() < 0.1:
        place = 6 + 2 * rng.randrange(2)
        return data[:place] + struct.pack("<H", rng.choice(NUMBERS) % 2**16) + data[place + 2 :]
    marks = [found.start() for found in re.finditer(rb"\0[,!]", data)]
    place = rng.choice(marks) + 1
    if rng.random() < 0.2:
        end = rng.choice(marks) + 1
        return data[:place] + data[min(place, end) : end] * rng.choice((1, 2, 30)) + data[place:]
    word = place + 1 + 2 * rng.randrange(4)
    return data[:word] + struct.pack("<H", rng.choice(NUMBERS) % 2**16) + data[word + 2 :]


def mutate_ebml(data: bytes, rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """Change the bytes around an identifier of Matroska."""
    ids = (b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75", b"\x16\x54\xae\x6b", b"\xb0", b"\xba", b"\xa3")
    places = [found.start() for found in re.finditer(b"|".join(map(re.escape, ids)), data)]
    place = rng.choice(places) + rng.randrange(8)
    return data[:place] + _number(rng) + data[place + rng.choice((0, 1, 2, 4)) :]


def mutate_riff(data: bytes, rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """Change a field after one of the names of chunks in an AVI file."""
    names = (b"avih", b"strh", b"strf", b"strl", b"hdrl", b"movi", b"idx1", b"00dc", b"LIST")
    places = [found.start() for found in re.finditer(b"|".join(names), data)]
    place = rng.choice(places) + 4 * rng.randrange(16)
    return data[:place] + struct.pack("<I", rng.choice(NUMBERS) % 2**32) + data[place + 4 :]


_TAGS = (254, 256, 257, 258, 259, 262, 270, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325)
_MORE_TAGS = (330, 338, 339, 347, 530, 32997, 32998, 34675, 50838, 50839, 65420)


def mutate_tiff(data: bytes, rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """Change an entry of a page's header (tag, type, count, value), or the chain of pages."""
    order = "<" if data[:2] == b"II" else ">"
    is_big = data[2:4] in (b"+\0", b"\0+")
    pages: list[int] = []
    (offset,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, 8 if is_big else 4)
    while 0 < offset < len(data) and offset not in pages and len(pages) < 50:
        pages.append(offset)
        (count,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, offset)
        after = offset + (8 + 20 * count if is_big else 2 + 12 * count)
        (offset,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, after)
    page = rng.choice(pages)
    (count,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, page)
    first, size = (page + 8, 20) if is_big else (page + 2, 12)
    entry = first + size * rng.randrange(count)
    changed = bytearray(data)
    number = rng.choice(NUMBERS)
    word, form, bits = (8, "Q", 64) if is_big else (4, "I", 32)
    match rng.randrange(8):
        case 0:
            struct.pack_into(order + "H", changed, entry, rng.choice(_TAGS + _MORE_TAGS))
        case 1:
            struct.pack_into(order + "H", changed, entry + 2, rng.randrange(20))
        case 2:
            struct.pack_into(order + form, changed, entry + 4, number % 2**bits)
        case 3:
            struct.pack_into(order + form, changed, first + size * count, rng.choice(pages))
        case 4:
            struct.pack_into(order + form, changed, first + size * count, number % 2**bits)
        case 5:  # the description, which ImageJ and OME parse
            (tag,) = struct.unpack_from(order + "H", changed, entry)
            if tag == 270:
                (where,) = struct.unpack_from(order + form, changed, entry + 4 + word)
                where += rng.randrange(300)
                changed[where : where + 1] = rng.choice((b"", b"0", b"9" * 12, b"<", b">", b"\n"))
        case _:
            place = entry + 4 + word
            wide = rng.random() < 0.5
            value = number % (2**bits if wide else 2**16)
            struct.pack_into(order + (form if wide else "H"), changed, place, value)
    return bytes(changed)


def mutate_npy(data: bytes, rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """Change the dictionary in the header."""
    size = int.from_bytes(data[8:10], "little")
    header, pixels = data[10 : 10 + size], data[10 + size :]
    text = header.decode("latin1")
    match rng.randrange(5):
        case 0:
            numbers = list(re.finditer(r"\d+", text))
            found = rng.choice(numbers)
            value = rng.choice((*NUMBERS, -1, "1.5", "1e9", "'x'", "True", "None", "9" * 30))
            text = text[: found.start()] + str(value) + text[found.end() :]
        case 1:
            shapes = ["()", "(1,)", "(2**40,)", f"({2**40},)", "(0, 0, 0)", "(-1, 8, 8)", "[8, 8]"]
            shapes += ["(" * 200 + ")" * 200, f"({2**32}, {2**32}, 1)", "(3, 4000, 4000)", "8"]
            text = re.sub(r"'shape': \(.*?\)", "'shape': " + rng.choice(shapes), text, count=1)
        case 2:
            kinds = ["'O'", "'|V1'", "'<U9'", "'<M8[ns]'", "[('a', '<u1'), ('b', 'O')]", "'>f2'"]
            kinds += ["'<f16'", "'|b1'", "'<c8'", "'|u1, |u1'", "('<u1', (1000, 1000))", "'x'"]
            text = re.sub(r"'descr': '[^']*'", "'descr': " + rng.choice(kinds), text, count=1)
        case 3:
            text = text.replace("False", rng.choice(("True", "0", "'a'", "None", "[]")))
        case _:
            text = _mutate_text(text, rng)
    header = text.encode("latin1", "replace")
    length = len(header) if rng.random() < 0.9 else rng.choice(NUMBERS)
    version = data[6:8] if rng.random() < 0.9 else rng.choice((b"\2\0", b"\3\0", b"\4\0", b"\0\0"))
    wide = version in (b"\2\0", b"\3\0")
    packed = (
        (length % 2**32).to_bytes(4, "little") if wide else (length % 2**16).to_bytes(2, "little")
    )
    return data[:6] + version + packed + header + pixels


def _mutate_text(text: str, rng: random.Random) -> str:
    place = rng.randrange(len(text) + 1)
    end = min(place + rng.choice((0, 1, 5, 50)), len(text))
    return (
        text[:place] + rng.choice((*TEXTS, "(", "[", "{", ":", ",", "\n", "&a", "*a")) + text[end:]
    )


def _value(rng: random.Random) -> Any:
    """Return a value that does not belong where it is put."""
    match rng.randrange(9):
        case 0:
            return rng.choice(NUMBERS) * rng.choice((1, -1))
        case 1:
            return rng.choice((0.5, -0.0, 1e-320, 1e300, float("nan"), float("inf"), -1.5))
        case 2 | 3:
            return rng.choice(TEXTS)
        case 4:
            return rng.choice((None, True, False, [], {}, [[]], [{}], [None], {"": None}))
        case 5:
            return [rng.choice(NUMBERS)] * rng.choice((1, 2, 3, 4, 1000))
        case 6:
            return dict.fromkeys(TEXTS)
        case _:
            return rng.choice(NUMBERS[:20])


def _change_value(content: Any, rng: random.Random) -> Any:
    """Change one value anywhere in a document of lists and mappings, in place where possible."""
    if isinstance(content, str) and content.startswith("{") and rng.random() < 0.9:
        return json.dumps(_change_value(json.loads(content), rng))  # a document in a document
    if not isinstance(content, dict | list) or not content or rng.random() < 0.1:
        return _value(rng)
    key = rng.choice(list(content) if isinstance(content, dict) else range(len(content)))
    chance = rng.random()
    if chance < 0.6:
        content[key] = _change_value(content[key], rng)
    elif chance < 0.7:
        del content[key]
    elif isinstance(content, list):
        if chance < 0.8:
            content.insert(key, content[key])
        elif chance < 0.9:
            content.extend(content * rng.choice((1, 20)))
        else:
            rng.shuffle(content)
    elif chance < 0.85:
        content[rng.choice(TEXTS)] = content.pop(key)
    else:
        other = rng.choice(list(content))
        content[key], content[other] = content[other], content[key]
    return content


def mutate_json(data: bytes, rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """Change one value, or nest, or break the text."""
    chance = rng.random()
    if chance < 0.03:
        left, right = rng.choice((("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")))
        deep = left * DEEP + "1" + right * DEEP
        text = data.decode("utf-8", "replace")
        found = rng.choice(list(re.finditer(r": *(\d|\"|\[|\{)", text)) or [None])
        return deep.encode() if found is None else (text[: found.start()] + ": " + deep).encode()
    if chance < 0.1:
        text = _mutate_text(data.decode("utf-8", "replace"), rng)
        return text.encode("utf-8", "surrogatepass")
    return json.dumps(_change_value(json.loads(data), rng)).encode()


def mutate_safetensors(data: bytes, rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """Change the header, or the length before it."""
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size]
    if rng.random() < 0.95:
        header = mutate_json(header, rng, corpus)
    length = len(header) if rng.random() < 0.9 else rng.choice(NUMBERS)
    return (length % 2**64).to_bytes(8, "little") + header + data[8 + size :]


def mutate_yaml(data: bytes, rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """Change one value, or break the text, or add what YAML has beyond JSON."""
    text = data.decode("utf-8", "replace")
    chance = rng.random()
    if chance < 0.4:
        return yaml.safe_dump(_change_value(yaml.safe_load(text), rng)).encode("utf-8", "replace")
    lines = text.splitlines()
    place = rng.randrange(len(lines) + 1)
    pieces = [
        *("name: &a [*a]", "x: &a [1]\ny: *a", "<<: *a", "!!python/object/apply:os.getcwd []"),
        *("- " * 500 + "1", "[" * 2000, "a: " * 2000, "? [a, b]\n: 1", "!!set {a, b}", "%YAML 9.9"),
        *("!!binary =", "!!int ''", "!!float x", "!!timestamp x", "!!bool x", "!!null x", "--- 1"),
        *(
            "a: !!pairs [1]",
            "a: !!omap [1]",
            "a: 2001-99-99",
            "a: 1:99:99.9",
            "a: |\n  x",
            "\t",
            "\0",
        ),
        "\n".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}' if n else '1'] * 9)}]" for n in range(9)),
    ]
    if chance < 0.8:
        lines.insert(place, rng.choice(pieces))
        return "\n".join(lines).encode("utf-8", "surrogatepass")
    return _mutate_text(text, rng).encode("utf-8", "surrogatepass")


def mutate_csv(data: bytes, rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """Change a cell, a row, a separator, the quotes, the encoding or the compression."""
    text = data.decode("utf-8", "surrogateescape")
    lines = text.split("\n")
    place = rng.randrange(len(lines))
    cells = lines[place].split(",")
    match rng.randrange(12):
        case 0 | 1 | 2:
            cells[rng.randrange(len(cells))] = rng.choice((*TEXTS, *map(str, NUMBERS), "1e5", "-1"))
        case 3:
            cells.insert(rng.randrange(len(cells)), rng.choice(TEXTS))
        case 4:
            cells.pop(rng.randrange(len(cells)))
        case 5:
            rng.shuffle(cells)
        case 6:
            cells[0] = '"' + cells[0]
        case 7:
            cells = ['"' + "\n".join(lines[:40]) + '"', *cells[1:]]
        case 8:
            cells = [rng.choice(("x" * 200_000, "," * 3000, ";" * 3000, '"' * 3001, "\r" * 3000))]
    lines[place] = ",".join(cells)
    match rng.randrange(10):
        case 0:
            lines = lines * rng.choice((2, 30))
        case 1:
            rng.shuffle(lines)
        case 2:
            lines = [line.replace(",", rng.choice((";", "\t", "|"))) for line in lines]
    changed = rng.choice(("\n", "\n", "\n", "\r\n", "\r")).join(lines)
    match rng.randrange(16):
        case 0:
            return gzip.compress(changed.encode("utf-8", "surrogateescape"))
        case 1:
            return b"\xff\xfe" + changed.encode("utf-16-le", "replace")
        case 2:
            return changed.encode("cp1252", "replace")
    return changed.encode("utf-8", "surrogatepass" if "\ud800" in changed else "surrogateescape")


_STATEMENTS = (
    "DELETE FROM answers WHERE id % 2",
    "UPDATE answers SET takes_back = 10 - id",
    "UPDATE answers SET id = id + 9223372036854775700",
    "UPDATE answers SET answer = x'00ff'",
    "UPDATE answers SET filename = x'ff00', reviewer = 1",
    "UPDATE answers SET seconds = 'a', given_at = x'00', is_check = 'b'",
    "UPDATE answers SET reviewer = char(0) || reviewer",
    "PRAGMA user_version = 2",
    "DROP VIEW standing",
    "DROP TABLE sheets",
    "DROP VIEW current; CREATE VIEW current AS SELECT 1",
    "DROP VIEW standing; CREATE VIEW standing AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL "
    "SELECT i + 1 FROM n) SELECT i AS id, '' AS filename, '' AS reviewer, '' AS answer, '' AS "
    "given_at, 0 AS seconds, 0 AS is_check FROM n",
    "CREATE TRIGGER t AFTER INSERT ON answers BEGIN DELETE FROM answers; END",
    "ALTER TABLE answers ADD COLUMN more GENERATED ALWAYS AS (zeroblob(100000000))",
    "CREATE VIRTUAL TABLE v USING fts5(x)",
)


def mutate_sqlite(data: bytes, rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """Run a statement that our program would not."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.sqlite"
        path.write_bytes(data)
        database = sqlite3.connect(path)
        try:
            database.execute("PRAGMA journal_mode = DELETE")
            if rng.random() < 0.5:
                database.execute("PRAGMA foreign_keys = OFF")
            database.executescript(rng.choice(_STATEMENTS))
            database.commit()
        finally:
            database.close()
        return path.read_bytes()


KINDS: dict[str, Mutation] = {
    "bytes": mutate_bytes,
    "mp4": mutate_mp4,
    "gif": mutate_gif,
    "ebml": mutate_ebml,
    "riff": mutate_riff,
    "tiff": mutate_tiff,
    "npy": mutate_npy,
    "json": mutate_json,
    "safetensors": mutate_safetensors,
    "yaml": mutate_yaml,
    "csv": mutate_csv,
    "sqlite": mutate_sqlite,
}
