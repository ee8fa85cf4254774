"""A small plan that is done once, for tests that look at it or spoil a copy."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from stallscan import workers
from stallscan.scale import plan as plans
from stallscan.scale import run
from stallscan.scale.place import FolderPlace
from tests import drawing


class Done(NamedTuple):
    """A plan in a folder, and its recordings."""

    folder: Path
    recordings: Path

    @property
    def place(self) -> FolderPlace:
        return FolderPlace(self.folder)

    @property
    def plan(self) -> plans.Plan:
        return plans.read(self.place)

    def result(self, number: int) -> Path:
        return self.folder / plans.result_name(number)

    def run(self, **options) -> run.Summary:
        return run.work(str(self.folder), run.Options(cores=1, **options))


@pytest.fixture(scope="session")
def recordings(tmp_path_factory) -> Path:
    """Five files in a folder; one has no outline, one is no recording, one lies deeper."""
    folder = tmp_path_factory.mktemp("recordings")
    for seed in range(2):
        drawing.write(folder / f"{seed}.mp4", seed=seed)
    drawing.write(folder / "2.mp4", contours=0)
    (folder / "3.mp4").write_text("this is no video\n" * 100)
    drawing.write(folder / "deeper" / "4.mp4", seed=4)
    return folder


@pytest.fixture(scope="session")
def _done(tmp_path_factory, recordings) -> Done:
    made = Done(tmp_path_factory.mktemp("plan") / "plan", recordings)
    plans.make([recordings], made.place, shard_size=2)
    made.run()
    return made


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch):
    """Decode in this process: starting others takes most of the time of a small plan."""
    monkeypatch.setattr(workers, "count", lambda _: 0)


@pytest.fixture
def processes(_no_processes, monkeypatch):
    """Start decoding processes after all."""
    monkeypatch.undo()


@pytest.fixture
def done(_done, tmp_path) -> Done:
    """A copy of a plan of three shards that is done."""
    shutil.copytree(_done.folder, tmp_path / "plan")
    return Done(tmp_path / "plan", _done.recordings)
