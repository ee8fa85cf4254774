"""stallscan tells which brain capillaries have stopped flowing in two-photon recordings.

The names of `__all__` are those of `stallscan.api`, imported when they are first asked for:
``import stallscan`` alone takes milliseconds, numpy, pandas and torch together seconds.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stallscan.api import (
        evaluate,
        find_outline,
        load_bundle,
        make_clip,
        predict,
        read_recording,
        score,
        simulate_corpus,
        simulate_recording,
        train,
    )

__version__ = "0.1.0"
__all__ = [
    "evaluate",
    "find_outline",
    "load_bundle",
    "make_clip",
    "predict",
    "read_recording",
    "score",
    "simulate_corpus",
    "simulate_recording",
    "train",
]

# A library does not write to stderr unless the program that uses it sets up logging.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module("stallscan.api"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
