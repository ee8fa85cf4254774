"""The functions that `import stallscan` offers; docs/python.md describes them with examples.

They are thin: each calls what the command of the same purpose calls, so that a script and the
command line give the same rows. Nothing here prints: what there is to say goes to the logger
``stallscan``, and `progress`, where there is one, is called with how many are done, of how many.
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
from stallscan.calls.predict import make_row
from stallscan.calls.predict import predict as predict_into
from stallscan.calls.predictions import read_predictions
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
# A file, what was read of one, or its frames.
Given = str | Path | Recording | Frames
# The engines that `score` opened last: it is called once for each of many arrays.
_opened: dict[Any, Chosen] = {}


class Score(NamedTuple):
    """What a bundle says of one recording.

    Attributes
    ----------
    logit : float
        Of its net, before calibration; of an ensemble the log-odds of its score.
    score : float
        Probability of stalled, 0..1, with 6 digits, as in ``predictions.csv``.
    call, status, reason : str
        As in ``predictions.csv``: a recording that is too dark, say, has a score but no call.
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
) -> pd.DataFrame:
    """Score and call recordings, one row each; one that cannot be used is a row with its reason.

    Parameters
    ----------
    paths : str, Path or iterable of them
        Files and folders, or one store of clips.
    bundle : str, Path, Bundle or Ensemble
        Name of a shipped bundle, the folder of one, or what `load_bundle` returned.
    out : str or Path, optional
        A folder that keeps the run, as ``stallscan predict -o`` does: called again with it, an
        interrupted run resumes. Nothing is kept if not given.
    prevalence : float, optional
        Share of stalled among these recordings, above 0 and below 1, that scores and threshold are
        for; the bundle's if not given.
    engine : str
        ``auto``, ``torch``, ``openvino``, ``openvino-bf16`` or ``openvino-int8``.
    processes : int, optional
        Decoding processes: one a core if not given, none for one or two recordings; 0: none.
    progress : callable, optional
        Called with the numbers of recordings done and of all.

    Returns
    -------
    DataFrame
        The columns of ``predictions.csv``. ``frame.attrs["doubts"]`` (tuple of str) says in what
        the recordings are unlike those that the bundle was trained on.

    Raises
    ------
    InputError
        If there are no recordings, or a setting makes no sense.
    StoreError
        If a store is damaged, or its clips are not those of the bundle.
    BundleError
        If the bundle cannot be used.
    """
    if isinstance(bundle, Model):
        # By its folder, so that the run knows what the scores were calibrated at before `at`.
        stored = disk.load_any(bundle.path)
        if prevalence is None and bundle.spec.prevalence != stored.spec.prevalence:
            prevalence = bundle.spec.prevalence
        bundle = bundle.path
    many = [paths] if isinstance(paths, str | Path) else list(paths)
    with tempfile.TemporaryDirectory(prefix="stallscan-") as temporary:
        summary = predict_into(
            many,
            Path(temporary if out is None else out),
            bundle,
            processes,
            prevalence,
            progress or _no_progress,
            engine,
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
        Frames, uint8 (T, H, W, 3) RGB with the outline drawn in, or with `mask` also (T, H, W); or
        a recording, or its file.
    mask : ndarray, optional
        bool (H, W): the region of the segment, where no outline is drawn.
    bundle, engine
        As in `predict`. A loaded bundle is faster over many arrays.

    Raises
    ------
    NoOutlineError, SeveralOutlinesError
        If without a mask there is not one outline.
    RecordingError
        If there are too few frames, or they are no recording.
    InputError
        If mask and frames do not fit, or the engine cannot be used.
    BundleError
        If the bundle cannot be used.
    """
    model = bundle if isinstance(bundle, Model) else disk.load_any(bundle)
    read, outline = _outlined(recording, mask)
    views = [member.spec.view for member in model.members]
    prepared = prepare.cut(Source(read.path.name, read.path), read, views, outline)
    engines = _open(model, engine).engines
    logits = [each.logit(clip.pixels) for each, clip in zip(engines, prepared.clips, strict=True)]
    row = make_row(prepared, logits, model)
    value = float(row["score"] or "nan")
    logit = logits[0] if len(logits) == 1 else float(log_odds(value))
    return Score(logit, value, row["call"], row["status"], row["reason"])


def find_outline(recording: Given, rule: str = "contour") -> Outline:
    """Find the one outline in a recording.

    Parameters
    ----------
    recording : ndarray, Recording, str or Path
        Frames, uint8 (T, H, W, 3) RGB; a recording, or its file.
    rule : str
        ``contour``, or a published search: ``third-place``, ``first-place``.

    Returns
    -------
    Outline
        With its box (half-open, rows before columns) and masks, bool (H, W).

    Raises
    ------
    NoOutlineError, SeveralOutlinesError
        If there is not one.
    """
    return find_in(_as_recording(recording), OutlineSettings.parse({"rule": rule}, "find_outline"))


def make_clip(
    recording: Given,
    settings: ClipSettings | Mapping[str, Any] | None = None,
    *,
    mask: NDArray[np.bool_] | None = None,
) -> Clip:
    """Cut the clip of a recording: what a net sees.

    Parameters
    ----------
    recording, mask
        As in `score`.
    settings : ClipSettings or mapping, optional
        ``load_bundle().spec.clip`` for the clip of a bundle, or settings by name, ``{"size": 64}``.
        The published third-place crop if not given.

    Returns
    -------
    Clip
        Its ``pixels`` are uint8 (T, S, S, C).

    Raises
    ------
    NoOutlineError, SeveralOutlinesError
        If without a mask there is not one outline.
    SettingsError
        If a setting is unknown or out of range.
    """
    if not isinstance(settings, ClipSettings):
        settings = ClipSettings.parse(settings or {}, "make_clip")
    read, outline = _outlined(recording, mask)
    return cut_clip(read, outline or find_in(read), settings)


def load_bundle(which: str | Path = disk.DEFAULT, *, trust: bool = False) -> Model:
    """Read a bundle or an ensemble and check it.

    Parameters
    ----------
    which : str or Path
        Name of a shipped bundle, or a folder.
    trust : bool
        Import the nets of one's own that it names, which runs their modules. From then on all
        bundles with these nets open in this process.

    Raises
    ------
    BundleError
        If it is missing, damaged or of another format, or a trusted net cannot be imported.
    """
    model = disk.load_any(which)
    if trust:
        # Torch comes with it.
        from stallscan.bundle import net

        net.trust(model)
    return model


def simulate_recording(stalled: bool, seed: int = 0, **settings: Any) -> tuple[Frames, Truth]:
    """Simulate one outlined recording in memory.

    Parameters
    ----------
    stalled : bool
        Whether blood stands still in the outlined segment.
    seed : int
        Everything but the motion in the segment follows from it; at least 0.
    **settings
        Of `simulate.settings.SimulateSettings`: ``height`` and ``width`` in pixels.

    Returns
    -------
    frames, truth
        uint8 (T, H, W, 3) RGB, and what is known about them.

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
    """Write a folder of simulated, labelled recordings in the competition's form.

    Parameters
    ----------
    out : str or Path
        The folder.
    processes : int, optional
        That render; one a core if not given.
    progress : callable, optional
        As in `predict`.
    **settings
        Of `simulate.settings.SimulateSettings`: ``count``, ``stalled`` (share), ``seed``, ...

    Raises
    ------
    SettingsError
        If a setting is unknown or out of range.
    InputError
        If `out` cannot be written, or holds another simulation.
    """
    checked = SimulateSettings.parse(settings, "simulate_corpus")
    return simulate.simulate(out, checked, processes, progress or _no_progress)


def train(
    recipe: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    changes: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> "TrainingSummary":
    """Train as a recipe says; the bundle is ``out/bundle``. An interrupted run resumes.

    Parameters
    ----------
    recipe : str or Path
        A file, or the name of a shipped recipe.
    data : str or Path
        Folder with ``train_metadata.csv``, ``train_labels.csv``, and ``train/`` or ``store/``.
    out : str or Path
        The run folder.
    changes : mapping, optional
        Settings of the recipe by their dotted name: ``{"net.name": "mynets:MyNet"}``. A net of
        one's own is imported, which runs its module.
    progress : callable, optional
        Called with the numbers of recordings prepared and of all.

    Raises
    ------
    SettingsError
        If the recipe is wrong, or its net cannot be imported.
    StallscanError
        If tables or recordings cannot be used, or `out` holds another run.
    """
    # Takes seconds, most of them for torch.
    from stallscan.engines.export import export_if_missing
    from stallscan.training import ranks
    from stallscan.training.train import train as train_into

    # JSON is YAML, which is what values are read as.
    settings = [f"{name}={json.dumps(value)}" for name, value in (changes or {}).items()]
    checked = read_recipe(recipe, settings)
    with ranks.process_group():
        summary = train_into(checked, Path(data), Path(out), progress or _no_progress)
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
    """Measure predictions against labels.

    Parameters
    ----------
    predictions : DataFrame, str or Path
        What `predict` returned, or the file.
    labels : DataFrame, str or Path, optional
        Columns filename and stalled (0 or 1). May be left out where predictions have a column
        stalled.
    about, group, by, partial
        Tables that say more of the recordings; the column whose recordings are drawn together for
        the intervals (the mouse); columns to break down by; whether predictions without a label
        are left out, and are no error.

    Raises
    ------
    InputError
        If no prediction has a label, or not all have one and `partial` is False.
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
    """Draw the outline of a region, if one is given, into a copy of the recording."""
    recording = _as_recording(given)
    if mask is None:
        return recording, None
    wanted = recording.shape[1:3]
    if mask.dtype != np.bool_ or mask.shape != wanted or not mask.any():
        raise InputError(
            f"{recording.path}: the mask is {mask.dtype} {mask.shape} with "
            f"{np.count_nonzero(mask)} pixels that are not 0; expected bool {wanted}. Give True in "
            "the segment (mask > 0)"
        )
    frames, outline = draw(recording.frames, mask)
    return from_array(frames, recording.path), outline


def _open(model: Model, engine: Which) -> Chosen:
    """Open a model's engines, or take those that the last call opened."""
    members = model.members
    key = (engine, *((one.path, one.spec.weights_sha256, one.spec.net) for one in members))
    if key not in _opened:
        chosen = choose.choose(model, engine)
        _opened.clear()
        _opened[key] = chosen
    return _opened[key]
