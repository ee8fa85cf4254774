"""Whether time grows with the number of recordings, and memory does not: up to 10,000 of them."""

from pathlib import Path
from typing import Annotated

import corpora
import cyclopts
import measured
from common import HERE, machine, markdown, publish, say, version
from cyclopts import Parameter
from measured import Run

from stallscan import files

JOBS = ("prepare", "predict")
DECODE = "decode"
LIMIT_GB = 1.5
# chosen: of the peak, what runs of the same length differ by, as they are looked at now and then
FLAT = 1.1
OF_DECODER = 0.8  # wanted: the rate of predict, of that of the decoder alone


def main(
    out: Path,
    /,
    *,
    sizes: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (100, 1_000, 10_000),
    folder: Annotated[Path | None, Parameter(name="--files")] = None,
    count: int = 300,
    jobs: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = JOBS,
    cores: int = 2,
    page: Path = HERE / "scale.md",
) -> None:
    """Prepare and predict ever more recordings, and write the table.

    The decoder alone is measured once, on the second largest number.

    Parameters
    ----------
    out
        Folder for the recordings, which a later call uses again, and for what the runs write:
        0.5 GB for 1,000 recordings while they run.
    sizes
        How many recordings; the files are linked under as many names.
    folder
        Recordings, on the same disk as OUT. If not given, --count are simulated, or found in OUT
        as speed.py left them.
    count
        Simulated recordings.
    jobs
        Which of the jobs to measure.
    cores
        That a run gets, and processes that it starts.
    page
        The table, a Markdown file.
    """
    files.make_folder(out)
    given = sorted((folder or corpora.simulated(out, count) / "train").iterdir())
    runs: dict[tuple[str, int], Run] = {}
    few, most = sorted(sizes)[-2:] if len(sizes) > 1 else sizes * 2
    for size in sorted(sizes):
        links = corpora.link(given, out / "links", size)
        for job in (DECODE, *jobs) if size == few else jobs:
            run = runs[job, size] = measured.run(job, links, out, cores)
            say(f"{job}, {size:,}: {run.took.seconds:.0f} s, {run.peak_bytes / 1e9:.2f} GB")
    rows = [_row(job, run) for (job, _), run in sorted(runs.items())]
    verdicts = [_verdict(job, runs[job, few], runs[job, most]) for job in jobs]
    if "predict" in jobs:
        verdicts.append(_against_decoder(runs["predict", most], runs[DECODE, few]))
    lead = (
        f"{len(given):,} {'given' if folder else 'simulated'} recordings, linked under as many "
        f"names as the second column says. Each run is a fresh process with {cores} cores and "
        "as many processes, imports and all. *Rate at the end* leaves "
        "out what passed until the first recording was done. The decoder alone is PyAV with one "
        "thread a process and frames thrown away. Memory is that of all processes "
        f"together, what they share counted once. {version()}, {machine()}."
    )
    head = ["", "recordings", "s", "a second", "rate at the end", "CPU s each", "memory, GB"]
    publish(page, "Scale", lead, [markdown(head, rows), "\n".join(verdicts) + "\n"])


def _row(job: str, run: Run) -> list[str]:
    took = run.took
    return [
        "decoder alone" if job == DECODE else f"`stallscan {job}`",
        f"{took.recordings:,}",
        f"{took.seconds:,.1f}",
        f"{run.rate:.2f}",
        f"{run.running_rate:.2f}",
        f"{took.cpu_s / took.recordings:.3f}",
        f"{run.peak_bytes / 1e9:.2f}",
    ]


def _verdict(job: str, few: Run, most: Run) -> str:
    growth = most.peak_bytes / few.peak_bytes if few.peak_bytes else float("nan")
    is_met = most.peak_bytes / 1e9 < LIMIT_GB and growth <= FLAT
    return (
        f"- `stallscan {job}`: {most.peak_bytes / 1e9:.2f} GB at {most.took.recordings:,}, "
        f"{growth:.2f} times that at {few.took.recordings:,}; wanted under {LIMIT_GB} GB and at "
        f"most {FLAT} times: {'met' if is_met else '**missed**'}"
    )


def _against_decoder(run: Run, decoder: Run) -> str:
    share = run.running_rate / decoder.running_rate
    effort = decoder.took.cpu_s / decoder.took.recordings / (run.took.cpu_s / run.took.recordings)
    return (
        f"- `stallscan predict`: {share:.2f} times the decoder's rate at {run.took.recordings:,} "
        f"(by processor time {effort:.2f}); wanted {OF_DECODER}: "
        f"{'met' if share >= OF_DECODER else '**missed**'}"
    )


if __name__ == "__main__":
    cyclopts.run(main)
