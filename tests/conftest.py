"""What several test modules share."""

import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stallscan import workers
from stallscan.cli.main import main
from tests.predicted import ROWS, prediction, write_tables

# Started in the background by a shell, this process ignores Ctrl-C, and so would its children, to
# some of which tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

REAL = Path(__file__).resolve().parents[2] / "shared" / "real"


@pytest.fixture(scope="session")
def real_dir() -> Path:
    """Folder with the real tables and recordings; they are not ours to ship."""
    if not REAL.is_dir():
        pytest.skip(f"real files are not at {REAL}")
    return REAL


@pytest.fixture(autouse=True)
def _signal_handlers() -> Iterator[None]:
    """Restore the handlers that `main` replaces: the next test may send itself a signal."""
    yield
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _one_process() -> Iterator[None]:
    """Start one worker process, not one per core, where a test gives no number of them.

    Each costs a third of a second of imports, and every core runs a test already.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(workers, "count_cores", lambda: 1)
        yield


@pytest.fixture(scope="module")
def no_processes() -> Iterator[None]:
    """Decode in this process, whatever the number: a small job takes less than to start another."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(workers, "count", lambda _: 0)
        yield


@pytest.fixture(autouse=True)
def _log_level() -> Iterator[None]:
    """Give our logger its level back: the command line turns it up for the whole process."""
    logger = logging.getLogger("stallscan")
    level = logger.level
    yield
    logger.setLevel(level)


def _random_bundle(folder: Path, seed: int) -> Path:
    """Write a bundle of the small net with random weights: quick, and deterministic."""
    import torch

    from stallscan.bundle import disk
    from stallscan.bundle.spec import BundleSpec
    from stallscan.clips.clip import ClipSettings
    from stallscan.nets import build
    from stallscan.nets.settings import NetSettings
    from stallscan.scores.calibration import Calibration
    from stallscan.vessels.outline import OutlineSettings

    net = NetSettings(mean=(0.2, 0.0), std=(0.2, 1.0))
    torch.manual_seed(seed)
    spec = BundleSpec(
        name="random",
        outline=OutlineSettings(),
        clip=ClipSettings(size=32, shape="pad", channels="grey+mask"),
        net=net,
        calibration=Calibration(),
        threshold=0.5,
        prevalence=0.3,
        frames=(4, 100),
        simulated=True,
    )
    disk.save(folder, spec, build.build(net).state_dict(), "# random weights, for tests only\n")
    return folder


@pytest.fixture(scope="session")
def bundle_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the small net with random weights."""
    return _random_bundle(tmp_path_factory.mktemp("bundles") / "random", seed=3)


@pytest.fixture(scope="session")
def other_bundle_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one, with other weights."""
    return _random_bundle(tmp_path_factory.mktemp("bundles") / "random", seed=4)


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    """Write `ROWS` as predictions.csv and labels.csv (which knows one more); return the paths."""
    return write_tables(
        tmp_path,
        [prediction(name, status, score, call) for name, status, score, call, _ in ROWS],
        [(name, label) for name, *_, label in ROWS if label is not None] + [("b/0.mp4", 1)],
    )


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two models' predictions for 600 recordings of 12 mice, labels, and a table about them."""
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 5 == 0
    logits = 3.0 * labels - 2.0
    names = [f"{row}.mp4" for row in range(600)]
    for model, spread in (("old", 1.5), ("new", 0.7)):
        scores = 1 / (1 + np.exp(-logits - rng.normal(0, spread, 600)))
        rows = [
            prediction(
                name,
                score=score,
                call="stalled" if score >= 0.5 else "flowing",
                threshold=0.5,
                bundle=model,
                frames=20 + index % 100,
            )
            for index, (name, score) in enumerate(zip(names, scores, strict=True))
        ]
        (tmp_path / model).mkdir()
        write_tables(tmp_path / model, rows, [])
    known = pd.DataFrame({"filename": names, "stalled": labels.astype(int)})
    known["mouse"] = [f"m{row // 50}" for row in range(600)]
    known.to_csv(tmp_path / "labels.csv", index=False)
    about = pd.DataFrame({"filename": [f"train/{name}" for name in names]})
    about["kind"] = np.where(labels, np.where(np.arange(600) % 2, "plug", "rouleau"), "flow")
    about.to_csv(tmp_path / "about.csv", index=False)
    return tmp_path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command in this process; return (exit code, stdout, stderr)."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["stallscan", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        code = end.value.code
        out, err = capsys.readouterr()
        return (0 if code is None else code), out, err

    return call


@pytest.fixture
def bucket() -> Iterator[Any]:
    """A public bucket on this machine, empty and without faults."""
    from benchmarks.bucket import Bucket

    with Bucket() as served:
        yield served
