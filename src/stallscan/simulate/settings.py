"""Settings of a simulated corpus and of a contact sheet."""

from typing import Annotated

from pydantic import Field

from stallscan.settings import Settings
from stallscan.simulate.look import LookSettings

Positive = Annotated[float, Field(gt=0)]


class SimulateSettings(Settings):
    """What to simulate.

    Attributes
    ----------
    count : int
        Number of recordings, at least 1.
    stalled : float
        Share of stalled recordings, 0..1 (rounded to whole recordings).
    seed : int
        At least 0. A recording depends on nothing but the seed, its row, its label, the field and
        the look; which rows are stalled is drawn for `count` and `stalled` together.
    test : int
        Number of additional recordings in a test split; 0 for none.
    test_stalled : float
        Share of stalled recordings in it, 0..1; 4.6 % in the competition (docs/facts.md 4).
    height, width : int
        Field in pixels, even and at least 128; 384 x 512 in the competition (docs/facts.md 5).
    frame_rate : int
        Frames per second of the file, at least 1; 15 in the competition.
    crf : int
        Constant rate factor of x264, 0..51; 15 in the competition.
    label_stack : str
        TIFF file of a segmented stack, 0 outside vessels. Blood flows through its vessels instead
        of drawn ones. Empty: draw the vessels.
    label_um : tuple of float
        Voxel size of the label stack along z, y and x in um, above 0.
    look : LookSettings
        Ranges of optics, noise and display.
    """

    count: int = Field(default=200, ge=1)
    stalled: float = Field(default=0.3, ge=0, le=1)
    seed: int = Field(default=0, ge=0)
    test: int = Field(default=0, ge=0)
    test_stalled: float = Field(default=0.046, ge=0, le=1)
    height: int = Field(default=384, ge=128, multiple_of=2)
    width: int = Field(default=512, ge=128, multiple_of=2)
    frame_rate: int = Field(default=15, ge=1)
    crf: int = Field(default=15, ge=0, le=51)
    label_stack: str = ""
    label_um: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)
    look: LookSettings = LookSettings()


class SheetSettings(Settings):
    """What a contact sheet shows.

    Attributes
    ----------
    rows : int
        Maximum number of flowing and of stalled segments, at least 1.
    frames : int
        Frames per segment, at least 2.
    row_px : int
        Height of an image in pixels, at least 32.
    margin_px : int
        Margin around the outline, in pixels of the recording, at least 0.
    """

    rows: int = Field(default=8, ge=1)
    frames: int = Field(default=14, ge=2)
    row_px: int = Field(default=96, ge=32)
    margin_px: int = Field(default=10, ge=0)
