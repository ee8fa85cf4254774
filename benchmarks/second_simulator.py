"""A second, independent simulator of two-photon recordings of brain capillaries.

It shares no code and no design with `stallscan.simulate`. Cells are ellipsoids in curved tubes in
space. A frame integrates the light of the voxels between the cells over the depth of focus, and
each row is scanned at its own time. Only the motion of the outlined blood depends on the label.

The recordings are simulated and only for reporting: nothing may be trained on them or chosen by
them.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import cKDTree

SEED = 90_210  # arbitrary
PATH_UM = 0.5  # spacing of the points of a path: an eighth of the narrowest lumen
DEEP_UM = 0.8  # voxels in depth: below the shortest depth of focus
TRAIN_UM = (350.0, 450.0)  # a train of cells repeats after this: longer than any capillary
APART_UM = 2000.0  # keeps the cells of different vessels apart in one sorted list
CELL_HALF_UM = (2.0, 4.0)  # half the length of red cells, which are 4 to 8 um long
WHITE_HALF_UM = (4.0, 6.0)  # half the length of white cells, which are 8 to 12 um long
PACKED_UM = (2.6, 3.6)  # spacing of red cells that are packed behind a white cell
HEMATOCRIT = (0.2, 0.45)  # share of the lumen taken by red cells
CAPILLARY_UM = (2.0, 4.0)  # radius; diameters are 4 to 8 um
LARGE_UM = (6.0, 14.0)  # radius of venules and arterioles
SPEED_UM_S = (150.0, 1000.0, 8600.0)  # least, median and greatest speed of red cells
LENGTH_PER_UM3 = (0.3e-3, 0.9e-3)  # um of capillary per um3 of cortex
STALLED_NEIGHBOURS = 0.02  # share, the same for both labels
ROWS_SCANNED = 512  # rows of the full field; they set the time between frames
BOX_PX = (39, 120)  # sides of boxes as planned; smoothing may take up to 4 px
ORANGE = (255, 102, 0)
LINE_PX = 2.5  # width of the outline
IN_FOCUS = 0.5  # share of the light that a pixel of a narrow capillary keeps, after focus and blur
JITTER_UM = 0.15  # apparent movement of stalled cells between frames (SD)

Array = NDArray[np.float64]
Rng = np.random.Generator


@dataclass(frozen=True)
class Scan:
    """The size of a recording (T, H, W), its scale, focus (SD in depth) and timing."""

    shape: tuple[int, int, int]
    px_um: float
    step_um: float
    focus_um: float
    line_s: float
    frame_s: float
    passes: int  # scans averaged into a frame
    size_um: Array  # width, height and depth of the volume


@dataclass(frozen=True)
class Tube:
    """A vessel: its path (n, 3) in um (x, y, depth), radius, and train of cells.

    Columns of `cells` (n, 8): place along the vessel, half length, half width, two offsets from
    the axis; amplitude, rate and phase of the wander that gives each cell its own speed.
    """

    path: Array
    radius_um: float
    train_um: float
    cells: Array


def _path(rng: Rng, start: Array, length_um: float, azimuth: float, incline: float) -> Array:
    """Draw a smooth curve in space (n, 3) that starts in a direction given in radians."""
    n = int(length_um / PATH_UM)
    bend = gaussian_filter1d(rng.normal(size=(2, n)), 30, axis=1) * 10  # SD 1
    azimuths = azimuth + np.cumsum(bend[0]) * PATH_UM * rng.uniform(0.01, 0.04)
    inclines = np.clip(incline + (bend[1] - bend[1, 0]) * rng.uniform(0.02, 0.12), -1.5, 1.5)
    ahead = [np.cos(inclines) * f(azimuths) for f in (np.cos, np.sin)] + [np.sin(inclines)]
    return np.asarray(start + np.cumsum(np.stack(ahead, axis=1), axis=0) * PATH_UM)


def _tube(rng: Rng, path: Array, radius: float) -> Tube:
    """Fill a path with red cells and a few white cells with packed red cells behind."""
    train, hematocrit = rng.uniform(*TRAIN_UM), rng.uniform(*HEMATOCRIT)
    fill = rng.uniform(0.87, 0.98) * min(radius, 3.5)  # half width of cells
    apart = 4 / 3 * fill**2 * np.mean(CELL_HALF_UM) / (hematocrit * radius**2)
    gaps = rng.uniform(0.1, 0.5) + np.minimum(rng.exponential(size=int(train / apart)), 2)
    place = np.cumsum(gaps) * train / gaps.sum()
    half, plugs = rng.uniform(*CELL_HALF_UM, len(place)), rng.uniform(0, train, rng.poisson(2.0))
    for plug in plugs:
        row = plug - 5 - np.cumsum(rng.uniform(*PACKED_UM, rng.integers(3, 9)))
        free = (place < row[-1] - 3) | (place > plug + 7)
        place = np.concatenate([place[free], row])
        half = np.concatenate([half[free], rng.uniform(1.7, 2.2, len(row))])
    width = np.append(np.full(len(place), fill), np.full(len(plugs), 1.05 * radius))
    place, half = np.append(place, plugs), np.append(half, rng.uniform(*WHITE_HALF_UM, len(plugs)))
    off = np.maximum(radius - width, 0) * rng.random(len(place))
    angle = rng.uniform(0, 2 * np.pi, len(place))
    wander = rng.uniform(0, 1.5, len(place)), rng.uniform(0.05, 0.15, len(place)), angle
    cells = place, half, width, off * np.cos(angle), off * np.sin(angle), *wander
    return Tube(path, radius, train, np.stack(cells, axis=1))


def _radius(rng: Rng) -> float:
    """Draw the radius of a capillary in um; wide ones are rarer."""
    return CAPILLARY_UM[0] + float(np.ptp(CAPILLARY_UM)) * float(rng.beta(1.3, 2.5))


def _segment(rng: Rng) -> tuple[Scan, Array, float]:
    """Draw the scan, the path of the outlined segment, and the margin of its outline in pixels."""
    px, step, margin, needed = rng.uniform(0.8, 1.3), 0.8 + 0.7 * rng.beta(1.2, 3), 0.0, 1e3
    box = np.zeros(2)
    while box.min() < BOX_PX[0] or box.max() > BOX_PX[1] or needed > 110:
        steep = rng.normal(0, 0.12) if rng.random() < 0.9 else rng.uniform(-0.6, 0.6)
        length, margin = np.clip(rng.lognormal(np.log(44), 0.4), 25, 120), rng.uniform(7, 13)
        path = _path(rng, np.zeros(3), length, rng.uniform(0, 2 * np.pi), steep)
        box = np.ptp(path[:, :2], axis=0) / px + 2 * margin + LINE_PX  # width, height
        needed = (np.ptp(path[:, 2]) + 18) / step
    t = int(np.clip(rng.gamma(6, 10), max(needed, 25), 110))
    w, h = (max(2 * int(rng.integers(50, 91)), 2 * int(side / 2 + 7)) for side in box)
    passes = int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))
    focus, line_s = 1.2 + 1.3 * rng.beta(2.5, 1.5), rng.uniform(1e-3, 2e-3)
    size, frame_s = np.array([w * px, h * px, t * step]), line_s * ROWS_SCANNED * passes
    scan = Scan((t, h, w), px, step, focus, line_s, frame_s, passes, size)
    around = np.array([(margin + 5) * px, (margin + 5) * px, 8.0])
    low, high = around - path.min(axis=0), scan.size_um - around - path.max(axis=0)
    return scan, path + rng.uniform(low, np.maximum(low, high)), margin


def _vessels(rng: Rng, scan: Scan, segment: Array) -> list[Tube]:
    """Draw all vessels in the volume, the outlined one first."""
    whole, forks = segment, []
    for is_start in (False, True):
        points = segment[::-1] if is_start else segment
        ahead = points[-1] - points[-8]
        azimuth = float(np.arctan2(ahead[1], ahead[0]))
        if rng.random() < 0.8:  # the vessel ends in a fork
            for turn in (rng.uniform(0.4, 1.2), -rng.uniform(0.4, 1.2)):
                go = rng.uniform(40, 120), azimuth + turn, rng.normal(0, 0.5)
                forks.append(_tube(rng, _path(rng, points[-1], *go), _radius(rng)))
        else:  # it dives out of the outline
            more = _path(rng, points[-1], rng.uniform(15, 40), azimuth, rng.choice([-0.9, 0.9]))
            whole = np.concatenate([more[::-1], whole] if is_start else [whole, more])
    tubes, near = [_tube(rng, whole, _radius(rng)), *forks], cKDTree(segment)
    around = np.array([20.0, 20.0, 10.0])
    length = rng.uniform(*LENGTH_PER_UM3) * np.prod(scan.size_um + 2 * around)
    large = int(rng.choice(3, p=[0.4, 0.4, 0.2]))
    for number in range(large + rng.poisson(length / 120)):
        radius = rng.uniform(*LARGE_UM) if number < large else _radius(rng)
        start = rng.uniform(-around, scan.size_um + around)
        go = rng.uniform(60, 180), rng.uniform(0, 2 * np.pi), rng.normal(0, 0.7)
        path = _path(rng, start, *go)
        if near.query(path)[0].min() > radius + 7:
            tubes.append(_tube(rng, path, radius))
    return tubes


def _region(rng: Rng, scan: Scan, segment: Array, margin: float) -> NDArray[np.bool_]:
    """Draw the outlined region, a smooth hull around the segment, bool (H, W)."""
    drawn = np.ones(scan.shape[1:], np.uint8)
    drawn[tuple((segment[:, 1::-1] / scan.px_um).astype(int).T)] = 0
    away = cv2.distanceTransform(drawn, cv2.DIST_L2, 5)
    wobble = np.clip(cv2.GaussianBlur(rng.normal(size=scan.shape[1:]), (0, 0), 10) * 35, -2, 2)
    near = (away < margin + wobble).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(near, (0, 0), 3) > 0.5)


def _voxels(tubes: list[Tube], scan: Scan) -> NDArray[np.float32]:
    """Return the voxels of all lumens, sorted by depth; where vessels meet, the first has them.

    Columns (n, 8): pixel, row, depth, place along the vessel, two offsets from its axis, share of
    the voxel in the lumen, number of the vessel.
    """
    side = np.array([scan.px_um, scan.px_um, DEEP_UM])
    _, h, w = scan.shape
    found, keys = [np.zeros((0, 8), np.float32)], [np.zeros(0, int)]
    for number, tube in enumerate(tubes):
        reach = np.ceil((tube.radius_um + 1.5) / side).astype(int)
        wide = 3 * scan.focus_um + reach * side
        path = tube.path[((tube.path > -wide) & (tube.path < scan.size_um + wide)).all(axis=1)]
        if len(path) < 3:
            continue
        ball = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach)), -1).reshape(-1, 3)
        points = np.floor(path[::4] / side).astype(int)
        low = points.min(axis=0) - reach
        seen = np.zeros(np.ptp(points, axis=0) + 2 * reach + 1, bool)
        seen[tuple((points[:, None] + ball - low).reshape(-1, 3).T)] = True
        grid = np.stack(np.unravel_index(np.flatnonzero(seen), seen.shape), 1) + low
        grid = grid[((grid[:, :2] >= 0) & (grid[:, :2] < (w, h))).all(axis=1)]
        where = (grid + 0.5) * side
        gap, nearest = cKDTree(tube.path).query(where, distance_upper_bound=tube.radius_um + 0.5)
        where, nearest, grid, gap = (a[np.isfinite(gap)] for a in (where, nearest, grid, gap))
        along = np.gradient(tube.path, PATH_UM, axis=0)
        across = np.cross(along, [0.3, 0.4, 0.87])
        across /= np.linalg.norm(across, axis=1, keepdims=True) + 1e-9
        off, axes = where - tube.path[nearest], (along, across, np.cross(along, across))
        place, p, q = (np.sum(off * axis[nearest], axis=1) for axis in axes)
        share, of = np.clip(tube.radius_um - gap + 0.5, 0, 1), np.full(len(gap), number)
        pixel, row, place = grid[:, 1] * w + grid[:, 0], grid[:, 1], place + nearest * PATH_UM
        found.append(np.stack([pixel, row, where[:, 2], place, p, q, share, of], 1, dtype="f4"))
        keys.append((grid + 4096) @ np.array([1 << 28, 1 << 14, 1]))
    first = np.unique(np.concatenate(keys), return_index=True)[1]
    voxels = np.concatenate(found)[first]
    return voxels[np.argsort(voxels[:, 2])]


def _flow(rng: Rng, scan: Scan) -> Array:
    """Draw the speed of flowing blood in each frame (T,) in um/s."""
    least, median, greatest = SPEED_UM_S
    speed = np.clip(rng.lognormal(np.log(median), 0.75), least, greatest)
    change = np.exp(0.25 * gaussian_filter1d(rng.normal(size=scan.shape[0]), 2))
    return np.asarray(rng.choice([-1, 1]) * speed * change)


def _outlined_flow(rng: Rng, scan: Scan, stalled: bool, focus: NDArray[np.intp]) -> Array:
    """Draw the speed of the outlined blood (T,) in um/s; `focus` lists the frames in focus."""
    speed, kind, sign, n = _flow(rng, scan), rng.random(), rng.choice([-1, 1]), len(focus)
    if stalled and kind < 0.7:
        speed[:] = 0
    elif stalled and kind < 0.85:  # creeping
        speed[:] = sign * rng.uniform(0.1, 0.5) / scan.frame_s
    elif stalled:  # the stall begins or ends while in focus
        moving = int(rng.uniform(0.1, 0.3) * n)
        speed[slice(focus[moving], None) if sign > 0 else slice(focus[n - 1 - moving] + 1)] = 0
    elif 0.8 < kind < 0.87:  # slow
        speed[:] = sign * rng.uniform(3, 6) / scan.frame_s
    elif kind >= 0.87:
        turn = int(rng.uniform(0.2, 0.75) * n)
        if kind < 0.94:  # a pause
            speed[focus[turn : turn + max(n // 4, 1)]] = 0
        else:  # a reversal
            speed[focus[turn] :] *= -1
    return speed


def _light(
    rng: Rng, scan: Scan, tubes: list[Tube], voxels: NDArray[np.float32], speed: Array
) -> NDArray[np.float32]:
    """Integrate the light of all voxels into frames (T, H, W); plasma in focus gives about 1."""
    t, h, w = scan.shape
    n, owner = len(tubes), np.repeat(np.arange(len(tubes)), [len(u.cells) for u in tubes])
    train, cells = np.array([u.train_um for u in tubes]), np.concatenate([u.cells for u in tubes])
    is_large, bright = np.array([u.radius_um > 5 for u in tubes]), rng.uniform(0.7, 1.3, n)
    moved = rng.uniform(0, 400, n) + (np.cumsum(speed, axis=0) - speed) * scan.frame_s  # (T, n)
    moved += JITTER_UM * rng.normal(size=(t, n))
    beat, pulse = 2 * np.pi * rng.uniform(4, 10), rng.uniform(0.1, 0.5)  # per s; share of speed
    copies = np.concatenate([cells[:, 0] + k * train[owner] for k in (-1, 0, 1)])
    amplitude, rate, phase = cells[:, 5:].T
    frames = np.zeros((t, h * w), np.float32)
    deep = (np.arange(t) + gaussian_filter1d(rng.normal(0, 0.6, t), 3)) * scan.step_um
    reach = np.array([-2.7, 2.7]) * scan.focus_um
    near: Any = np.searchsorted(voxels[:, 2], deep[:, None] + reach)
    for f, z in enumerate(deep):
        wander = amplitude * np.sin(rate * moved[f, owner] + phase)
        keys = copies + np.tile(owner * APART_UM + wander, 3)
        order = np.argsort(keys)
        keys, shapes = keys[order], cells[order % len(cells), 1:5].T
        pixel, row, depth, place, p, q, share, of = voxels[slice(*near[f])].T
        of, pixel = of.astype(int), pixel.astype(int)
        plasma = share * np.exp(-0.5 * ((depth - z) / scan.focus_um) ** 2) * bright[of]
        small = ~is_large[of]
        row, place, p, q, of = (a[small] for a in (row, place, p, q, of))
        for scanned in range(scan.passes):
            s = row * scan.line_s + scanned * scan.frame_s / scan.passes
            s += pulse * np.sin(beat * s + f) / beat
            here = (place - moved[f, of] - speed[f, of] * s) % train[of] + of * APART_UM
            ahead, dark = np.searchsorted(keys, here), np.zeros(len(here))
            for k in (-1, 0):  # the cells before and after
                i = np.minimum(ahead + k, len(keys) - 1)
                half, wide, dp, dq = shapes[:, i]
                away = ((here - keys[i]) / half) ** 2 + ((p - dp) ** 2 + (q - dq) ** 2) / wide**2
                dark = np.maximum(dark, np.clip(2 - 1.5 * away, 0, 1))
            seen = rng.normal(0.6, 0.2, len(plasma))  # large vessels: too many cells to tell apart
            seen[small] = 1 - dark
            frames[f] += np.bincount(pixel, plasma * seen, h * w) / scan.passes
    frames *= DEEP_UM / (scan.focus_um * np.sqrt(2 * np.pi) * IN_FOCUS)
    return frames.reshape(scan.shape)


def _tissue(rng: Rng, scan: Scan, light: NDArray[np.float32]) -> NDArray[np.float32]:
    """Blur the light and add haze, background, specks, shadows and change of light in depth."""
    t, h, w = scan.shape
    x, y, z = (np.arange(n) * u for n, u in ((w, scan.px_um), (h, scan.px_um), (t, scan.step_um)))
    spread, haze, dim = rng.uniform(0.4, 0.8), rng.uniform(0, 0.35), rng.uniform(0.02, 0.15)
    n = rng.poisson(rng.uniform(0, 8e-6) * np.prod(scan.size_um))
    spots, size = rng.uniform(0, scan.size_um, (n, 3)), rng.uniform(0.8, 1.8, n)
    gx, gy, gz = (
        np.exp(-0.5 * ((axis[:, None] - spots[:, k]) / np.hypot(size, blur)) ** 2)
        for k, (axis, blur) in enumerate(((x, 0), (y, 0), (z, scan.focus_um)))
    )
    specks = np.einsum("tn,hn,wn->thw", gz * rng.uniform(0.3, 2, n), gy, gx, optimize=True)
    patches = cv2.GaussianBlur(rng.normal(size=(h, w)), (0, 0), rng.uniform(2, 8))
    shadow = np.ones((h, w))
    if rng.random() < 0.3:  # under a vessel at the surface of the brain
        angle, width = rng.uniform(0, np.pi), rng.uniform(8, 25)
        away = (x - rng.choice(x)) * np.cos(angle) + (y - rng.choice(y))[:, None] * np.sin(angle)
        shadow -= rng.uniform(0.3, 0.7) * np.exp(-0.5 * (away / width) ** 2)
    level = np.exp(rng.uniform(-0.8, 0.6) * (np.arange(t) / t - 0.5))
    if rng.random() < 0.25:  # the laser is turned up
        level[rng.integers(t) :] *= rng.uniform(1.2, 1.8)
    for f, image in enumerate(light):
        wide = cv2.resize(image, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        wide = cv2.resize(cv2.GaussianBlur(wide, (0, 0), 3), (w, h))
        image[:] = cv2.GaussianBlur(image, (0, 0), spread, sigmaY=0.6 * spread) + haze * wide
        image += np.maximum(dim * (1 + 0.5 * patches / patches.std()), 0) + specks[f]
        image *= shadow * level[f]
    return light


def _move(rng: Rng, light: NDArray[np.float32]) -> None:
    """Move the brain (slow drift, a few jumps) and shift bands of lines, in place."""
    t, h, w = light.shape
    drift = gaussian_filter1d(rng.normal(size=(t, 2)), 6, axis=0) * rng.uniform(0, 4)
    drift += rng.normal(0, rng.uniform(0, 0.4), (t, 2))
    drift[rng.choice(t, rng.integers(0, 4), replace=False)] += rng.normal(0, 3, 2)
    torn = rng.random(t) < rng.choice([0, 0.05], p=[0.6, 0.4])
    for f, image in enumerate(light):
        image[:] = cv2.warpAffine(image, np.column_stack([np.eye(2), drift[f]]), (w, h))
        if torn[f]:
            top = rng.integers(h)
            band = slice(top, top + rng.integers(3, 20))
            image[band] = np.roll(image[band], rng.integers(-6, 7), axis=1)


def _camera(rng: Rng, passes: int, light: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Detect photons, lose or repeat frames, and stretch to 8 bits, (T, H, W)."""
    photons = np.exp(rng.uniform(np.log(3), np.log(60))) * passes  # per bright pixel
    spread, dark = rng.uniform(0.2, 0.6), rng.uniform(0.05, 0.5)  # of the gain; per pixel
    smear = rng.uniform(0.3, 0.8) * (rng.random() < 0.4)  # of a slow amplifier, along lines
    smooth = rng.uniform(0.5, 0.9) * (rng.random() < (0.9 if photons < 10 else 0.3))
    share, gamma = (rng.uniform(1, 50), rng.uniform(99.5, 99.98)), rng.uniform(0.7, 1.4)
    faulty = rng.integers(1, len(light), rng.integers(1, 4) * (rng.random() < 0.25))
    count = rng.poisson(light * photons).astype(np.float32)
    count += np.sqrt(spread**2 * count + dark**2) * rng.standard_normal(count.shape, np.float32)
    for image in count:
        if smear or smooth:  # laboratories smooth stacks, noisy ones more often
            across = float(np.hypot(smear, smooth))
            image[:] = cv2.GaussianBlur(image, (0, 0), across, sigmaY=smooth or 0.01)
    for f in faulty:
        count[f] = count[f - 1] if rng.random() < 0.6 else rng.normal(0, dark, count[f].shape)
    black, white = np.percentile(count[::3, ::3, ::3], share)  # of pixels
    scaled = np.clip((count - black) / max(white - black, 0.5), 0, 1)
    return np.asarray(255 * scaled**gamma, np.uint8)


def film(row: int, seed: int = SEED, stalled_share: float = 0.4) -> tuple[NDArray[np.uint8], bool]:
    """Return RGB frames (T, H, W, 3) with an outline, and whether the segment is stalled.

    They depend on the seed and the row only; the share changes nothing but the label and the
    motion of the outlined blood.
    """
    label, scenery, motion, blood, tissue, camera = np.random.default_rng([seed, row]).spawn(6)
    stalled = bool(label.random() < stalled_share)
    scan, segment, margin = _segment(scenery)
    region, tubes = _region(scenery, scan, segment, margin), _vessels(scenery, scan, segment)
    away = np.arange(scan.shape[0])[:, None] * scan.step_um - segment[:, 2]  # (T, points)
    sharp = np.exp(-0.5 * (away / (scan.focus_um + 1)) ** 2).sum(axis=1)
    focus = np.flatnonzero(sharp > 0.3 * sharp.max())
    flows = [_flow(blood, scan) * (blood.random() > STALLED_NEIGHBOURS) for _ in tubes[1:]]
    speed = np.stack([_outlined_flow(motion, scan, stalled, focus), *flows], axis=1)
    light = _tissue(tissue, scan, _light(blood, scan, tubes, _voxels(tubes, scan), speed))
    _move(tissue, light)
    frames = np.repeat(_camera(camera, scan.passes, light)[..., None], 3, axis=-1)
    inside, outside = (
        cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5) for mask in (region, ~region)
    )
    ink = np.clip((LINE_PX + 1) / 2 - np.abs(inside - outside), 0, 1)
    for channel, value in enumerate(ORANGE):
        frames[..., channel] = frames[..., channel] * (1 - ink) + ink * value + 0.5
    return frames, stalled
