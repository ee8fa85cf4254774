"""Reading and writing bundles."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import safetensors

from stallscan import files
from stallscan.bundle.bundle import Bundle, Ensemble
from stallscan.bundle.spec import (
    MEMBERS,
    SPEC_NAME,
    WEIGHTS_NAME,
    BundleSpec,
    EnsembleSpec,
)
from stallscan.errors import BundleError, InputError, SettingsError
from stallscan.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

CARD_NAME = "README.md"
SHIPPED = Path(__file__).with_name("shipped")
DEFAULT = "default"
# Folder of the exports to other engines, and their record (`engines.exports`).
EXPORTS = "openvino"
EXPORTS_NAME = "exports.json"
# All files of a single bundle. Other files in its folder are never copied.
KNOWN_FILES = (
    SPEC_NAME,
    WEIGHTS_NAME,
    CARD_NAME,
    f"{EXPORTS}/{EXPORTS_NAME}",
    *(f"{EXPORTS}/{name}.{end}" for name in ("f32", "bf16", "int8") for end in ("xml", "bin")),
)
Spec = TypeVar("Spec", bound=Settings)


def save(folder: Path, spec: BundleSpec, weights: "dict[str, Tensor]", card: str) -> BundleSpec:
    """Write a bundle, replacing an existing one at `folder` once the new one is complete.

    The new bundle has no exports, because those of the old one have other weights.

    Parameters
    ----------
    spec : BundleSpec
        The hash of the weights is filled in.
    weights : dict
        State dict of the net.
    card : str
        The model card, Markdown.

    Returns
    -------
    BundleSpec
        With the hash of the weights.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    import safetensors.torch

    with _replacing(folder) as temporary:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        # Not save_file, which makes the file readable by its owner only.
        content = safetensors.torch.save(tensors)
        files.write_bytes(temporary / WEIGHTS_NAME, content)
        spec = spec.model_copy(update={"weights_sha256": files.sha256_of(content)})
        files.write_json(temporary / SPEC_NAME, spec.model_dump(mode="json"))
        files.write_text(temporary / CARD_NAME, card)
    return spec


def save_ensemble(folder: Path, spec: EnsembleSpec, members: Sequence[Bundle], card: str) -> None:
    """Write an ensemble with a copy of each member, as `save` does for a bundle.

    Parameters
    ----------
    spec : EnsembleSpec
        Its `members` are the folder names of the copies.
    members : sequence of Bundle
        In the order of ``spec.members``.
    card : str
        The model card, Markdown.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    with _replacing(folder) as temporary:
        for name, member in zip(spec.members, members, strict=True):
            _copy(member.path, temporary / MEMBERS / name)
        files.write_json(temporary / SPEC_NAME, spec.model_dump(mode="json"))
        files.write_text(temporary / CARD_NAME, card)


def _copy(bundle: Path, folder: Path) -> None:
    """Copy the files of a bundle; refuse links, which could point to any file."""
    (folder / EXPORTS).mkdir(parents=True, exist_ok=True)
    for path in (bundle / EXPORTS, *(bundle / name for name in KNOWN_FILES)):
        if path.is_symlink():
            raise InputError(
                f"{path}: is a link, and links are not copied. Make a copy that contains the files "
                "themselves (cp -rL) and give that"
            )
        if path.is_file():
            shutil.copy2(path, folder / path.relative_to(bundle))
    with contextlib.suppress(OSError):
        (folder / EXPORTS).rmdir()  # if the bundle has no exports


def copy(which: str | Path, folder: Path) -> Path:
    """Copy a bundle or an ensemble, and return its new folder.

    Raises
    ------
    BundleError
        If it cannot be used.
    InputError
        If `folder` is not empty or cannot be written.
    """
    model = load_any(which)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is not empty. Choose another folder with -o")
    with _replacing(folder) as temporary:
        _copy(model.path, temporary)
        if isinstance(model, Ensemble):
            for name in model.spec.members:
                _copy(model.path / MEMBERS / name, temporary / MEMBERS / name)
    return folder


@contextlib.contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder to write into, and move it to `folder` at the end."""
    files.make_folder(folder.parent)
    if folder.exists() and not _is_ours(folder):
        raise InputError(
            f"{folder}: contains something other than a bundle, so it is not replaced. Choose "
            "another folder with -o"
        )
    temporary, old = (folder.with_name(f".{folder.name}.{end}") for end in ("partial", "old"))
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if folder.exists():
            folder.replace(old)
        temporary.replace(folder)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, shutil.Error, safetensors.SafetensorError) as error:
        raise InputError(
            f"{folder}: the bundle could not be written ({error}). Choose another folder with -o"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    return (folder / SPEC_NAME).is_file() or (folder.is_dir() and not any(folder.iterdir()))


def load_any(which: str | Path = DEFAULT) -> Bundle | Ensemble:
    """Read and check a bundle or an ensemble, given its folder or the name of a shipped one.

    Raises
    ------
    BundleError
        If it does not exist, is incomplete or of another format, or its weights have changed.
    """
    folder = _folder(which)
    content = _read_content(folder)
    if content.get("kind") != "ensemble":
        return load(which)
    spec = _parse(EnsembleSpec, content, folder)
    members = tuple(load(folder / MEMBERS / name) for name in spec.members)
    for member, sha256 in zip(members, spec.members_sha256, strict=True):
        if member.spec.weights_sha256 != sha256:
            raise BundleError(
                f"{member.path}: not the member that the ensemble was made with (the hash of its "
                f"weights differs from the one in {folder / SPEC_NAME}). Copy the ensemble again"
            )
    return Ensemble(folder, spec, members)


def load(which: str | Path = DEFAULT) -> Bundle:
    """Read a single bundle, as `load_any` does.

    Raises
    ------
    BundleError
        As in `load_any`, and if it is an ensemble.
    """
    folder = _folder(which)
    content = _read_content(folder)
    if content.get("kind") == "ensemble":
        raise BundleError(
            f"{folder}: an ensemble, expected a bundle with a single net. Give one of the folders "
            f"in {folder / MEMBERS}"
        )
    if not (folder / WEIGHTS_NAME).is_file():
        raise BundleError(_incomplete(folder, WEIGHTS_NAME))
    spec = _parse(BundleSpec, content, folder)
    if files.sha256(folder / WEIGHTS_NAME) != spec.weights_sha256:
        raise BundleError(
            f"{folder / WEIGHTS_NAME}: damaged, or from another bundle (its hash differs from the "
            f"one in {SPEC_NAME}). Copy the bundle again"
        )
    return Bundle(folder, spec)


def _folder(which: str | Path) -> Path:
    shipped = sorted(path.name for path in SHIPPED.iterdir()) if SHIPPED.is_dir() else []
    if str(which) in shipped:
        return SHIPPED / which
    if Path(which).is_dir():
        return Path(which)
    raise BundleError(
        f"{which}: no such bundle. Give the folder of one, or the name of a shipped one "
        f"({', '.join(shipped) or 'none is shipped'})"
    )


def _incomplete(folder: Path, name: str) -> str:
    return (
        f"{folder}: not a bundle, {name} is missing. Give the folder 'bundle' that 'stallscan "
        "train' writes into its run folder"
    )


def _read_content(folder: Path) -> dict[str, Any]:
    path = folder / SPEC_NAME
    if not path.is_file():
        raise BundleError(_incomplete(folder, SPEC_NAME))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: not readable as a bundle ({error})") from None
    if not isinstance(content, dict):
        raise BundleError(f"{path}: not readable as a bundle (it is not a JSON object)")
    if content.get("format") != 1:
        raise BundleError(
            f"{path}: bundle format {content.get('format')!r}, this stallscan reads format 1. Use "
            "the version of stallscan that wrote it"
        )
    return content


def _parse(kind: type[Spec], content: dict[str, Any], folder: Path) -> Spec:
    path = folder / SPEC_NAME
    try:
        return kind.parse(content, str(path))
    except SettingsError as error:
        raise BundleError(f"{path}: not readable as a bundle ({error})") from None
