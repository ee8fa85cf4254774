"""Base class of all settings, and reading them from YAML.

Each module owns its settings, a frozen subclass of `Settings`. A recipe combines them.
"""

import re
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from stallscan import documents
from stallscan.errors import SettingsError
from stallscan.words import suggest

# Names of bundles and recipes become folder names. File systems allow 255 bytes; an ensemble adds a
# number in front of a member's name, fine-tuning adds "-tuned".
LONGEST_NAME = 100
# A message shows the beginning of a wrong value; written out, some values fill the memory.
_SHOWN = reprlib.Repr()
_SHOWN.maxlevel = 4
_SHOWN.maxdict = _SHOWN.maxlist = _SHOWN.maxtuple = 20
_SHOWN.maxstring = _SHOWN.maxlong = _SHOWN.maxother = 100

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._+-]")


def check_name(name: str) -> str:
    """Return `name` if it is a valid name of a bundle or recipe, else raise ValueError."""
    if not name.strip(".") or len(name) > LONGEST_NAME or _NOT_IN_NAMES.search(name):
        raise ValueError(
            f"a name has 1 to {LONGEST_NAME} letters, digits, '.', '_', '+' or '-', and is not "
            "only dots"
        )
    return name


def as_name(text: str) -> str:
    """Turn any text into a valid name; invalid characters become ``-``."""
    name = _NOT_IN_NAMES.sub("-", text)[:LONGEST_NAME]
    return name if name.strip(".") else "unnamed"


Name = Annotated[str, AfterValidator(check_name)]


class Settings(BaseModel):
    """Frozen settings. Unknown keys are errors; defaults are validated, too."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )

    @classmethod
    def parse(cls, values: Mapping[str, Any], source: str) -> Self:
        """Validate `values` and return the settings.

        Parameters
        ----------
        values : mapping
            Settings by name, nested like the classes.
        source : str
            Origin of the values (a file name), with which the message starts.

        Raises
        ------
        SettingsError
            The message lists all wrong values; for an unknown key it suggests a similar one.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            problems = error.errors()
            below = {each["loc"][:end] for each in problems for end in range(len(each["loc"]))}
            # A list whose items are wrong is said to be too short as well.
            lines = [
                cls._sentence(problem)
                for problem in problems
                if not (problem["loc"] and problem["loc"] in below)
            ]
            raise SettingsError(f"{source}: " + "; ".join(lines)) from None

    @classmethod
    def _sentence(cls, problem: Any) -> str:
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            name, colon, value = str(problem["loc"][-1]).partition(":")
            if colon and problem["input"] is None:  # YAML reads {epochs:3} as one key without value
                return f"unknown setting {where}. Write a blank after the colon: {name}: {value}"
            owner = cls._owner(problem["loc"][:-1])
            known = list(owner.model_fields) if owner else []
            return f"unknown setting {where}" + suggest(str(problem["loc"][-1]), known)
        if not where:  # a validator of the whole class
            return str(problem["msg"].removeprefix("Value error, "))
        said = problem["msg"].removeprefix("Value error, ")
        said = said[:1].lower() + said[1:]
        return f"{where}: {said} (got {_SHOWN.repr(problem['input'])})"

    @classmethod
    def _owner(cls, loc: Iterable[Any]) -> type[BaseModel] | None:
        """Return the settings class that contains the key at the path `loc`."""
        owner: type[BaseModel] = cls
        for part in loc:
            if isinstance(part, int):
                continue  # index into a tuple of settings
            field = owner.model_fields.get(str(part))
            annotation: Any = field.annotation if field else None
            if get_origin(annotation) is tuple:
                annotation = get_args(annotation)[0]
            if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
                return None
            owner = annotation
        return owner


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping.

    Raises
    ------
    SettingsError
        If the file is missing, is not YAML, or does not contain a mapping.
    """
    try:
        content = documents.read_yaml(path)
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: not readable as YAML ({error})") from None
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: expected settings as 'name: value' lines")
    return content
