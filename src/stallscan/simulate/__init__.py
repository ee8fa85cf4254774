"""Simulation of outlined recordings with known labels.

In order of the physics: `network` (a capillary network; `vessels.labels` reads a real one),
`contour` and `scene` (vessels in um, the outline, other tissue), `blood` (cells along the vessels,
and their motion), `projects` and `microscope` (parameters of the scan), `imaging` (light),
`detector` (noise, display), `recording` (one recording with its truth), `crowd` (scores of citizen
scientists), `corpus` (a folder of recordings), `stack` (a raw stack) and `sheet` (a contact sheet).

Only the motion in the outlined segment reveals the label: everything else is drawn independently of
it. There are three exceptions: the share of stalls depends on the project, large vessels do not
stall, and stalled cells rest where some plasma is visible.
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
