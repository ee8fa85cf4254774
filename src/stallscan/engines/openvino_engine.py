"""Run an exported net with OpenVINO on the CPU, without torch."""

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

# OpenVINO and NNCF send telemetry when they are imported, unless this package is missing: then both
# use a stub. Our users have not agreed to telemetry, and the import is 0.1 s faster without it.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino as openvino  # noqa: E402  (re-exported for `export`)

# OpenVINO fills its tables of numpy types on first use. Two threads that do so at the same time
# deadlock while holding the GIL, so the tables are filled here: only one thread imports a module.
openvino.Tensor(np.zeros(1, np.float32), shared_memory=True).data  # noqa: B018
openvino.Type(np.float32).to_dtype()

NAMES: dict[Precision, str] = {
    "f32": "openvino",
    "bf16": "openvino-bf16",
    "int8": "openvino-int8",
}
# Layers that are not quantised run in f32.
_HINTS: dict[Precision, str] = {"f32": "f32", "bf16": "bf16", "int8": "f32"}
# OpenVINO compiles the layers again for every clip length and caches this many. StallNet has about
# 100 layers, the largest net several hundred. Chosen: room for 200 lengths of StallNet.
_CACHED_LAYERS = 20_000


@functools.cache
def _core() -> Any:
    """Load OpenVINO once, for the life of this process.

    Loading its CPU plugin gives the calling thread a new stack for signal handlers. If another
    thread released the plugin, that stack would be freed while in use, and the next Ctrl-C would be
    a segmentation fault.
    """
    core = openvino.Core()
    # Not memory-mapped: the files may be replaced while an engine runs.
    core.set_property({"ENABLE_MMAP": False})
    return core


def has_bf16() -> bool:
    """Return whether this processor computes in bf16."""
    return bool("BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


class OpenVinoEngine:
    """An exported net on all cores, each core scoring one clip at a time.

    Parameters
    ----------
    xml : Path
        The net in OpenVINO's format: float32 (1, C, T, S, S) to (1,).
    settings : NetSettings
        Mean, standard deviation and views of the net's input.
    precision : str
        The precision to compute in.

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
            raise InputError("this processor cannot compute in bf16. Use --engine openvino")
        cores = count_cores()
        # The precision is explicit because OpenVINO would otherwise use bf16 where the processor
        # has it. One thread per clip spends no time on synchronisation. Threads are not pinned,
        # because the decoders share the cores.
        options = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "NUM_STREAMS": cores,
            "INFERENCE_NUM_THREADS": cores,
            "ENABLE_CPU_PINNING": False,
            "CPU_RUNTIME_CACHE_CAPACITY": _CACHED_LAYERS,
        }
        try:
            compiled = _core().compile_model(xml, "CPU", options)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[-200:]
            raise BundleError(
                f"{xml}: OpenVINO {openvino.__version__} cannot read it ({reason}). Export the "
                "bundle again with this version"
            ) from None
        # clips scored at the same time
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
            If there is no usable export (`exports.find`).
        InputError
            If the processor has no bf16.
        """
        return cls(exports.find(bundle, precision), bundle.spec.net, precision)

    def logit(self, pixels: Frames) -> float:
        """Return the logit of a clip, uint8 (T, S, S, C), made with the bundle's clip settings.

        Thread-safe.
        """
        array = clip.to_input(pixels, self._settings.mean, self._settings.std)  # (C, T, S, S)
        request = self._idle.get()
        try:
            # The request reuses its output buffer, so copy the logit out of it as a float.
            logits = [
                float(request.infer([view[np.newaxis]], share_inputs=True)[0][0])
                for view in _views(array, self._settings)
            ]
        finally:
            self._idle.put(request)
        return float(np.mean(logits, dtype=np.float32))

    def stream(self, clips: Iterable[Frames | None]) -> Iterator[float | None]:
        """Yield the logit of each clip in order, None for None.

        Clips are scored in `count` threads while the next ones are prepared; at most
        ``2 * count`` clips are read ahead.

        Raises
        ------
        EngineError
            If a clip takes far longer than it should (`stream`).
        """
        return stream(self.name, self.logit, clips, self.count, self._settings.views)


def _views(array: NDArray[np.float32], settings: NetSettings) -> Iterator[NDArray[np.float32]]:
    """Yield the views whose logits are averaged, as in `build.score`: float32 (C, T, S, S) each."""
    if settings.views == "one":
        yield array
        return
    # All 8 combinations of flips in time, rows and columns: bit k of `view` flips axis k + 1.
    for view in range(8):
        axes = [axis for bit, axis in enumerate((1, 2, 3)) if view >> bit & 1]
        yield np.ascontiguousarray(np.flip(array, tuple(axes)))
