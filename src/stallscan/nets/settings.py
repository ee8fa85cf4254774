"""Settings of a net: which one, and how its input and its statistics are normalised."""

from typing import Literal

from pydantic import model_validator

from stallscan.settings import Settings

# Mean and standard deviation of Kinetics-400 in R, G, B, as torchvision's weights expect them.
KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
KINETICS_STD = (0.22803, 0.22145, 0.216989)


class NetSettings(Settings):
    """Which net, and what it expects of its input.

    Attributes
    ----------
    name : str
        A key of `build.NETS`.
    normalisation : str
        ``per-video``: every BatchNorm uses the mean and variance of the one video at hand, in
        training and in inference (docs/facts.md 2); ``running``: statistics gathered in training.
    mean, std : tuple of float
        Of each channel, on the scale 0..1; subtracted and divided by.
    views : str
        ``one``: the clip as it is; ``flips``: the mean logit of the eight clips that flips of
        rows, columns and time make of it, in prediction (docs/facts.md 3, first place).
    """

    name: Literal[
        "stallnet",
        "features",
        "r3d_18",
        "mc3_18",
        "r2plus1d_18",
        "densenet121_3d",
        "resnet101_3d",
        "quarters_resnet18",
    ] = "stallnet"
    normalisation: Literal["per-video", "running"] = "per-video"
    mean: tuple[float, ...] = KINETICS_MEAN
    std: tuple[float, ...] = KINETICS_STD
    views: Literal["one", "flips"] = "one"

    @model_validator(mode="after")
    def _same_channels(self) -> "NetSettings":
        if len(self.mean) != len(self.std) or min(self.std, default=0) <= 0:
            raise ValueError("mean and std need one value a channel, std above 0")
        return self
