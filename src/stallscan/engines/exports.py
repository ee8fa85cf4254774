"""Find the exports of a bundle and check that they are usable.

``openvino/`` in a bundle's folder holds its net in OpenVINO's format and ``exports.json``, which
records how far each export deviates from the net it was made from. `export` writes both; nothing
here needs OpenVINO.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from stallscan import documents, files
from stallscan.bundle import disk
from stallscan.bundle.bundle import Bundle
from stallscan.errors import BundleError, SettingsError
from stallscan.settings import Settings

FOLDER, RECORD_NAME = disk.EXPORTS, disk.EXPORTS_NAME

Precision = Literal["f32", "bf16", "int8"]


class Change(Settings):
    """How an export changes the bundle's performance on labelled recordings."""

    recordings: int  # measured on; none of them calibrated the export
    stalled: int  # of `recordings`
    simulated: bool  # whether the recordings are
    threshold: float  # the bundle's, used for both MCCs
    mcc: float  # of the bundle, with eager torch in float32
    roc_auc: float
    mcc_change: float  # of the export minus that of the bundle
    roc_auc_change: float

    @property
    def largest(self) -> float:
        """The larger absolute change of MCC and ROC AUC."""
        return max(abs(self.mcc_change), abs(self.roc_auc_change))


class Export(Settings):
    """One export of a bundle."""

    weights_sha256: str  # of the weights that the export was made from
    xml_sha256: str
    bin_sha256: str
    openvino: str  # version that made and measured the export
    # Largest difference from the logits of eager torch in float32, relative to max(1, |logit|).
    logit_difference: float = Field(ge=0)
    clips: int  # that the logits were compared on
    # On `logit_difference` if `change` is None, else on the changes of MCC and ROC AUC. An export
    # that exceeds its limit is never used.
    limit: float = Field(gt=0)
    change: Change | None = None  # None for f32, whose logits differ by rounding only
    wider: tuple[str, ...] = ()  # layers that an int8 export leaves at f32

    @property
    def exceeds(self) -> str:
        """What exceeds the limit, with its figures; empty if nothing exceeds it."""
        if self.change is None:
            if self.logit_difference <= self.limit:
                return ""
            return (
                f"its logits differ from torch's by up to {self.logit_difference:.2g} of "
                f"max(1, |logit|), and the limit is {self.limit:g}"
            )
        if self.change.largest <= self.limit:
            return ""
        return (
            f"on {self.change.recordings} recordings, MCC changes by {self.change.mcc_change:+.4f} "
            f"and ROC AUC by {self.change.roc_auc_change:+.4f}, and the limit is {self.limit:g}"
        )


class Exports(Settings):
    """Content of ``exports.json``: each export by its precision."""

    format: Literal[1] = 1
    f32: Export | None = None
    bf16: Export | None = None
    int8: Export | None = None

    def of(self, precision: Precision) -> Export | None:
        """Return the export of a precision, or None."""
        export: Export | None = getattr(self, precision)
        return export


def folder(bundle: Bundle) -> Path:
    """Return the folder of a bundle's exports."""
    return bundle.path / FOLDER


def read(bundle: Bundle) -> Exports:
    """Read the record of a bundle's exports; empty if there is no record.

    Raises
    ------
    BundleError
        If the record is not readable.
    """
    path = folder(bundle) / RECORD_NAME
    if not path.is_file():
        return Exports()
    try:
        return Exports.parse(documents.read_json(path), str(path))
    except (OSError, ValueError, TypeError, SettingsError) as error:
        raise BundleError(
            f"{path}: not readable as a record of exports ({error}). {_remedy(bundle)}"
        ) from None


def find(bundle: Bundle, precision: Precision) -> Path:
    """Return the .xml file of a usable export; its .bin is beside it.

    Raises
    ------
    BundleError
        If there is no export, or it is damaged, made from other weights, or over its limit.
    """
    refuse_unexportable(bundle)
    export = read(bundle).of(precision)
    where = folder(bundle)
    if export is None:
        raise BundleError(f"{bundle.path}: has no {precision} export. {_remedy(bundle, precision)}")
    if export.weights_sha256 != bundle.spec.weights_sha256:
        raise BundleError(
            f"{where}: the {precision} export was made from other weights than the bundle's. "
            f"{_remedy(bundle, precision)}"
        )
    if export.exceeds:
        raise BundleError(
            f"{where}: the {precision} export deviates too far from the bundle ({export.exceeds}). "
            "Choose another --engine"
        )
    xml = where / f"{precision}.xml"
    hashes = {xml: export.xml_sha256, xml.with_suffix(".bin"): export.bin_sha256}
    for path, sha256 in hashes.items():
        if not path.is_file() or files.sha256(path) != sha256:
            raise BundleError(
                f"{path}: missing or damaged (its hash is not the one in {RECORD_NAME}). "
                f"{_remedy(bundle, precision)}"
            )
    return xml


def has(bundle: Bundle, precision: Precision) -> bool:
    """Return whether the bundle has an export that `find` accepts."""
    try:
        find(bundle, precision)
    except BundleError:
        return False
    return True


def refuse_unexportable(bundle: Bundle) -> None:
    """Raise BundleError if the bundle's net cannot be exported."""
    if bundle.spec.net.is_feature_model:
        raise BundleError(
            f"{bundle.path}: its model {bundle.spec.net.name} has no net to export. Predict with "
            "it as it is: it needs neither torch nor OpenVINO"
        )


def _remedy(bundle: Bundle, precision: Precision = "f32") -> str:
    options = "" if precision == "f32" else f" --precision {precision} --data FOLDER"
    return f"Create it with 'stallscan export {bundle.path}{options}'"
