"""The recipe: a YAML file with all settings of an experiment.

It must be readable without torch, so the settings of modules that import torch are in
`recipes.settings`.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, model_validator

from stallscan import documents
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
from stallscan.words import suggest

SHIPPED = Path(__file__).parent


class Recipe(Settings):
    """The settings of a whole experiment.

    Attributes
    ----------
    name : str
        Name of the bundle, which predictions record.
    seed : int
        Seed of the weights, the order of the clips and their augmentation.
    """

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
    def _check_channels(self) -> "Recipe":
        channels, means = self.clip.channel_count, len(self.net.mean)
        if channels != means:
            raise ValueError(
                f"clip.channels {self.clip.channels} has {channels} channels, but net.mean has "
                f"{means} values. Give net.mean and net.std {channels} values each"
            )
        return self

    @model_validator(mode="after")
    def _check_padding(self) -> "Recipe":
        if self.training.lengths == "pad" and self.net.normalisation == "per-video":
            # A clip is padded in training only, so its statistics would differ in prediction.
            raise ValueError(
                "training.lengths pad would count frames of zeros in net.normalisation per-video. "
                "Set training.lengths to trim, or net.normalisation to running"
            )
        return self

    @model_validator(mode="after")
    def _check_feature_model(self) -> "Recipe":
        if not self.net.is_feature_model:
            return self
        training = self.training
        needs_steps = training.stalled_share or training.snapshots or training.targets == "crowd"
        has_stages = len(training.stages) > 1 or training.stages[0].appearance is not None
        if needs_steps or has_stages:
            raise ValueError(
                "the net 'features' is fitted in one step. Remove stalled_share, snapshots, "
                "targets: crowd, all stages but one, and its appearance"
            )
        if self.net.views != "one" or self.pretrained.source != "none":
            raise ValueError(
                "the net 'features' has no views and no weights to start from. Remove "
                "net.views and pretrained"
            )
        return self

    @model_validator(mode="after")
    def _check_mask(self) -> "Recipe":
        what = "the net features" if self.net.is_feature_model else "another appearance"
        stages = [stage.appearance for stage in self.training.stages]
        needs_mask = self.net.is_feature_model or self.augment.appearance or any(stages)
        if needs_mask and self.clip.channels != "grey+mask":
            raise ValueError(f"{what} needs the mask. Set clip.channels to grey+mask")
        return self


def read_recipe(which: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe file or, given its name, a shipped recipe.

    Parameters
    ----------
    which : str or Path
        Path of a file, or name of a shipped recipe.
    changes : sequence of str
        Settings that override those of the file, each ``name=value`` with a dotted name and a YAML
        value: ``net.name=r3d_18``, ``training.stages.0.epochs=2``.

    Raises
    ------
    SettingsError
        If the recipe does not exist, or a setting is unknown or invalid.
    """
    shipped = SHIPPED / f"{which}.yaml"
    path = shipped if shipped.is_file() else Path(which)
    if not path.is_file():
        raise SettingsError(_missing(path))
    content = read_yaml(path)
    changed = _changed(content, changes)
    try:
        return Recipe.parse(changed, str(path))
    except SettingsError:
        if wrong := _wrong_changes(content, changes):
            return Recipe.parse(changed, wrong)  # raises the same, and names the fault
        raise


def shorten(recipe: Recipe, epochs: int) -> Recipe:
    """Return a copy of the recipe with this number of epochs in each stage.

    Raises
    ------
    SettingsError
        If `epochs` is less than 1.
    """
    content = recipe.model_dump()
    for stage in content["training"]["stages"]:
        stage["epochs"] = epochs
    return Recipe.parse(content, recipe.name)


def renamed(recipe: Recipe, name: str) -> Recipe:
    """Return a copy of the recipe with another name, which is that of its bundle.

    Raises
    ------
    SettingsError
        If the name is invalid.
    """
    return Recipe.parse(recipe.model_dump() | {"name": name}, name)


def shipped_recipes() -> list[str]:
    """Return the names of the shipped recipes."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def read_text(which: str) -> str:
    """Return the text of a shipped recipe, with its comments.

    Raises
    ------
    SettingsError
        If there is no such recipe.
    """
    names = shipped_recipes()
    if which not in names:
        raise SettingsError(
            f"{which}: no such recipe{suggest(which, names)}. The shipped recipes are "
            f"{', '.join(names)}"
        )
    return (SHIPPED / f"{which}.yaml").read_text(encoding="utf-8")


def as_yaml(recipe: Recipe) -> str:
    """Return all settings of a recipe as YAML."""
    text: str = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    return text


def _missing(path: Path) -> str:
    """Say what is missing: a file, or a shipped recipe of this name."""
    names = shipped_recipes()
    if path.suffix in (".yaml", ".yml") or path.parent != Path():
        return (
            f"{path}: no such file. Name a shipped recipe ({', '.join(names)}), or write one to "
            f"start from: stallscan recipe show default > {path}"
        )
    return (
        f"{path}: no such recipe{suggest(str(path), names)}. Give a recipe file, or the name of a "
        f"shipped recipe: {', '.join(names)}"
    )


def _wrong_changes(content: dict[str, Any], changes: Sequence[str]) -> str:
    """Return the changes that are wrong by themselves; empty if the recipe is wrong without any."""
    if not _is_valid(content, ()):
        return ""
    return ", ".join(change for change in changes if not _is_valid(content, [change]))


def _is_valid(content: dict[str, Any], changes: Sequence[str]) -> bool:
    try:
        Recipe.parse(_changed(content, changes), "")
    except SettingsError:
        return False
    return True


def _changed(content: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    changed = copy.deepcopy(content)
    for change in changes:
        _change(changed, change)
    return changed


def _change(content: Any, change: str) -> None:
    """Apply a change ``name=value`` to the nested mapping of a recipe, in place."""
    name, equals, text = change.partition("=")
    try:
        value = documents.parse_yaml(text)
    except ValueError:
        value = text  # not YAML: keep the string
    *above, last = name.split(".")
    if not (equals and last):
        raise SettingsError(
            f"{change}: not a setting. Write name=value, for example training.batch_size=4"
        )
    for key in above:
        if isinstance(content, list):
            content = content[_index(content, key, change)]
        else:
            content = content.setdefault(key, {})
        if not isinstance(content, dict | list):
            raise SettingsError(f"{change}: {key} is a single value, without settings below it")
    if isinstance(content, list):
        content[_index(content, last, change)] = value
    else:
        content[last] = value


def _index(items: list[Any], key: str, change: str) -> int:
    if not (key.isdecimal() and int(key) < len(items)):
        raise SettingsError(
            f"{change}: {key} is not an index of a list of {len(items)}. Count from 0"
        )
    return int(key)
