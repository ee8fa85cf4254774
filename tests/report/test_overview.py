"""The picture of a stack with the calls of its regions."""

import cv2
import numpy as np
import pytest

from stallscan.recordings.recording import Box
from stallscan.report import overview
from stallscan.vessels.regions import Region


@pytest.mark.parametrize("width", [30, 64, 200, 500])
def test_the_legend_is_whole_in_a_picture_of_any_width(tmp_path, width):
    calls = ["stalled", "review", "flowing", "unscorable"]
    height = 40
    box = Box(10, 20, 10, 20)
    regions = [(Region(name, "1f3a", box, np.ones((10, 10), bool)), name) for name in calls]
    overview.write_overview(tmp_path / "o.png", np.full((height, width), 90, np.uint8), regions)
    picture = cv2.imread(str(tmp_path / "o.png"))
    legend = picture[height:]
    for call in calls:
        colour = np.array(overview._levels(overview.LINES[call][0])[::-1])  # BGR
        assert (abs(legend.astype(int) - colour) < 30).all(axis=-1).any(), call
    # Nothing touches the border, where it would be cut off.
    for border in (legend[:, -3:], legend[-1:], legend[:, :3]):
        assert (border > 240).all()
    assert picture.shape[1] >= width
    assert (picture.shape[1] == width) == (width >= 200)
