"""The engine that runs an exported net with OpenVINO, on the processor; torch is not needed."""

import functools
import queue
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stallscan.bundle.bundle import Bundle
from stallscan.clips import clip
from stallscan.cores import count_cores
from stallscan.engines import exports
from stallscan.engines.exports import Precision
from stallscan.engines.stream import stream
from stallscan.errors import BundleError, InputError
from stallscan.nets.settings import NetSettings
from stallscan.recordings.recording import Frames

# Importing OpenVINO (or NNCF) reports that to its makers, unless this package is missing: then both
# take a stub. What a user's recordings are opened with is nobody's business, and it saves 0.1 s.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino as openvino  # noqa: E402  (for `export`, too)

# OpenVINO's tables of numpy's types are filled when they are first used. Two threads that do so at
# once wait for each other forever, holding the interpreter; a module is imported by one thread.
openvino.Tensor(np.zeros(1, np.float32), shared_memory=True).data  # noqa: B018
openvino.Type(np.float32).to_dtype()

NAMES: dict[Precision, str] = {
    "f32": "openvino",
    "bf16": "openvino-bf16",
    "int8": "openvino-int8",
}
# What an int8 export does not do in int8 it does in f32.
_HINTS: dict[Precision, str] = {"f32": "f32", "bf16": "bf16", "int8": "f32"}
# Each length of a clip has layers prepared anew, and so many of them are kept: StallNet has about a
# hundred, the largest net several hundreds. Chosen: room for two hundred lengths of StallNet's.
_PREPARED_KEPT = 20_000


@functools.cache
def _core() -> Any:
    """Load OpenVINO, once and for the life of this process.

    Loading it for a processor gives the calling thread another stack for its signal handlers, and
    letting go of it in another thread frees that stack while it is in use: the next Ctrl-C is then
    a segmentation fault.
    """
    core = openvino.Core()
    # Read, not mapped: the files may be replaced while an engine runs.
    core.set_property({"ENABLE_MMAP": False})
    return core


def has_bf16() -> bool:
    """Whether this processor computes in bf16."""
    return bool("BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


class OpenVinoEngine:
    """An exported net on all cores: one clip a core at a time.

    Parameters
    ----------
    xml : Path
        The net in OpenVINO's form, float32 (1, C, T, S, S) to (1,).
    settings : NetSettings
        What it expects of its input.
    precision : str
        What it is run in, at most.

    Attributes
    ----------
    name : str
        ``openvino``, ``openvino-bf16`` or ``openvino-int8``.
    count : int
        Clips that are scored at a time.

    Raises
    ------
    InputError
        If the processor has no bf16.
    BundleError
        If this version of OpenVINO cannot read the file.
    """

    def __init__(self, xml: Path, settings: NetSettings, precision: Precision = "f32") -> None:
        self.name = NAMES[precision]
        self._settings = settings
        if precision == "bf16" and not has_bf16():
            raise InputError(
                "this processor cannot compute in bf16; take another engine: --engine openvino"
            )
        cores = count_cores()
        # Said by hand: by itself OpenVINO takes bf16 where the processor has it. One thread a clip
        # wastes nothing on waiting; not pinned, because the decoders share the cores.
        options = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "NUM_STREAMS": cores,
            "INFERENCE_NUM_THREADS": cores,
            "ENABLE_CPU_PINNING": False,
            "CPU_RUNTIME_CACHE_CAPACITY": _PREPARED_KEPT,
        }
        try:
            compiled = _core().compile_model(xml, "CPU", options)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[-200:]
            raise BundleError(
                f"{xml}: OpenVINO {openvino.__version__} cannot use it ({reason}); export the "
                "bundle again with this version"
            ) from None
        self.count = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(self.count):
            self._idle.put(compiled.create_infer_request())

    @classmethod
    def of(cls, bundle: Bundle, precision: Precision = "f32") -> "OpenVinoEngine":
        """Open an export of a bundle.

        Raises
        ------
        BundleError
            If there is none that may be used (`exports.find`).
        InputError
            If the processor cannot run it.
        """
        return cls(exports.find(bundle, precision), bundle.spec.net, precision)

    def logit(self, pixels: Frames) -> float:
        """Score one clip; may be called from several threads.

        Parameters
        ----------
        pixels : ndarray
            uint8 (T, S, S, C), as the bundle's clip settings make it.
        """
        array = clip.to_input(pixels, self._settings.mean, self._settings.std)
        request = self._idle.get()
        try:
            # The request keeps its own output: what is taken from it must be a number, not a view.
            logits = [
                float(request.infer([view[np.newaxis]], share_inputs=True)[0][0])
                for view in _views(array, self._settings)
            ]
        finally:
            self._idle.put(request)
        return float(np.mean(logits, dtype=np.float32))

    def stream(self, clips: Iterable[Frames | None]) -> Iterator[float | None]:
        """Score clips in order, one a core at a time, while the next ones are being made.

        Parameters
        ----------
        clips : iterable of ndarray or None
            As in `logit`; taken a few ahead of what is yielded, two a core at most.

        Yields
        ------
        float or None
            The logit of each clip; None for None.

        Raises
        ------
        EngineError
            If there is no result for minutes.
        """
        return stream(self.name, self.logit, clips, self.count, self._settings.views)


def _views(array: NDArray[np.float32], settings: NetSettings) -> Iterator[NDArray[np.float32]]:
    """Give what the logit is the mean over, as `build.score`: float32 (C, T, S, S) each."""
    if settings.views == "one":
        yield array
        return
    for view in range(8):
        axes = [axis for bit, axis in enumerate((1, 2, 3)) if view >> bit & 1]
        yield np.ascontiguousarray(np.flip(array, tuple(axes)))
