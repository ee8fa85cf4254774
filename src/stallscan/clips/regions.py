"""Clips of the regions of a raw stack, as their outlined recordings would give them.

A region is cut out with its surroundings, scaled to the pixels of the training recordings, and
outlined as a person would: with a line along its border. From there on it is a recording like any
other: `prepare.cut` makes its clip.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from stallscan.clips import prepare
from stallscan.clips.prepare import Prepared, Preprocessing
from stallscan.errors import RecordingError, UnreadableError
from stallscan.recordings.find import Source
from stallscan.recordings.raw import Cut, Stack
from stallscan.recordings.recording import ArrayDecoder, Frames, Recording
from stallscan.vessels.enclosure import Mask
from stallscan.vessels.outline import draw
from stallscan.vessels.regions import Region, Regions, Unusable
from stallscan.words import printable

# Pixels of this size are kept; others are resized to 1 um. docs/facts.md 5 has about 1 um, and the
# wide look, with which the shipped model was trained, 0.7 to 1.5.
KEPT_UM, TARGET_UM = (0.7, 1.5), 1.0
# Depth above and below a vessel from which frames are taken: it is in focus in 6 to 12 frames of
# 1 um (docs/facts.md 5), and further away others are. With 24 um the calls were worse
# (benchmarks/stacks.md).
AROUND_UM = 3.0
# At least as many frames, if the stack has them: the fewest of the shipped bundle's training
# recordings, and as many as its net looks at.
LEAST_FRAMES = 24
# A person draws the line along the border of a region, so that it covers pixels on both sides. With
# a line of this width, of which so much is inside, the box is that of the outline found in the
# region's video to a pixel (47 of 48 simulated outlines), and the enclosed area to 1 %.
LINE_PX, INSIDE_PX = 5, 3
# Surroundings beyond the margin of a clip, in which the drawn line is painted out.
SPARE_PX = 20
# Grey pixels of regions in memory at once; the stack is read once for each such batch.
BATCH_BYTES = 96 * 2**20


class Place(NamedTuple):
    """Where the recording of a region is in its stack."""

    region: Region
    cut: Cut


def sources_of(stack: Path, regions: Regions) -> list[Source]:
    """Return a source for each region, named ``STACK/REGION-CODE`` as a table can hold it."""
    names = [each.full_name for each in regions]
    # Joined as text: a name that starts with a slash would replace the path.
    return [Source(printable(f"{stack.name}/{name}"), Path(f"{stack}/{name}")) for name in names]


def prepare_regions(
    stack: Stack,
    regions: Mapping[str, Region | Unusable],
    todo: Sequence[Source],
    views: Sequence[Preprocessing],
) -> Iterator[Prepared]:
    """Cut the clips of regions, in the order of `todo`.

    Parameters
    ----------
    regions : mapping
        By the filename of their source.
    todo : sequence of Source
        The regions to prepare, from `sources_of`.
    views : sequence of Preprocessing
        A clip is cut for each.
    """
    margin = max(view.clip.margin for view in views) + LINE_PX + SPARE_PX
    batch: list[tuple[Source, Place | Unusable]] = []
    size = 0
    for source in todo:
        region = regions[source.filename]
        if isinstance(region, Unusable):
            batch.append((source, region))
            continue
        place = Place(region, _find_cut(stack, region, margin))
        rows, cols = place.cut.box.shape
        nbytes = rows * cols * (place.cut.stop - place.cut.first)
        if size and size + nbytes > BATCH_BYTES:
            yield from _prepare_batch(stack, batch, views)
            batch, size = [], 0
        batch.append((source, place))
        size += nbytes
    yield from _prepare_batch(stack, batch, views)


def _find_cut(stack: Stack, region: Region, margin_px: int) -> Cut:
    """Return the surroundings of a region, and the frames around those of its vessel."""
    scale = min(_scales(stack.voxel_um))  # pixels of the recording for one of the stack
    box = region.box.grown(int(np.ceil(margin_px / scale)), stack.shape[1:])
    if region.frames is None:
        return Cut(box, 0, len(stack))
    first, stop = region.frames
    lacking = math.ceil((LEAST_FRAMES - (stop - first)) / 2)
    around = max(round(AROUND_UM / stack.voxel_um[0]), lacking)
    first, stop = first - around, stop + around
    # At the first and last frame, the others make up for those that are missing.
    short = max(-first, 0), max(stop - len(stack), 0)
    if stop - first - sum(short) < LEAST_FRAMES:
        first, stop = first - short[1], stop + short[0]
    return Cut(box, max(first, 0), min(stop, len(stack)))


def _prepare_batch(
    stack: Stack,
    batch: Sequence[tuple[Source, Place | Unusable]],
    views: Sequence[Preprocessing],
) -> Iterator[Prepared]:
    cuts = [place.cut for _, place in batch if isinstance(place, Place)]
    parts = iter(stack.cut(cuts) if cuts else [])
    for source, place in batch:
        if isinstance(place, Unusable):
            yield Prepared(source, place.status, f"{source.path}: {place.reason}")
            continue
        frames, lost = next(parts)
        count = place.cut.stop - place.cut.first
        try:
            yield _prepare(stack, source, place, frames, lost, views)
        except RecordingError as error:
            yield Prepared(source, error.status, str(error), len(frames) or None, count)


def _prepare(
    stack: Stack,
    source: Source,
    place: Place,
    frames: Frames,
    lost: tuple[int, ...],
    views: Sequence[Preprocessing],
) -> Prepared:
    """Outline a region in its frames, uint8 (n, h, w), and cut its clips."""
    if not len(frames):
        raise UnreadableError(f"{source.path}: no frame can be decoded. Copy the stack again")
    frames, mask = _resize(frames, place, _scales(stack.voxel_um))
    outlined, outline = draw(frames, inside_line(mask), LINE_PX)
    z_um, y_um, x_um = stack.voxel_um
    rows, cols = _scales(stack.voxel_um)
    recording = Recording(
        source.path,
        outlined.shape,
        place.cut.stop - place.cut.first,
        lost,
        outlined,
        ArrayDecoder(lambda: iter(outlined)),
        axis=stack.axis,
        voxel_um=(z_um, y_um / rows, x_um / cols),
        frame_s=stack.frame_s,
    )
    outline = replace(outline, remark=place.region.remark)
    return prepare.cut(source, recording, views, outline)


def _resize(frames: Frames, place: Place, scales: tuple[float, float]) -> tuple[Frames, Mask]:
    """Return the frames of a region, resized, and the region in them."""
    mask = np.zeros(place.cut.box.shape, np.uint8)
    mask[place.region.box.seen_from(place.cut.box).slices] = place.region.mask
    rows, cols = scales
    if scales != (1.0, 1.0):
        size = max(round(mask.shape[1] * cols), 1), max(round(mask.shape[0] * rows), 1)
        # Area averaging to shrink; linear interpolation to enlarge.
        how = cv2.INTER_AREA if rows < 1 else cv2.INTER_LINEAR
        frames = np.stack([cv2.resize(frame, size, interpolation=how) for frame in frames])
        mask = np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    return frames, mask > 0


def inside_line(region: Mask) -> Mask:
    """Return what a line along the border of a region, bool (h, w), leaves of its inside.

    A region that is narrower than the line is kept.
    """
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * INSIDE_PX + 1,) * 2)
    # The image border is no border of the region: it continues beyond.
    inner = cv2.erode(region.astype(np.uint8), disc, borderType=cv2.BORDER_REPLICATE) > 0
    return inner if inner.any() else region


def _scales(voxel_um: tuple[float, float, float]) -> tuple[float, float]:
    """Return the factors by which rows and columns are resized; 1 keeps them."""
    _, y_um, x_um = voxel_um
    is_kept = all(KEPT_UM[0] <= side <= KEPT_UM[1] for side in (y_um, x_um))
    # Pixels that are not square would distort the vessel.
    if is_kept and abs(y_um - x_um) < 0.05 * x_um:
        return 1.0, 1.0
    return y_um / TARGET_UM, x_um / TARGET_UM
