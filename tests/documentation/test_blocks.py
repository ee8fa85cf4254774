"""Every code block of the documents runs, or says why it cannot."""

import ast
import re
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stallscan.cli.commands import app
from stallscan.engines import export
from stallscan.nets import build
from stallscan.recipes import recipe
from tests.documentation import blocks
from tests.documentation.blocks import PAGES
from tests.documentation.conftest import COUNT

# What a page needs besides the world: the name there, and the name in the world; nothing for what
# would be in its way.
NEEDED = {
    "README.md": {"random.csv": "labels.csv"},
    "clusters.md": {"results": ""},
    "decisions.md": {
        "results": "study",
        "labelled": "study",
        "some.csv": "study/labels.csv",
        "submission_format.csv.gz": "study/submission_format.csv.gz",
    },
    "engines.md": {"results": "", "my_bundle": "bundle", "held_out": "data"},
    "evaluation.md": {
        "results": "study",
        "new": "study",
        "old": "study",
        "labels.csv": "study/labels.csv",
        "mice.csv": "study/mice.csv",
        "corpus/train_labels.csv": "study/labels.csv",
        "corpus/truth.csv": "study/truth.csv",
        "run-random": "a",
        "run-by-project": "b",
        "data/train_metadata.csv": "study/truth.csv",
    },
    "fine-tune.md": {"labels.csv": ""},
    "nets.md": {"results": "", "corpus": "data"},
    "rates.md": {
        "results": "study",
        "random.csv": "study/labels.csv",
        "mice.csv": "study/mice.csv",
    },
    "reproduce.md": {"competition": "data"},
    "review.md": {"labels.csv": ""},
    "store.md": {"results": "", "competition": "data", "run/bundle": "bundle"},
    "training.md": {"clips": ""},
}
# Added to commands that would take hours otherwise.
SMALL = ("--limit", str(COUNT), "--epochs", "1")
PUBLISHED = ("--set", "clip.size=32", "--set", "training.batch_size=4")
# Simulated recordings are several times as long as the drawn ones of the world.
SHORT = ("--set", "clip.frames=8", "--set", "training.batch_size=4")
# Clips that an export is checked on.
CHECKED_ON = 2
OFFLINE = ("--set", "pretrained.source=none")
REDUCED = {
    "train": SMALL,
    "fine-tune": ("--epochs", "1"),
    "improve": ("--epochs", "1"),
    # The published rule would select too few stalled ones.
    "reproduce": (*SMALL, "--size", "32", *SHORT, *OFFLINE, "--set", "data.rule=all"),
}
# The most recordings to simulate: a few of them are stalled.
LARGEST = {"--count": 12, "--test": 2}
# Pages whose blocks take a second or two each.
FAST = ("decisions.md", "methods.md")


def _identifier(page):
    return page.relative_to(blocks.ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=_identifier)
def test_every_block_can_be_run_or_says_why_not(page):
    for block in blocks.read(page):
        assert block.language in blocks.CODE + blocks.OTHERS, block.text
        assert block.language in blocks.CODE or not block.reason, f"not code: {block.text}"
        if block.language == "python":
            ast.parse(block.text)
        elif block.language == "sh" and not block.reason:
            unknown = [
                line
                for line in block.lines
                if blocks.arguments(line) is None and not blocks.is_checked(line)
            ]
            assert not unknown, "mark the block: <!-- not run: why -->"
        elif block.language == "powershell":
            assert block.reason


def test_marks_stand_right_before_a_block():
    for page in PAGES:
        marks = page.read_text("utf-8").count("<!-- not run:")
        assert marks == sum(bool(block.reason) for block in blocks.read(page)), page


def test_the_commands_in_the_documents_parse():
    lines = [
        (page.name, line)
        for page in (*PAGES, blocks.GENERATED)
        for block in blocks.read(page)
        if block.language in ("sh", "powershell")
        for line in block.lines
        if blocks.arguments(line) is not None and "--install-completion" not in line
    ]
    assert len(lines) > 100
    wrong = []
    for name, line in lines:
        try:
            app.parse_args(blocks.arguments(line), exit_on_error=False, print_error=False)
        except Exception as error:  # noqa: BLE001
            wrong.append((name, line, str(error)))
    assert not wrong


@pytest.mark.timeout(1800)  # some pages train several nets
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=_identifier(page), marks=[pytest.mark.slow][page.name in FAST :])
        for page in PAGES
        if any(block.language in blocks.CODE and not block.reason for block in blocks.read(page))
    ],
)
def test_the_blocks_of_a_page_run(page, world, tmp_path, monkeypatch, request):
    """Run them in order in one folder, as a reader would."""
    folder = tmp_path / "reader"
    shutil.copytree(world, folder)
    # A run knows the paths of its recordings.
    about = folder / "results" / "run.json"
    about.write_text(about.read_text("utf-8").replace(str(world), str(folder)), "utf-8")
    for name, source in NEEDED.get(page.name, {}).items():
        _place(source and world / source, folder / name)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(build, "NETS", dict(build.NETS))
    monkeypatch.setattr(export, "CHECKED_ON", CHECKED_ON)
    try:
        for block in blocks.read(page):
            if block.file:
                Path(block.file).write_text(block.text, "utf-8")
                if block.file.startswith("test_"):
                    _test(block.file)
            elif block.language == "python" and not block.reason:
                exec(compile(block.text, page.name, "exec"), {"__name__": "__main__"})
            elif block.language == "sh" and not block.reason:
                for line in block.lines:
                    _run(line, request)
    finally:
        sys.modules.pop("mynets", None)


def _place(source, target):
    """Put a copy of a file or folder in the place of what is there, or nothing."""
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
    if source and source.is_dir():
        shutil.copytree(source, target)
    elif source:
        target.parent.mkdir(exist_ok=True)
        shutil.copy(source, target)


def _test(name):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "1 passed" in done.stdout


def _run(line, request):
    words = blocks.arguments(line)
    if words is None:
        return  # only checked
    if words[0] == "review":
        _review(words)
        return
    code, out, err = request.getfixturevalue("run")(*_reduced(words, request))
    assert code == 0, f"{line}\n{out}\n{err}"
    if target := re.search(r" > (\S+)", line):
        Path(target[1]).write_text(out, "utf-8")


def _reduced(words, request):
    """Return the arguments of a smaller run of the same command, offline."""
    words = list(words)
    for option, most in LARGEST.items():
        if option in words:
            place = words.index(option) + 1
            words[place] = str(min(int(words[place]), most))
    if words[:2] == ["simulate", "field"] and "--stack" in words:
        words += ["--frames", "40", "--size", "192", "192"]
    if words[0] == "rate" and request.node.callspec.params["page"].name == "README.md":
        # Calls of drawn noise are no better than chance. rates.md takes a measured accuracy.
        place = words.index("--accuracy")
        words[place : place + 2] = ["--sensitivity", "0.9", "--specificity", "0.9"]
    if words[0] == "fetch":
        words += ["--endpoint", _bucket(request).endpoint]
    # An option that the document gives itself is not given again.
    added = list(REDUCED.get(words[0], ()))
    for option in ("--epochs", "--limit", "--size"):
        if option in words and option in added:
            place = added.index(option)
            del added[place : place + 2]
    if words[0] == "train" and not any("pretrained" in word for word in words):
        added += OFFLINE
        if words[1] == "third-place":
            added += PUBLISHED
    if words[0] == "prepare" and "third-place" in words:
        words[words.index("third-place")] = str(_published())
    return [*words, *added]


def _published():
    """Write the recipe of third-place with small clips, for a store of them; return its path."""
    path = Path("third-place-small.yaml")
    settings = recipe.read_recipe("third-place", PUBLISHED[1::2])
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json")), "utf-8")
    return path


def _bucket(request):
    bucket = request.getfixturevalue("bucket")
    for path in sorted(Path("data").glob("*/*.mp4")):
        bucket.put(f"{path.parent.name}/{path.name}", path.read_bytes())
    return bucket


def _review(words):
    """Start the page, and end it when it says where it is."""
    command = [sys.executable, "-m", "stallscan", *words, "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        ready, _, _ = select.select([process.stdout], [], [], 60)
        printed = process.stdout.readline() if ready else ""
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert printed.startswith("review page: ")
