"""A net in int8, as far as that changes no call."""

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

# What has weights, and what only moves values.
_PRODUCTS = ("Convolution", "GroupConvolution", "MatMul")
_NO_ARITHMETIC = ("Constant", "Convert", "Gather", "Parameter", "Result", "ShapeOf")


class Wider(NamedTuple):
    """What of a net is not quantised: kinds of operations, and some by name."""

    types: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def words(self) -> tuple[str, ...]:
        """Say it for the record: the kinds in one, because there are dozens."""
        rest = f"all but {', '.join(_PRODUCTS)}"
        return ((rest,) if self.types else ()) + self.names


def quantise(model: Any, spec: BundleSpec, labelled: Labelled, wider: Wider) -> Any:
    """Quantise a copy of a model, with the ranges that its values have on the calibration part."""
    # OpenVINO's engine first: it sees to it that NNCF reports nothing to anybody.
    from stallscan.engines import openvino_engine  # noqa: F401

    try:
        import nncf
    except ImportError:
        raise InputError(
            f"int8 needs NNCF, which is not installed; run: {install('nncf')}"
        ) from None

    def as_input(name: str) -> NDArray[np.float32]:
        pixels = labelled.store.read(name)
        return clip.to_input(pixels, spec.net.mean, spec.net.std)[np.newaxis]

    logging.getLogger("nncf").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        return nncf.quantize(
            model.clone(),
            nncf.Dataset(labelled.calibration, as_input),
            subset_size=len(labelled.calibration),
            ignored_scope=nncf.IgnoredScope(
                types=list(wider.types), names=list(wider.names), validate=False
            ),
        )


def ladder(model: Any) -> Iterator[Wider]:
    """Keep ever more wider: nothing; all but products; the outer ones, too; half of them."""
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
