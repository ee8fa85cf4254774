"""Outlined recordings with known label: vessels in depth, blood that moves or stays, a microscope.

The order is that of nature, a file each: `network` (or `labels`, a real one, with the help of
`centrelines`), `contour` and `scene` (vessels in um, the outline, other tissue), `blood` (cells on
the arc length and how they move), `projects` and `microscope` (who scanned it and how), `imaging`
(light, photons, display), `recording` (one of them, with its truth), `crowd` (what citizens said of
it), `corpus` (a folder of them) and `sheet` (a look at them). Everything of a recording but the
motion in its outlined segment is drawn before, and independently of, its label, given its project
and that large vessels do not stall: whether it stalls is to be read from motion.
"""

from stallscan.simulate.contour import AREA_PX, COLOUR, draw_outline
from stallscan.simulate.corpus import CorpusSummary, draw_labels, simulate
from stallscan.simulate.recording import Plan, Truth, film, make_plan, one, region
from stallscan.simulate.settings import SimulateSettings
from stallscan.vessels.outline import DECODED_COLOUR

__all__ = [
    "AREA_PX",
    "COLOUR",
    "DECODED_COLOUR",
    "CorpusSummary",
    "Plan",
    "SimulateSettings",
    "Truth",
    "draw_labels",
    "draw_outline",
    "film",
    "make_plan",
    "one",
    "region",
    "simulate",
]
