"""The recipe: one YAML file that says a whole experiment, by joining the modules' settings."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from stallscan.augment import AugmentSettings
from stallscan.clip import ClipSettings
from stallscan.errors import SettingsError
from stallscan.nets import NetSettings, PretrainedSettings
from stallscan.outline import OutlineSettings
from stallscan.settings import Settings, read_yaml

SHIPPED = Path(__file__).with_name("recipes")


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
