"""How long each stage of a long job took, over all the times that it was begun."""

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from stallscan import files
from stallscan.errors import InputError


@dataclass
class Stage:
    """What a stage has taken so far.

    Attributes
    ----------
    seconds : float
        In all its sittings together.
    sittings : int
        How often it was begun or gone on with.
    opened : float or None
        When the sitting began that is not closed (s since 1970): it goes on, or was killed.
    """

    seconds: float = 0.0
    sittings: int = 0
    opened: float | None = None


@dataclass
class Sitting:
    """One time that a stage is worked on; `stands` is set where there was nothing left to do."""

    stands: bool = False


class Clock:
    """The times of all stages, in a file.

    Parameters
    ----------
    path : Path
        The file, JSON; made when the first stage begins.

    Raises
    ------
    InputError
        If the file is there and is not one of these.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.stages: dict[str, Stage] = {}
        if path.is_file():
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                self.stages = {name: Stage(**stage) for name, stage in content.items()}
            except (OSError, ValueError, TypeError, AttributeError) as error:
                raise InputError(
                    f"{path}: not readable as the times of a run ({error}); remove it, and only "
                    "the times are lost"
                ) from None

    @contextlib.contextmanager
    def stage(self, name: str, folder: Path) -> Iterator[Sitting]:
        """Time what is done inside; a sitting whose `stands` was set is not counted.

        A sitting that was killed counts until it last wrote into its folder.
        """
        stage = self.stages.setdefault(name, Stage())
        if stage.opened is not None:
            stage.seconds += max(_last_written(folder) - stage.opened, 0.0)
        before = Stage(stage.seconds, stage.sittings)
        stage.sittings += 1
        stage.opened = time.time()
        self._write()
        began = time.monotonic()
        sitting = Sitting()
        try:
            yield sitting
        finally:
            stage.seconds += time.monotonic() - began
            stage.opened = None
            if sitting.stands:
                self.stages[name] = before
            self._write()

    def _write(self) -> None:
        files.write_json(self._path, {name: asdict(stage) for name, stage in self.stages.items()})


def _last_written(folder: Path) -> float:
    return max((path.stat().st_mtime for path in folder.rglob("*") if path.is_file()), default=0.0)
