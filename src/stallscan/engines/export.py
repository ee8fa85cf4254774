"""Export a bundle's net to OpenVINO, and measure how far the export deviates from the bundle.

The measurements are written beside the export (see `exports`). An export that exceeds its limit is
not written.
"""

import contextlib
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.jit import TracerWarning  # type: ignore[attr-defined]

from stallscan import files, runs
from stallscan.bundle import disk
from stallscan.bundle.bundle import Bundle
from stallscan.bundle.spec import BundleSpec
from stallscan.clips.store import Store
from stallscan.engines import exports
from stallscan.engines.exports import Change, Export, Exports, Precision
from stallscan.engines.measure import (
    Floats,
    Labelled,
    Progress,
    change_of,
    logits_of,
    read_labelled,
)
from stallscan.engines.quantise import Wider, ladder, quantise
from stallscan.engines.torch_engine import TorchEngine
from stallscan.errors import BundleError, InputError, StallscanError
from stallscan.nets import norm
from stallscan.recordings.recording import Frames
from stallscan.simulate import SimulateSettings
from stallscan.simulate.corpus import simulate_clips

log = logging.getLogger("stallscan")

# Largest deviation of an f32 export's logits from torch's, relative to max(1, |logit|).
LIMIT_F32 = 1e-4
# Clips that an f32 export is checked on. Chosen: they take a few seconds to simulate.
CHECKED_ON = 8


def export(
    which: str | Path,
    precision: Precision = "f32",
    data: Path | None = None,
    limit: float = 0.005,
    seed: int = 0,
    progress: Progress = lambda _done, _of: None,
    out: Path | None = None,
) -> list[str]:
    """Export a bundle, or each member of an ensemble, into its folder.

    Parameters
    ----------
    which : str or Path
        A shipped bundle by name, or the folder of a bundle or ensemble.
    precision : str
        ``f32``; ``bf16``, which computes in bf16 but stores its weights in float32; ``int8``,
        quantised after training.
    data : Path, optional
        Folder of labelled recordings, as `train.train` takes it. ``bf16`` and ``int8`` need it.
    limit : float
        ``bf16`` and ``int8`` exports are refused if MCC or ROC AUC changes by more than this.
    seed : int
        Draws the recordings that calibrate int8; the others are measured on.
    progress : callable
        Called with the number of recordings prepared and their total.
    out : Path, optional
        Export a copy of the bundle in this folder instead. Shipped bundles belong to the installed
        package and are never written to.

    Returns
    -------
    list of str
        A one-line summary of each export.

    Raises
    ------
    BundleError
        If the bundle is unusable, or its net cannot be exported.
    InputError
        If NNCF (for int8) is not installed, the data are missing or unusable, the folder cannot be
        written, or the export exceeds its limit. Nothing is written then.
    """
    if precision != "f32" and data is None:
        raise InputError(
            f"a {precision} export is measured on labelled recordings. Name their folder with "
            "--data"
        )
    if limit <= 0:
        raise InputError(
            f"--limit {limit:g}: not a change of MCC and ROC AUC. Give a value above 0"
        )
    model = disk.load_any(which)
    for member in model.members:
        exports.refuse_unexportable(member)
    if out is not None:
        model = disk.load_any(disk.copy(which, out))
    elif model.path.resolve().is_relative_to(disk.SHIPPED.resolve()):
        raise InputError(
            f"{which}: belongs to the installed package, which is never written to. Export a copy "
            "with -o FOLDER"
        )
    summaries = []
    for member in model.members:
        if precision == "f32" or data is None:
            result = _export_f32(member)
        else:
            with tempfile.TemporaryDirectory() as folder:
                labelled = read_labelled(member, data, Path(folder), precision, seed, progress)
                export_member = _export_bf16 if precision == "bf16" else _export_int8
                result = export_member(member, labelled, limit)
        summaries.append(f"{_summarise(result, member, precision)} -> {exports.folder(member)}")
    return summaries


def export_if_missing(which: str | Path) -> None:
    """Write the f32 exports that the nets of a trained bundle lack, to predict without torch.

    A bundle that cannot be exported is logged with the reason; torch still runs it.
    """
    try:
        for member in disk.load_any(which).members:
            if not (member.spec.net.is_feature_model or exports.has(member, "f32")):
                _export_f32(member)
    except StallscanError as error:
        log.warning("%s: predicts with torch only: %s", which, error)


def _export_f32(bundle: Bundle) -> Export:
    from stallscan.engines.openvino_engine import OpenVinoEngine

    reference = TorchEngine(bundle, "cpu")
    clips = _simulated_clips(bundle)
    expected = np.array([reference.logit(pixels) for pixels in clips])  # (clips,)
    with _partial_folder(bundle) as folder:
        net = norm.with_stepped_norm(reference.net)
        xml = _save(_convert(net, bundle.spec), folder / "f32.xml")
        engine = OpenVinoEngine(xml, bundle.spec.net)
        logits = np.array([engine.logit(pixels) for pixels in clips])  # (clips,)
        _refuse_unless_finite(logits, bundle, "f32")
        result = _describe(bundle, xml, expected, logits, LIMIT_F32)
        _accept(bundle, result, xml, "f32")
    return result


def _export_bf16(bundle: Bundle, labelled: Labelled, limit: float) -> Export:
    from stallscan.engines.openvino_engine import OpenVinoEngine

    reference = TorchEngine(bundle, "cpu")
    expected = logits_of(reference, labelled)
    with _partial_folder(bundle) as folder:
        # No stepped norm here: OpenVINO's own sums lose far less than bf16 does.
        xml = _save(_convert(reference.net, bundle.spec), folder / "bf16.xml")
        logits = logits_of(OpenVinoEngine(xml, bundle.spec.net, "bf16"), labelled)
        _refuse_unless_finite(logits, bundle, "bf16")
        change = change_of(bundle, labelled, expected, logits)
        result = _describe(bundle, xml, expected, logits, limit, change)
        _accept(bundle, result, xml, "bf16")
    return result


def _export_int8(bundle: Bundle, labelled: Labelled, limit: float) -> Export:
    """Quantise, leaving ever more layers at f32 until the export is within its limit."""
    from stallscan.engines.openvino_engine import OpenVinoEngine

    reference = TorchEngine(bundle, "cpu")
    expected = logits_of(reference, labelled)
    plain = _convert(reference.net, bundle.spec)
    result: Export | None = None
    with _partial_folder(bundle) as folder:
        for wider in ladder(plain):
            xml = _save(quantise(plain, bundle.spec, labelled, wider), folder / "int8.xml")
            logits = logits_of(OpenVinoEngine(xml, bundle.spec.net, "int8"), labelled)
            kept = "; ".join(wider.words()) or "nothing"
            if not np.isfinite(logits).all():
                log.info("int8, with %s at f32: a logit is not finite", kept)
                continue
            change = change_of(bundle, labelled, expected, logits)
            result = _describe(bundle, xml, expected, logits, limit, change, wider)
            if not result.exceeds:
                break
            log.info("int8, with %s at f32: %s", kept, result.exceeds)
        if result is None:
            raise _not_finite(bundle, "int8")
        _accept(bundle, result, xml, "int8")
    return result


def _simulated_clips(bundle: Bundle) -> list[Frames]:
    """Simulate clips, each uint8 (T, S, S, C), with the bundle's settings.

    Noise would not be a hard enough check: an engine that sums imprecisely still gets it right.
    """
    settings = SimulateSettings(count=CHECKED_ON, stalled=0.5)
    with tempfile.TemporaryDirectory() as folder:
        simulate_clips(folder, settings, bundle.spec.outline, bundle.spec.clip, processes=1)
        store = Store(Path(folder) / "store")
        return [store.read(row.filename) for row in store.rows() if row.status == "ok"]


def _convert(net: torch.nn.Module, spec: BundleSpec) -> Any:
    """Convert a net to OpenVINO for single clips of any length, or of the bundle's fixed length."""
    from stallscan.engines.openvino_engine import openvino

    # (1, C, T, S, S); -1: any length
    shape = [1, len(spec.net.mean), spec.clip.frames or -1, spec.clip.size, spec.clip.size]
    # 41 frames: no layer has this size, so the tracer cannot confuse the two.
    example = torch.zeros([1, shape[1], spec.clip.frames or 41, *shape[3:]])
    with warnings.catch_warnings(), torch.inference_mode():
        # The tracer warns about branches that depend on a shape, and about its deprecation. The
        # export is compared with torch anyway.
        warnings.simplefilter("ignore", TracerWarning)
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return openvino.convert_model(
                net, example_input=example, input=[openvino.PartialShape(shape)]
            )
        except (RuntimeError, openvino.frontend.OpConversionFailure) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"the net {spec.net.name} cannot be converted to OpenVINO ({reason}). Predict with "
                "--engine torch"
            ) from error


def _save(model: Any, xml: Path) -> Path:
    from stallscan.engines.openvino_engine import openvino

    openvino.save_model(model, xml, compress_to_fp16=False)
    return xml


def _describe(
    bundle: Bundle,
    xml: Path,
    expected: Floats,
    logits: Floats,
    limit: float,
    change: Change | None = None,
    wider: Wider | None = None,
) -> Export:
    from stallscan.engines.openvino_engine import openvino

    return Export(
        weights_sha256=bundle.spec.weights_sha256,
        xml_sha256=files.sha256(xml),
        bin_sha256=files.sha256(xml.with_suffix(".bin")),
        openvino=openvino.__version__,
        logit_difference=float((np.abs(logits - expected) / np.maximum(1, np.abs(expected))).max()),
        clips=len(expected),
        limit=limit,
        change=change,
        wider=() if wider is None else wider.words(),
    )


def _refuse_unless_finite(logits: Floats, bundle: Bundle, precision: Precision) -> None:
    if not np.isfinite(logits).all():
        raise _not_finite(bundle, precision)


def _not_finite(bundle: Bundle, precision: Precision) -> InputError:
    return InputError(
        f"{bundle.path}: the {precision} export was not written, because a logit of it is not "
        "finite. Choose another --engine"
    )


@contextlib.contextmanager
def _partial_folder(bundle: Bundle) -> Iterator[Path]:
    """Yield a folder on the bundle's disk, so that a finished export is moved by renaming."""
    where = exports.folder(bundle)
    if where.is_symlink():
        raise InputError(
            f"{where}: is a link, and the export would be written to its target. Copy the bundle "
            "with the files themselves (cp -rL) and export the copy"
        )
    existed = where.exists()
    try:
        files.make_folder(where)
    except InputError as error:
        raise InputError(
            f"{where}: cannot be written ({error.__cause__}). Copy the bundle to a folder of yours "
            "and export the copy"
        ) from None
    folder = where / ".partial"
    try:
        with runs.hold(where):
            shutil.rmtree(folder, ignore_errors=True)  # a killed export leaves it behind
            folder.mkdir()
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not existed and not any(where.glob("[!.]*")):
            shutil.rmtree(where, ignore_errors=True)


def _accept(bundle: Bundle, result: Export, xml: Path, precision: Precision) -> None:
    """Move an export that is within its limit into place and record it; refuse any other."""
    if result.exceeds:
        kept = f" (layers left at f32: {'; '.join(result.wider)})" if result.wider else ""
        remedy = (
            "Predict with --engine openvino, or raise the limit with --limit"
            if result.change
            else "Predict with --engine torch"
        )
        raise InputError(
            f"{bundle.path}: the {precision} export was not written: {result.exceeds}{kept}. "
            f"{remedy}"
        )
    # If killed before the record is written, `exports.find` sees wrong hashes and refuses it.
    for path in (xml.with_suffix(".bin"), xml):
        path.replace(exports.folder(bundle) / path.name)
    try:
        record = exports.read(bundle)
    except BundleError as error:
        log.warning("%s. Starting a new record", error)
        record = Exports()
    record = record.model_copy(update={precision: result})
    files.write_json(exports.folder(bundle) / exports.RECORD_NAME, record.model_dump(mode="json"))


def _summarise(result: Export, bundle: Bundle, precision: Precision) -> str:
    text = (
        f"{bundle.label}: {precision}, on {result.clips} clips the logits are within "
        f"{result.logit_difference:.2g} of max(1, |logit|) of torch's"
    )
    if result.change is not None:
        what = "simulated recordings" if result.change.simulated else "recordings"
        text += (
            f"; on {result.change.recordings} {what} MCC {result.change.mcc:.4f} changes by "
            f"{result.change.mcc_change:+.4f}, ROC AUC {result.change.roc_auc:.4f} by "
            f"{result.change.roc_auc_change:+.4f}"
        )
    if result.wider:
        text += f"; at f32: {'; '.join(result.wider)}"
    return text
