"""Commands of the review page: review, labels."""

from pathlib import Path
from typing import Literal

from stallscan.cli.terminal import Out, command, print_line, say, show


@command
def review(
    folder: Path,
    /,
    *,
    port: int = 0,
    host: str = "127.0.0.1",
    no_browser: bool = False,
    blind: bool = False,
    order: Literal["uncertain", "stalled", "random", "unseen", "disagreed"] = "uncertain",
    known: Path | None = None,
    known_share: float = 0.1,
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
        Hide score and call.
    order
        uncertain: nearest to the threshold first; stalled: highest score first; random: the same
        random order for everyone; unseen: what nobody has answered; disagreed: what reviewers
        answered differently.
    known
        Table with known labels of recordings of the run (filename, stalled). Some of these
        recordings are mixed in, half of them stalled, and the page shows the reviewer's own
        sensitivity and specificity on them. 'stallscan labels' leaves these answers out.
    known_share
        How much of what a reviewer sees is taken from --known, at most 0.5.
    """
    import webbrowser

    from stallscan.review.serve import ServeSettings, serve

    def ready(address: str) -> None:
        print_line(f"review page: {address}")
        say("every answer is saved at once; Ctrl-C ends the page")
        if not no_browser:
            webbrowser.open(address)

    settings = ServeSettings(host, port, order, blind, known, known_share)
    answers = serve(folder, settings, ready)
    print_line(f"{len(answers.current()):,} answers -> {answers.path}")


@command
def labels(
    folder: Path,
    /,
    *,
    out: Out,
    rule: Literal["majority", "latest", "expert"] = "majority",
    expert: list[str] | None = None,
) -> None:
    """Write the answers of a review as a table of labels, for fine-tune and evaluate.

    With at least two reviewers, their agreement is printed.

    Example: stallscan labels results -o labels.csv

    Parameters
    ----------
    folder
        The folder that was reviewed.
    out
        CSV file: filename, stalled (0 or 1), votes, reviewers, rule, time of the last answer.
    rule
        majority: more votes for one label than for the other; latest: the last vote; expert: the
        last vote of an expert where there is one, otherwise the majority.
    expert
        Name of an expert, with --rule expert. May be given several times.
    """
    from stallscan.review import agreement
    from stallscan.review.answers import Answers
    from stallscan.review.labels import write_labels

    written = write_labels(folder, out, rule, expert or ())
    if compared := agreement.pairs(Answers(folder).current()):
        show(agreement.as_table(compared))
    print_line(f"{written} -> {written.path}")
