"""Settings of a net: its name, the scaling of its input, and how it normalises."""

import re
from typing import Literal

from pydantic import field_validator, model_validator

from stallscan.settings import Settings
from stallscan.words import suggest

# The keys of `build.NETS`, repeated here because importing `build` imports torch.
FEATURES = "features"  # the baseline, which is no torch module
# Our net, which looks at 24 frames or, as the recipe `default` has it, at 40.
FOCUSNET = ("focusnet", "focusnet40")
BUILT_IN = (
    FEATURES,
    *FOCUSNET,
    "stallnet",
    "r3d_18",
    "mc3_18",
    "r2plus1d_18",
    "densenet121_3d",
    "resnet101_3d",
    "quarters_resnet18",
)
LONGEST_OWN = 200  # characters of the name of a user's net

# Mean and standard deviation of Kinetics-400 in R, G, B, as torchvision's weights expect them.
KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
KINETICS_STD = (0.22803, 0.22145, 0.216989)


class NetSettings(Settings):
    """Which net to use, and what it expects of its input.

    Attributes
    ----------
    name : str
        One of `BUILT_IN` (focusnet, focusnet40, stallnet, features, r3d_18, mc3_18, r2plus1d_18,
        densenet121_3d, resnet101_3d, quarters_resnet18), or a net of your own,
        ``mypackage.mymodule:MyNet`` (a dot before the last name also works and is stored as a
        colon): a callable that takes the number of channels and returns a ``torch.nn.Module`` with
        logits (N,) for clips (N, C, T, S, S). Reading the name imports nothing: see
        `build.import_net`.
    normalisation : str
        ``per-video``: every BatchNorm uses the mean and variance of the current video, in training
        and in inference (docs/facts.md 2); ``running``: statistics collected in training.
    mean, std : tuple of float
        For each channel, on the scale 0..1: the input is (pixel - mean) / std.
    views : str
        Views averaged in prediction. ``one``: the clip itself; ``flips``: the mean logit of all
        eight flips of rows, columns and time (docs/facts.md 3, first place).
    """

    name: str = "stallnet"
    normalisation: Literal["per-video", "running"] = "per-video"
    mean: tuple[float, ...] = KINETICS_MEAN
    std: tuple[float, ...] = KINETICS_STD
    views: Literal["one", "flips"] = "one"

    @property
    def is_feature_model(self) -> bool:
        """Whether this is the baseline, a logistic regression on measured features.

        Such a model is fitted in one pass instead of by gradient steps (`features.fit`), its calls
        can be explained in words, and it has no OpenVINO form.
        """
        return self.name == FEATURES

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if name in BUILT_IN:
            return name
        *above, last = re.split("[.:]", name)
        module = name[: -len(last) - 1]
        # The only colon allowed is the one before the last name.
        if not above or ":" in module or not all(map(str.isidentifier, [*above, last])):
            raise ValueError(
                f"no such net{suggest(name, BUILT_IN)}. Name a net of your own as "
                "mypackage.mymodule:MyNet"
            )
        if len(name) > LONGEST_OWN:
            raise ValueError(f"the name of a net has at most {LONGEST_OWN} characters")
        return f"{module}:{last}"

    @model_validator(mode="after")
    def _check_focusnet(self) -> "NetSettings":
        scales = (self.mean, self.std) == ((0.0, 0.0), (1.0, 1.0))
        if self.name in FOCUSNET and not (scales and self.normalisation == "running"):
            raise ValueError(
                f"the net {self.name} scales its input itself. Set net.mean to [0, 0], net.std to "
                "[1, 1] and net.normalisation to running"
            )
        return self

    @model_validator(mode="after")
    def _check_channels(self) -> "NetSettings":
        if len(self.mean) != len(self.std) or min(self.std, default=0) <= 0:
            raise ValueError("mean and std need one value for each channel, with std above 0")
        return self
