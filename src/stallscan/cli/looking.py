"""Pictures of where the bundle of a run looked, for the report and the review page."""

from collections.abc import Callable
from pathlib import Path

QUALITY = 80  # of the WebP file


def looker(folder: Path) -> Callable[[Path], bytes]:
    """Return what draws where the bundle of a run, in its output folder, looked in a recording.

    That is a WebP file. The result is empty for a recording without a clip. Errors as in
    `run.read_source` and `occlusion.Looker`.
    """
    from stallscan.calls.occlusion import Looker
    from stallscan.report import cards, evidence
    from stallscan.review.run import read_source

    look = Looker(read_source(folder).bundle).look

    def draw(path: Path) -> bytes:
        looked = look(path)
        return b"" if looked is None else cards.as_webp(evidence.draw_looked(*looked), QUALITY)

    return draw
