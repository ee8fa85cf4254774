"""Outlined recordings with known label: vessels in depth, blood that moves or stays, a microscope.

The order is that of nature, a file each: `scene` (vessels in um and the outline), `blood` (cells on
the arc length and how they move), `microscope`, `imaging` (light, photons and display), `recording`
(one of them, with its truth) and `corpus` (a folder of them). Everything of a recording but the
motion in its outlined segment is drawn before, and independently of, its label: whether it stalls
can be read from motion alone.

One pixel is 1 um, one frame is one z step of 1 um; frames are scanned row by row (FACTS 1 and 5).
"""

from stallscan.simulate.blood import draw_pattern
from stallscan.simulate.corpus import Summary, draw_labels, simulate
from stallscan.simulate.recording import Plan, Truth, make_plan, one
from stallscan.simulate.scene import AREA_PX, COLOUR, draw_frame_count, draw_outline
from stallscan.simulate.settings import SimulateSettings

__all__ = [
    "AREA_PX",
    "COLOUR",
    "Plan",
    "SimulateSettings",
    "Summary",
    "Truth",
    "draw_frame_count",
    "draw_labels",
    "draw_outline",
    "draw_pattern",
    "make_plan",
    "one",
    "simulate",
]
