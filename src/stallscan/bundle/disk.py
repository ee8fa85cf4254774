"""Reading and writing bundles."""

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import safetensors

from stallscan import documents, files
from stallscan.bundle.bundle import Bundle, Ensemble
from stallscan.bundle.learned import LEARNED_NAME
from stallscan.bundle.learned import write as write_learned
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
# Folder of the exports to other engines, and the file that describes them (`engines.exports`).
EXPORTS = "openvino"
EXPORTS_NAME = "exports.json"
# All files that a single bundle can have. Other files in its folder are never copied.
KNOWN_FILES = (
    SPEC_NAME,
    WEIGHTS_NAME,
    CARD_NAME,
    LEARNED_NAME,
    f"{EXPORTS}/{EXPORTS_NAME}",
    *(f"{EXPORTS}/{name}.{end}" for name in ("f32", "bf16", "int8") for end in ("xml", "bin")),
)
Spec = TypeVar("Spec", bound=Settings)


def save(
    folder: Path,
    spec: BundleSpec,
    weights: "dict[str, Tensor]",
    card: str,
    learned: Iterable[str] = (),
) -> BundleSpec:
    """Write a bundle; replace an existing one in `folder` only once the new one is complete.

    Exports of the replaced bundle are dropped, because they contain its weights.

    Parameters
    ----------
    spec : BundleSpec
        Its hash of the weights is ignored.
    weights : dict
        State dict of the net.
    card : str
        The model card, Markdown.
    learned : iterable of str
        Short hashes of the recordings it has learned from, see `bundle.learned`.

    Returns
    -------
    BundleSpec
        `spec` with the hash of the weights filled in.

    Raises
    ------
    InputError
        If the bundle cannot be written, or `folder` contains something else.
    """
    import safetensors.torch

    with _replacing(folder) as temporary:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        # Not save_file: it would make the file readable by its owner only.
        content = safetensors.torch.save(tensors)
        files.write_bytes(temporary / WEIGHTS_NAME, content)
        spec = spec.model_copy(update={"weights_sha256": files.sha256_of(content)})
        files.write_json(temporary / SPEC_NAME, spec.model_dump(mode="json"))
        files.write_text(temporary / CARD_NAME, card)
        write_learned(temporary, learned)
    return spec


def save_ensemble(folder: Path, spec: EnsembleSpec, members: Sequence[Bundle], card: str) -> None:
    """Write an ensemble with a copy of each member; replace an existing one like `save`.

    Parameters
    ----------
    spec : EnsembleSpec
        Its `members` are the folder names for the copies.
    members : sequence of Bundle
        In the order of ``spec.members``.
    card : str
        The model card, Markdown.

    Raises
    ------
    InputError
        If the ensemble cannot be written, or `folder` contains something else.
    """
    with _replacing(folder) as temporary:
        for name, member in zip(spec.members, members, strict=True):
            _copy(member.path, temporary / MEMBERS / name)
        files.write_json(temporary / SPEC_NAME, spec.model_dump(mode="json"))
        files.write_text(temporary / CARD_NAME, card)


def _copy(bundle: Path, folder: Path) -> None:
    """Copy the files of a single bundle; refuse links, which could point to any file."""
    (folder / EXPORTS).mkdir(parents=True, exist_ok=True)
    for path in (bundle / EXPORTS, *(bundle / name for name in KNOWN_FILES)):
        if path.is_symlink():
            raise InputError(
                f"{path}: is a link, and links are not copied. Copy the bundle with cp -rL, which "
                "copies the files themselves, and use that copy"
            )
        if path.is_file():
            shutil.copy2(path, folder / path.relative_to(bundle))
    with contextlib.suppress(OSError):
        (folder / EXPORTS).rmdir()  # if the bundle has no exports


def copy(which: str | Path, folder: Path) -> Path:
    """Copy a bundle or an ensemble, and return the new folder.

    Raises
    ------
    BundleError
        If `which` cannot be read.
    InputError
        If `folder` is not empty or cannot be written.
    """
    model = load_any(which)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is not an empty folder. Choose another folder with -o")
    with _replacing(folder) as temporary:
        _copy(model.path, temporary)
        if isinstance(model, Ensemble):
            for name in model.spec.members:
                _copy(model.path / MEMBERS / name, temporary / MEMBERS / name)
    return folder


@contextlib.contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `folder` at the end, unless an error occurs."""
    files.make_folder(folder.parent)
    if folder.exists() and not _is_replaceable(folder):
        raise InputError(
            f"{folder}: contains other files than a bundle, so it is not replaced. Choose another "
            "folder with -o"
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
            f"{folder}: the bundle cannot be written ({error}). Choose another folder with -o"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_replaceable(folder: Path) -> bool:
    """Return whether a folder contains a bundle or nothing."""
    return (folder / SPEC_NAME).is_file() or (folder.is_dir() and not any(folder.iterdir()))


def load_any(which: str | Path = DEFAULT) -> Bundle | Ensemble:
    """Read and validate a bundle or ensemble, given its folder or the name of a shipped one.

    Raises
    ------
    BundleError
        If it does not exist, is incomplete, has another format, or its weights have changed.
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
                f"{member.path}: is not the member that the ensemble was made with (the hash of "
                f"its weights differs from that in {folder / SPEC_NAME}). Copy the ensemble again"
            )
    return Ensemble(folder, spec, members)


def load(which: str | Path = DEFAULT) -> Bundle:
    """Read and validate a single bundle, given its folder or the name of a shipped one.

    Raises
    ------
    BundleError
        As for `load_any`, or if it is an ensemble.
    """
    folder = _folder(which)
    content = _read_content(folder)
    if content.get("kind") == "ensemble":
        raise BundleError(
            f"{folder}: is an ensemble, but a bundle with a single net is needed. Give one of the "
            f"folders in {folder / MEMBERS}"
        )
    if not (folder / WEIGHTS_NAME).is_file():
        raise BundleError(_incomplete(folder, WEIGHTS_NAME))
    spec = _parse(BundleSpec, content, folder)
    if files.sha256(folder / WEIGHTS_NAME) != spec.weights_sha256:
        raise BundleError(
            f"{folder / WEIGHTS_NAME}: is damaged or belongs to another bundle (its hash differs "
            f"from the one in {SPEC_NAME}). Copy the bundle again"
        )
    return Bundle(folder, spec)


def _folder(which: str | Path) -> Path:
    shipped = sorted(path.name for path in SHIPPED.iterdir()) if SHIPPED.is_dir() else []
    if str(which) in shipped:
        return SHIPPED / which
    folder = Path(which)
    if folder.is_dir():
        # Without its ./, the path of a folder may be the name of a shipped bundle.
        return folder.absolute() if str(folder) in shipped else folder
    raise BundleError(
        f"{which}: no such bundle. Give the folder of a bundle, or the name of a shipped one "
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
        content = documents.read_json(path)
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{path}: not readable as JSON ({error}). Copy the bundle again"
        ) from None
    if not isinstance(content, dict):
        raise BundleError(f"{path}: is not a JSON object. Copy the bundle again")
    if content.get("format") != 1:
        raise BundleError(
            f"{path}: has bundle format {content.get('format')!r}, but this version of stallscan "
            "reads format 1. Use the version that wrote it"
        )
    return content


def _parse(kind: type[Spec], content: dict[str, Any], folder: Path) -> Spec:
    try:
        return kind.parse(content, str(folder / SPEC_NAME))
    except SettingsError as error:
        raise BundleError(f"{error}. Correct the file, or copy the bundle again") from None
