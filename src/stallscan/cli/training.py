"""Commands that make bundles: train, fine-tune, reproduce, import-weights, export, ensemble."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from stallscan.cli.terminal import (
    Out,
    command,
    print_line,
    show,
    show_progress,
    trust_nets,
)


@command
def train(
    recipe: str,
    *,
    data: Path,
    out: Out,
    store: Path | None = None,
    epochs: int | None = None,
    limit: int | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set")] = None,
) -> None:
    """Train a net as a recipe says; an interrupted run resumes where it left off.

    Example: stallscan train default --data my_data -o run

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
        Train on at most this many recordings.
    set_
        Another setting of the recipe, name=value (net.name=r3d_18); may be given several times.
    """
    from stallscan.engines import export
    from stallscan.recipes.recipe import read_recipe, shorten
    from stallscan.report import figures
    from stallscan.report.history import draw_history
    from stallscan.training import ranks, train

    changes = list(set_ or [])
    if limit is not None:
        changes.append(f"data.limit={limit}")
    settings = read_recipe(recipe, changes)
    if epochs is not None:
        settings = shorten(settings, epochs)
    with ranks.process_group():
        with show_progress("preparing clips") as progress:
            summary = train.train(settings, data, out, progress, store)
        if ranks.rank() == 0:
            for history in sorted(out.glob("fold-*/history.csv")) or [out / "history.csv"]:
                draw_history(history, history.parent / "plots")
            figures.evaluation(summary.held_out, out / "plots")
            export.export_if_missing(out / "bundle")
            print_line(str(summary))


@command
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
    trust: bool = False,
) -> None:
    """Train a bundle further on labels of your own, and say what it gained.

    Example: stallscan fine-tune my_recordings/ --labels labels.csv -o tuned

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
    trust
        Import the nets of your own that the bundle names, which runs their code.
    """
    from stallscan.engines import export
    from stallscan.report.history import draw_history
    from stallscan.training import finetune

    if trust:
        trust_nets(from_)
    with show_progress("preparing clips") as progress:
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
    draw_history(out / "history.csv", out / "plots")
    export.export_if_missing(out / "bundle")
    print_line(str(comparison))


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
    """Reproduce a published approach end to end, up to a page with its figures and ours.

    An interrupted run resumes where it left off.

    Example: stallscan reproduce third-place --data competition -o third

    Parameters
    ----------
    approach
        third-place, first-place, second-place, matlab-prize.
    data
        Folder with train_metadata.csv, train_labels.csv and train/; and, for the test part,
        test_metadata.csv and test/, submission_format.csv, and test_labels.csv where there is one.
    out
        Folder for all output: nets, calls, submission.csv, plots, metrics.json,
        reproduction.html.
    store
        The clips to train on, where 'stallscan prepare' put them; --data then needs no train/.
    epochs
        Epochs of each stage, instead of those of the approach.
    limit
        Train on at most this many recordings.
    size
        Rows and columns of the clips, pixels, instead of those of the approach.
    set_
        Another setting of every net's recipe, name=value (pretrained.source=none, where nothing
        can be downloaded); may be given several times.
    """
    from stallscan.published import reproduce, writeup
    from stallscan.published.made import notes

    changes = [] if limit is None else [f"data.limit={limit}"]
    changes += [] if size is None else [f"clip.size={size}"]
    made = reproduce.run(
        approach,
        data,
        out,
        show_progress,
        changes=[*changes, *(set_ or [])],
        epochs=epochs,
        clips=store,
    )
    show(writeup.as_table(made))
    for note in notes(made):
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
    """Make a bundle from weights that were trained elsewhere.

    Example: stallscan import-weights published.pt --net r2plus1d_18 -o imported

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
    data: Path | None = None,
    limit: float = 0.005,
    seed: int = 0,
    trust: bool = False,
) -> None:
    """Export a bundle's net to OpenVINO, into its folder, and measure what that changes.

    Example: stallscan export run/bundle --precision bf16 --data my_data

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
    trust
        Import the nets of your own that the bundle names, which runs their code.
    """
    from stallscan.engines import export

    if trust:
        trust_nets(bundle)
    if data is None:
        made = export.export(bundle, precision, None, limit, seed, out=out)
    else:
        with show_progress("preparing clips") as progress:
            made = export.export(bundle, precision, data, limit, seed, progress, out)
    for line in made:
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
    """Join bundles into one that calls by their mean score or by vote.

    Example: stallscan ensemble a/bundle b/bundle -o both

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
        How many bundles must call a recording stalled (published: 2 of 3); 0 takes their mean.
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
