"""Pictures of where the bundle of a run looked, for the report and the review page."""

from collections.abc import Callable
from pathlib import Path

QUALITY = 80  # of the WebP file


def looker(folder: Path) -> Callable[[Path], bytes]:
    """Return what draws where the bundle of a run, in its output folder, looked in a recording.

    That is a WebP file. The result is empty for a recording without a clip.

    Raises
    ------
    InputError
        If the bundle is another one by now; and as in `run.read_source` and `occlusion.Looker`.
    """
    from stallscan.calls.drafts import bundle_of
    from stallscan.calls.occlusion import Looker
    from stallscan.calls.predictions import read_run
    from stallscan.errors import InputError
    from stallscan.report import cards, evidence
    from stallscan.review.run import read_source

    model, reason = bundle_of(read_run(read_source(folder).predictions))
    if model is None:
        raise InputError(
            f"{folder}: {reason}, so nobody knows what it looked at. Predict again, or leave out "
            "--occlusion"
        )
    look = Looker(model).look

    def draw(path: Path) -> bytes:
        looked = look(path)
        return b"" if looked is None else cards.as_webp(evidence.draw_looked(*looked), QUALITY)

    return draw
