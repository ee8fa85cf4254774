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
PICTURE = re.compile(r"^```\{(?:image|figure)\} \S*pictures/(\S+)\n:alt: (.+)$", re.M)
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


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 60


def test_pictures_are_small_used_and_said_to_be_simulated() -> None:
    pictures = list((ROOT / "docs" / "pictures").iterdir())
    sizes = [path.stat().st_size for path in pictures]
    assert len(sizes) > 5
    assert max(sizes) <= 150_000
    assert sum(sizes) <= 1_000_000
    text = "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    shown = re.findall(r"!\[(.+?)\]\(\S*pictures/(\S+)\)", text)
    shown += [(alt, name) for name, alt in PICTURE.findall(text)]
    assert {name for _, name in shown} == {path.name for path in pictures}
    assert all("simulated" in alt for alt, _ in shown)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_leads_to_a_file(document: Path) -> None:
    links = [link for link in LINK.findall(document.read_text(encoding="utf-8")) if ":" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []
