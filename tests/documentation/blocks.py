"""The code blocks of the documents, and what it takes to run them here."""

import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Generated from the help texts, whose examples have a test of their own.
GENERATED = ROOT / "docs" / "reference" / "commands.md"
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
PAGES = [page for page in PAGES if page != GENERATED and "_build" not in page.parts]
BLOCK = re.compile(r"(?:<!-- not run: (.+?) -->\n)?^```(\w*)[^\n]*\n(.*?)^```$", re.M | re.S)
CODE = ("sh", "python", "powershell")
# Output, data and settings, which nobody runs; `{toctree}` and the like have no language.
OTHERS = ("", "text", "yaml", "xml", "console")
FILE = re.compile(r"# ([\w-]+\.(?:py|yaml))\b")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)


@dataclass(frozen=True)
class Block:
    """A code block; `reason` says why it cannot run here, if it cannot."""

    page: Path
    language: str
    text: str
    reason: str

    @property
    def file(self) -> str:
        """The name of the file that the block shows, from the comment in its first line."""
        found = FILE.match(self.text)
        return found[1] if found else ""

    @property
    def lines(self) -> list[str]:
        """The lines, each with its continuations."""
        joined = self.text.replace("\\\n", " ").splitlines()
        return [line for line in joined if line.strip() and not line.startswith("#")]


def read(page: Path) -> list[Block]:
    """Return the code blocks of a page."""
    found = BLOCK.findall(page.read_text("utf-8"))
    return [Block(page, language, text, reason) for reason, language, text in found]


def arguments(line: str) -> list[str] | None:
    """Return the arguments of stallscan in a line, None if it runs something else.

    ``torchrun ... -m stallscan`` starts several processes of the same command.
    """
    words = shlex.split(line.partition(" > ")[0], comments=True)
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if words[0] == "torchrun" and "stallscan" in words:
        words = words[words.index("stallscan") :]
    return words[1:] if words[0] == "stallscan" else None


def is_checked(line: str) -> bool:
    """Return whether a line installs an extra that exists, or makes a target that exists."""
    words = shlex.split(line, comments=True)
    if words[:2] == ["pip", "install"] and len(words) == 3:
        name, _, extras = words[2].partition("[")
        wanted = [extra for extra in extras.rstrip("]").split(",") if extra]
        return name in (".", "stallscan") and all(extra in EXTRAS for extra in wanted)
    return words[0] == "make" and len(words) == 2 and words[1] in TARGETS
