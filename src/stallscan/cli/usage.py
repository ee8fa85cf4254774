"""Messages for command lines that cannot be parsed."""

from typing import Literal, get_args, get_origin

from cyclopts import CoercionError, CycloptsError, MissingArgumentError

from stallscan.words import enumerated


def explain(error: CycloptsError) -> str:
    """Return what is wrong with a command line, without the names of types and functions."""
    if isinstance(error, MissingArgumentError) and error.argument and error.command_chain:
        return _say_missing(error)
    token = error.token if isinstance(error, CoercionError) else None
    if token is not None and error.argument and error.msg is None:
        return (
            f"{token.keyword or error.argument.name} cannot be {token.value!r}. Give "
            f"{_say_accepted(error.argument.hint)}"
        )
    error.verbose = False
    return str(error)


def _say_missing(error: MissingArgumentError) -> str:
    argument = error.argument
    assert argument is not None
    assert error.command_chain
    name = argument.name
    given = error.keyword or name in (error.root_input_tokens or ())
    count, _ = argument.token_count()
    if given:
        values = "a value" if count == 1 else f"{count} values, not {len(error.tokens_so_far)}"
        return f"{error.keyword or name} needs {values}{_help_of(error)}"
    return f"{name} is missing{_help_of(error)}"


def _help_of(error: MissingArgumentError) -> str:
    """Return the help on an argument, to follow a clause, and where the rest is."""
    command = " ".join(error.command_chain or ())
    more = f"'stallscan {command} --help' describes all options"
    app, argument = error.app, error.argument
    if app is None or argument is None:
        return f". {more}"
    for each in app.assemble_argument_collection(parse_docstring=True):
        if each.name == argument.name and each.parameter.help:
            return f": {each.parameter.help.rstrip('.')}. {more}"
    return f". {more}"


def _say_accepted(hint: object) -> str:
    """Return which values a type accepts, in words."""
    if get_origin(hint) is Literal:
        return enumerated([str(value) for value in get_args(hint)], "or")
    kinds = {float: "a number", int: "a whole number", type(None): ""}
    if hint in kinds:
        return kinds[hint]
    if get_origin(hint) in (tuple, list):
        sides = [side for side in get_args(hint) if side is not Ellipsis]
        return "numbers" if sides and sides[0] in (float, int) else "other values"
    accepted = [words for each in get_args(hint) if (words := _say_accepted(each))]
    return enumerated(accepted, "or") if accepted else "another value"
