"""Commands that create bundles: train, fine-tune, reproduce, import-weights, export, ensemble."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from stallscan.cli.terminal import (
    Out,
    With,
    command,
    print_line,
    show,
    show_progress,
    trust_nets,
)

if TYPE_CHECKING:
    from stallscan.recipes.recipe import Recipe
    from stallscan.training.gain import Gain
    from stallscan.training.labelled import LabelledRecordings


All = Annotated[bool, Parameter(name="--all")]


@command
def train(
    recipe: str,
    /,
    *recordings: Path,
    out: Out,
    labels: Path | None = None,
    data: Path | None = None,
    store: Path | None = None,
    name: str | None = None,
    epochs: int | None = None,
    limit: int | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set")] = None,
    dry_run: bool = False,
) -> None:
    """Train a net from a recipe; an interrupted run resumes where it left off.

    Example: stallscan train default my_recordings/ --labels labels.csv -o run

    Parameters
    ----------
    recipe
        Recipe file (YAML), or the name of a shipped recipe: default, baseline, third-place,
        first-place, second-place, matlab-prize, accurate.
    recordings
        Recordings and folders of recordings, or one store of clips; with --labels.
    out
        Run folder: recipe, history, plots, bundle, and checkpoints while training.
    labels
        CSV with columns filename, stalled (0 or 1) and, preferably, mouse.
    data
        Instead of recordings and --labels: folder with train_metadata.csv, train_labels.csv, and
        train/ (videos) or store/ (clips).
    store
        Store of clips from 'stallscan prepare'. --data then needs only the tables.
    name
        Name of the bundle, which predictions record. By default, that of the recipe.
    epochs
        Number of epochs of each stage. By default, as in the recipe.
    limit
        Train on at most this many recordings.
    set_
        Change a setting of the recipe: name=value (net.name=r3d_18). May be given several times.
    dry_run
        Check everything with one batch of each stage, and leave nothing behind.
    """
    from stallscan.nets.own import find_net
    from stallscan.recipes.recipe import read_recipe, renamed, shorten

    changes = list(set_ or [])
    if limit is not None:
        changes.append(f"data.limit={limit}")
    settings = read_recipe(recipe, changes)
    if name is not None:
        settings = renamed(settings, name)
    if epochs is not None:
        settings = shorten(settings, epochs)
    find_net(settings.net.name)
    found = _find_labelled(settings, recordings, labels, data, store)

    # Only now: importing torch takes seconds, and the tables may be wrong.
    from stallscan.engines import export

    if dry_run:
        from stallscan.training import rehearsal

        with (
            show_progress("preparing clips") as progress,
            rehearsal.rehearse(settings, found, out, progress) as rehearsed,
        ):
            export.export_if_missing(rehearsed.bundle)
            print_line(str(rehearsed))
        return

    from stallscan.report import figures
    from stallscan.report.history import draw_history
    from stallscan.training import ranks, train

    with ranks.process_group():
        with show_progress("preparing clips") as progress:
            summary = train.train(settings, found, out, progress)
        if ranks.rank() == 0:
            for history in sorted(out.glob("fold-*/history.csv")) or [out / "history.csv"]:
                draw_history(history, history.parent / "plots")
            figures.evaluation(summary.held_out, out / "plots")
            export.export_if_missing(out / "bundle")
            print_line(str(summary))


def _find_labelled(
    recipe: "Recipe",
    recordings: Sequence[Path],
    labels: Path | None,
    data: Path | None,
    store: Path | None,
) -> "LabelledRecordings":
    """Read and check the tables, in whichever of the two forms they are given."""
    from stallscan.errors import InputError
    from stallscan.training import labelled

    if data is not None and (recordings or labels):
        raise InputError(
            "--data names a folder with recordings and tables. Leave it out, or leave out the "
            "recordings and --labels"
        )
    if data is not None:
        return labelled.from_folder(recipe, data, store)
    if not recordings or labels is None:
        raise InputError(
            f"{'no labels' if recordings else 'no recordings'} given. Name both: stallscan train "
            "RECIPE PATH... --labels labels.csv -o RUN"
        )
    if store is not None:
        raise InputError("--store belongs to --data. Give the store in place of the recordings")
    return labelled.from_table(recipe, recordings, labels)


@command
def recipe(action: Literal["show", "list"], name: str = "default", /, *, all_: All = False) -> None:
    """Print a shipped recipe, to start your own from.

    Example: stallscan recipe show default > mine.yaml

    Parameters
    ----------
    action
        show prints a recipe, list the names of all.
    name
        Name of a shipped recipe.
    all_
        Also the settings that the recipe leaves to their defaults, without comments.
    """
    from stallscan.recipes.recipe import as_yaml, read_recipe, read_text, shipped_recipes

    if action == "list":
        print_line("\n".join(shipped_recipes()))
        return
    text = read_text(name)
    print_line((as_yaml(read_recipe(name)) if all_ else text).rstrip())


@command
def fine_tune(
    recordings: list[Path],
    /,
    *,
    from_: Annotated[str, Parameter(name="--from")] = "default",
    labels: Path,
    out: Out,
    name: str | None = None,
    group: str | None = None,
    hold_out: float = 0.3,
    epochs: int = 12,
    learning_rate: float = 2e-4,
    seed: int = 0,
    final: bool = False,
    trust: bool = False,
) -> None:
    """Train a bundle further on your own labels, and compare it with the original.

    Example: stallscan fine-tune my_recordings/ --labels labels.csv -o tuned

    Parameters
    ----------
    recordings
        Recordings and folders of recordings, or a store of clips.
    from_
        Bundle to start from: name of a shipped bundle, or a folder.
    labels
        CSV with columns filename, stalled (0 or 1) and, preferably, mouse.
    out
        Run folder: bundle, history, plots, comparison.csv.
    name
        Name of the new bundle, which predictions record. By default, that of the old one with
        -tuned.
    group
        Column to split by: recordings with the same value stay together. By default the first of
        mouse, animal, subject, project_id and project that has at least six different values.
        Empty: split by recording.
    hold_out
        Share of the recordings to hold out for the comparison.
    epochs
        Maximum number of epochs.
    learning_rate
        Peak learning rate of the schedule.
    seed
        Seed of the split and the training.
    final
        After the comparison, train once more from all labels, including those held out; the bundle
        is in OUT/final. Can be added to a finished run.
    trust
        Import the custom nets that the bundle names. This runs their code.
    """
    if trust:
        trust_nets(from_)
    tune(
        from_,
        recordings,
        labels,
        out,
        name=name,
        group=group,
        hold_out=hold_out,
        epochs=epochs,
        learning_rate=learning_rate,
        seed=seed,
        final=final,
    )
    if not final:
        print_line(
            "To use the compared recordings, too, repeat the command with --final. It trains once "
            "more, from all labels"
        )


def tune(
    start: str, recordings: Sequence[str | Path], labels: Path, out: Path, **settings: Any
) -> "Gain":
    """Fine-tune a bundle, draw the history, export the result, and print the comparison."""
    from stallscan.engines import export
    from stallscan.report.history import draw_history
    from stallscan.training import finetune

    with show_progress("preparing clips") as progress:
        gain = finetune.fine_tune(start, recordings, labels, out, progress=progress, **settings)
    draw_history(out / "history.csv", out / "plots")
    export.export_if_missing(out / "bundle")
    if gain.final:
        export.export_if_missing(gain.final)
    print_line(str(gain))
    return gain


@command
def reproduce(
    approach: str,
    *,
    data: Path,
    out: Out,
    store: Path | None = None,
    epochs: int | None = None,
    limit: int | None = None,
    size: int | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set")] = None,
) -> None:
    """Reproduce a published approach end to end; the page compares its figures with ours.

    An interrupted run resumes where it left off.

    Example: stallscan reproduce third-place --data competition -o third

    Parameters
    ----------
    approach
        third-place, first-place, second-place, matlab-prize.
    data
        Folder with train_metadata.csv, train_labels.csv and train/. For the test split also
        test_metadata.csv, test/, submission_format.csv and, if available, test_labels.csv.
    out
        Output folder: nets, calls, submission.csv, plots, metrics.json, reproduction.html.
    store
        Store of clips from 'stallscan prepare' to train on. --data then needs no train/.
    epochs
        Number of epochs of each stage. By default, as published.
    limit
        Train on at most this many recordings.
    size
        Height and width of the clips in pixels. By default, as published.
    set_
        Change a setting in the recipes of all nets: name=value (pretrained.source=none to work
        offline). May be given several times.
    """
    from stallscan.published import reproduce, writeup
    from stallscan.published.results import notes

    changes = [] if limit is None else [f"data.limit={limit}"]
    changes += [] if size is None else [f"clip.size={size}"]
    reproduction = reproduce.run(
        approach,
        data,
        out,
        show_progress,
        changes=[*changes, *(set_ or [])],
        epochs=epochs,
        clips=store,
    )
    show(writeup.as_table(reproduction))
    for note in notes(reproduction):
        print_line(note)
    print_line(f"page, figures and plots -> {out / writeup.PAGE_NAME}")


@command
def import_weights(
    state: Path,
    *,
    out: Out,
    net: str = "r2plus1d_18",
    recipe: str = "third-place",
    threshold: float = 0.5,
    prevalence: float = 0.089,
) -> None:
    """Create a bundle from weights that were trained elsewhere.

    Example: stallscan import-weights published.pt --net r2plus1d_18 -o imported

    Parameters
    ----------
    state
        State dict (.pt, .pth, .safetensors) with torchvision's names, plain or with the prefix
        'cnn.', and a single output neuron.
    out
        Folder for the bundle.
    net
        Architecture: r3d_18, mc3_18, r2plus1d_18.
    recipe
        Recipe with the outline, clip and input settings that the net was trained with.
    threshold
        Recordings with at least this score are called stalled.
    prevalence
        Share of stalled recordings in the net's training set.
    """
    from stallscan.bundle import imported
    from stallscan.recipes.recipe import read_recipe

    settings = read_recipe(recipe, [f"net.name={net}"])
    spec = imported.import_weights(state, settings, out, threshold, prevalence)
    print_line(f"bundle {spec.name}, {spec.net.name} -> {out}")


@command
def export(
    bundle: str,
    *,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    precision: Literal["f32", "bf16", "int8"] = "f32",
    data: Annotated[Path | None, With("--precision bf16", "--precision int8")] = None,
    limit: Annotated[float, With("--precision bf16", "--precision int8")] = 0.005,
    seed: Annotated[int, With("--precision int8")] = 0,
    trust: bool = False,
) -> None:
    """Export the nets of a bundle to OpenVINO, and measure how scores and calls change.

    Example: stallscan export run/bundle --precision bf16 --data my_data

    Parameters
    ----------
    bundle
        Folder of a bundle or ensemble, or the name of a shipped bundle.
    out
        Folder for a copy of the bundle with the export. By default, the export goes into the bundle
        itself. Required for shipped bundles.
    precision
        f32: the same logits up to rounding. bf16, int8: faster on some processors, and refused if
        they change the calls too much (--limit).
    data
        Labelled recordings to measure bf16 and int8 on, in a folder as for 'stallscan train'. int8
        is calibrated on some of them and measured on the rest.
    limit
        Refuse bf16 and int8 if MCC or ROC AUC changes by more than this.
    seed
        Seed for drawing the recordings that calibrate int8.
    trust
        Import the custom nets that the bundle names. This runs their code.
    """
    from stallscan.engines import export

    if trust:
        trust_nets(bundle)
    if data is None:
        lines = export.export(bundle, precision, None, limit, seed, out=out)
    else:
        with show_progress("preparing clips") as progress:
            lines = export.export(bundle, precision, data, limit, seed, progress, out)
    for line in lines:
        print_line(line)


@command
def ensemble(
    bundles: list[Path],
    /,
    *,
    out: Out,
    name: str = "ensemble",
    vote: int = 0,
    threshold: list[float] | None = None,
    weights: list[float] | None = None,
) -> None:
    """Join bundles into an ensemble that calls by mean score or by vote.

    Example: stallscan ensemble a/bundle b/bundle -o both

    Parameters
    ----------
    bundles
        Folders of bundles. The recordings that they held out in training (validation.csv next to
        each) determine the calibration and the threshold of the mean.
    out
        Folder for the ensemble, with a copy of each bundle.
    name
        Name of the ensemble, which predictions record.
    vote
        Number of bundles that must call a recording stalled (published: 2 of 3); 0 for the mean.
    threshold
        A threshold that you choose; for a vote given once for each bundle, in their order.
    weights
        Of the bundles in the mean, given once for each.
    """
    from stallscan.bundle import ensemble

    given = {
        "name": name,
        "needed": vote,
        "thresholds": tuple(threshold or ()),
        "weights": tuple(weights or ()),
    }
    settings = ensemble.EnsembleSettings.parse(given, "ensemble")
    print_line(f"{ensemble.join(bundles, out, settings)} -> {out}")
