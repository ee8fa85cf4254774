"""The engine that runs a bundle's net in eager torch: the reference for all others."""

from collections.abc import Iterable, Iterator

import torch

from stallscan.bundle.bundle import Bundle
from stallscan.bundle.net import load_net
from stallscan.clips import clip
from stallscan.engines.stream import stream
from stallscan.nets import build
from stallscan.recordings.recording import Frames


class TorchEngine:
    """A bundle's net in eager torch, float32, on the CPU or on a GPU where there is one.

    Parameters
    ----------
    bundle : Bundle
        Its weights are loaded strictly.
    device : str, optional
        Torch's name of the device; if not given the GPU where there is one.

    Attributes
    ----------
    name : str
        ``torch``.
    device : torch.device
        Where the net is.

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
        # With its number: another thread may have another current GPU.
        self.device = next(self.net.parameters()).device

    @torch.inference_mode()
    def logit(self, pixels: Frames) -> float:
        """Score one clip.

        Parameters
        ----------
        pixels : ndarray
            uint8 (T, S, S, C), as the bundle's clip settings make it.
        """
        array = clip.to_input(pixels, self.settings.mean, self.settings.std)
        inputs = torch.from_numpy(array)[None].to(self.device)
        return float(build.score(self.net, inputs, self.settings)[0])

    def stream(self, clips: Iterable[Frames | None]) -> Iterator[float | None]:
        """Score clips in order, one at a time: torch shares each among the cores by itself.

        Yields
        ------
        float or None
            The logit of each clip; None for None.

        Raises
        ------
        EngineError
            If there is no result for minutes.
        """
        return stream(self.name, self._logit_in_thread, clips, 1, self.settings.views)

    def _logit_in_thread(self, pixels: Frames) -> float:
        # Asking for it sets it: a thread begins with OpenMP's number of threads, not torch's.
        torch.get_num_threads()
        return self.logit(pixels)


def has_gpu() -> bool:
    """Whether there is a GPU that torch can use."""
    return torch.cuda.is_available()
