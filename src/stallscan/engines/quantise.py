"""Quantise a net to int8, and choose layers to leave at f32 where int8 costs too much accuracy."""

import contextlib
import io
import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stallscan.bundle.spec import BundleSpec
from stallscan.clips import clip
from stallscan.engines.measure import Labelled
from stallscan.errors import InputError, install

# Operations with weights, and operations that only move values.
_PRODUCTS = ("Convolution", "GroupConvolution", "MatMul")
_NO_ARITHMETIC = ("Constant", "Convert", "Gather", "Parameter", "Result", "ShapeOf")


class Wider(NamedTuple):
    """The operations that are not quantised: all of some types, and some by name."""

    types: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def words(self) -> tuple[str, ...]:
        """Describe the operations for the record, the dozens of types in one phrase."""
        all_types = f"all but {', '.join(_PRODUCTS)}"
        return ((all_types,) if self.types else ()) + self.names


def quantise(model: Any, spec: BundleSpec, labelled: Labelled, wider: Wider) -> Any:
    """Quantise a copy of an OpenVINO model, with value ranges from the calibration clips.

    Raises
    ------
    InputError
        If NNCF is not installed.
    """
    # Import OpenVINO's engine first: it disables the telemetry that NNCF would send.
    from stallscan.engines import openvino_engine  # noqa: F401

    try:
        import nncf
    except ImportError:
        raise InputError(
            f"int8 needs NNCF, which is not installed. Run: {install('nncf')}"
        ) from None

    def as_input(name: str) -> NDArray[np.float32]:
        pixels = labelled.store.read(name)
        # (1, C, T, S, S) float32
        return clip.to_input(pixels, spec.net.mean, spec.net.std)[np.newaxis]

    logging.getLogger("nncf").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # NNCF prints progress bars
        return nncf.quantize(
            model.clone(),
            nncf.Dataset(labelled.calibration, as_input),
            subset_size=len(labelled.calibration),
            ignored_scope=nncf.IgnoredScope(
                types=list(wider.types), names=list(wider.names), validate=False
            ),
        )


def ladder(model: Any) -> Iterator[Wider]:
    """Yield ever larger sets of operations to leave at f32.

    First none; then all but products; then also the first and last product; then the first half of
    the products and the last one.
    """
    operations = model.get_ordered_ops()
    types = {operation.get_type_name() for operation in operations}
    products = [
        operation.get_friendly_name()
        for operation in operations
        if operation.get_type_name() in _PRODUCTS
    ]
    others = tuple(sorted(types - {*_PRODUCTS, *_NO_ARITHMETIC}))
    yield Wider()
    yield Wider(others)
    yield Wider(others, (products[0], products[-1]))
    yield Wider(others, (*products[: (len(products) + 1) // 2], products[-1]))
