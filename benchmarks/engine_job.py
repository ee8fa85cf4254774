"""What `engines.py` times: one engine of one bundle over clips, in a fresh process.

    python benchmarks/engine_job.py BUNDLE ENGINE CLIPS.npy CORES

Prints the seconds a clip, with the engine open and warm. `eager` is what an engine is compared
with: the plain published net of `published.py` where the bundle's is one of those, else our own
torch engine.
"""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import numpy as np

from stallscan.bundle import disk
from stallscan.bundle.bundle import Bundle
from stallscan.engines.choose import Engine, Which, choose
from stallscan.errors import InputError
from stallscan.recordings.recording import Frames

EAGER = "eager"
PUBLISHED = ("r3d_18", "mc3_18", "r2plus1d_18")
WARM_UP = 2  # clips for each core


class PublishedEngine:
    """A published net in eager torch, float32, as `published` builds and calls it.

    Parameters
    ----------
    bundle : Bundle
        With the weights of such a net.
    """

    name = EAGER

    def __init__(self, bundle: Bundle) -> None:
        import published

        self._published = published
        self._net = published.build(bundle.spec.net.name)
        self._net.load_state_dict(bundle.weights)

    def logit(self, pixels: Frames) -> float:
        """Score one clip, uint8 (T, S, S, 3) in the bundle's order of channels."""
        return self._published.logit(self._net, self._published.normalise(pixels))

    def stream(self, clips: Iterable[Frames | None]) -> Iterator[float | None]:
        """Score clips in order, one at a time."""
        for pixels in clips:
            yield None if pixels is None else self.logit(pixels)


def is_published(bundle: Bundle) -> bool:
    """Whether a bundle's net is a published one, normalised as published."""
    import published

    net = bundle.spec.net
    return (
        net.name in PUBLISHED
        and net.normalisation == "per-video"
        and net.views == "one"
        and (net.mean, net.std) == (published.MEAN, published.STD)
    )


def open_engine(bundle: Bundle, name: str) -> Engine:
    """Open an engine by its name: `eager`, or one that `stallscan predict --engine` takes."""
    if name != EAGER:
        return choose(bundle, cast(Which, name)).engines[0]
    if is_published(bundle):
        return PublishedEngine(bundle)
    return choose(bundle, "torch").engines[0]


def main() -> None:
    """Time the engine that the command line names."""
    folder, name, clips, cores = sys.argv[1:]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
    if name == EAGER:
        import torch

        torch.set_num_threads(int(cores))
    model = disk.load_any(folder)
    if not isinstance(model, Bundle):
        raise InputError(f"{folder}: an ensemble; give its members")
    engine = open_engine(model, name)
    pixels = np.load(Path(clips))
    for _ in engine.stream(pixels[: WARM_UP * int(cores)]):
        pass
    start = time.perf_counter()
    for _ in engine.stream(pixels):
        pass
    print((time.perf_counter() - start) / len(pixels))


if __name__ == "__main__":
    main()
