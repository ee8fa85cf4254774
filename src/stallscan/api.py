"""The functions that `import stallscan` offers; docs/engineers/python.md has examples.

Each is a thin wrapper around the code behind the corresponding command, so a script and the command
line return the same rows. Nothing here prints: messages go to the logger ``stallscan``, and
`progress` is called with the number of recordings done and the total.
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stallscan import simulate
from stallscan.bundle import disk
from stallscan.bundle.bundle import Bundle, Ensemble
from stallscan.calls.predict import predict as predict_into
from stallscan.calls.predictions import read_predictions
from stallscan.calls.rows import make_row
from stallscan.clips import prepare
from stallscan.clips.clip import Clip, ClipSettings
from stallscan.clips.clip import make_clip as cut_clip
from stallscan.engines import choose
from stallscan.engines.choose import Chosen, Which
from stallscan.errors import InputError
from stallscan.evaluation.evaluate import Evaluation
from stallscan.evaluation.evaluate import evaluate as evaluate_files
from stallscan.recipes.recipe import read_recipe
from stallscan.recordings.find import Source
from stallscan.recordings.recording import Frames, Recording, from_array
from stallscan.recordings.video import read_recording as read_recording
from stallscan.scores.calibration import log_odds
from stallscan.simulate import CorpusSummary, SimulateSettings, Truth
from stallscan.vessels.outline import Outline, OutlineSettings, draw
from stallscan.vessels.outline import find_outline as find_in

if TYPE_CHECKING:
    from stallscan.training.train import TrainingSummary

Progress = Callable[[int, int], None]
Model = Bundle | Ensemble
Table = str | Path | pd.DataFrame
# A file, a recording, or its frames.
Given = str | Path | Recording | Frames
# The engines that `score` opened last; a caller usually scores many arrays in a row.
_opened: dict[Any, Chosen] = {}


class Score(NamedTuple):
    """The result for one recording.

    Attributes
    ----------
    logit : float
        Output of the net before calibration; for an ensemble, the log-odds of its score.
    score : float
        Probability of stalled, 0..1, with 6 digits, as in ``predictions.csv``.
    call, status, reason : str
        As in ``predictions.csv``. A recording that is too dark, for example, has a score but no
        call.
    """

    logit: float
    score: float
    call: str
    status: str
    reason: str


def predict(
    paths: str | Path | Iterable[str | Path],
    *,
    bundle: str | Path | Model = disk.DEFAULT,
    out: str | Path | None = None,
    prevalence: float | None = None,
    engine: Which = "auto",
    processes: int | None = None,
    progress: Progress | None = None,
    consistency: bool = False,
) -> pd.DataFrame:
    """Score and call recordings. A recording that cannot be used becomes a row with the reason.

    Parameters
    ----------
    paths : str, Path or iterable of them
        Recordings and folders of recordings, or one store of clips.
    bundle : str, Path, Bundle or Ensemble
        Name of a shipped bundle, a folder, or the result of `load_bundle`.
    out : str or Path, optional
        Run folder, as for ``stallscan predict -o``: an interrupted run resumes there. By default,
        nothing is kept on disk.
    prevalence : float, optional
        Expected share of stalled recordings, above 0 and below 1. By default, the bundle's.
    engine : str
        ``auto``, ``torch``, ``openvino``, ``openvino-bf16`` or ``openvino-int8``.
    processes : int, optional
        Number of decoding processes. By default, one per core, or none for one or two recordings.
    progress : callable, optional
        Called with the number of recordings done and the total.
    consistency : bool
        Score each recording also with nine harmless changes of light, noise, surround and frames,
        and leave those whose call changes to a person (call ``review``).

    Returns
    -------
    DataFrame
        The columns of ``predictions.csv``, one row per recording. ``frames``, ``frames_declared``,
        ``score`` and ``threshold`` are float, NaN if missing; the others are str.
        ``frame.attrs["doubts"]`` (tuple of str) lists how the recordings differ from the bundle's
        training recordings.

    Raises
    ------
    InputError
        If there are no recordings, or an argument is invalid.
    StoreError
        If a store is damaged, or was prepared for other clip settings than the bundle's.
    BundleError
        If the bundle cannot be used.
    """
    if isinstance(bundle, Model):
        # Pass the folder: the run needs the prevalence from before `bundle.at` was called.
        stored = disk.load_any(bundle.path)
        if prevalence is None and bundle.spec.prevalence != stored.spec.prevalence:
            prevalence = bundle.spec.prevalence
        bundle = bundle.path
    sources = [paths] if isinstance(paths, str | Path) else list(paths)
    with tempfile.TemporaryDirectory(prefix="stallscan-") as temporary:
        summary = predict_into(
            sources,
            Path(temporary if out is None else out),
            bundle,
            processes,
            prevalence,
            progress or _no_progress,
            engine,
            consistency=consistency,
        )
        frame = read_predictions(summary.table)
    frame.attrs["doubts"] = summary.doubts
    return frame


def score(
    recording: Given,
    mask: NDArray[np.bool_] | None = None,
    *,
    bundle: str | Path | Model = disk.DEFAULT,
    engine: Which = "auto",
) -> Score:
    """Score one recording in memory.

    Parameters
    ----------
    recording : ndarray, Recording, str or Path
        Frames, uint8 (T, H, W, 3) RGB with the outline drawn in, or with `mask` also grey
        (T, H, W); a recording; or a file.
    mask : ndarray, optional
        bool (H, W): True in the segment and a few pixels around it, for recordings without a drawn
        outline. The nets have learned from outlined recordings, so an outline 4 px wide is drawn.
    bundle, engine
        As in `predict`. Load the bundle once to score many arrays.

    Raises
    ------
    NoOutlineError, SeveralOutlinesError
        If there is no mask, and not exactly one outline.
    RecordingError
        If there are too few frames, or their shape or dtype is wrong.
    InputError
        If the mask does not fit the frames, or the engine cannot be used.
    BundleError
        If the bundle cannot be used.
    """
    model = bundle if isinstance(bundle, Model) else disk.load_any(bundle)
    read, outline = _outlined(recording, mask)
    views = [member.spec.view for member in model.members]
    prepared = prepare.cut(Source(read.path.name, read.path), read, views, outline)
    engines = _open(model, engine).engines
    # clip.pixels: (T, S, S, C) uint8
    logits = [net.logit(clip.pixels) for net, clip in zip(engines, prepared.clips, strict=True)]
    row = make_row(prepared, [(logit,) for logit in logits], model)
    value = float(row["score"] or "nan")
    logit = logits[0] if len(logits) == 1 else float(log_odds(value))
    return Score(logit, value, row["call"], row["status"], row["reason"])


def find_outline(recording: Given, rule: str = "contour") -> Outline:
    """Find the only outline in a recording, with its box, contour and mask.

    Parameters
    ----------
    recording : ndarray, Recording, str or Path
        Frames, uint8 (T, H, W, 3) RGB; a recording; or a file.
    rule : str
        ``contour``, or a published rule: ``third-place``, ``first-place``.

    Raises
    ------
    NoOutlineError, SeveralOutlinesError
        If there is not exactly one outline.
    """
    return find_in(_as_recording(recording), OutlineSettings.parse({"rule": rule}, "find_outline"))


def make_clip(
    recording: Given,
    settings: ClipSettings | Mapping[str, Any] | None = None,
    *,
    mask: NDArray[np.bool_] | None = None,
) -> Clip:
    """Cut the clip that a net sees; its ``pixels`` are uint8 (T, S, S, C).

    Parameters
    ----------
    recording, mask
        As in `score`.
    settings : ClipSettings or mapping, optional
        The settings of a bundle, ``load_bundle().spec.clip``, or settings by name,
        ``{"size": 64}``. By default, the published third-place crop.

    Raises
    ------
    NoOutlineError, SeveralOutlinesError
        If there is no mask, and not exactly one outline.
    SettingsError
        If a setting is unknown or out of range.
    """
    if not isinstance(settings, ClipSettings):
        settings = ClipSettings.parse(settings or {}, "make_clip")
    read, outline = _outlined(recording, mask)
    return cut_clip(read, outline or find_in(read), settings)


def load_bundle(which: str | Path = disk.DEFAULT, *, trust: bool = False) -> Model:
    """Read and check a bundle or an ensemble.

    Its ``spec`` has settings, threshold and metrics; ``at(prevalence)`` adapts it to another share
    of stalled recordings.

    Parameters
    ----------
    which : str or Path
        Name of a shipped bundle, or a folder.
    trust : bool
        Import the custom nets that it names. This runs their code; from then on, all bundles with
        these nets can be opened in this process.

    Raises
    ------
    BundleError
        If it is missing, damaged or in an unknown format, or a trusted net cannot be imported.
    """
    model = disk.load_any(which)
    if trust:
        # Imports torch.
        from stallscan.bundle import net

        net.trust(model)
    return model


def simulate_recording(stalled: bool, seed: int = 0, **settings: Any) -> tuple[Frames, Truth]:
    """Simulate one outlined recording in memory.

    Parameters
    ----------
    stalled : bool
        Whether the outlined segment is stalled.
    seed : int
        At least 0. Recordings with the same seed differ only in the motion in the segment.
    **settings
        Settings of `simulate.settings.SimulateSettings`: ``height`` and ``width`` in pixels.

    Returns
    -------
    frames, truth
        Frames, uint8 (T, H, W, 3) RGB, and their ground truth.

    Raises
    ------
    SettingsError
        If a setting is unknown or out of range.
    """
    checked = SimulateSettings.parse({**settings, "seed": seed}, "simulate_recording")
    return simulate.one(seed, 0, stalled, checked)


def simulate_corpus(
    out: str | Path,
    *,
    processes: int | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> CorpusSummary:
    """Write a folder of simulated, labelled recordings in the competition's format.

    Parameters
    ----------
    out : str or Path
        The folder.
    processes : int, optional
        Number of rendering processes. By default, one per core.
    progress : callable, optional
        As in `predict`.
    **settings
        Settings of `simulate.settings.SimulateSettings`: ``count``, ``stalled`` (share), ``seed``,
        ...

    Raises
    ------
    SettingsError
        If a setting is unknown or out of range.
    InputError
        If `out` cannot be written, or contains another simulation.
    """
    checked = SimulateSettings.parse(settings, "simulate_corpus")
    return simulate.simulate(out, checked, processes, progress or _no_progress)


def train(
    recipe: str | Path,
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    labels: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> "TrainingSummary":
    """Train a net from a recipe and write ``out/bundle``. An interrupted run resumes.

    It draws no plots, unlike the command.

    Parameters
    ----------
    recipe : str or Path
        A file, or the name of a shipped recipe.
    data : str, Path or sequence of them
        Folder with ``train_metadata.csv``, ``train_labels.csv``, and ``train/`` or ``store/``; with
        `labels`, recordings, folders of recordings, or a store of clips.
    out : str or Path
        The run folder.
    labels : str or Path, optional
        Table with the columns filename and stalled.
    changes : mapping, optional
        Changes to the recipe by dotted name: ``{"net.name": "mynets:MyNet"}``. A custom net is
        imported, which runs its code.
    progress : callable, optional
        Called with the number of recordings prepared and the total.

    Raises
    ------
    SettingsError
        If the recipe is invalid, or its net cannot be imported.
    StallscanError
        If tables or recordings cannot be used, or `out` contains another run.
    """
    # Importing torch takes seconds.
    from stallscan.engines.export import export_if_missing
    from stallscan.training import labelled, ranks
    from stallscan.training.train import train as train_into

    # Values are parsed as YAML, and JSON is valid YAML.
    settings = [f"{name}={json.dumps(value)}" for name, value in (changes or {}).items()]
    checked = read_recipe(recipe, settings)
    given = [data] if isinstance(data, str | Path) else list(data)
    if labels is not None:
        found = labelled.from_table(checked, given, Path(labels))
    elif len(given) == 1:
        found = labelled.from_folder(checked, Path(given[0]))
    else:
        raise InputError(f"{len(given)} paths to train on, without labels. Give labels, too")
    with ranks.process_group():
        summary = train_into(checked, found, Path(out), progress or _no_progress)
        if ranks.rank() == 0:
            export_if_missing(Path(out) / "bundle")
    return summary


def evaluate(
    predictions: Table,
    labels: Table | None = None,
    *,
    about: Sequence[str | Path] = (),
    group: str | None = None,
    by: Sequence[str] | None = None,
    partial: bool = False,
) -> Evaluation:
    """Measure predictions against labels, with ``values`` and ``intervals`` by name of the figure.

    Parameters
    ----------
    predictions : DataFrame, str or Path
        The result of `predict`, or a file.
    labels : DataFrame, str or Path, optional
        Columns filename and stalled (0 or 1). Optional if the predictions have a column stalled.
    about : sequence of str or Path
        Tables with more columns about the recordings, for `group` and `by`.
    group, by
        Column to resample by for the intervals (the mouse); columns to break the figures down by.
    partial : bool
        Leave out predictions without a label. Otherwise they are an error.

    Raises
    ------
    InputError
        If no prediction has a label, or some have none and `partial` is False.
    TableError
        If a table lacks a column or has wrong rows.
    """
    with tempfile.TemporaryDirectory(prefix="stallscan-") as temporary:
        folder = Path(temporary)
        return evaluate_files(
            _as_file(predictions, folder / "predictions.csv"),
            None if labels is None else _as_file(labels, folder / "labels.csv"),
            about=about,
            group=group,
            by=by,
            partial=partial,
        )


def _no_progress(_done: int, _of: int) -> None:
    pass


def _as_file(table: Table, path: Path) -> str | Path:
    if not isinstance(table, pd.DataFrame):
        return table
    table.to_csv(path, index=False)
    return path


def _as_recording(given: Given) -> Recording:
    if isinstance(given, Recording):
        return given
    return read_recording(given) if isinstance(given, str | Path) else from_array(given)


def _outlined(given: Given, mask: NDArray[np.bool_] | None) -> tuple[Recording, Outline | None]:
    """Read a recording; if there is a mask, draw its outline into a copy."""
    recording = _as_recording(given)
    if mask is None:
        return recording, None
    expected = recording.shape[1:3]  # (H, W)
    if mask.dtype != np.bool_ or mask.shape != expected or not mask.any():
        raise InputError(
            f"{recording.path}: the mask is {mask.dtype} {mask.shape} with "
            f"{np.count_nonzero(mask)} nonzero pixels. Pass bool {expected}, True in the segment "
            "(mask > 0)"
        )
    frames, outline = draw(recording.frames, mask)
    return from_array(frames, recording.path), outline


def _open(model: Model, engine: Which) -> Chosen:
    """Open the engines of a model, or reuse those of the last call."""
    members = ((each.path, each.spec.weights_sha256, each.spec.net) for each in model.members)
    key = (engine, *members)
    if key not in _opened:
        chosen = choose.choose(model, engine)
        _opened.clear()
        _opened[key] = chosen
    return _opened[key]
