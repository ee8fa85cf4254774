"""All readers of files that others may have written, each as a function of the file's bytes.

To add one, add a line to `READERS`, to `seeds` a function that writes a valid file, and a share of
the time to `benchmarks/fuzzing.py`.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stallscan import files, runs
from stallscan.bundle import disk
from stallscan.bundle.spec import SPEC_NAME
from stallscan.calls import predictions, written
from stallscan.catalog import tables
from stallscan.clips import prepare, store
from stallscan.clips.prepare import Preprocessing
from stallscan.engines import exports
from stallscan.errors import LONGEST_MESSAGE, StallscanError
from stallscan.rates import rates
from stallscan.rates.correction import CallAccuracy
from stallscan.recipes.recipe import read_recipe
from stallscan.recordings import video
from stallscan.recordings.find import Source
from stallscan.recordings.raw import StackSettings, open_stack
from stallscan.report import svg
from stallscan.review.answers import Answers
from stallscan.review.ledger import Ledger
from stallscan.runs import ANSWERS_NAME
from stallscan.scale import plan as plans
from stallscan.scale import results, status
from stallscan.scale.place import FolderPlace
from stallscan.simulate.look import read_look
from stallscan.vessels.outline import OutlineSettings
from stallscan.vessels.region_files import read_regions
from stallscan.vessels.regions import Field
from tests.fuzz import seeds

VIEW = Preprocessing(OutlineSettings(), seeds.CLIP)


@dataclass(frozen=True)
class Reader:
    """A reader of files.

    Attributes
    ----------
    seeds : callable
        Writes what the reader needs into a folder, and returns valid files.
    read : callable
        Puts a file's bytes into that folder, and reads it. May raise a `StallscanError`.
    kind : str
        How the file is built, a key of `mutate.KINDS`.
    """

    seeds: Callable[[Path], Iterator[bytes]]
    read: Callable[[bytes, Path], None]
    kind: str


def _recording(name: str) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        path = folder / name
        path.write_bytes(data)
        prepared = prepare.one(Source(name, path), [VIEW])
        assert prepared.status
        assert prepared.clip is not None or prepared.reason
        # Not held in memory, and in full, as the report and the review page read it.
        recording = video.read_recording(path, hold_bytes=0)
        assert sum(map(len, recording.chunks())) == len(recording)
        assert len(recording.thumbnails(0, len(recording) - 1)) in (1, 2)

    return read


def _file(name: str, *readers: Callable[[Path], object]) -> Callable[[bytes, Path], None]:
    """Read one file by several readers, all of which get it however the others fared."""

    def read(data: bytes, folder: Path) -> None:
        path = folder / name
        path.write_bytes(data)
        for reader in readers:
            with _refusals():
                reader(path)

    return read


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except StallscanError as error:
        if len(str(error)) > 2 * LONGEST_MESSAGE:
            raise AssertionError(f"a message of {len(str(error))} characters") from error


def _read_run_tables(path: Path) -> None:
    for columns in written.TABLES.values():
        with _refusals():
            written.read_table(path, columns)


def _read_note(path: Path) -> None:
    runs.read_note(path, "a run")


def _read_plot(path: Path) -> None:
    svg.inline_file(path, "words", "name")


def _read_bundle(data: bytes, folder: Path) -> None:
    from stallscan.bundle import net

    (folder / "bundle" / SPEC_NAME).write_bytes(data)
    with _refusals():
        model = disk.load_any(folder / "bundle")
        assert model.label
        str(model.spec)
        for member in model.members:
            with _refusals():
                net.load_net(member)
        model.at(0.1)


def _read_weights(data: bytes, folder: Path) -> None:
    """Read weights whose hash is right: whoever made the bundle wrote both."""
    from stallscan.bundle import net
    from stallscan.nets import weights

    path = folder / "bundle" / "weights.safetensors"
    path.write_bytes(data)
    spec = folder / "bundle" / SPEC_NAME
    content = json.loads(spec.read_text(encoding="utf-8"))
    spec.write_text(json.dumps(content | {"weights_sha256": files.sha256(path)}), encoding="utf-8")
    loaded = disk.load(folder / "bundle")
    for read in (
        lambda: loaded.arrays,
        lambda: net.load_net(loaded),
        lambda: weights.read_state(path),
    ):
        with _refusals():
            read()


def _read_exports(data: bytes, folder: Path) -> None:
    (folder / "bundle" / disk.EXPORTS / disk.EXPORTS_NAME).write_bytes(data)
    with _refusals():
        exports.find(disk.load(folder / "bundle"), "f32")


def _read_store(folder: Path) -> None:
    with _refusals():
        opened = store.Store(folder / "store")
        opened.warn_of_replaced()
        opened.count()
        opened.not_ok()
        opened.failures()
        for prepared in opened.stream():
            assert prepared.status
        opened.traits([row.filename for row in opened.rows()])
        opened.write_table()


def _read_manifest(data: bytes, folder: Path) -> None:
    (folder / "store" / store.MANIFEST_NAME).write_bytes(data)
    _read_store(folder)


def _read_shard(data: bytes, folder: Path) -> None:
    """Read a shard whose hash is right: whoever made the store wrote both."""
    path = next((folder / "store").glob("shard-*"))
    path.write_bytes(data)
    manifest = folder / "store" / store.MANIFEST_NAME
    content: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
    length = int.from_bytes(data[:8], "little")
    content["shards"][0]["sha256"] = files.sha256_of(data[: 8 + length])
    manifest.write_text(json.dumps(content), encoding="utf-8")
    _read_store(folder)


def _read_answers(data: bytes, folder: Path) -> None:
    for more in ("-wal", "-shm", "-journal"):
        (folder / f"{ANSWERS_NAME}{more}").unlink(missing_ok=True)
    (folder / ANSWERS_NAME).write_bytes(data)
    with _refusals():
        answers = Answers(folder)
        ledger = Ledger(answers)
        ledger.update()
        assert sorted(given.id for given in answers.current()) == sorted(
            given.id for given in ledger.all_current()
        )
        ledger.reviewers()
        answers.undo("token", "one")
        answers.give("other", "new.mp4", "one", "flowing")


def _read_stack(data: bytes, folder: Path) -> None:
    path = folder / "stack.tif"
    path.write_bytes(data)
    for settings in (StackSettings(), StackSettings(voxel_um=(1, 1, 1), frame_s=1, channel="1")):
        with _refusals(), open_stack(path, settings) as opened:
            assert opened.brightest.shape == opened.shape[1:]
            assert opened[0:1].shape == (1, *opened.shape[1:])


def _read_regions(suffix: str) -> Callable[[bytes, Path], None]:
    return _file(f"a{suffix}", lambda path: read_regions(path, Field((6, 40, 50), (1, 1, 1))))


def _read_plan(name: str) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        valid = (folder / "plan" / name).read_bytes()
        (folder / "plan" / name).write_bytes(data)
        place = FolderPlace(folder / "plan")
        with _refusals():
            plan = plans.read(place)
            with _refusals():
                plans.read_list(place, plan, 0)
            with _refusals():
                results.read(place, plan, 0)
            str(status.look(place))
        (folder / "plan" / name).write_bytes(valid)

    return read


READERS = {
    "mp4": Reader(seeds.mp4, _recording("a.mp4"), "mp4"),
    "avi": Reader(seeds.avi, _recording("a.avi"), "riff"),
    "mkv": Reader(seeds.mkv, _recording("a.mkv"), "ebml"),
    "gif": Reader(seeds.gif, _recording("a.gif"), "gif"),
    "tiff": Reader(seeds.tiff, _recording("a.tif"), "tiff"),
    "npy": Reader(seeds.npy, _recording("a.npy"), "npy"),
    "table": Reader(
        seeds.table,
        _file(
            "a.csv",
            tables.read_labels,
            tables.read_metadata,
            tables.read_form,
            predictions.read_predictions,
            rates.read_groups,
            _read_run_tables,
            lambda path: store.listed_in_table(path.parent, path.name),
        ),
        "csv",
    ),
    "note": Reader(
        seeds.note,
        _file("run.json", predictions.read_run, _read_note, CallAccuracy.read),
        "json",
    ),
    "recipe": Reader(seeds.recipe, _file("a.yaml", read_recipe, read_look, _read_note), "yaml"),
    "bundle": Reader(seeds.bundle, _read_bundle, "json"),
    "weights": Reader(seeds.weights, _read_weights, "safetensors"),
    "exports": Reader(seeds.exports, _read_exports, "json"),
    "store": Reader(seeds.store, _read_manifest, "json"),
    "shard": Reader(seeds.shard, _read_shard, "safetensors"),
    "answers": Reader(seeds.answers, _read_answers, "sqlite"),
    "stack": Reader(seeds.stack, _read_stack, "tiff"),
    "roi": Reader(seeds.roi, _read_regions(".roi"), "bytes"),
    "rois": Reader(seeds.rois, _read_regions(".zip"), "bytes"),
    "regions": Reader(seeds.regions, _read_regions(".csv"), "csv"),
    "swc": Reader(seeds.swc, _read_regions(".swc"), "bytes"),
    "plan": Reader(seeds.plan, _read_plan(plans.PLAN_NAME), "json"),
    "list": Reader(seeds.listed, _read_plan(plans.list_name(0)), "csv"),
    "result": Reader(seeds.result, _read_plan(plans.result_name(0)), "json"),
    "plot": Reader(seeds.plot, _file("a.svg", _read_plot), "bytes"),
}
