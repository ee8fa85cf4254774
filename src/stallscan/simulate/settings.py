"""What to simulate."""

from pydantic import Field

from stallscan.settings import Settings


class SimulateSettings(Settings):
    """What to simulate.

    Attributes
    ----------
    count : int
        Recordings, at least 1.
    stalled : float
        Fraction of them that is stalled, 0..1 (rounded to whole recordings).
    seed : int
        Everything follows from it, row by row; at least 0.
    height, width : int
        Field in pixels of 1 um, even and at least 128; 384 x 512 in the competition (FACTS 5).
    frame_rate : int
        Frames per second of the file, at least 1; 15 in the competition.
    crf : int
        Constant rate factor of x264, 0..51; 15 in the competition.
    """

    count: int = Field(default=200, ge=1)
    stalled: float = Field(default=0.3, ge=0, le=1)
    seed: int = Field(default=0, ge=0)
    height: int = Field(default=384, ge=128, multiple_of=2)
    width: int = Field(default=512, ge=128, multiple_of=2)
    frame_rate: int = Field(default=15, ge=1)
    crf: int = Field(default=15, ge=0, le=51)
