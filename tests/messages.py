"""Collect all sentences that the code can show a user, by module; `make references` writes it."""

import ast
import re
import sys
from pathlib import Path

import stallscan
from stallscan import files

SOURCE = Path(stallscan.__file__).parent
GOLDEN = Path(__file__).with_name("messages.txt")
# Words in a row; paths, formats, regular expressions and names of columns have fewer.
SENTENCE = re.compile(r"[A-Za-z{}'-]{2,},? [A-Za-z{}'-]+,? [A-Za-z{}'-]{2,}")


def collect() -> str:
    """Return the sentences of all modules, one a line, in the order of the source."""
    sections = []
    for path in sorted(SOURCE.rglob("*.py")):
        lines = list(dict.fromkeys(_sentences(ast.parse(path.read_text("utf-8")))))
        if lines:
            name = path.relative_to(SOURCE).with_suffix("").as_posix()
            sections.append("\n".join([f"[{name}]", *lines]))
    return "\n\n".join(sections) + "\n"


def _sentences(node: ast.AST) -> list[str]:
    """Return the strings below a node that hold words, without docstrings and parts of strings."""
    if isinstance(node, ast.Constant | ast.JoinedStr):
        text = _text(node)
        return [text] if SENTENCE.search(text) else []
    found = []
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)):
            found += _sentences(child)
    return found


def _text(node: ast.AST) -> str:
    """Return a string as it is written, with the expressions in braces, on one line."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.FormattedValue):
        return f"{{{ast.unparse(node.value)}}}"
    value = node.value if isinstance(node, ast.Constant) else ""
    return value.replace("\n", "\\n") if isinstance(value, str) else ""


if __name__ == "__main__":
    files.write_text(sys.argv[1], collect())
