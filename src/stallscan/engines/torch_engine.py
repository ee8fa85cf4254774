"""Run a bundle's net in eager torch: the reference for all other engines."""

from collections.abc import Iterable, Iterator

import torch

from stallscan import cores
from stallscan.bundle.bundle import Bundle
from stallscan.bundle.net import load_net
from stallscan.clips import clip
from stallscan.engines.stream import stream
from stallscan.nets import build
from stallscan.recordings.recording import Frames


class TorchEngine:
    """A bundle's net in eager torch, float32.

    Parameters
    ----------
    bundle : Bundle
        Its weights must match the net exactly.
    device : str, optional
        Torch's name of the device; by default a GPU if there is one, otherwise the CPU.

    Raises
    ------
    BundleError
        If the net is not trusted, or the weights do not fit it (`net.load_net`).
    """

    name = "torch"

    def __init__(self, bundle: Bundle, device: str | None = None) -> None:
        self.settings = bundle.spec.net
        self.device = torch.device(device or ("cuda" if has_gpu() else "cpu"))
        self.net = load_net(bundle).eval().to(self.device)
        # "cuda" becomes "cuda:0": another thread may have another current GPU.
        self.device = next(self.net.parameters()).device

    @torch.inference_mode()
    def logit(self, pixels: Frames) -> float:
        """Return the logit of a clip, uint8 (T, S, S, C), made with the bundle's clip settings."""
        array = clip.to_input(pixels, self.settings.mean, self.settings.std)  # (C, T, S, S)
        inputs = torch.from_numpy(array)[None].to(self.device)  # (1, C, T, S, S) float32
        return float(build.score(self.net, inputs, self.settings)[0])

    def stream(self, clips: Iterable[Frames | None]) -> Iterator[float | None]:
        """Yield the logit of each clip in order, None for None.

        Clips are scored one at a time: torch itself uses all cores for each. In `cores.limited`,
        where the decoders need some of them, the CPU scores one clip per core.

        Raises
        ------
        EngineError
            If a clip takes far longer than it should (`stream`).
        """
        limit = cores.limit() if self.device.type == "cpu" else None
        before = torch.get_num_threads()
        if limit is not None:
            torch.set_num_threads(1)
        try:
            yield from stream(
                self.name, self._logit_in_thread, clips, limit or 1, self.settings.views
            )
        finally:
            torch.set_num_threads(before)

    def _logit_in_thread(self, pixels: Frames) -> float:
        # A new thread starts with OpenMP's thread count; this call sets it to torch's.
        torch.get_num_threads()
        return self.logit(pixels)


def has_gpu() -> bool:
    """Return whether torch can use a GPU."""
    return torch.cuda.is_available()
