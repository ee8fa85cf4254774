"""The recipe: one YAML file that says a whole experiment, by joining the modules' settings.

Settings of modules that need torch stand here, so that a recipe is read without it.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from stallscan.clip import ClipSettings
from stallscan.errors import SettingsError
from stallscan.outline import OutlineSettings
from stallscan.settings import Settings, read_yaml

SHIPPED = Path(__file__).with_name("recipes")
# Mean and standard deviation of Kinetics-400 in R, G, B, as torchvision's weights expect them.
KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
KINETICS_STD = (0.22803, 0.22145, 0.216989)


class DataSettings(Settings):
    """Which recordings are trained on, and how many are held back.

    Attributes
    ----------
    rule : str
        Selection rule, by its name in `catalog.RULES`.
    validation : float
        Share held back: it chooses the epoch, the calibration and the threshold, so figures on it
        flatter. Stratified by label.
    """

    rule: str = "all"
    validation: float = Field(default=0.1, gt=0, lt=1)


class NetSettings(Settings):
    """Which net, and what it expects of its input.

    Attributes
    ----------
    name : str
        A key of `nets.NETS`.
    normalisation : str
        ``per-video``: every BatchNorm uses the mean and variance of the one video at hand, in
        training and in inference (FACTS 2); ``running``: statistics gathered in training.
    mean, std : tuple of float
        Of each channel, on the scale 0..1; subtracted and divided by.
    """

    name: Literal["stallnet", "r3d_18", "mc3_18", "r2plus1d_18"] = "stallnet"
    normalisation: Literal["per-video", "running"] = "per-video"
    mean: tuple[float, ...] = KINETICS_MEAN
    std: tuple[float, ...] = KINETICS_STD

    @model_validator(mode="after")
    def _same_channels(self) -> "NetSettings":
        if len(self.mean) != len(self.std) or min(self.std, default=0) <= 0:
            raise ValueError("mean and std need one value a channel, std above 0")
        return self


class PretrainedSettings(Settings):
    """What the training starts from.

    Attributes
    ----------
    source : str
        ``none``: random; ``kinetics``: torchvision's Kinetics-400 weights, downloaded by
        torchvision; ``file``: a state dict in torchvision's names (.safetensors, .pt or .pth).
    file : Path or None
        With ``source: file``.
    """

    source: Literal["none", "kinetics", "file"] = "none"
    file: Path | None = Field(default=None)


class AugmentSettings(Settings):
    """Chances of each change to a clip. The defaults for rotation and flip are published (FACTS 2).

    Attributes
    ----------
    rotate : float
        Chance of a rotation by 90, 180 or 270 degrees.
    flip : float
        Chance of a flip: vertical, horizontal, or both.
    reverse : float
        Chance of reversed time. Blood that flows backwards flows; blood that stands, stands.
    gamma : float
        Grey levels are raised to a power between 1 / (1 + gamma) and 1 + gamma.
    noise : float
        Highest standard deviation of added Gaussian noise, as a share of the full range.
    """

    rotate: float = Field(default=0.25, ge=0, le=1)
    flip: float = Field(default=0.25, ge=0, le=1)
    reverse: float = Field(default=0.0, ge=0, le=1)
    gamma: float = Field(default=0.0, ge=0, le=2)
    noise: float = Field(default=0.0, ge=0, le=0.5)


class TrainingSettings(Settings):
    """The optimisation. The defaults are the published third-place ones (FACTS 2).

    Attributes
    ----------
    epochs : int
        Passes over the training recordings.
    batch_size : int
        Clips a step, of about equal length.
    learning_rate : float
        Peak of the one-cycle schedule.
    warm_up : float
        Share of all steps in which the learning rate rises.
    weight_decay : float
        Decoupled, as in AdamW; at 0 this is Adam.
    precision : str
        As Lightning names it.
    monitor : str
        The checkpoint with the highest of this validation metric becomes the bundle.
    workers : int
        Processes that read and augment; 0 does it in the main process.
    """

    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    warm_up: float = Field(default=0.0001, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    monitor: Literal["val_mcc", "val_roc_auc", "val_pr_auc"] = "val_mcc"
    workers: int = Field(default=0, ge=0)


class Recipe(Settings):
    """One file that says a whole experiment: it joins the modules' settings."""

    name: str
    data: DataSettings = DataSettings()
    outline: OutlineSettings = OutlineSettings()
    clip: ClipSettings = ClipSettings()
    net: NetSettings = NetSettings()
    pretrained: PretrainedSettings = PretrainedSettings()
    augment: AugmentSettings = AugmentSettings()
    training: TrainingSettings = TrainingSettings()
    seed: int = Field(default=0, ge=0, lt=2**32)


def read_recipe(which: str | Path) -> Recipe:
    """Read a recipe file, or a shipped recipe by name.

    Raises
    ------
    SettingsError
        If there is none, or a setting in it is wrong or unknown.
    """
    shipped = SHIPPED / f"{which}.yaml"
    path = shipped if shipped.is_file() else Path(which)
    if not path.is_file():
        known = ", ".join(sorted(item.stem for item in SHIPPED.glob("*.yaml")))
        raise SettingsError(f"{which}: no such recipe file; shipped recipes: {known}")
    return Recipe.parse(read_yaml(path), str(path))
