"""The command line: one command, one call, and what it prints.

Heavy modules are imported inside the commands, so that help answers at once.
"""

import contextlib
import errno
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from stallscan import __version__
from stallscan.errors import EngineError, StallscanError
from stallscan.words import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from stallscan.simulate import SimulateSettings

app = App(
    name="stallscan",
    version=__version__,
    help="Tells which brain capillaries have stopped flowing in two-photon recordings.",
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
)

# 0 done, 1 done but some rows failed (with --strict), 2 bad input or settings, 3 bad bundle.
EXIT_FAILED_ROWS = 1
EXIT_INTERRUPTED = 130
EXIT_CLOSED_PIPE = 141
# Commands that go on where an interrupted run was.
RESUMABLE = ("simulate", "prepare", "train", "reproduce", "predict", "demo")
# What to do about an error of the system that nothing else has put into words.
ADVICE = {
    errno.ENOSPC: "Make room and start the same command again",
    errno.EDQUOT: "Make room and start the same command again",
    errno.EACCES: "Change its permissions, or choose another one",
    errno.EPERM: "Change its permissions, or choose another one",
    errno.EROFS: "Choose a folder that can be written, with -o",
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.EISDIR: "Name a file, not a folder",
    errno.ENOTDIR: "Name a folder, not a file",
    errno.ENOENT: "See that it exists",
    errno.EMFILE: "Allow more open files (ulimit -n), or use fewer --processes",
}
ADVICE_ELSE = "See that the file and its folder can be read and written"
# The calls of so many recordings are printed, too.
FEW_SHOWN = 10

Out = Annotated[Path, Parameter(name=["--out", "-o"])]
Flag = Annotated[bool, Parameter(negative="")]


@app.command
def simulate(
    out: Path | None = None,
    *,
    count: int = 200,
    stalled: float = 0.3,
    test: int = 0,
    test_stalled: float = 0.046,
    seed: int = 0,
    clips: Flag = False,
    recipe: str | None = None,
    sheet: Path | None = None,
    label_stack: Path | None = None,
    label_um: tuple[float, float, float] = (1.0, 1.0, 1.0),
    processes: int | None = None,
) -> None:
    """Write outlined recordings with known label, in the competition's own form.

    Parameters
    ----------
    out
        Folder for train_metadata.csv, train_labels.csv, truth.csv and train/*.mp4. May be left out
        with --sheet.
    count
        How many recordings.
    stalled
        Share of stalled ones, 0 to 1.
    test
        How many more, of scenes of their own, as the competition's test part: test/*.mp4,
        test_metadata.csv, submission_format.csv; and test_labels.csv, which the competition never
        gave out.
    test_stalled
        Share of stalled ones among those; 4.6 % in the competition.
    seed
        The same seed gives the same recordings.
    clips
        Write the prepared clips (store/) for training at once, and no videos.
    recipe
        The recipe whose clips these are: a file or the name of a shipped one; with --clips only,
        default if not given.
    sheet
        Also show the first segments of each label over time in one picture, a PNG file.
    label_stack
        A segmented stack through whose vessels the blood flows, instead of drawn ones.
    label_um
        Size of a voxel of the label stack along z, y and x, um.
    processes
        Rendering processes; one a core if not given.
    """
    from stallscan.errors import InputError
    from stallscan.simulate import SimulateSettings
    from stallscan.simulate import sheet as sheets

    if out is None and sheet is None:
        raise InputError(
            "nothing to write; name a folder for the recordings (stallscan simulate OUT) or a "
            "picture of some (stallscan simulate --sheet FILE.png)"
        )
    if recipe is not None and not clips:
        raise InputError("--recipe says how clips are made; give --clips, too")
    if clips and out is None:
        raise InputError("--clips needs a folder: stallscan simulate OUT --clips")
    given = {
        "count": count,
        "stalled": stalled,
        "test": test,
        "test_stalled": test_stalled,
        "seed": seed,
        "label_stack": "" if label_stack is None else str(label_stack),
        "label_um": label_um,
    }
    settings = SimulateSettings.parse(given, "simulate")
    if out is not None:
        _simulate_corpus(out, settings, (recipe or "default") if clips else None, processes)
    if sheet is not None:
        _print(f"{sheets.write(sheet, settings)} segments shown -> {sheet}")


def _simulate_corpus(
    out: Path, settings: "SimulateSettings", recipe: str | None, processes: int | None
) -> None:
    from stallscan.simulate import corpus

    if recipe is None:
        with _progress("simulating recordings") as progress:
            summary = corpus.simulate(out, settings, processes, progress)
    else:
        # A recipe knows the nets, and so torch: seconds that videos need not wait for.
        from stallscan.recipes import recipe as recipes

        made_for = recipes.read_recipe(recipe)
        with _progress("simulating clips") as progress:
            summary = corpus.simulate_clips(
                out, settings, made_for.outline, made_for.clip, processes, progress
            )
    _print(str(summary))


@app.command
def select(
    metadata: Path, *, labels: Path, out: Out, rule: str = "third-place", seed: int = 0
) -> None:
    """Select recordings from the competition's tables by a rule.

    Parameters
    ----------
    metadata
        train_metadata.csv, also gzipped.
    labels
        train_labels.csv, also gzipped.
    out
        The selected table: all columns, and stalled.
    rule
        all, tier1, micro, nano; third-place (the published one), first-place, matlab-prize;
        tier1+stalls or third-place+stalls, with the stalls outside tier1 that the crowd is sure of.
    seed
        Seed of what is drawn.
    """
    from stallscan.catalog.select import select_to_file

    selection = select_to_file(metadata, labels, rule, seed, out)
    _print(f"{selection} -> {out}")


@app.command
def prepare(
    *paths: Path,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    bundle: str | None = None,
    recipe: str | None = None,
    verify: Path | None = None,
    processes: int | None = None,
) -> None:
    """Cut the clips of recordings once, into a store that train and predict take in their place.

    An interrupted run goes on where it was; recordings that stand in the store are not done again.

    Parameters
    ----------
    paths
        Recordings and folders of them: mp4, avi, mov, mkv, webm, gif, tif, npy.
    out
        Folder for the store: shards of clips, manifest.json, and recordings.csv with what became of
        each recording.
    bundle
        The bundle whose clips these are, a shipped one by name or a folder; default if neither
        this nor --recipe is given.
    recipe
        Instead of it: a recipe file, or the name of a shipped one.
    verify
        A store: read every byte of it and name each shard that is not as it was written. Exits
        with 2 if there is one.
    processes
        Decoding processes; one a core if not given.
    """
    from stallscan.errors import InputError

    if verify is not None:
        if paths or out or bundle or recipe:
            raise InputError("--verify only looks at a store: stallscan prepare --verify STORE")
        _verify(verify)
        return
    if not paths or out is None:
        raise InputError(
            "nothing to prepare; name recordings and a store: stallscan prepare PATH... -o STORE"
        )
    if bundle is not None and recipe is not None:
        raise InputError("--bundle and --recipe both say how clips are made; give one of them")

    from stallscan.clips import store
    from stallscan.clips.prepare import View
    from stallscan.recordings import video

    if recipe is not None:
        from stallscan.recipes import recipe as recipes

        settings = recipes.read_recipe(recipe)
        view = View(settings.outline, settings.clip)
    else:
        from stallscan.calls import inputs

        view = inputs.view_of(bundle or "default")
    sources = video.list_recordings(paths)
    with _progress("preparing clips") as progress:
        made = store.build(out, sources, *view, processes, progress)
    counts = ", ".join(f"{number} {status}" for status, number in sorted(made.count().items()))
    _print(f"{counts} -> {out}")
    if failures := len(made.failures()):
        _print(f"{failures} recordings have no clip; {out / store.TABLE_NAME} says why")


def _verify(folder: Path) -> None:
    from stallscan.clips import store
    from stallscan.errors import StoreError
    from stallscan.words import listed

    with _progress("verifying") as progress:
        damaged = store.verify(folder, progress)
    for one in damaged:
        _say(f"error: {one.what}")
        names = f": {listed(one.recordings)}" if one.recordings else ""
        _say(f"{one.file}: {one.lost} recordings are lost{names}")
    if damaged:
        sys.exit(StoreError.exit_code)
    _print(f"{folder}: every shard is as it was written")


train_app = App(name="train", help_format="plaintext")
app.command(train_app)


@train_app.default
def train(
    recipe: str,
    *,
    data: Path,
    out: Out,
    store: Path | None = None,
    epochs: int | None = None,
    limit: int | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set", negative="")] = None,
) -> None:
    """Train a net as a recipe says; an interrupted run goes on where it was.

    Parameters
    ----------
    recipe
        A recipe file (YAML), or the name of a shipped one: default, baseline, third-place,
        first-place, second-place, matlab-prize, accurate.
    data
        Folder with train_metadata.csv, train_labels.csv, and train/ or store/ (clips).
    out
        The run folder: recipe, history, plots, bundle, and checkpoints until it is done.
    store
        The clips, where 'stallscan prepare' put them; --data then needs the tables only.
    epochs
        Epochs of each stage, instead of those of the recipe.
    limit
        Train on at most so many recordings.
    set_
        Another setting of the recipe, name=value (net.name=r3d_18); may be given several times.
    """
    from stallscan.recipes import recipe as recipes
    from stallscan.report import figures
    from stallscan.training import ranks
    from stallscan.training import train as module

    changes = list(set_ or [])
    if limit is not None:
        changes.append(f"data.limit={limit}")
    settings = recipes.read_recipe(recipe, changes)
    if epochs is not None:
        settings = recipes.shorten(settings, epochs)
    with ranks.joined():
        with _progress("preparing clips") as progress:
            summary = module.train(settings, data, out, progress, store)
        if ranks.rank() == 0:
            for history in sorted(out.glob("fold-*/history.csv")) or [out / "history.csv"]:
                figures.history(history, history.parent / "plots")
            figures.evaluation(summary.held_out, out / "plots")
            _print(str(summary))


@train_app.command
def fine_tune(
    recordings: list[Path],
    /,
    *,
    from_: Annotated[str, Parameter(name="--from")] = "default",
    labels: Path,
    out: Out,
    group: str | None = None,
    hold_out: float = 0.3,
    epochs: int = 12,
    learning_rate: float = 2e-4,
    seed: int = 0,
) -> None:
    """Train a bundle further on labels of your own, and say what it gained.

    Parameters
    ----------
    recordings
        Files and folders, or a store of their clips.
    from_
        The bundle to begin with: name of a shipped one, or a folder.
    labels
        CSV with filename, stalled (0 or 1) and, better, a column that names the mouse.
    out
        The run folder: bundle, history, plots, comparison.csv.
    group
        The column whose recordings stay together; if not given mouse, animal, project_id or
        project. Empty: split by recording.
    hold_out
        Share of the recordings that is held out for the comparison.
    epochs
        Passes over the training part, at most.
    learning_rate
        Peak of the schedule.
    seed
        Of the split and the training.
    """
    from stallscan.report import figures
    from stallscan.training import finetune

    with _progress("preparing clips") as progress:
        comparison = finetune.fine_tune(
            from_,
            recordings,
            labels,
            out,
            group=group,
            hold_out=hold_out,
            epochs=epochs,
            learning_rate=learning_rate,
            seed=seed,
            progress=progress,
        )
    figures.history(out / "history.csv", out / "plots")
    _print(str(comparison))


@app.command
def reproduce(
    approach: str,
    *,
    data: Path,
    out: Out,
    store: Path | None = None,
    epochs: int | None = None,
    limit: int | None = None,
    size: int | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set", negative="")] = None,
) -> None:
    """Do a published approach again, from the selection to a page with its figures and ours.

    An interrupted run goes on where it was.

    Parameters
    ----------
    approach
        third-place, first-place, second-place, matlab-prize.
    data
        Folder with train_metadata.csv, train_labels.csv and train/; and, for the test part,
        test_metadata.csv and test/, submission_format.csv, and test_labels.csv where there is one.
    out
        Folder for all that is made: nets, calls, submission.csv, plots, metrics.json,
        reproduction.html.
    store
        The clips to train on, where 'stallscan prepare' put them; --data then needs no train/.
    epochs
        Epochs of each stage, instead of those of the approach.
    limit
        Train on at most so many recordings.
    size
        Rows and columns of the clips, pixels, instead of those of the approach.
    set_
        Another setting of every net's recipe, name=value (pretrained.source=none, where nothing
        can be downloaded); may be given several times.
    """
    from stallscan.published import reproduce as module
    from stallscan.published import writeup

    changes = [] if limit is None else [f"data.limit={limit}"]
    changes += [] if size is None else [f"clip.size={size}"]
    made = module.run(
        approach,
        data,
        out,
        _progress,
        changes=[*changes, *(set_ or [])],
        epochs=epochs,
        clips=store,
    )
    _show(writeup.as_table(made))
    for note in writeup.notes(made):
        _print(note)
    _print(f"page, figures and plots -> {out / writeup.PAGE_NAME}")


@app.command
def import_weights(
    state: Path,
    *,
    out: Out,
    net: str = "r2plus1d_18",
    recipe: str = "third-place",
    threshold: float = 0.5,
    prevalence: float = 0.089,
) -> None:
    """Make a bundle of weights that were trained elsewhere.

    Parameters
    ----------
    state
        A state dict in torchvision's names, plain or behind the prefix cnn. (.pt, .pth,
        .safetensors), with a head of one neuron.
    out
        The bundle's folder.
    net
        The net: r3d_18, mc3_18, r2plus1d_18.
    recipe
        How the net was trained: what its outline, clip and input settings are.
    threshold
        Stalled is called at or above this score.
    prevalence
        Share of stalled recordings that it was trained on.
    """
    from stallscan.bundle import imported
    from stallscan.recipes import recipe as recipes

    settings = recipes.read_recipe(recipe, [f"net.name={net}"])
    spec = imported.import_weights(state, settings, out, threshold, prevalence)
    _print(f"bundle {spec.name}, {spec.net.name} -> {out}")


@app.command
def predict(
    *paths: Path,
    out: Out,
    bundle: str = "default",
    prevalence: float | None = None,
    engine: Literal["auto", "torch", "openvino", "openvino-bf16", "openvino-int8"] = "auto",
    strict: Flag = False,
    processes: int | None = None,
) -> None:
    """Call each recording flowing or stalled; an interrupted run goes on where it was.

    Parameters
    ----------
    paths
        Recordings and folders of them: mp4, avi, mov, mkv, webm, gif, tif, npy; or one
        store of clips.
    out
        Folder for predictions.csv, run.json, traits.csv and sources.csv.
    bundle
        A shipped bundle by name, or the folder of a bundle or ensemble.
    prevalence
        About which share of these recordings is stalled (0.02): scores are read and the threshold
        is chosen for it. As in the bundle's training if not given. To have it estimated from the
        scores, run 'stallscan decide OUT --prevalence estimate' afterwards.
    engine
        What runs the nets. auto: torch on a GPU, else OpenVINO in f32 if it is installed and the
        bundle carries an export, else torch; it goes on with that of an interrupted run.
    strict
        Exit with 1 if any recording got no call.
    processes
        Decoding processes; one a core if not given, none for one or two recordings.
    """
    from stallscan.calls import predict as module
    from stallscan.errors import InputError

    if not paths:
        raise InputError(
            "no recordings given; name files or folders: stallscan predict PATH... -o OUT"
        )
    with _progress("predicting") as progress:
        summary = module.predict(paths, out, bundle, processes, prevalence, progress, engine)
    if sum(summary.calls.values()) <= FEW_SHOWN:
        _print_calls(summary.table)
    counts = ", ".join(f"{number} {call}" for call, number in sorted(summary.calls.items()))
    _print(f"{counts} -> {summary.table}")
    for doubt in summary.doubts:
        _say(f"unlike what the bundle was trained on: {doubt}")
    if summary.doubts:
        _say(
            "label some of these recordings and measure the calls on them (stallscan evaluate); if "
            "they are bad, train the bundle further on your labels (stallscan train fine-tune)"
        )
    if summary.failed:
        _print(f"{summary.failed} recordings have no call; the column 'reason' says why")
        if strict:
            sys.exit(EXIT_FAILED_ROWS)


@app.command
def export(
    bundle: str,
    *,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    precision: Literal["f32", "bf16", "int8"] = "f32",
    data: Path | None = None,
    limit: float = 0.005,
    seed: int = 0,
) -> None:
    """Write a bundle's net in OpenVINO's form into its folder, and measure what that changes.

    Parameters
    ----------
    bundle
        Folder of a bundle or ensemble, or the name of a shipped bundle.
    out
        A folder for a copy of the bundle, which gets the export in its place. A shipped bundle is
        exported only so.
    precision
        f32: the same logits but for rounding; bf16 and int8: faster on some processors, and refused
        where they change the calls.
    data
        Labelled recordings that bf16 and int8 are measured on (int8 is calibrated on some others of
        them): a folder as 'stallscan train' takes it.
    limit
        bf16 and int8 are refused where MCC or ROC AUC changes by more.
    seed
        Draws the recordings that int8 is calibrated on.
    """
    from stallscan.engines import export as module

    if data is None:
        made = module.export(bundle, precision, None, limit, seed, out=out)
    else:
        with _progress("preparing clips") as progress:
            made = module.export(bundle, precision, data, limit, seed, progress, out)
    for line in made:
        _print(line)


@app.command
def ensemble(
    bundles: list[Path],
    /,
    *,
    out: Out,
    name: str = "ensemble",
    vote: int = 0,
    threshold: list[float] | None = None,
    weights: list[float] | None = None,
    fit_weights: Flag = False,
) -> None:
    """Join bundles into one that calls as their mean or by vote, and that predict takes like any.

    Parameters
    ----------
    bundles
        Folders of bundles. What they held back in training (validation.csv beside each) chooses
        the calibration and the threshold of the mean.
    out
        Folder for the ensemble, with a copy of each bundle.
    name
        What predictions call it.
    vote
        So many bundles must call a recording stalled (published: 2 of 3); 0 takes their mean.
    threshold
        A threshold that you choose; for a vote given once for each bundle, in their order.
    weights
        Of the bundles in the mean, given once for each.
    fit_weights
        Choose the weights on the recordings that all of them held back.
    """
    from stallscan.bundle import ensemble as module
    from stallscan.errors import InputError

    if fit_weights and weights:
        raise InputError("--fit-weights chooses the weights; leave --weights out")
    given = {
        "name": name,
        "needed": vote,
        "thresholds": tuple(threshold or ()),
        "weights": "fit" if fit_weights else tuple(weights or ()),
    }
    settings = module.EnsembleSettings.parse(given, "ensemble")
    _print(f"{module.join(bundles, out, settings)} -> {out}")


@app.command
def explain(recordings: list[Path], /, *, bundle: str) -> None:
    """Say in words why the baseline calls each recording as it does.

    Parameters
    ----------
    recordings
        Files and folders.
    bundle
        A bundle that 'stallscan train baseline' made.
    """
    from stallscan.calls import explain as module

    for filename, words in module.explain(recordings, bundle):
        _print(f"{filename}: {words}")


@app.command
def decide(
    predictions: list[Path],
    /,
    *,
    out: Out,
    rule: Literal["mcc", "specificity", "load", "limits", "keep"] | None = None,
    labels: Path | None = None,
    threshold: list[float] | None = None,
    prevalence: float | Literal["estimate"] | None = None,
    vote: int | None = None,
    weights: list[float] | None = None,
    specificity: float = 0.999,
    load: float = 0.05,
    missed: float = 0.05,
    false: float = 0.01,
    confidence: float = 0.95,
    calibrated_at: float | None = None,
    submission: Path | None = None,
) -> None:
    """Call recordings anew from scores that stand, without predicting again.

    Parameters
    ----------
    predictions
        predictions.csv or the folder that holds it; of several models: their mean log-odds count,
        or with --vote their calls.
    out
        Folder for the new predictions.csv.
    rule
        How the threshold is chosen: mcc (highest MCC; the default with --labels or --prevalence),
        specificity, load, limits (calls with a guarantee, and 'review' between them); keep takes
        the one of the table.
    labels
        Labels of some of the recordings, which choose the threshold; no figure may be reported on
        them, and evaluate leaves them out.
    threshold
        A threshold that you choose; for a vote given once for each model, in their order.
    prevalence
        Share of stalled ones among these recordings (0.02), or 'estimate' from the scores.
    vote
        So many models must call a recording stalled (published: 2 of 3).
    weights
        Of the models in the mean, given once for each.
    specificity
        For the rule specificity.
    load
        For the rule load: the share called stalled.
    missed
        For the rule limits: at most this share of the stalled ones is called flowing.
    false
        For the rule limits: at most this share of the flowing ones is called stalled.
    confidence
        For the rule limits: how sure both are.
    calibrated_at
        Prevalence at which the scores are calibrated, where no run.json says it.
    submission
        The competition's submission_format.csv: also write submission.csv for it.
    """
    from stallscan.calls import decide as module

    default = "mcc" if labels is not None or prevalence is not None else "keep"
    given = {
        "combine": "average" if vote is None else "vote",
        "needed": 1 if vote is None else vote,
        "weights": tuple(weights or ()),
        "thresholds": tuple(threshold or ()),
        "prevalence": prevalence,
        "rule": rule or ("keep" if threshold or vote is not None else default),
        "specificity": specificity,
        "load": load,
        "missed": missed,
        "false": false,
        "confidence": confidence,
    }
    settings = module.CallSettings.parse(given, "decide")
    made = module.decide_anew(
        [_table(path) for path in predictions], settings, labels, calibrated_at
    )
    table = module.write(made, out)
    doubts = list(made.doubts)
    if submission is not None:
        path, doubt = module.submit(made, submission, out)
        doubts += [doubt] if doubt else []
        _print(f"submission -> {path}")
    for doubt in doubts:
        _say(doubt)
    _print(f"{made} -> {table}")


@app.command
def evaluate(
    predictions: Path,
    *,
    labels: Path | None = None,
    out: Out,
    about: list[Path] | None = None,
    group: str | None = None,
    by: list[str] | None = None,
    against: Path | None = None,
    partial: Flag = False,
) -> None:
    """Measure predictions against labels, and compare two models on the same recordings.

    Parameters
    ----------
    predictions
        predictions.csv, or out_of_fold.csv or validation.csv of a training run; or the folder that
        holds it.
    labels
        Table with filename and stalled (0 or 1); may be left out for tables of a training run.
    out
        Folder for metrics.json, evaluation.html and the plots.
    about
        A table with filename and more columns (train_metadata.csv, truth.csv) to group and break
        down by; may be given several times. Columns beside the labels count, too.
    group
        The column whose recordings are drawn together for the intervals; if not given mouse,
        animal, project_id or project. Empty: each recording by itself.
    by
        A column to break the figures down by, or frames; may be given several times. If not given
        project_id, project, kind, motion, difficulty and frames, where there are such.
    against
        Predictions of another model for the same recordings: says what it does better.
    partial
        Leave recordings without a label out of the figures; else they are an error.
    """
    from stallscan import runs
    from stallscan.calls.predictions import find_table
    from stallscan.evaluation import comparison as comparisons
    from stallscan.evaluation import evaluate as module
    from stallscan.evaluation import present
    from stallscan.report import figures

    def measure(path: Path, by: list[str] | None) -> module.Evaluation:
        return module.evaluate(
            find_table(path), labels, about=about or (), group=group, by=by, partial=partial
        )

    evaluation = measure(predictions, by)
    comparison = comparisons.compare(evaluation, measure(against, [])) if against else None
    drawn = figures.evaluation_figures(evaluation.scored, evaluation.curve)
    with runs.hold(out):
        present.write(evaluation, out, comparison)
        page = present.write_page(evaluation, figures.as_images(drawn), out, comparison)
        figures.save(drawn, out)
    _show(*present.tables(evaluation, comparison))
    for note in present.notes(evaluation):
        _print(note)
    _print(f"metrics, plots and {page.name} -> {page.parent}")


@app.command
def rate(
    calls: Path,
    *,
    groups: Path,
    out: Out,
    errors: Path | None = None,
    sensitivity: float | None = None,
    specificity: float | None = None,
    reference: str | None = None,
    vessels: int | None = None,
    spread: float = 0.5,
) -> None:
    """Give stall rates of fields, mice and groups, corrected for wrong calls, and compare groups.

    Parameters
    ----------
    calls
        predictions.csv, or the folder that holds it.
    groups
        Table with filename and any of field, mouse, group.
    out
        Folder for the tables.
    errors
        metrics.json that 'stallscan evaluate' wrote for calls of the same bundle and threshold.
    sensitivity
        Instead of it: share of stalled ones called so, taken to be exact.
    specificity
        Instead of it: share of flowing ones called so, taken to be exact.
    reference
        The group that others are compared with; the first if not given.
    vessels
        For the mice that a next study needs: recordings a mouse; as many as here if not given.
    spread
        For the same: standard deviation of the mice's true rates over their mean.
    """
    import statistics

    from stallscan.errors import InputError
    from stallscan.rates import power, rates
    from stallscan.rates.correction import Errors

    if errors is not None and (sensitivity is not None or specificity is not None):
        raise InputError(
            "--errors brings sensitivity and specificity with it; leave out --sensitivity and "
            "--specificity, or --errors"
        )
    if errors is not None:
        made_of = Errors.read(errors)
    elif sensitivity is not None and specificity is not None:
        made_of = Errors.stated(sensitivity, specificity)
    else:
        raise InputError(
            "how often the calls are wrong is not known; give --errors metrics.json, which "
            "'stallscan evaluate' writes, or --sensitivity and --specificity"
        )
    result = rates.rate(_table(calls), groups, made_of, reference=reference)
    rates.write(result, out)
    if vessels is None:
        scored = [mouse.rate.scored for mouse in result.mice if mouse.rate is not None]
        vessels = int(statistics.median(scored)) if scored else power.VESSELS
    needed = power.compare_scorings(made_of, vessels=vessels, spread=spread)
    _show(*rates.as_tables(result), power.as_table(needed))
    for sentence in result.sentences():
        _print(sentence)
    _print(f"tables -> {out}")


@app.command
def report(
    predictions: Path,
    *,
    out: Out,
    labels: Path | None = None,
    recordings: list[Path] | None = None,
    max_cards: int = 200,
) -> None:
    """Write a report to look at: one HTML file with counts, plots and a card per recording.

    Parameters
    ----------
    predictions
        predictions.csv, or the folder that holds it.
    out
        The HTML file.
    labels
        Table with filename and stalled (0 or 1), where known.
    recordings
        Where the recordings are now, if they were moved since.
    max_cards
        Cards shown at most; the page says which were chosen.
    """
    from stallscan.report import report as module

    settings = module.ReportSettings.parse({"max_cards": max_cards}, "report")
    with _progress("writing the report") as progress:
        written = module.write(
            _table(predictions),
            out,
            labels=labels,
            recordings=recordings,
            settings=settings,
            progress=progress,
        )
    _print(f"{written} -> {out}")


@app.command
def demo(*, out: Out = Path("stallscan-demo")) -> None:
    """Show the whole way on simulated recordings: simulate, predict, evaluate, report.

    Parameters
    ----------
    out
        Folder for all that is made.
    """
    from stallscan.cli import demo as module
    from stallscan.evaluation import present

    with contextlib.ExitStack() as stack:
        made = module.run(out, lambda name: stack.enter_context(_progress(name)))
    _show(present.as_table(made.evaluation))
    _print(f"All recordings are simulated. Open the report: {made.report.resolve()}")


@app.command
def doctor() -> None:
    """Say what is installed, what works, and what is missing with the way to get it."""
    from rich.table import Table
    from rich.text import Text

    from stallscan.cli import doctor as module

    findings = module.examine()
    colours = {"ok": "green", "optional": "yellow", "missing": "red"}
    table = Table("what", "state", "found")
    for finding in findings:
        state = Text(finding.state, colours[finding.state])
        table.add_row(finding.what, state, finding.found)
    _show(table)
    if any(finding.state == "missing" for finding in findings):
        sys.exit(EXIT_FAILED_ROWS)


def main() -> None:
    """Run the command line; errors that are raised on purpose end in one sentence, no traceback."""
    for stream in (sys.stdout, sys.stderr):
        # A console that has no character for a name shows its code; the run goes on.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.WARNING, format="stallscan: %(message)s", stream=sys.stderr)
    logging.getLogger("stallscan").setLevel(logging.INFO)
    try:
        app(sys.argv[1:], exit_on_error=False)
    except CycloptsError:
        # Cyclopts has said what is wrong; its own exit code would be 1.
        sys.exit(StallscanError.exit_code)
    except EngineError as error:
        _say(f"error: {error}")
        _end_now(error.exit_code)
    except StallscanError as error:
        _say(f"error: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever reads the output wants no more of it. Python flushes again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_CLOSED_PIPE)
    except OSError as error:
        _say(f"error: {_sentence(error)}")
        sys.exit(StallscanError.exit_code)
    except KeyboardInterrupt:
        resumes = sys.argv[1:2] and sys.argv[1] in RESUMABLE
        _say(f"interrupted{'; run the same command again to resume' if resumes else ''}")
        _end_now(EXIT_INTERRUPTED)


def _end_now(code: int) -> None:
    """Exit without waiting for threads, of which some may hang in native code."""
    # A console that is gone must not keep this process from ending.
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _sentence(error: OSError) -> str:
    """Say which file, what is wrong with it and what to do."""
    # Of a replacement the second one is what the user named; the first is a temporary file.
    file = error.filename if error.filename2 is None else error.filename2
    name = "" if file is None else f"{file}: "
    reason = error.strerror or str(error) or type(error).__name__
    return f"{name}{reason}. {ADVICE.get(error.errno or 0, ADVICE_ELSE)}"


def _print_calls(table: Path) -> None:
    import csv

    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            score = f" (score {row['score']})" if row["score"] else ""
            _print(f"{row['filename']}: {row['call']}{score}")


def _table(given: Path) -> Path:
    return given / "predictions.csv" if given.is_dir() else given


def _print(text: str) -> None:
    # At once: a pipe that is closed is noticed here, where `main` knows what to do.
    sys.stdout.write(printable(text, keep="\n") + "\n")
    sys.stdout.flush()


def _show(*tables: "Table") -> None:
    for table in tables:
        _console().print(table)


def _console(stderr: bool = False) -> "Console":
    """Make a console that prints names as they are: ``[red]`` and ``:cat:`` are no markup."""
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Plain(stderr=stderr, markup=False, emoji=False)


def _say(text: str) -> None:
    text = printable(text, keep="\n")
    sys.stderr.write(f"stallscan: {text}\n")


@contextlib.contextmanager
def _progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """Show how far a stage is, with the time left, on stderr."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_console(stderr=True)) as bar:
        task = bar.add_task(name, total=None)

        def update(done: int, of: int) -> None:
            bar.update(task, completed=done, total=of)
            if done >= of:
                # What comes after may show progress of its own (training does).
                bar.stop()

        yield update


if __name__ == "__main__":
    main()
