"""Options that have no effect without another one are refused alone, never ignored."""

import inspect

import pytest

from stallscan.cli.commands import app
from stallscan.cli.terminal import GROUPS, With, option_of

# By command: each such option, and the options of which one must be given.
EXPECTED = {
    "decide": {
        "--specificity": ("--rule specificity",),
        "--load": ("--rule load",),
        "--missed": ("--rule limits",),
        "--false": ("--rule limits",),
        "--confidence": ("--rule limits",),
        "--calibrate": ("--labels",),
    },
    "review": {"--known-share": ("--known",)},
    "labels": {"--expert": ("--rule expert",), "--address": ("--format label-studio",)},
    "improve": {"--expert": ("--rule expert",)},
    "rate": {"--spread": ("--vessels", "--all")},
    "export": {
        "--data": ("--precision bf16", "--precision int8"),
        "--limit": ("--precision bf16", "--precision int8"),
        "--seed": ("--precision int8",),
    },
    "simulate": {
        "--series": ("--stack",),
        "--frames": ("--stack",),
        "--frame-s": ("--series",),
        "--size": ("--stack",),
        "--test-stalled": ("--test",),
        "--recipe": ("--clips",),
        "--label-um": ("--label-stack",),
    },
    "fetch": {
        "--seed": ("--rule",),
        "--bundle": ("--prepare",),
        "--recipe": ("--prepare",),
        "--processes": ("--prepare",),
    },
}
VALUES = {
    "--calibrate": [],
    "--size": ["2", "2"],
    "--label-um": ["1", "1", "1"],
    "--series": ["two-photon"],
}
CASES = [(command, option) for command, options in EXPECTED.items() for option in options]


def parameters_of(command):
    return inspect.signature(app[command].default_command).parameters.values()


def partners_of(command):
    marks = {
        option_of(parameter): getattr(parameter.annotation, "__metadata__", ())
        for parameter in parameters_of(command)
    }
    return {
        option: mark.partners
        for option, found in marks.items()
        for mark in found
        if isinstance(mark, With)
    }


def test_these_options_need_a_partner():
    found = {command: partners_of(command) for group in GROUPS.values() for command in group}
    assert {command: options for command, options in found.items() if options} == EXPECTED
    for command, options in EXPECTED.items():
        known = {option_of(parameter) for parameter in parameters_of(command)}
        named = {partner.split()[0] for partners in options.values() for partner in partners}
        assert named <= known


@pytest.mark.parametrize(("command", "option"), CASES, ids="".join)
def test_alone_they_are_refused(run, tmp_path, monkeypatch, command, option):
    monkeypatch.chdir(tmp_path)
    words = [command]
    for parameter in parameters_of(command):
        if parameter.default is parameter.empty and parameter.kind != parameter.VAR_POSITIONAL:
            is_option = parameter.kind == parameter.KEYWORD_ONLY
            words += [option_of(parameter), "x"] if is_option else ["x"]
    code, out, said = run(*words, option, *VALUES.get(option, ["1"]))
    assert (code, out) == (2, "")
    for part in (f"{option} has no effect without", *EXPECTED[command][option]):
        assert part in said
    assert list(tmp_path.iterdir()) == []


def test_labels_that_choose_nothing_are_refused(run, tmp_path):
    for words in (["--threshold", "0.5"], ["--rule", "load"], ["--rule", "keep"]):
        code, _, said = run("decide", "x", "-o", tmp_path, "--labels", "l.csv", *words)
        assert code == 2
        assert "--labels has no effect" in said


def test_two_forms_of_a_status_are_refused(run, tmp_path):
    code, _, said = run("status", tmp_path, "--json", "--missing")
    assert code == 2
    assert "--missing" in said
