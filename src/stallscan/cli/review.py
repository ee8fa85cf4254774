"""Commands of the review page: review, labels, improve."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from stallscan.cli.terminal import Out, With, command, print_line, say, show, show_progress


@command
def review(
    folder: Path,
    /,
    *,
    port: int = 0,
    host: str = "127.0.0.1",
    no_browser: bool = False,
    blind: bool = False,
    occlusion: bool = False,
    order: Literal["uncertain", "stalled", "random", "unseen", "disagreed"] | None = None,
    known: Path | None = None,
    known_share: Annotated[float, With("--known")] = 0.1,
    recordings: list[Path] | None = None,
) -> None:
    """Open a page on which people check and correct the calls. Ctrl-C ends it.

    Example: stallscan review results

    Parameters
    ----------
    folder
        Output folder of 'stallscan predict', or a folder of recordings. The answers are saved in
        it, in review.sqlite; nothing else is written.
    port
        Port to serve at. 0 takes a free one.
    host
        Address to listen at. Other than the default, which only this computer reaches, browsers
        need the token in the printed address.
    no_browser
        Only print the address.
    blind
        Hide score, call and filename, which may name the group.
    occlusion
        Show what the net looked at; not with --blind. It appears a second after the clip.
    order
        uncertain (the default): nearest to the threshold, with suspected stalls among them;
        stalled: highest score first; random: the same random order for everyone (the default with
        --blind); unseen: what nobody has answered; disagreed: what reviewers answered differently.
        The first two are not for --blind.
    known
        Table with known labels of recordings of the run (filename, stalled). Some of these
        recordings are mixed in, half of them stalled, and the page shows the reviewer's own
        sensitivity and specificity on them. 'stallscan labels' leaves these answers out.
    known_share
        How much of what a reviewer sees is taken from --known, at most 0.5.
    recordings
        Where the recordings are now, or a store of their clips, if they have moved since the
        prediction.
    """
    import webbrowser

    from stallscan.cli.looking import looker
    from stallscan.errors import InputError
    from stallscan.review.serve import ServeSettings, serve

    def ready(address: str) -> None:
        print_line(f"review page: {address}")
        say("every answer is saved at once; Ctrl-C ends the page")
        if not no_browser:
            webbrowser.open(address)

    if occlusion and blind:
        raise InputError("--occlusion shows what --blind hides. Leave out one of them")
    look = looker(folder) if occlusion else None
    settings = ServeSettings(
        host, port, order, blind, known, known_share, look, tuple(recordings or ())
    )
    answers = serve(folder, settings, ready)
    print_line(f"{len(answers.current()):,} answers -> {answers.path}")


@command
def labels(
    folder: Path,
    /,
    *,
    out: Out,
    rule: Literal["majority", "latest", "expert"] = "majority",
    expert: Annotated[list[str] | None, With("--rule expert")] = None,
    form: Annotated[Literal["csv", "label-studio", "panoptes"], Parameter(name="--format")] = "csv",
    address: Annotated[str | None, With("--format label-studio")] = None,
) -> None:
    """Write the answers of a review as a table of labels, for fine-tune and evaluate.

    With at least two reviewers, their agreement is printed. Other formats contain all recordings
    with their calls and answers, for other tools.

    Example: stallscan labels results -o labels.csv

    Parameters
    ----------
    folder
        The folder that was reviewed.
    out
        CSV file: filename, stalled (0 or 1), votes, reviewers, rule, time of the last answer. With
        --format label-studio a JSON file, with panoptes a CSV file.
    rule
        majority: what has the most votes (stalled, flowing, or cannot be scored); latest: the last
        vote; expert: the last vote of an expert where there is one, otherwise the majority.
    expert
        Name of an expert, with --rule expert. May be given several times.
    form
        csv: labels; label-studio: tasks to import into Label Studio, with our calls as predictions
        and the answers as annotations; panoptes: a subject manifest for the Zooniverse.
    address
        Beginning of the recordings' addresses, with --format label-studio: https://host/folder/. By
        default, Label Studio serves the files of this computer.
    """
    from stallscan.errors import InputError
    from stallscan.review import agreement, exchange
    from stallscan.review.labels import write_labels

    if form != "csv" and rule != "majority":
        raise InputError("--rule is for --format csv. Leave out one of them")
    if form == "label-studio":
        exported = exchange.write_label_studio(folder, out, address)
        print_line(f"{exported} -> {exported.path}")
        return
    if form == "panoptes":
        exported = exchange.write_panoptes(folder, out)
        print_line(f"{exported} -> {exported.path}")
        return
    written = write_labels(folder, out, rule, expert or ())
    if compared := agreement.pairs(written.answers):
        show(agreement.as_table(compared))
    print_line(f"{written} -> {written.path}")


@command
def improve(
    folder: Path,
    /,
    *,
    out: Out,
    rule: Literal["majority", "latest", "expert"] = "majority",
    expert: Annotated[list[str] | None, With("--rule expert")] = None,
    groups: Path | None = None,
    recordings: list[Path] | None = None,
    name: str | None = None,
    epochs: int = 12,
    learning_rate: float = 2e-4,
) -> None:
    """Train the bundle further on the answers of a review, predict again, and show what changed.

    Example: stallscan improve results -o tuned

    An interrupted run resumes with the same command and the answers it was started with. It is the
    same as labels, fine-tune and predict one after the other.

    Parameters
    ----------
    folder
        Output folder of 'stallscan predict' that was reviewed.
    out
        Folder for labels.csv, bundle/ (the new bundle), comparison.csv (before and after on
        held-out answers), predicted/ (the new predictions), changes.csv and changes.html.
    rule
        As in 'stallscan labels'.
    expert
        As in 'stallscan labels'.
    groups
        Table with columns filename and mouse, so that recordings of one mouse stay together when
        some are held out.
    recordings
        Where the recordings are now, if they have moved since the prediction.
    name
        Name of the new bundle, as for 'stallscan fine-tune'.
    epochs
        Maximum number of epochs.
    learning_rate
        Peak learning rate of the schedule.
    """
    from stallscan.calls import predict
    from stallscan.catalog import tables
    from stallscan.cli.training import tune
    from stallscan.review import improved
    from stallscan.review.labels import LABELS_NAME, write_labels
    from stallscan.review.run import read_source
    from stallscan.training import folder as run_folder

    source = read_source(folder)
    paths = source.recordings if recordings is None else [str(path) for path in recordings]
    labels = out / LABELS_NAME
    if run_folder.has_begun(out) and labels.is_file():
        say(f"{out}: resumes with the answers of {labels}; for newer ones, choose another folder")
    else:
        print_line(str(write_labels(folder, labels, rule, expert or (), groups)))
    settings = {"name": name, "epochs": epochs, "learning_rate": learning_rate}
    gain = tune(source.bundle, paths, labels, out, **settings)
    with show_progress("predicting") as progress:
        again = predict.predict(
            paths,
            out / "predicted",
            out / "bundle",
            prevalence=source.prevalence,
            progress=progress,
        )
    change = improved.Improved.read(
        source.predictions,
        again.table,
        tables.read_labels(labels),
        set(gain.held_out),
    )
    page = improved.write(change, out, gain.as_rows())
    for sentence in change.sentences():
        print_line(sentence)
    print_line(f"what changed -> {page}")
