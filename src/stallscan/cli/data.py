"""Commands that create, select, fetch or prepare recordings: simulate, select, fetch, prepare."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from stallscan.cli.terminal import (
    EXIT_FAILED_ROWS,
    Out,
    With,
    command,
    print_line,
    say,
    show_progress,
)

if TYPE_CHECKING:
    from stallscan.clips.prepare import Preprocessing
    from stallscan.simulate import SimulateSettings


@command
def simulate(
    out: Path | None = None,
    *,
    count: int | None = None,
    stalled: float | None = None,
    stack: bool = False,
    series: Annotated[Literal["two-photon", "bessel", "angiogram"] | None, With("--stack")] = None,
    frames: Annotated[int | None, With("--stack")] = None,
    frame_s: Annotated[float | None, With("--series")] = None,
    size: Annotated[tuple[int, int] | None, With("--stack")] = None,
    test: int = 0,
    test_stalled: Annotated[float, With("--test")] = 0.046,
    seed: int = 0,
    clips: bool = False,
    recipe: Annotated[str | None, With("--clips")] = None,
    sheet: Path | None = None,
    label_stack: Path | None = None,
    label_um: Annotated[tuple[float, float, float], With("--label-stack")] = (1.0, 1.0, 1.0),
    look: str = "competition",
    processes: int | None = None,
) -> None:
    """Simulate outlined, labelled recordings in the competition's format.

    Example: stallscan simulate corpus --count 200 --stalled 0.3 --seed 0

    Parameters
    ----------
    out
        Folder for train_metadata.csv, train_labels.csv, truth.csv and train/*.mp4. Optional with
        --sheet.
    count
        Number of recordings, 200 by default.
    stalled
        Share of stalled recordings, 0 to 1, or of stalled segments in a stack. 0.3 by default,
        0.02 in a stack, as in Alzheimer's models. In a time series, the share of segments that
        stall at some time, 0.2 by default.
    stack
        Write one raw stack of many segments instead, without outlines: stack.tif with its voxel
        size, segments.csv, centrelines.csv, vessels.tif (the voxels of each segment) and
        labels.csv. 'stallscan stack OUT/stack.tif --regions OUT/centrelines.csv' calls them.
    series
        With --stack: write a time series at one depth instead: series.tif, segments.csv,
        centrelines.csv and true_stallogram.csv. 'two-photon', 'bessel' (a deep focus) or
        'angiogram' (moving blood is bright, as in OCT angiography).
    frames
        With --stack: number of frames, 100 by default, 300 in a time series.
    frame_s
        With --series: seconds from frame to frame, 1 by default.
    size
        With --stack: rows and columns, 512 512 by default.
    test
        Number of additional recordings for a test split, as in the competition: test/*.mp4,
        test_metadata.csv and submission_format.csv; also test_labels.csv, which the competition
        never published.
    test_stalled
        Share of stalled recordings in the test split; 4.6 % in the competition.
    seed
        The same seed gives the same recordings.
    clips
        Write prepared clips (store/) for training instead of videos.
    recipe
        Recipe that defines the clips: a file or the name of a shipped recipe. Only with --clips;
        'default' if not given.
    sheet
        PNG file. Also draw a contact sheet: the first segments of each label over time.
    label_stack
        Segmented stack. Blood flows through its vessels instead of simulated ones.
    label_um
        Voxel size of the label stack along z, y and x, in um.
    look
        Optics, noise and display: 'competition', 'wide' (to train a model that carries over), or a
        YAML file with the ranges of your own microscope.
    processes
        Number of rendering processes. By default, one per core.
    """
    from stallscan.errors import InputError
    from stallscan.simulate import SimulateSettings
    from stallscan.simulate.look import read_look
    from stallscan.simulate.sheet import write_sheet

    if stack:
        others = (clips, sheet, test, label_stack, count, recipe, processes)
        if out is None or any(each not in (None, False, 0) for each in others):
            raise InputError(
                "--stack writes one stack into a folder: stallscan simulate OUT --stack. Leave out "
                "--count, --test, --clips, --recipe, --sheet, --label-stack and --processes"
            )
        _simulate_stack(out, stalled, seed, frames, size, look, series, frame_s)
        return
    if out is None and sheet is None:
        raise InputError(
            "nothing to write. Name a folder for the recordings (stallscan simulate OUT) or a file "
            "for a contact sheet (stallscan simulate --sheet FILE.png)"
        )
    if clips and out is None:
        raise InputError("--clips needs an output folder. Name it: stallscan simulate OUT --clips")
    given = {
        "count": 200 if count is None else count,
        "stalled": 0.3 if stalled is None else stalled,
        "test": test,
        "test_stalled": test_stalled,
        "seed": seed,
        "label_stack": "" if label_stack is None else str(label_stack),
        "label_um": label_um,
        "look": read_look(look),
    }
    settings = SimulateSettings.parse(given, "simulate")
    if out is not None:
        _simulate_corpus(out, settings, (recipe or "default") if clips else None, processes)
    if sheet is not None:
        print_line(f"{write_sheet(sheet, settings)} segments shown -> {sheet}")


def _simulate_stack(
    out: Path,
    stalled: float | None,
    seed: int,
    frames: int | None,
    size: tuple[int, int] | None,
    look: str,
    series: str | None,
    frame_s: float | None,
) -> None:
    from stallscan.simulate.look import read_look
    from stallscan.simulate.series import SeriesSettings, simulate_series
    from stallscan.simulate.stack import RawSettings, simulate_stack

    height, width = size or (None, None)
    given = {
        "stalled": stalled,
        "seed": seed,
        "frames": frames,
        "height": height,
        "width": width,
        "look": read_look(look),
        "kind": series,
        "frame_s": frame_s,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    if series is not None:
        of_series = SeriesSettings.parse(chosen, "simulate")
        with show_progress("simulating a time series") as progress:
            print_line(str(simulate_series(out, of_series, progress)))
        return
    settings = RawSettings.parse(chosen, "simulate")
    with show_progress("simulating a stack") as progress:
        print_line(str(simulate_stack(out, settings, progress)))


def _simulate_corpus(
    out: Path, settings: "SimulateSettings", recipe: str | None, processes: int | None
) -> None:
    from stallscan.simulate import corpus

    if recipe is None:
        with show_progress("simulating recordings") as progress:
            summary = corpus.simulate(out, settings, processes, progress)
    else:
        # Reading a recipe imports torch for its nets, which takes seconds.
        from stallscan.recipes.recipe import read_recipe

        resolved = read_recipe(recipe)
        with show_progress("simulating clips") as progress:
            summary = corpus.simulate_clips(
                out, settings, resolved.outline, resolved.clip, processes, progress
            )
    print_line(str(summary))


@command
def select(
    metadata: Path, *, labels: Path, out: Out, rule: str = "third-place", seed: int = 0
) -> None:
    """Select recordings from the competition's tables by a rule.

    Example: stallscan select train_metadata.csv --labels train_labels.csv -o selected.csv

    Parameters
    ----------
    metadata
        train_metadata.csv, plain or gzipped.
    labels
        train_labels.csv, plain or gzipped.
    out
        Output table: the selected rows of the metadata, with a column stalled.
    rule
        all, tier1, micro, nano; a published rule: third-place, first-place, matlab-prize; or
        tier1+stalls, third-place+stalls, which add stalls outside tier1 that the crowd is sure of.
    seed
        Seed for rules that draw at random.
    """
    from stallscan.catalog.select import select_to_file

    selection = select_to_file(metadata, labels, rule, seed, out)
    print_line(f"{selection} -> {out}")


@command
def fetch(
    metadata: Path,
    *,
    out: Out,
    labels: Path | None = None,
    rule: str = "all",
    seed: Annotated[int, With("--rule")] = 0,
    dry_run: bool = False,
    prepare: bool = False,
    bundle: Annotated[str | None, With("--prepare")] = None,
    recipe: Annotated[str | None, With("--prepare")] = None,
    endpoint: str = "",
    at_once: int = 32,
    limit_mbit: float = 0.0,
    processes: Annotated[int | None, With("--prepare")] = None,
) -> None:
    """Download recordings of the competition from their public bucket.

    An interrupted run resumes where it left off. Exits with code 1 if some recordings could not be
    fetched; failed.csv names them.

    Example: stallscan fetch train_metadata.csv --labels train_labels.csv --rule nano -o nano

    Parameters
    ----------
    metadata
        train_metadata.csv or test_metadata.csv, plain or gzipped.
    out
        Folder for the tables with the selected rows, and train/ or test/ (videos) or store/
        (clips): --data of 'train' and 'reproduce'.
    labels
        train_labels.csv, plain or gzipped.
    rule
        Which recordings to fetch: one of the rules of 'stallscan select'.
    seed
        Seed for rules that draw at random.
    dry_run
        Print count, bytes, time and free disk, and fetch nothing but a few recordings to measure
        the rate, which are not kept.
    prepare
        Keep only the clips, in store/. The videos are deleted, batch by batch.
    bundle
        With --prepare: bundle that defines the clips, 'default' if neither this nor --recipe is
        given.
    recipe
        With --prepare: recipe that defines the clips.
    endpoint
        URL of another S3-compatible server with the same bucket.
    at_once
        Number of downloads at the same time.
    limit_mbit
        Bandwidth limit in Mbit/s. By default, none.
    processes
        With --prepare: number of decoding processes. By default, one per core.
    """
    from stallscan.clips import fetched
    from stallscan.errors import InputError
    from stallscan.recordings.bucket import FetchSettings

    given = {"endpoint": endpoint, "at_once": at_once, "limit_mbit": limit_mbit}
    settings = FetchSettings.parse(given, "fetch")
    view = _view(bundle, recipe) if prepare else None
    if any(table and table.absolute().parent == out.absolute() for table in (metadata, labels)):
        raise InputError(
            f"{out}: the tables with the selected rows would replace the given ones. Choose "
            "another folder with -o"
        )
    selected = fetched.Selected.read(metadata, labels, rule, seed)
    if dry_run:
        print_line(str(selected))  # before the network is asked, which may fail
        preview = fetched.preview(selected, out, settings, view)
        print_line(str(preview))
        preview.check(out)
        return
    with show_progress("fetching") as progress:
        if view is None:
            summary = fetched.fetch_videos(selected, out, settings, progress)
        else:
            summary = fetched.fetch_clips(selected, out, settings, view, processes, progress)
    print_line(str(summary))
    if summary.failed:
        say(
            f"{summary.failed:,} recordings failed. The most common reason: {summary.main_reason}. "
            f"{out / fetched.FAILED_NAME} lists them"
        )
        sys.exit(EXIT_FAILED_ROWS)


@command
def prepare(
    *paths: Path,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    bundle: str | None = None,
    recipe: str | None = None,
    verify: Path | None = None,
    processes: int | None = None,
) -> None:
    """Cut clips once, into a store that train and predict read instead of recordings.

    An interrupted run resumes where it left off. Clips already in the store are kept.

    Example: stallscan prepare my_recordings/ -o clips

    Parameters
    ----------
    paths
        Recordings (mp4, avi, mov, mkv, webm, gif, tif, npy) and folders of recordings.
    out
        Folder for the store: shards of clips, manifest.json, and recordings.csv with the status of
        each recording.
    bundle
        Bundle that defines the clips: name of a shipped bundle, or a folder. 'default' if neither
        this nor --recipe is given.
    recipe
        Recipe that defines the clips: a file, or the name of a shipped recipe.
    verify
        An existing store. Read all of it and name each damaged or missing shard. Exits with code 2
        if there is one.
    processes
        Number of decoding processes. By default, one per core.
    """
    from stallscan.errors import InputError

    if verify is not None:
        if paths or out or bundle or recipe:
            raise InputError("--verify takes only a store: stallscan prepare --verify STORE")
        _verify(verify)
        return
    if not paths or out is None:
        raise InputError(
            "nothing to prepare. Name recordings and a store: stallscan prepare PATH... -o STORE"
        )

    from stallscan.clips import fill, store
    from stallscan.recordings import find

    view = _view(bundle, recipe)
    sources = find.list_recordings(paths)
    with show_progress("preparing clips") as progress:
        built = fill.build(out, sources, *view, processes, progress)
    counts = ", ".join(f"{number} {status}" for status, number in sorted(built.count().items()))
    print_line(f"{counts} -> {out}")
    if failures := len(built.failures()):
        print_line(f"{failures} recordings have no clip. {out / store.TABLE_NAME} says why")


def _view(bundle: str | None, recipe: str | None) -> "Preprocessing":
    """Return the settings of clips, from a bundle or a recipe; the default bundle's if neither."""
    from stallscan.errors import InputError

    if bundle is not None and recipe is not None:
        raise InputError("--bundle and --recipe both define the clips. Give only one of them")
    if recipe is None:
        from stallscan.calls import inputs

        return inputs.view_of(bundle or "default")
    from stallscan.clips.prepare import Preprocessing
    from stallscan.recipes.recipe import read_recipe

    settings = read_recipe(recipe)
    return Preprocessing(settings.outline, settings.clip)


def _verify(folder: Path) -> None:
    from stallscan.clips.verify import find_damage
    from stallscan.errors import StoreError
    from stallscan.words import listed

    with show_progress("verifying") as progress:
        damaged = find_damage(folder, progress)
    for shard in damaged:
        say(f"error: {shard.what}")
        names = f": {listed(shard.recordings)}" if shard.recordings else ""
        say(f"{shard.file}: {shard.lost} recordings are lost{names}")
    if damaged:
        sys.exit(StoreError.exit_code)
    print_line(f"{folder}: all shards are intact")
