"""Help, examples, the reference of commands, the version."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cyclopts import CycloptsError

import stallscan
from stallscan import files, runs
from stallscan.cli import reference, terminal
from stallscan.cli.commands import app
from stallscan.recipes import described
from stallscan.recipes.recipe import read_recipe

ROOT = Path(__file__).parents[2]
NAMES = [name for name in app if not name.startswith("-")]


def parse(line: str) -> None:
    words = shlex.split(line.partition(" > ")[0], comments=True)
    assert words[0] == "stallscan"
    app.parse_args(words[1:], exit_on_error=False, print_error=False)


def helped(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    app([name, "--help"], result_action="return_value")
    return capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_each_command_shows_one_example_that_parses(name, capsys):
    assert helped(name, capsys).count("Example: stallscan ") == 1
    (example,) = re.findall(r"^Example: (.*)$", app[name].help, re.MULTILINE)
    assert example.split()[1] == name
    parse(example)


@pytest.mark.parametrize("name", NAMES)
def test_no_command_offers_options_that_nobody_asked_for(name, capsys):
    # --no-browser and --no-corrections were asked for.
    assert not re.findall(r"--(?:empty|no)-(?!browser|corrections)\S+", helped(name, capsys))


def test_each_command_is_in_one_group_of_the_help(capsys):
    grouped = [name for names in terminal.GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(NAMES)
    app(["--help"], result_action="return_value")
    shown = capsys.readouterr().out
    titles = [f"─ {title} ─" for title in (*terminal.GROUPS, "Options")]
    places = [shown.index(title) for title in titles]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "line", ["evaluate --predictions a -o b", "rate --calls a --groups b -o c", "train --recipe a"]
)
def test_arguments_have_no_options_of_their_own(line):
    with pytest.raises(CycloptsError):
        app.parse_args(line.split(), exit_on_error=False, print_error=False)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_options(shell):
    script = app.generate_completion(shell=shell)
    assert "fine-tune" in script
    assert "prevalence" in script


def test_the_reference_is_up_to_date():
    written = (ROOT / "docs" / "reference" / "commands.md").read_text("utf-8")
    assert written == reference.reference(), "out of date; run: make references"


def test_the_reference_of_settings_is_up_to_date():
    written = (ROOT / "docs" / "reference" / "settings.md").read_text("utf-8")
    assert written == described.described(), "out of date; run: make references"


def test_every_setting_is_described():
    text = described.described()
    settings = runs.flatten(read_recipe("default").model_dump(mode="json"))
    names = {name.rpartition(".")[2] for name in settings}
    assert len(names) > 50
    assert not [name for name in names if f"`{name}`" not in text]


def test_the_version_names_the_commit_of_a_checkout(monkeypatch):
    monkeypatch.setattr(files, "git_commit", lambda limit_s: "0123abcd+dirty")
    assert terminal.version() == f"{stallscan.__version__} (0123abcd+dirty)"
    monkeypatch.setattr(files, "git_commit", lambda limit_s: None)
    assert terminal.version() == stallscan.__version__


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_the_commit_is_that_of_git_and_git_is_not_needed(monkeypatch):
    commit = files.git_commit()
    assert re.fullmatch(r"[0-9a-f]{12,}(\+dirty)?", commit)
    monkeypatch.setenv("PATH", "")
    assert files.git_commit() is None


def test_version_prints_it():
    command = [sys.executable, "-m", "stallscan", "--version"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown.startswith(stallscan.__version__)
