"""Predict a corpus with broken files among good ones, and check every row.

    python benchmarks/broken.py OUT --recordings 10000 --broken 300

The good recordings are a few simulated ones under many names. The corpus is predicted without the
broken files, then with them; the rows of the good ones must be the same to the last byte. Both runs
resume where they were stopped.
"""

import collections
import csv
import os
from pathlib import Path

import broken_files
import cyclopts
from common import HERE, machine, markdown, publish, say, show_progress, version

import stallscan
from stallscan.calls.predict import predict
from stallscan.recordings.encode import write_video

DISTINCT = 8
app = cyclopts.App()


@app.default
def main(
    out: Path,
    *,
    recordings: int = 10_000,
    broken: int = 300,
    bundle: str = "default",
    page: Path = HERE / "broken.md",
) -> None:
    """Make the corpus, predict it twice, check and count the rows.

    Parameters
    ----------
    out
        A folder for the recordings and the predictions.
    recordings
        All recordings, broken ones included.
    broken
        Broken ones, of all kinds in turn.
    bundle
        What predicts.
    page
        The table, a Markdown file.
    """
    good = out / "recordings" / "good"
    good.mkdir(parents=True, exist_ok=True)
    frames = []
    for number in range(DISTINCT):
        pixels, _ = stallscan.simulate_recording(number % 2 == 0, seed=number)
        frames.append(pixels)
        if not (good / f"{number:06d}.mp4").is_file():
            write_video(good / f"{number:06d}.mp4", pixels)
    for number in range(DISTINCT, recordings - broken):
        path = good / f"{number:06d}.mp4"
        if not path.exists():
            os.link(good / f"{number % DISTINCT:06d}.mp4", path)
    # A link to a file is the same recording; copies would fill the disk.
    rows = {}
    for name, folders in (("before", [good]), ("after", [good, out / "recordings" / "broken"])):
        if name == "after":
            first = broken_files.Good(frames[0], (good / "000000.mp4").read_bytes())
            expected = broken_files.write(folders[1], broken, first)
        say(f"predicting {name}")
        predict(folders, out / name, bundle, progress=show_progress(name))
        with (out / name / "predictions.csv").open(encoding="utf-8", newline="") as file:
            rows[name] = {row["filename"]: row for row in csv.DictReader(file)}
    before, after = rows["before"], rows["after"]
    wrong = [name for name, status in expected.items() if after[name]["status"] != status]
    changed = [name for name, row in before.items() if after[name] != row]
    kinds = collections.Counter(
        (name.partition(" ")[2].rpartition(".")[0], after[name]["status"]) for name in expected
    )
    head = ["kind of broken file", "files", "status"]
    table = markdown(
        head, [[kind, f"{count:,}", status] for (kind, status), count in kinds.items()]
    )
    lead = (
        f"{len(after):,} simulated recordings ({DISTINCT} under many names), {len(expected):,} of "
        f"them broken. Rows: {len(after):,}; with another status than expected: {len(wrong)}; rows "
        f"of good recordings that differ from those without the broken ones: {len(changed)}. "
        f"{version()}, {machine()}."
    )
    publish(page, "Broken files among good ones", lead, [table])
    if wrong or changed or len(after) != recordings:
        raise SystemExit(f"wrong: {wrong[:5]}, changed: {changed[:5]}, rows: {len(after)}")


if __name__ == "__main__":
    app()
