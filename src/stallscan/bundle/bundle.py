"""The bundle: a trained model as a folder that carries all it needs to be used.

``bundle.json`` (settings of outline, clip and net, calibration, threshold, provenance),
``weights.safetensors``, and ``README.md``, the model card. No pickle is ever read. An ensemble has
the bundles that it joins in ``members/`` instead of weights. Forms for other engines than torch lie
in ``openvino/`` (`exported`).

Nothing here imports torch before the weights themselves are asked for.
"""

import contextlib
import functools
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import safetensors
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from stallscan import files
from stallscan.bundle.reference import Reference
from stallscan.clips.clip import ClipSettings
from stallscan.clips.prepare import View
from stallscan.errors import BundleError, InputError, SettingsError
from stallscan.nets.settings import NetSettings
from stallscan.scores.thresholds import (
    Calibration,
    log_odds,
    on_grid,
    shift,
    threshold_at,
    vote_margin,
)
from stallscan.settings import Name, Settings
from stallscan.vessels.outline import OutlineSettings

if TYPE_CHECKING:
    from torch import Tensor

SPEC_NAME = "bundle.json"
WEIGHTS_NAME = "weights.safetensors"
CARD_NAME = "README.md"
SHIPPED = Path(__file__).with_name("shipped")
DEFAULT = "default"
MEMBERS = "members"
# Where `exported` keeps what is made for other engines.
EXPORTS = "openvino"
EXPORTS_NAME = "exports.json"
# All files of a bundle that is no ensemble. What else lies in its folder is nobody's business.
KNOWN_FILES = (
    SPEC_NAME,
    WEIGHTS_NAME,
    CARD_NAME,
    f"{EXPORTS}/{EXPORTS_NAME}",
    *(f"{EXPORTS}/{name}.{end}" for name in ("f32", "bf16", "int8") for end in ("xml", "bin")),
)
# What of an ensemble's spec its calls follow from.
DECIDES = {
    "members_sha256",
    "combine",
    "needed",
    "weights",
    "thresholds",
    "calibration",
    "threshold",
}
# What of a bundle's spec its calls do not follow from.
TELLS = {"reference", "metrics", "provenance"}

Floats = NDArray[np.float64]
Spec = TypeVar("Spec", bound=Settings)


class BundleSpec(Settings):
    """What ``bundle.json`` holds.

    Attributes
    ----------
    format : int
        Number of this format.
    name : str
        What predictions call the bundle.
    outline, clip, net
        How a recording becomes a logit.
    calibration : Calibration
        How a logit becomes a score.
    threshold : float
        Stalled is called at or above this score.
    prevalence : float
        Share of stalled in the set that calibration and threshold were chosen on.
    frames : tuple of int
        Fewest and most frames of the recordings it was trained on.
    simulated : bool
        Whether all recordings it was trained on are simulated; of an ensemble: whether those of
        any member are.
    reference : Reference or None
        What those recordings were like, and the scores of those held back; None where that is not
        known.
    weights_sha256 : str
        Hash of the weights file.
    metrics : dict
        On the validation part of the training data.
    provenance : dict
        Recipe, data hash, versions, seed.
    """

    format: Literal[1] = 1
    name: Name
    outline: OutlineSettings
    clip: ClipSettings
    net: NetSettings
    calibration: Calibration
    threshold: float = Field(ge=0, le=1)
    prevalence: float = Field(gt=0, lt=1)
    frames: tuple[int, int]
    simulated: bool
    reference: Reference | None = None
    weights_sha256: str = ""
    metrics: dict[str, Any] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)

    @property
    def view(self) -> View:
        """How its net is shown a recording."""
        return View(self.outline, self.clip)

    @property
    def is_vote(self) -> bool:
        """Whether its score is no probability: that of one net is."""
        return False


class EnsembleSpec(Settings):
    """What ``bundle.json`` of an ensemble holds: how the calls of its members become one.

    Attributes
    ----------
    format : int
        Number of this format.
    kind : str
        What tells it from a single bundle.
    name : str
        What predictions call it.
    members : tuple of str
        Their folders, in ``members/``.
    members_sha256 : tuple of str
        Hashes of their weights.
    combine : str
        ``average``: the mean log-odds of the members' scores, calibrated; ``vote``: stalled is
        called where at least `needed` members call so, each at its own threshold.
    needed : int
        Of a vote; published: 2 of 3 (FACTS 2).
    weights : tuple of float
        Of the members in an average.
    thresholds : tuple of float
        Of the members in a vote, on their scores.
    calibration : Calibration
        How the mean log-odds become a score.
    threshold, prevalence, frames, simulated, reference, metrics, provenance
        As in `BundleSpec`. The score of a vote is no probability, and its threshold is a half.
    """

    format: Literal[1] = 1
    kind: Literal["ensemble"] = "ensemble"
    name: Name
    members: tuple[Name, ...] = Field(min_length=1)
    members_sha256: tuple[str, ...]
    combine: Literal["average", "vote"] = "average"
    needed: int = Field(default=1, ge=1)
    weights: tuple[float, ...] = ()
    thresholds: tuple[float, ...] = ()
    calibration: Calibration = Calibration()
    threshold: float = Field(ge=0, le=1)
    prevalence: float = Field(gt=0, lt=1)
    frames: tuple[int, int]
    simulated: bool
    reference: Reference | None = None
    metrics: dict[str, Any] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)

    @property
    def is_vote(self) -> bool:
        """Whether its score is no probability."""
        return self.combine == "vote"

    @model_validator(mode="after")
    def _one_for_each(self) -> "EnsembleSpec":
        count = len(self.members)
        wanted = self.thresholds if self.is_vote else self.weights
        if len(self.members_sha256) != count or len(wanted) != count:
            raise ValueError(f"{count} members need a hash and a weight or threshold each")
        if len({name.casefold() for name in self.members}) < count:
            raise ValueError("two members have the same name")
        if self.is_vote and self.needed > count:
            raise ValueError(f"a vote of {count} members cannot need {self.needed}")
        if self.combine == "average" and (min(self.weights) < 0 or sum(self.weights) <= 0):
            raise ValueError("weights must be 0 or more, and not all 0")
        return self

    def __str__(self) -> str:
        if self.is_vote:
            cuts = ", ".join(f"{cut:.4f}" for cut in self.thresholds)
            return f"{self.name}: vote of {self.needed} among {len(self.members)} at {cuts}"
        weights = ", ".join(f"{weight:g}" for weight in self.weights)
        return (
            f"{self.name}: mean log-odds of {len(self.members)} bundles (weights {weights}), "
            f"threshold {self.threshold:.4f}"
        )


@dataclass(frozen=True)
class Bundle:
    """A bundle, checked; its weights stay on disk until they are asked for.

    Attributes
    ----------
    path : Path
        Its folder.
    spec : BundleSpec
    """

    path: Path
    spec: BundleSpec

    @functools.cached_property
    def weights(self) -> "dict[str, Tensor]":
        """Tensor by its name in the net's state dict, on the CPU.

        Raises
        ------
        BundleError
            If the file is no longer there or readable, or is another one.
        """
        import safetensors.torch

        path = self.path / WEIGHTS_NAME
        try:
            content = path.read_bytes()
            # Perhaps a training has put another bundle there since this one was loaded.
            if files.sha256_of(content) != self.spec.weights_sha256:
                raise BundleError(f"{path}: has changed since the bundle was opened; start again")
            return safetensors.torch.load(content)
        except (OSError, safetensors.SafetensorError) as error:
            raise BundleError(f"{path}: not readable ({error}); copy the bundle again") from None

    @property
    def label(self) -> str:
        """Name and beginning of the weights' hash, as predictions give it."""
        return f"{self.spec.name}@{self.spec.weights_sha256[:8]}"

    @property
    def members(self) -> "tuple[Bundle, ...]":
        """Itself: all whose nets have to look at a recording."""
        return (self,)

    def score(self, logits: ArrayLike) -> Floats:
        """Make scores, float64 (N,), of the logits of each of `members`, float (1, N)."""
        return self.spec.calibration.score(np.asarray(logits)[0])

    def at(self, prevalence: float) -> "Bundle":
        """Read its scores, and choose its threshold anew, at another share of stalled.

        Raises
        ------
        BundleError
            If it does not know the scores of its validation part.
        """
        before = self.spec.prevalence
        threshold = threshold_at(_known_scores(self), before, prevalence)
        update = {
            "calibration": self.spec.calibration.at(before, prevalence),
            "threshold": threshold,
            "prevalence": prevalence,
        }
        return replace(self, spec=self.spec.model_copy(update=update))


@dataclass(frozen=True)
class Ensemble:
    """Several bundles that call together, in memory.

    Attributes
    ----------
    path : Path
        Its folder.
    spec : EnsembleSpec
    members : tuple of Bundle
    """

    path: Path
    spec: EnsembleSpec
    members: tuple[Bundle, ...]

    @functools.cached_property  # every row of a prediction has it
    def label(self) -> str:
        """Name and beginning of a hash of all that its calls follow from."""
        parts = [self.spec.model_dump_json(include=DECIDES)]
        # Their weights are among what the ensemble's own spec names.
        parts += [member.spec.model_dump_json(exclude=TELLS) for member in self.members]
        return f"{self.spec.name}@{files.sha256_of(''.join(parts).encode())[:8]}"

    def score(self, logits: ArrayLike) -> Floats:
        """Make scores, float64 (N,), of the logits of each of `members`, float (members, N)."""
        rows = zip(self.members, np.asarray(logits), strict=True)
        return combine(self.spec, np.stack([member.score([row]) for member, row in rows]))

    def at(self, prevalence: float) -> "Ensemble":
        """Read its scores, and choose its threshold or its members' anew, at another prevalence.

        Raises
        ------
        BundleError
            If the scores of a validation part are not known.
        """
        before = self.spec.prevalence
        if self.spec.is_vote:
            # Each member's score stays at its own prevalence, where its threshold is read, too.
            cuts = [
                on_grid(float(shift(each.at(prevalence).spec.threshold, prevalence, own)))
                for each, own in ((each, each.spec.prevalence) for each in self.members)
            ]
            update: dict[str, Any] = {"thresholds": tuple(cuts)}
        else:
            update = {
                "calibration": self.spec.calibration.at(before, prevalence),
                "threshold": threshold_at(_known_scores(self), before, prevalence),
            }
        update["prevalence"] = prevalence
        return replace(self, spec=self.spec.model_copy(update=update))


def combine(spec: EnsembleSpec, scores: Floats) -> Floats:
    """Combine the members' scores, float (members, N), 0..1, as an ensemble does.

    Returns
    -------
    ndarray
        float64 (N,), 0..1.
    """
    if spec.is_vote:
        return vote_margin(scores, spec.thresholds, spec.needed)
    mean = np.average(log_odds(scores), axis=0, weights=spec.weights)
    return spec.calibration.score(mean)


def _known_scores(model: Bundle | Ensemble) -> Floats:
    if model.spec.reference is None or not model.spec.reference.scores:
        raise BundleError(
            f"{model.path}: does not know the scores of its validation part, so no threshold for "
            "another prevalence can be chosen; predict without, and choose it on labels with "
            "'stallscan decide'"
        )
    return np.asarray(model.spec.reference.scores)


def save(folder: Path, spec: BundleSpec, weights: "dict[str, Tensor]", card: str) -> BundleSpec:
    """Write a bundle; one that stands at `folder` is replaced only when all is written.

    The new one has no exports: those of the old one were made from other weights.

    Parameters
    ----------
    folder : Path
        Where.
    spec : BundleSpec
        Without the weights' hash, which is filled in.
    weights : dict
        The net's state dict.
    card : str
        The model card, Markdown.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    import safetensors.torch

    with _replacing(folder) as temporary:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        # Not save_file: what that writes nobody but the owner may read.
        content = safetensors.torch.save(tensors)
        files.write_bytes(temporary / WEIGHTS_NAME, content)
        spec = spec.model_copy(update={"weights_sha256": files.sha256_of(content)})
        files.write_json(temporary / SPEC_NAME, spec.model_dump(mode="json"))
        files.write_text(temporary / CARD_NAME, card)
    return spec


def save_ensemble(folder: Path, spec: EnsembleSpec, members: Sequence[Bundle], card: str) -> None:
    """Write an ensemble with a copy of each member, as `save` writes a bundle.

    Parameters
    ----------
    folder : Path
        Where.
    spec : EnsembleSpec
        Its `members` name the folders that the copies get.
    members : sequence of Bundle
        In the same order.
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
    """Copy the files of a bundle; a link would bring in whatever it points to, and is refused."""
    (folder / EXPORTS).mkdir(parents=True, exist_ok=True)
    for path in (bundle / EXPORTS, *(bundle / name for name in KNOWN_FILES)):
        if path.is_symlink():
            raise InputError(
                f"{path}: is a link, and links are not copied. Copy the bundle with the files "
                "themselves (cp -rL) and give the copy"
            )
        if path.is_file():
            shutil.copy2(path, folder / path.relative_to(bundle))
    with contextlib.suppress(OSError):
        (folder / EXPORTS).rmdir()  # nothing has been exported


def copy(which: str | Path, folder: Path) -> Path:
    """Copy a bundle or an ensemble, and return its new folder.

    Raises
    ------
    BundleError
        If it cannot be used.
    InputError
        If something is in `folder` already, or it cannot be written.
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
    """Give a folder to write into, which takes the place of `folder` once all is written."""
    files.make_folder(folder.parent)
    if folder.exists() and not _is_ours(folder):
        raise InputError(
            f"{folder}: holds something that is no bundle, and is left as it is; choose another "
            "folder with -o"
        )
    temporary, old = (folder.with_name(f".{folder.name}.{end}") for end in ("partial", "old"))
    for left in (temporary, old):
        shutil.rmtree(left, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if folder.exists():
            folder.replace(old)
        temporary.replace(folder)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, shutil.Error, safetensors.SafetensorError) as error:
        raise InputError(f"{folder}: the bundle could not be written ({error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    return (folder / SPEC_NAME).is_file() or (folder.is_dir() and not any(folder.iterdir()))


def load_any(which: str | Path = DEFAULT) -> Bundle | Ensemble:
    """Read a bundle or an ensemble by the name of a shipped one or by its folder, and check it.

    Raises
    ------
    BundleError
        If it is not there, incomplete, of another format, or its weights are not those it was
        saved with.
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
                f"weights differs from the one in {folder / SPEC_NAME}); copy the ensemble again"
            )
    return Ensemble(folder, spec, members)


def load(which: str | Path = DEFAULT) -> Bundle:
    """Read a bundle that is no ensemble, as `load_any` does.

    Raises
    ------
    BundleError
        As `load_any`, and if it is an ensemble.
    """
    folder = _folder(which)
    content = _read_content(folder)
    if content.get("kind") == "ensemble":
        raise BundleError(
            f"{folder}: an ensemble, where one net is wanted; give one of the folders in "
            f"{folder / MEMBERS}"
        )
    if not (folder / WEIGHTS_NAME).is_file():
        raise BundleError(_not_there(folder, WEIGHTS_NAME))
    spec = _parse(BundleSpec, content, folder)
    if files.sha256(folder / WEIGHTS_NAME) != spec.weights_sha256:
        raise BundleError(
            f"{folder / WEIGHTS_NAME}: damaged or not of this bundle (its hash differs from the "
            f"one in {SPEC_NAME}); copy the bundle again"
        )
    return Bundle(folder, spec)


def _folder(which: str | Path) -> Path:
    shipped = sorted(path.name for path in SHIPPED.iterdir()) if SHIPPED.is_dir() else []
    if str(which) in shipped:
        return SHIPPED / which
    if Path(which).is_dir():
        return Path(which)
    raise BundleError(
        f"{which}: no such bundle; give the folder of one, or a shipped one by name "
        f"({', '.join(shipped) or 'none is shipped'})"
    )


def _not_there(folder: Path, name: str) -> str:
    return (
        f"{folder}: not a bundle, {name} is missing; expected the folder 'bundle' that 'stallscan "
        "train' writes into its run folder"
    )


def _read_content(folder: Path) -> dict[str, Any]:
    path = folder / SPEC_NAME
    if not path.is_file():
        raise BundleError(_not_there(folder, SPEC_NAME))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: not readable as a bundle ({error})") from None
    if not isinstance(content, dict):
        raise BundleError(f"{path}: not readable as a bundle (expected a JSON object)")
    if content.get("format") != 1:
        raise BundleError(
            f"{path}: bundle format {content.get('format')!r}, this stallscan reads format 1; use "
            "the version of stallscan that wrote it"
        )
    return content


def _parse(kind: type[Spec], content: dict[str, Any], folder: Path) -> Spec:
    path = folder / SPEC_NAME
    try:
        return kind.parse(content, str(path))
    except SettingsError as error:
        raise BundleError(f"{path}: not readable as a bundle ({error})") from None
