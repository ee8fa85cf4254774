"""Write docs/commands.md: every command with its options, from the commands' own help."""

import re
import sys

from stallscan import files
from stallscan.cli.commands import app

HEAD = """# Commands

Written by `make docs` from the commands' own help; change it there.

"""


def reference() -> str:
    """Return the reference of all commands, Markdown."""
    pages = app.generate_docs()
    # Each command stands below under a heading of its own; of the two lists before, one will do.
    pages = pages[pages.index("**Commands**") :].partition("\n")[2].lstrip()
    # Cyclopts takes what `python -m` runs now for a part of each usage.
    pages = re.sub(r"^(stallscan \S+) -m \S+", r"\1", pages, flags=re.MULTILINE)
    pages = re.sub(r"^Example: (.+)$", r"```sh\n\1\n```", pages, flags=re.MULTILINE)
    return HEAD + pages.rstrip() + "\n"


if __name__ == "__main__":
    files.write_text(sys.argv[1], reference())
