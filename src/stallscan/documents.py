"""Files that anybody may have written, read within bounds: JSON, YAML, and bytes in general.

A small file can describe a document that no memory holds: lists inside lists by the thousand, or in
YAML references to lists of references. It can also be a pipe, which nobody may ever write to. All
such files are refused with a ValueError whose message is the reason, without the path.
"""

import json
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

# Python takes up to 30 times the memory of a JSON file. The largest of ours, the reference of a
# bundle, has 20 bytes for each of its validation recordings.
JSON_BYTES = 32 * 2**20
# Read at about 100 kB a second. The shipped recipes have 2 kB.
YAML_BYTES = 2**20
# Levels of lists and mappings within each other; ours have 8. More than 300 or so exceed Python's
# limit of calls within calls, at some place that reads them later.
MOST_LEVELS = 100
# Values and characters of a YAML document after its references are followed.
MOST_CONTENT = 4 * YAML_BYTES
# No number needs more, and converting longer ones takes time that grows with the square.
LONGEST_NUMBER = 100

_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def read(path: Path, limit: int) -> bytes:
    """Return the content of a file.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is not a regular file, or has more than `limit` bytes.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is not a regular file")
    if status.st_size > limit:
        raise ValueError(f"it has more than {limit / 2**20:,.0f} MiB")
    return path.read_bytes()


def read_json(path: Path) -> Any:
    """Return the content of a JSON file in UTF-8; errors as from `read` and `parse_json`."""
    return parse_json(read(path, JSON_BYTES))


def parse_json(content: bytes) -> Any:
    """Return the content of a JSON text in UTF-8; raise ValueError if it is not one."""
    try:
        parsed = json.loads(content.decode("utf-8"))
    except RecursionError:
        raise _too_deep() from None
    _refuse_bomb([parsed], _inside)
    return parsed


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file in UTF-8; errors as from `read` and `parse_yaml`."""
    return parse_yaml(read(path, YAML_BYTES).decode("utf-8"))


def parse_yaml(text: str) -> Any:
    """Return the content of a YAML text: plain values only; raise ValueError if it is not one."""
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        # Before values are made of the nodes: merging ("<<") copies what it refers to.
        _refuse_bomb(root, _inside_node)
        return loader.construct_document(root)
    except RecursionError:
        raise _too_deep() from None
    # Besides YAMLError, PyYAML raises almost anything for values such as 2001-99-99.
    except Exception as error:  # noqa: BLE001
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None


class _Loader(yaml.SafeLoader):
    """Stops at the first list that is too deep; PyYAML's time grows with the square of depth."""

    def fetch_flow_collection_start(self, TokenClass: type[yaml.Token]) -> None:  # noqa: N803
        self._check_levels()
        super().fetch_flow_collection_start(TokenClass)

    def add_indent(self, column: int) -> bool:
        self._check_levels()
        return bool(super().add_indent(column))

    def _check_levels(self) -> None:
        if self.flow_level + len(self.indents) > MOST_LEVELS:
            raise _too_deep()


def _too_deep() -> ValueError:
    return ValueError(f"it has more than {MOST_LEVELS} levels of lists within lists")


def _refuse_bomb(root: Any, inside: Callable[[Any], Sequence[Any]]) -> None:
    """Raise ValueError if a document is too deep or, with its references followed, too large.

    `inside` returns what counts inside a list or mapping, or the characters of a text.
    """
    level, content = [root], 0
    for _ in range(MOST_LEVELS):
        below: list[Any] = []
        for each in level:
            values = inside(each)
            content += len(values)
            if content > MOST_CONTENT:
                raise ValueError("it has too many values")
            if not isinstance(values, str):
                below += values
        if not below:
            return
        level = below
    raise _too_deep()


def _inside(value: Any) -> Sequence[Any]:
    # JSON has no references, so nothing but lists and mappings counts.
    values = value.values() if isinstance(value, dict) else value
    return [each for each in values if isinstance(each, dict | list)]


def _inside_node(node: yaml.Node) -> Sequence[Any]:
    if isinstance(node, yaml.MappingNode):
        return [each for pair in node.value for each in pair]
    if node.tag in _NUMBERS and len(node.value) > LONGEST_NUMBER:
        raise ValueError(f"it has a number of more than {LONGEST_NUMBER} characters")
    value: Sequence[Any] = node.value
    return value
