"""Run a bundle of the baseline, without torch and OpenVINO."""

from collections.abc import Iterable, Iterator

from stallscan.bundle.bundle import Bundle
from stallscan.cores import count_cores
from stallscan.engines.stream import stream
from stallscan.errors import BundleError
from stallscan.nets.features import FeatureModel
from stallscan.nets.measures import measure
from stallscan.recordings.recording import Frames


class FeatureEngine:
    """The baseline's features and model, in numpy and OpenCV.

    Raises
    ------
    BundleError
        If the weights are not those of today's features.
    """

    name = "features"

    def __init__(self, bundle: Bundle) -> None:
        self.settings = bundle.spec.net
        self.model = load_model(bundle)

    def logit(self, pixels: Frames) -> float:
        """Return the logit of a clip, uint8 (T, S, S, 2), made with the bundle's clip settings."""
        return float(self.model.score(measure(pixels)[None])[0])

    def stream(self, clips: Iterable[Frames | None]) -> Iterator[float | None]:
        """Yield the logit of each clip in order, None for None.

        Raises
        ------
        EngineError
            If a clip takes far longer than it should (`stream`).
        """
        return stream(self.name, self.logit, clips, count_cores(), self.settings.views)


def load_model(bundle: Bundle) -> FeatureModel:
    """Read the model of a bundle of the baseline.

    Raises
    ------
    BundleError
        If the weights are not those of today's features, or its clips have no mask.
    """
    if bundle.spec.clip.channels != "grey+mask":
        raise BundleError(
            f"{bundle.path}: its features need clips with a mask, and its clip.channels is "
            f"{bundle.spec.clip.channels}. Restore bundle.json as it was in training"
        )
    try:
        return FeatureModel.of(bundle.arrays)
    except ValueError as error:
        raise BundleError(
            f"{bundle.path}: its weights are not those of this version's features ({error}). Train "
            "the baseline again with 'stallscan train baseline'"
        ) from None
