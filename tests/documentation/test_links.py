"""Citations of docs/facts.md and links between documents are valid."""

import re
from pathlib import Path

import pytest

from tests.documentation.blocks import ROOT

FACTS = ROOT / "docs" / "facts.md"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])
TEXT = {".py", ".md", ".yaml", ".j2"}
# A section number must follow, unless the page is the target or the text of a link.
CITATION = re.compile(r"docs/facts\.md(?![\])#])(?: (\d+(?:(?:, | and )\d+\b)*))?")
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)")


def _cited() -> dict[str, set[str]]:
    """Return the sections cited by each file; '' for a citation without a number."""
    files = [*ROOT.glob("*.md")]
    for folder in ("src", "tests", "docs", "benchmarks"):
        files += (ROOT / folder).rglob("*.*")
    cited = {}
    for path in files:
        if path.suffix in TEXT and path != Path(__file__).resolve():
            found = CITATION.findall(path.read_text(encoding="utf-8"))
            numbers = {number for each in found for number in re.split(", | and ", each)}
            if numbers:
                cited[path.relative_to(ROOT).as_posix()] = numbers
    return cited


def test_every_citation_names_a_section_of_the_facts() -> None:
    sections = set(re.findall(r"^## (\d+)\. ", FACTS.read_text(encoding="utf-8"), re.MULTILINE))
    cited = _cited()
    assert len(cited) > 30
    unknown = {name: numbers - sections for name, numbers in cited.items() if numbers - sections}
    assert not unknown


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_leads_to_a_file(document: Path) -> None:
    links = [link for link in LINK.findall(document.read_text(encoding="utf-8")) if ":" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []
