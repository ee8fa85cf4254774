"""stallscan detects stalled capillaries in two-photon recordings.

The public functions live in `stallscan.api`, which is imported on first use: ``import stallscan``
takes milliseconds, while numpy, pandas and torch take seconds.
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

# As a library, write nothing to stderr unless the calling program configures logging.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module("stallscan.api"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
