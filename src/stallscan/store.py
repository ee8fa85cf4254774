"""The clip store: prepared clips on disk, in safetensors shards with a manifest.

A shard holds clips by their recording's name, and, in its header, their traits. The manifest names
the shards with a hash of each, the settings the clips were made with, and the recordings that gave
no clip, with the reason.
"""

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import safetensors
import safetensors.numpy
from pydantic import Field

from stallscan import files, prepare
from stallscan.clip import ClipSettings
from stallscan.errors import SettingsError, StoreError
from stallscan.outline import OutlineSettings
from stallscan.prepare import Prepared, View
from stallscan.recording import Frames
from stallscan.settings import Settings
from stallscan.traits import Traits
from stallscan.video import Source

MANIFEST_NAME = "manifest.json"
# About 50 MB a shard at 64 px and 56 frames; what a kill can cost is at most one shard's work.
CLIPS_PER_SHARD = 128
# In the header of a shard, as JSON: by recording its traits, in the order of `Traits`, and, of one
# that is not ok, its status. One key: safetensors writes several in any order.
HEADER_KEY = "recordings"
# What became of a recording that may be mended by copying the file again.
TRY_AGAIN = "unreadable"

Progress = Callable[[int, int], None]


class Shard(Settings):
    """One file of clips.

    Attributes
    ----------
    file : str
        Name inside the store.
    sha256 : str
        Hash of the file.
    frames : dict
        Frames of each clip, by the recording's name.
    """

    file: str
    sha256: str
    frames: dict[str, int]


class Failure(Settings):
    """A recording without a clip."""

    filename: str
    status: str
    reason: str


class Manifest(Settings):
    """What ``manifest.json`` holds."""

    format: Literal[1] = 1
    outline: OutlineSettings
    clip: ClipSettings
    shards: tuple[Shard, ...] = ()
    failures: tuple[Failure, ...] = Field(default=())

    def differences(self, outline: OutlineSettings, clip: ClipSettings) -> list[str]:
        """Name each setting that these clips were made with and that is another one now."""
        pairs: list[tuple[str, Settings, Settings]] = [
            ("outline", self.outline, outline),
            ("clip", self.clip, clip),
        ]
        return [
            f"{group}.{name} is {was}, not {getattr(wanted, name)}"
            for group, stands, wanted in pairs
            for name, was in stands
            if was != getattr(wanted, name)
        ]


class Store:
    """Clips on disk, read one at a time.

    Parameters
    ----------
    folder : Path
        Of the store.

    Raises
    ------
    StoreError
        If there is no readable manifest.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = _read_manifest(folder)
        self._shard = {name: shard for shard in self.manifest.shards for name in shard.frames}

    def __contains__(self, filename: str) -> bool:
        return filename in self._shard

    def frames(self, filename: str) -> int:
        """Count the frames of a clip without reading it."""
        return self._shard[filename].frames[filename]

    def read(self, filename: str) -> Frames:
        """Read one clip.

        Returns
        -------
        ndarray
            uint8 (T, S, S, C).

        Raises
        ------
        StoreError
            If its shard is missing or is not the one that was written.
        """
        path = self.folder / self._shard[filename].file
        _check_hash(path, self._shard[filename].sha256)
        with safetensors.safe_open(path, framework="np") as shard:
            clip: Frames = shard.get_tensor(filename)
        return clip

    def traits(self, filenames: Iterable[str]) -> pd.DataFrame:
        """Give what was measured of recordings when their clips were made.

        Returns
        -------
        DataFrame
            A row for each name, columns as in `Traits`; empty if the store was made by a stallscan
            that did not measure them.

        Raises
        ------
        StoreError
            As `read`.
        """
        known = self._headers("traits")
        rows = [known[name] for name in filenames if name in known]
        return pd.DataFrame(rows, columns=list(Traits._fields))

    def not_ok(self) -> dict[str, str]:
        """Give the status of each recording that has a clip, but that prediction does not call.

        Raises
        ------
        StoreError
            As `read`.
        """
        return self._headers("status")

    def _headers(self, what: Literal["traits", "status"]) -> dict[str, Any]:
        """Join what the headers of all shards hold."""
        joined: dict[str, Any] = {}
        for shard in self.manifest.shards:
            path = self.folder / shard.file
            _check_hash(path, shard.sha256)
            with safetensors.safe_open(path, framework="np") as opened:
                header = json.loads((opened.metadata() or {}).get(HEADER_KEY, "{}"))
            joined |= header.get(what, {})
        return joined


def build(
    folder: Path,
    sources: Sequence[Source],
    outline: OutlineSettings,
    clip: ClipSettings,
    processes: int | None = None,
    progress: Progress = lambda _done, _of: None,
) -> Store:
    """Prepare recordings into a store; what stands there already is not done again.

    Parameters
    ----------
    folder : Path
        Of the store; made if missing.
    sources : sequence of Source
        The recordings; failures become lines of the manifest.
    outline, clip
        Settings; those of a store that exists must be the same.
    processes : int, optional
        Default: one a core.
    progress : callable
        Called with how many recordings are done, of how many.

    Raises
    ------
    StoreError
        If the folder holds a store that was made with other settings.
    InputError
        If the folder cannot be written.
    """
    make = functools.partial(prepare.many, views=[View(outline, clip)], processes=processes)
    return fill(folder, sources, make, outline, clip, progress)


def fill(
    folder: Path,
    sources: Sequence[Source],
    make: Callable[[Sequence[Source]], Iterable[Prepared]],
    outline: OutlineSettings,
    clip: ClipSettings,
    progress: Progress = lambda _done, _of: None,
) -> Store:
    """Fill a store with clips, wherever they come from; those that stand there are not made again.

    Parameters
    ----------
    folder : Path
        Of the store; made if missing.
    sources : sequence of Source
        All recordings that the store is to hold.
    make : callable
        Given the recordings that are not in the store yet, yields what becomes of them, in their
        order.
    outline, clip
        Settings that `make` uses; those of a store that exists must be the same.
    progress : callable
        Called with how many recordings are done, of how many.

    Raises
    ------
    StoreError
        If the folder holds a store that was made with other settings.
    InputError
        If the folder cannot be written.
    """
    files.make_folder(folder)
    manifest = Manifest(outline=outline, clip=clip)
    if (folder / MANIFEST_NAME).exists():
        manifest = _read_manifest(folder)
        _check_settings(folder, manifest, outline, clip)
    done = {name for shard in manifest.shards for name in shard.frames}
    # The reason of a file that could not be read says to copy it again: perhaps it was.
    kept = tuple(failure for failure in manifest.failures if failure.status != TRY_AGAIN)
    manifest = manifest.model_copy(update={"failures": kept})
    done |= {failure.filename for failure in kept}
    todo = [source for source in sources if source.filename not in done]
    finished = len(sources) - len(todo)
    progress(finished, len(sources))
    batch: list[Prepared] = []
    for prepared in make(todo):
        batch.append(prepared)
        finished += 1
        progress(finished, len(sources))
        if len(batch) == CLIPS_PER_SHARD:
            manifest = _append(folder, manifest, batch)
            batch = []
    if batch or not (folder / MANIFEST_NAME).exists():
        _append(folder, manifest, batch)
    return Store(folder)


def _append(folder: Path, manifest: Manifest, batch: Sequence[Prepared]) -> Manifest:
    """Write a shard, then the manifest that names it."""
    made = [(item.source.filename, item.clip, item.status) for item in batch if item.clip]
    clips = {name: clip.pixels for name, clip, _ in made}
    header = {
        "traits": {name: clip.traits for name, clip, _ in made},
        "status": {name: status for name, _, status in made if status != "ok"},
    }
    failed = [
        Failure(filename=item.source.filename, status=item.status, reason=item.reason)
        for item in batch
        if item.clip is None
    ]
    shards = list(manifest.shards)
    if clips:
        path = folder / f"shard-{len(shards):05d}.safetensors"
        with files.atomic_path(path) as temporary:
            safetensors.numpy.save_file(clips, temporary, {HEADER_KEY: json.dumps(header)})
        frames = {name: len(pixels) for name, pixels in clips.items()}
        shards.append(Shard(file=path.name, sha256=files.sha256(path), frames=frames))
    manifest = manifest.model_copy(
        update={"shards": tuple(shards), "failures": (*manifest.failures, *failed)}
    )
    files.write_json(folder / MANIFEST_NAME, manifest.model_dump(mode="json"))
    return manifest


def _check_settings(
    folder: Path, manifest: Manifest, outline: OutlineSettings, clip: ClipSettings
) -> None:
    stands: list[Settings] = [manifest.outline, manifest.clip]
    wanted: list[Settings] = [outline, clip]
    if stands != wanted:
        raise StoreError(
            f"{folder}: the clips were made with {_show(stands)}, now {_show(wanted)} are asked "
            "for; remove the folder or choose another"
        )


def _show(settings: Sequence[Settings]) -> str:
    return json.dumps([one.model_dump(mode="json") for one in settings])


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST_NAME
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        return Manifest.parse(content, str(path))
    except (OSError, ValueError, TypeError, SettingsError) as error:
        raise StoreError(f"{path}: not readable as the manifest of a store ({error})") from None


@functools.cache
def _check_hash(path: Path, sha256: str) -> None:
    """Hash a shard once a process; reading never returns pixels that were not written."""
    if not path.is_file():
        raise StoreError(f"{path}: this shard of the store is missing; make the store again")
    if files.sha256(path) != sha256:
        raise StoreError(f"{path}: this shard of the store is damaged; make the store again")
