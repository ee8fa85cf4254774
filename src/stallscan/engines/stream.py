"""Score clips in order, in threads, without waiting forever for an engine."""

from collections.abc import Callable, Generator, Iterable
from typing import Literal

from stallscan import workers
from stallscan.engines import watchdog
from stallscan.errors import EngineError
from stallscan.recordings.recording import Frames

# Chosen: hundreds of times what the slowest net takes for a view of a clip of so many frames.
CLIP_S, CLIP_FRAMES = 600.0, 100


def stream(
    name: str,
    logit: Callable[[Frames], float],
    clips: Iterable[Frames | None],
    threads: int,
    views: Literal["one", "flips"],
) -> Generator[float | None, None, None]:
    """Score clips in order while the next ones are being made.

    Parameters
    ----------
    name : str
        Of the engine.
    logit : callable
        Scores a clip; called from several threads if there are several.
    clips : iterable of ndarray or None
        uint8 (T, S, S, C); taken a few ahead of what is yielded, two a thread at most.
    threads : int
        Clips scored at a time.
    views : str
        As the settings of the net say; ``flips`` takes eight passes through it.

    Yields
    ------
    float or None
        The logit of each clip; None for None.

    Raises
    ------
    EngineError
        If the engine gives no result for far longer than a clip takes.
    """

    def score(pixels: Frames | None) -> float | None:
        return None if pixels is None else logit(pixels)

    def limit_s(pixels: Frames | None) -> float:
        frames = CLIP_FRAMES if pixels is None else max(len(pixels), CLIP_FRAMES)
        return CLIP_S * (8 if views == "flips" else 1) * frames / CLIP_FRAMES

    watchdog.start()
    try:
        yield from workers.in_threads(score, clips, threads, limit_s)
    except workers.LateError as error:
        raise EngineError(
            f"the engine {name} gave no result for {error}. Finished rows are kept; run the same "
            "command again to resume. If it happens again, choose another --engine, and another "
            "folder with -o"
        ) from None
