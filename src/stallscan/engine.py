"""The engine: clips in, logits out, by the net of a bundle."""

import torch

from stallscan import clip, nets
from stallscan.bundle import Bundle
from stallscan.errors import BundleError
from stallscan.recording import Frames


class TorchEngine:
    """A bundle's net in eager torch, float32, on the CPU or on a GPU where there is one.

    Parameters
    ----------
    bundle : Bundle
        Its weights are loaded strictly.

    Raises
    ------
    BundleError
        If the weights do not fit the net.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.settings = bundle.spec.net
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        net = nets.build(self.settings)
        try:
            net.load_state_dict(bundle.weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise BundleError(f"{bundle.path}: the weights do not fit the net: {reason}") from None
        self.net = net.eval().to(self.device)

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
        return float(nets.score(self.net, inputs, self.settings)[0])
