"""Settings of a net: which one, and how its input and its statistics are normalised."""

import re
from typing import Literal

from pydantic import field_validator, model_validator

from stallscan.settings import Settings
from stallscan.words import suggest

# The keys of `build.NETS`, which are known here without torch.
BUILT_IN = (
    "stallnet",
    "features",
    "r3d_18",
    "mc3_18",
    "r2plus1d_18",
    "densenet121_3d",
    "resnet101_3d",
    "quarters_resnet18",
)
# A package has a name, however deep a module lies in it.
LONGEST_OWN = 200

# Mean and standard deviation of Kinetics-400 in R, G, B, as torchvision's weights expect them.
KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
KINETICS_STD = (0.22803, 0.22145, 0.216989)


class NetSettings(Settings):
    """Which net, and what it expects of its input.

    Attributes
    ----------
    name : str
        One of `BUILT_IN`, or a net of one's own, ``mypackage.mymodule:MyNet`` (also with a dot
        before the last name; it is kept with a colon): a callable that takes the number of channels
        and returns a ``torch.nn.Module`` with logits (N,) for clips (N, C, T, S, S). To read the
        name imports nothing: see `build.import_net`.
    normalisation : str
        ``per-video``: every BatchNorm uses the mean and variance of the one video at hand, in
        training and in inference (docs/facts.md 2); ``running``: statistics gathered in training.
    mean, std : tuple of float
        Of each channel, on the scale 0..1; subtracted and divided by.
    views : str
        ``one``: the clip as it is; ``flips``: the mean logit of the eight clips that flips of
        rows, columns and time make of it, in prediction (docs/facts.md 3, first place).
    """

    name: str = "stallnet"
    normalisation: Literal["per-video", "running"] = "per-video"
    mean: tuple[float, ...] = KINETICS_MEAN
    std: tuple[float, ...] = KINETICS_STD
    views: Literal["one", "flips"] = "one"

    @property
    def is_feature_model(self) -> bool:
        """Whether this is the baseline: a logistic regression on measured features.

        Such a model is fitted in one pass instead of by gradient steps (`features.fit`), its calls
        can be explained in words, and it has no OpenVINO form.
        """
        return self.name == "features"

    @field_validator("name")
    @classmethod
    def _names_a_net(cls, name: str) -> str:
        if name in BUILT_IN:
            return name
        *above, last = re.split("[.:]", name)
        # Of colons only one, before the last name.
        module = name[: -len(last) - 1]
        if not above or ":" in module or not all(map(str.isidentifier, [*above, last])):
            raise ValueError(
                f"no such net{suggest(name, BUILT_IN)}; one of your own is named "
                "mypackage.mymodule:MyNet"
            )
        if len(name) > LONGEST_OWN:
            raise ValueError(f"a net of your own has a name of at most {LONGEST_OWN} characters")
        return f"{module}:{last}"

    @model_validator(mode="after")
    def _same_channels(self) -> "NetSettings":
        if len(self.mean) != len(self.std) or min(self.std, default=0) <= 0:
            raise ValueError("mean and std need one value a channel, std above 0")
        return self
