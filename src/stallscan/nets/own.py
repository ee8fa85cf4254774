"""Find the code of a user's own net. It does not import torch, so a wrong name is told at once."""

import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

from stallscan.errors import SettingsError, missing
from stallscan.nets.settings import BUILT_IN


def find_net(name: str) -> Callable[[int], Any] | None:
    """Import a user's own net; return None for a built-in one.

    Importing a module runs it, so call this only for names that the user gave.

    Parameters
    ----------
    name : str
        As in `NetSettings`.

    Raises
    ------
    SettingsError
        If the module cannot be imported, has no class or function of that name, the class is no
        torch.nn.Module, or it cannot be called with the number of channels alone.
    """
    if name in BUILT_IN:
        return None
    module, _, last = name.partition(":")
    try:
        make: Callable[[int], Any] | None = getattr(importlib.import_module(module), last, None)
    except ModuleNotFoundError as error:
        if missing(error) is not None:  # such as torch, with the command that installs it
            raise
        raise SettingsError(
            f"net.name: {name} cannot be imported ({error}). Install its package, or add its "
            "folder to PYTHONPATH"
        ) from error
    except (ImportError, SyntaxError) as error:
        raise SettingsError(
            f"net.name: {name} cannot be imported ({error}). Correct its module"
        ) from error
    if not callable(make):
        raise SettingsError(
            f"net.name: the module {module} has no class or function {last}. Name one that takes "
            "the number of channels and returns a torch.nn.Module"
        )
    torch = sys.modules.get("torch")  # a class derived from nn.Module has imported it
    if isinstance(make, type) and not (torch and issubclass(make, torch.nn.Module)):
        raise SettingsError(
            f"net.name: the class {name} is no torch.nn.Module. Derive it from torch.nn.Module, or "
            "name a function that returns one"
        )
    try:
        inspect.signature(make).bind(1)
    except (TypeError, ValueError) as error:  # ValueError: it does not tell its parameters
        raise SettingsError(
            f"net.name: {name} cannot be called with the number of channels alone ({error}). "
            "Give it one parameter, the number of channels"
        ) from None
    return make
