"""The recipe: one YAML file that says a whole experiment, by joining the modules' settings.

Settings of modules that need torch stand here, so that a recipe is read without it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, model_validator

from stallscan.clips.clip import ClipSettings
from stallscan.errors import SettingsError
from stallscan.nets.settings import NetSettings
from stallscan.recipes.settings import (
    AugmentSettings,
    DataSettings,
    PretrainedSettings,
    TrainingSettings,
)
from stallscan.settings import Name, Settings, read_yaml
from stallscan.vessels.outline import OutlineSettings

SHIPPED = Path(__file__).parent


class Recipe(Settings):
    """One file that says a whole experiment: it joins the modules' settings."""

    name: Name
    data: DataSettings = DataSettings()
    outline: OutlineSettings = OutlineSettings()
    clip: ClipSettings = ClipSettings()
    net: NetSettings = NetSettings()
    pretrained: PretrainedSettings = PretrainedSettings()
    augment: AugmentSettings = AugmentSettings()
    training: TrainingSettings = TrainingSettings()
    seed: int = Field(default=0, ge=0, lt=2**32)

    @property
    def data_seed(self) -> int:
        """Seed of the selection, the limit and the split."""
        return self.seed if self.data.seed is None else self.data.seed

    @model_validator(mode="after")
    def _fitted_at_once(self) -> "Recipe":
        training = self.training
        by_steps = training.stalled_share or training.snapshots or training.targets == "crowd"
        if self.net.is_feature_model and (by_steps or len(training.stages) > 1):
            raise ValueError(
                "the net features is fitted at once: stages, stalled_share, snapshots and targets "
                "are not for it"
            )
        return self


def read_recipe(which: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, or a shipped recipe by name.

    Parameters
    ----------
    which : str or Path
        Name of a shipped recipe, or a file.
    changes : sequence of str
        Settings that replace those of the file, each ``name=value`` with a dotted name and a value
        in YAML: ``net.name=r3d_18``, ``training.stages.0.epochs=2``.

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
    content = read_yaml(path)
    for change in changes:
        _change(content, change)
    return Recipe.parse(content, str(path))


def shorten(recipe: Recipe, epochs: int) -> Recipe:
    """Give each stage of a recipe so many epochs.

    Raises
    ------
    SettingsError
        If they are fewer than 1.
    """
    content = recipe.model_dump()
    for stage in content["training"]["stages"]:
        stage["epochs"] = epochs
    return Recipe.parse(content, recipe.name)


def _change(content: Any, change: str) -> None:
    """Put one ``name=value`` into a recipe's nested mapping."""
    name, equals, text = change.partition("=")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    *above, last = name.split(".")
    if not (equals and last):
        raise SettingsError(
            f"{change}: not a setting; expected name=value, as in training.batch_size=4"
        )
    for part in above:
        if isinstance(content, list):
            content = content[_place(content, part, change)]
        else:
            content = content.setdefault(part, {})
        if not isinstance(content, dict | list):
            raise SettingsError(f"{change}: {part} has no settings of its own")
    if isinstance(content, list):
        content[_place(content, last, change)] = value
    else:
        content[last] = value


def _place(content: list[Any], part: str, change: str) -> int:
    if not (part.isdecimal() and int(part) < len(content)):
        raise SettingsError(
            f"{change}: {part} is no place in a list of {len(content)}, counted from 0"
        )
    return int(part)
