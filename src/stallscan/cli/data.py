"""Commands that make or choose recordings: simulate, select, prepare."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from stallscan.cli.terminal import (
    Out,
    command,
    print_line,
    say,
    show_progress,
)

if TYPE_CHECKING:
    from stallscan.simulate import SimulateSettings


@command
def simulate(
    out: Path | None = None,
    *,
    count: int = 200,
    stalled: float = 0.3,
    test: int = 0,
    test_stalled: float = 0.046,
    seed: int = 0,
    clips: bool = False,
    recipe: str | None = None,
    sheet: Path | None = None,
    label_stack: Path | None = None,
    label_um: tuple[float, float, float] = (1.0, 1.0, 1.0),
    processes: int | None = None,
) -> None:
    """Simulate outlined recordings with known labels, in the competition's own form.

    Example: stallscan simulate corpus --count 200 --stalled 0.3 --seed 0

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
    from stallscan.simulate.sheet import write_sheet

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
        print_line(f"{write_sheet(sheet, settings)} segments shown -> {sheet}")


def _simulate_corpus(
    out: Path, settings: "SimulateSettings", recipe: str | None, processes: int | None
) -> None:
    from stallscan.simulate import corpus

    if recipe is None:
        with show_progress("simulating recordings") as progress:
            summary = corpus.simulate(out, settings, processes, progress)
    else:
        # A recipe knows the nets, and so torch: seconds that videos need not wait for.
        from stallscan.recipes.recipe import read_recipe

        made_for = read_recipe(recipe)
        with show_progress("simulating clips") as progress:
            summary = corpus.simulate_clips(
                out, settings, made_for.outline, made_for.clip, processes, progress
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
    print_line(f"{selection} -> {out}")


@command
def prepare(
    *paths: Path,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    bundle: str | None = None,
    recipe: str | None = None,
    verify: Path | None = None,
    processes: int | None = None,
) -> None:
    """Cut clips once, into a store that train and predict take in place of recordings.

    An interrupted run resumes where it left off; recordings already in the store are kept.

    Example: stallscan prepare my_recordings/ -o clips

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

    from stallscan.clips import fill, store
    from stallscan.clips.prepare import Preprocessing
    from stallscan.recordings import find

    if recipe is not None:
        from stallscan.recipes.recipe import read_recipe

        settings = read_recipe(recipe)
        view = Preprocessing(settings.outline, settings.clip)
    else:
        from stallscan.calls import inputs

        view = inputs.view_of(bundle or "default")
    sources = find.list_recordings(paths)
    with show_progress("preparing clips") as progress:
        made = fill.build(out, sources, *view, processes, progress)
    counts = ", ".join(f"{number} {status}" for status, number in sorted(made.count().items()))
    print_line(f"{counts} -> {out}")
    if failures := len(made.failures()):
        print_line(f"{failures} recordings have no clip; {out / store.TABLE_NAME} says why")


def _verify(folder: Path) -> None:
    from stallscan.clips.verify import find_damage
    from stallscan.errors import StoreError
    from stallscan.words import listed

    with show_progress("verifying") as progress:
        damaged = find_damage(folder, progress)
    for one in damaged:
        say(f"error: {one.what}")
        names = f": {listed(one.recordings)}" if one.recordings else ""
        say(f"{one.file}: {one.lost} recordings are lost{names}")
    if damaged:
        sys.exit(StoreError.exit_code)
    print_line(f"{folder}: every shard is as it was written")
