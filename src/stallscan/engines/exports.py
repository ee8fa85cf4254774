"""What of a bundle has been exported for other engines, and whether that may be used.

``openvino/`` in a bundle's folder holds its net in OpenVINO's form and ``exports.json``, which says
how far each export is from the net that it was made of. `export` writes both; nothing here needs
OpenVINO.
"""

import json
from pathlib import Path
from typing import Literal

from pydantic import Field

from stallscan import files
from stallscan.bundle import disk
from stallscan.bundle.bundle import Bundle
from stallscan.errors import BundleError, SettingsError
from stallscan.settings import Settings

FOLDER, RECORD_NAME = disk.EXPORTS, disk.EXPORTS_NAME

Precision = Literal["f32", "bf16", "int8"]


class Change(Settings):
    """How far the calls of an export are from those of the bundle, on labelled recordings.

    Attributes
    ----------
    recordings, stalled : int
        Measured ones, and how many of them are stalled. None of them calibrated the export.
    simulated : bool
        Whether they are simulated.
    threshold : float
        Of the bundle, at which its MCC and that of the export were measured.
    mcc, roc_auc : float
        Of the bundle by eager torch in float32.
    mcc_change, roc_auc_change : float
        That of the export less that.
    """

    recordings: int
    stalled: int
    simulated: bool
    threshold: float
    mcc: float
    roc_auc: float
    mcc_change: float
    roc_auc_change: float

    @property
    def largest(self) -> float:
        """The larger of both changes, whichever way."""
        return max(abs(self.mcc_change), abs(self.roc_auc_change))


class Export(Settings):
    """One export of a bundle.

    Attributes
    ----------
    weights_sha256 : str
        Hash of the weights that it was made from.
    xml_sha256, bin_sha256 : str
        Hashes of its files.
    openvino : str
        The version of OpenVINO that made and measured it.
    logit_difference : float
        The largest difference to a logit of eager torch in float32, as a share of max(1, |logit|).
    clips : int
        On so many clips.
    limit : float
        Of `logit_difference` where `change` is None, else of the changes in MCC and ROC AUC: an
        export that exceeds it is not used.
    change : Change or None
        What it does to calls; None for f32, whose logits are the same but for rounding.
    wider : tuple of str
        What stayed at f32 in an int8 export.
    """

    weights_sha256: str
    xml_sha256: str
    bin_sha256: str
    openvino: str
    logit_difference: float = Field(ge=0)
    clips: int
    limit: float = Field(gt=0)
    change: Change | None = None
    wider: tuple[str, ...] = ()

    @property
    def exceeds(self) -> str:
        """What exceeds the limit, with its figures; empty if nothing does."""
        if self.change is None:
            if self.logit_difference <= self.limit:
                return ""
            return (
                f"its logits differ from those of torch by up to {self.logit_difference:.2g} of "
                f"max(1, |logit|), the limit is {self.limit:g}"
            )
        if self.change.largest <= self.limit:
            return ""
        return (
            f"on {self.change.recordings} recordings MCC changes by {self.change.mcc_change:+.4f} "
            f"and ROC AUC by {self.change.roc_auc_change:+.4f}, the limit is {self.limit:g}"
        )


class Exports(Settings):
    """What ``exports.json`` holds: each export by its precision."""

    format: Literal[1] = 1
    f32: Export | None = None
    bf16: Export | None = None
    int8: Export | None = None

    def of(self, precision: Precision) -> Export | None:
        """Give the export of a precision, if there is one."""
        found: Export | None = getattr(self, precision)
        return found


def folder(bundle: Bundle) -> Path:
    """Name the folder of a bundle's exports."""
    return bundle.path / FOLDER


def read(bundle: Bundle) -> Exports:
    """Read what a bundle's folder says of its exports; an empty record where it says nothing.

    Raises
    ------
    BundleError
        If the record is not readable.
    """
    path = folder(bundle) / RECORD_NAME
    if not path.is_file():
        return Exports()
    try:
        return Exports.parse(json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError, TypeError, SettingsError) as error:
        raise BundleError(
            f"{path}: not readable as a record of exports ({error}); {_again(bundle)}"
        ) from None


def find(bundle: Bundle, precision: Precision) -> Path:
    """Find an export that may be used.

    Returns
    -------
    Path
        Its .xml file; the .bin lies beside it.

    Raises
    ------
    BundleError
        If there is none, or it is of other weights, damaged, or farther from the bundle than its
        limit allows.
    """
    refuse_unexportable(bundle)
    export = read(bundle).of(precision)
    where = folder(bundle)
    if export is None:
        raise BundleError(f"{bundle.path}: has no {precision} export; {_again(bundle, precision)}")
    if export.weights_sha256 != bundle.spec.weights_sha256:
        raise BundleError(
            f"{where}: the {precision} export is of other weights than the bundle's; "
            f"{_again(bundle, precision)}"
        )
    if export.exceeds:
        raise BundleError(
            f"{where}: the {precision} export is not like the bundle ({export.exceeds}); use "
            "another engine"
        )
    xml = where / f"{precision}.xml"
    hashes = {xml: export.xml_sha256, xml.with_suffix(".bin"): export.bin_sha256}
    for path, sha256 in hashes.items():
        if not path.is_file() or files.sha256(path) != sha256:
            raise BundleError(
                f"{path}: missing or damaged (its hash is not the one in {RECORD_NAME}); "
                f"{_again(bundle, precision)}"
            )
    return xml


def has(bundle: Bundle, precision: Precision) -> bool:
    """Whether there is an export that `find` would give."""
    try:
        find(bundle, precision)
    except BundleError:
        return False
    return True


def refuse_unexportable(bundle: Bundle) -> None:
    """Refuse a bundle whose net has no other form than torch's.

    Raises
    ------
    BundleError
        If it is one.
    """
    if bundle.spec.net.is_feature_model:
        raise BundleError(
            f"{bundle.path}: its net {bundle.spec.net.name} has no form for OpenVINO; torch runs it"
        )


def _again(bundle: Bundle, precision: Precision = "f32") -> str:
    more = "" if precision == "f32" else f" --precision {precision} --data FOLDER"
    return f"make it with 'stallscan export {bundle.path}{more}'"
