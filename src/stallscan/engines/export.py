"""Exports: a bundle's net in OpenVINO's form, and how far it is from the bundle.

What is written is what was measured, and what was measured is written beside it (`exports`). An
export that exceeds its limit is not written.
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

# Of f32, as a share of max(1, |logit|): what is asked of an engine that stands in for torch.
LIMIT_F32 = 1e-4
# Chosen: a few seconds' work to simulate.
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
    """Write an export of a bundle, or of each member of an ensemble, into its folder.

    Parameters
    ----------
    which : str or Path
        A shipped bundle by name, or the folder of a bundle or ensemble.
    precision : str
        ``f32``; ``bf16``, which the engine computes in, its weights being written in float32;
        ``int8``, quantised after training.
    data : Path, optional
        Labelled recordings, a folder as `train.train` takes it. ``bf16`` and ``int8`` need it.
    limit : float
        ``bf16`` and ``int8`` are refused if MCC or ROC AUC changes by more.
    seed : int
        Draws the recordings that int8 is calibrated on; it is measured on the others.
    progress : callable
        Called with how many recordings are prepared, of how many.
    out : Path, optional
        A folder for a copy of the bundle, which is exported in its place. A shipped bundle is part
        of the installed package and never written to.

    Returns
    -------
    list of str
        A sentence for each bundle.

    Raises
    ------
    BundleError
        If the bundle cannot be used, or its net has no other form.
    InputError
        If NNCF (for int8) or the data are missing or unfit, the folder cannot be
        written, or the export exceeds its limit: then nothing is written.
    """
    if precision != "f32" and data is None:
        raise InputError(
            f"what {precision} changes is measured on labelled recordings; give their folder with "
            "--data"
        )
    if limit <= 0:
        raise InputError(f"a limit of {limit:g}: give a change of MCC and ROC AUC above 0")
    model = disk.load_any(which)
    for member in model.members:
        exports.refuse_unexportable(member)
    if out is not None:
        model = disk.load_any(disk.copy(which, out))
    elif model.path.resolve().is_relative_to(disk.SHIPPED.resolve()):
        raise InputError(
            f"{which}: is part of the installed package, which is left as it is. Export a copy of "
            "it with -o FOLDER"
        )
    said = []
    for member in model.members:
        if precision == "f32" or data is None:
            made = _export_f32(member)
        else:
            with tempfile.TemporaryDirectory() as folder:
                labelled = read_labelled(member, data, Path(folder), precision, seed, progress)
                measure = _export_bf16 if precision == "bf16" else _export_int8
                made = measure(member, labelled, limit)
        said.append(f"{_say(made, member, precision)} -> {exports.folder(member)}")
    return said


def export_if_missing(which: str | Path) -> None:
    """Have a bundle that was trained predict without torch: write the f32 exports that it lacks.

    What has no such form is logged with the reason: it predicts with torch.
    """
    try:
        for member in disk.load_any(which).members:
            if not exports.has(member, "f32"):
                exports.refuse_unexportable(member)
                _export_f32(member)
    except StallscanError as error:
        log.warning("%s: predicts with torch only: %s", which, error)


def _export_f32(bundle: Bundle) -> Export:
    from stallscan.engines.openvino_engine import OpenVinoEngine

    reference = TorchEngine(bundle, "cpu")
    clips = _simulated_clips(bundle)
    wanted = np.array([reference.logit(pixels) for pixels in clips])
    with _writing(bundle) as folder:
        xml = _save(
            _convert(norm.with_stepped_norm(reference.net), bundle.spec), folder / "f32.xml"
        )
        found = OpenVinoEngine(xml, bundle.spec.net)
        logits = np.array([found.logit(pixels) for pixels in clips])
        _refuse_unless_finite(logits, bundle, "f32")
        made = _describe(bundle, xml, wanted, logits, LIMIT_F32)
        _refuse_if_exceeds(made, bundle, "f32")
        _place(bundle, made, xml, "f32")
    return made


def _export_bf16(bundle: Bundle, labelled: Labelled, limit: float) -> Export:
    from stallscan.engines.openvino_engine import OpenVinoEngine

    reference = TorchEngine(bundle, "cpu")
    wanted = logits_of(reference, labelled)
    with _writing(bundle) as folder:
        # OpenVINO's own sums: what they lose is far less than what bf16 does.
        xml = _save(_convert(reference.net, bundle.spec), folder / "bf16.xml")
        logits = logits_of(OpenVinoEngine(xml, bundle.spec.net, "bf16"), labelled)
        _refuse_unless_finite(logits, bundle, "bf16")
        change = change_of(bundle, labelled, wanted, logits)
        made = _describe(bundle, xml, wanted, logits, limit, change)
        _refuse_if_exceeds(made, bundle, "bf16")
        _place(bundle, made, xml, "bf16")
    return made


def _export_int8(bundle: Bundle, labelled: Labelled, limit: float) -> Export:
    """Quantise, and keep more and more layers wider until the limit is kept."""
    from stallscan.engines.openvino_engine import OpenVinoEngine

    reference = TorchEngine(bundle, "cpu")
    wanted = logits_of(reference, labelled)
    plain = _convert(reference.net, bundle.spec)
    made: Export | None = None
    with _writing(bundle) as folder:
        for wider in ladder(plain):
            xml = _save(quantise(plain, bundle.spec, labelled, wider), folder / "int8.xml")
            logits = logits_of(OpenVinoEngine(xml, bundle.spec.net, "int8"), labelled)
            if not np.isfinite(logits).all():
                log.info("int8, with %s at f32: no number", "; ".join(wider.words()) or "nothing")
                continue
            change = change_of(bundle, labelled, wanted, logits)
            made = _describe(bundle, xml, wanted, logits, limit, change, wider)
            if not made.exceeds:
                break
            log.info("int8, with %s at f32: %s", "; ".join(made.wider) or "nothing", made.exceeds)
        if made is None:
            raise _no_number(bundle, "int8")
        _refuse_if_exceeds(made, bundle, "int8")
        _place(bundle, made, xml, "int8")
    return made


def _simulated_clips(bundle: Bundle) -> list[Frames]:
    """Draw clips as the bundle sees them. Noise would not do: its sums are easy to get right."""
    settings = SimulateSettings(count=CHECKED_ON, stalled=0.5)
    with tempfile.TemporaryDirectory() as folder:
        simulate_clips(folder, settings, bundle.spec.outline, bundle.spec.clip, processes=1)
        store = Store(Path(folder) / "store")
        return [store.read(row.filename) for row in store.rows() if row.status == "ok"]


def _convert(net: torch.nn.Module, spec: BundleSpec) -> Any:
    """Convert a net for clips of any length, one at a time."""
    from stallscan.engines.openvino_engine import openvino

    shape = [1, len(spec.net.mean), spec.clip.frames or -1, spec.clip.size, spec.clip.size]
    # Of a length that no layer's size equals by chance.
    example = torch.zeros([1, shape[1], spec.clip.frames or 41, *shape[3:]])
    with warnings.catch_warnings(), torch.inference_mode():
        # The tracer warns where a shape decides a branch, and that the tracer will be replaced.
        # Whether the result is right is measured.
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
                f"the net {spec.net.name} cannot be brought into OpenVINO's form ({reason}); "
                "predict with --engine torch"
            ) from error


def _save(model: Any, xml: Path) -> Path:
    from stallscan.engines.openvino_engine import openvino

    openvino.save_model(model, xml, compress_to_fp16=False)
    return xml


def _describe(
    bundle: Bundle,
    xml: Path,
    wanted: Floats,
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
        logit_difference=float((np.abs(logits - wanted) / np.maximum(1, np.abs(wanted))).max()),
        clips=len(wanted),
        limit=limit,
        change=change,
        wider=() if wider is None else wider.words(),
    )


def _refuse_if_exceeds(made: Export, bundle: Bundle, precision: Precision) -> None:
    if made.exceeds:
        kept = f", although this stays at f32: {'; '.join(made.wider)}" if made.wider else ""
        advice = ", or raise the limit with --limit" if made.change else ""
        raise InputError(
            f"{bundle.path}: the {precision} export is refused{kept}: {made.exceeds}; predict with "
            f"--engine {'openvino' if made.change else 'torch'}{advice}"
        )


def _refuse_unless_finite(logits: Floats, bundle: Bundle, precision: Precision) -> None:
    if not np.isfinite(logits).all():
        raise _no_number(bundle, precision)


def _no_number(bundle: Bundle, precision: Precision) -> InputError:
    return InputError(
        f"{bundle.path}: the {precision} export is refused: for some clip it gives no finite "
        "number; predict with another engine"
    )


@contextlib.contextmanager
def _writing(bundle: Bundle) -> Iterator[Path]:
    """Give a folder on the disk of the bundle to write into, from which exports are moved."""
    where = exports.folder(bundle)
    if where.is_symlink():
        raise InputError(
            f"{where}: is a link, and the export would be written to where it leads. Copy the "
            "bundle with the files themselves (cp -rL) and export the copy"
        )
    there = where.exists()
    try:
        files.make_folder(where)
    except InputError as error:
        raise InputError(
            f"{where}: cannot be written ({error.__cause__}); copy the bundle to a folder of yours "
            "and export the copy"
        ) from None
    folder = where / ".partial"
    try:
        with runs.hold(where):
            shutil.rmtree(folder, ignore_errors=True)  # a kill leaves it behind
            folder.mkdir()
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not there and not any(where.glob("[!.]*")):
            shutil.rmtree(where, ignore_errors=True)


def _place(bundle: Bundle, made: Export, xml: Path, precision: Precision) -> None:
    """Move an export to its place; killed in between, it is found to be damaged."""
    for path in (xml.with_suffix(".bin"), xml):
        path.replace(exports.folder(bundle) / path.name)
    _note(bundle, made, precision)


def _note(bundle: Bundle, made: Export, precision: Precision) -> None:
    try:
        record = exports.read(bundle)
    except BundleError as error:
        log.warning("%s; it is begun anew", error)
        record = Exports()
    record = record.model_copy(update={precision: made})
    files.write_json(exports.folder(bundle) / exports.RECORD_NAME, record.model_dump(mode="json"))


def _say(made: Export, bundle: Bundle, precision: Precision) -> str:
    text = (
        f"{bundle.label}: {precision}, on {made.clips} clips the logits are within "
        f"{made.logit_difference:.2g} of max(1, |logit|) of torch's"
    )
    if made.change is not None:
        what = "simulated recordings" if made.change.simulated else "recordings"
        text += (
            f"; on {made.change.recordings} {what} MCC {made.change.mcc:.4f} changes by "
            f"{made.change.mcc_change:+.4f}, ROC AUC {made.change.roc_auc:.4f} by "
            f"{made.change.roc_auc_change:+.4f}"
        )
    if made.wider:
        text += f"; at f32 stays: {'; '.join(made.wider)}"
    return text
