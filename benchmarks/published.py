"""The pipeline of the published third place, written from its description (docs/facts.md 2).

It is what ours is timed against. The description names the steps, not the code; what had to be
chosen was chosen as somebody would who wants it to work and to be quick enough:

- frames are decoded and small videos encoded by OpenCV, the small ones as MPEG-4 (``mp4v``), the
  encoder that every OpenCV has; only the crop of a frame is resized and kept;
- orange is looked for by whole-array operations, and in the first frame only, as described;
- the second decoding writes into one float tensor, which is normalised in place;
- the nets are torchvision's, in training mode, so that BatchNorm takes the statistics of the one
  video; no gradients are recorded. Threads of OpenCV and torch are those of the process.

A recording without orange has no crop: here the first step says so and it is skipped, while the
published run stopped.
"""

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models import video

Frame = NDArray[Any]  # uint8; OpenCV does not say which

SIZE = 112
MARGIN = 5
FRAME_RATE = 15.0  # of the originals (docs/facts.md 5)
MEAN = (0.43216, 0.394666, 0.37645)
STD = (0.22803, 0.22145, 0.216989)
SINGLE = ("r2plus1d_18",)
# Each with the score above which it says stalled.
ENSEMBLE = (("r2plus1d_18", 0.95), ("mc3_18", 0.90), ("r2plus1d_18", 0.80))
NEEDED = 2


def box(frame: Frame) -> tuple[slice, slice] | None:
    """Rows and columns to crop by what is orange in a frame, uint8 (H, W, 3) BGR; None if nothing.

    Orange is R >= 200, G <= 150, B <= 150; the crop is [min - 5, max + 5), within the frame.
    """
    rows, cols = np.nonzero(cv2.inRange(frame, (0, 0, 200), (150, 150, 255)))
    if not len(rows):
        return None
    top, left = max(int(rows.min()) - MARGIN, 0), max(int(cols.min()) - MARGIN, 0)
    # Slices end at the frame's edge by themselves.
    return slice(top, int(rows.max()) + MARGIN), slice(left, int(cols.max()) + MARGIN)


def crop(source: Path) -> list[Frame]:
    """Decode a recording, and crop and resize its frames: uint8 (112, 112, 3) BGR; [] if no orange.

    Parameters
    ----------
    source : Path
        A video.
    """
    capture = cv2.VideoCapture(str(source))
    made: list[Frame] = []
    place = None
    while True:
        there, frame = capture.read()
        if not there:
            break
        if not made:
            place = box(frame)
            if place is None:
                break
        made.append(cv2.resize(frame[place], (SIZE, SIZE), interpolation=cv2.INTER_AREA))
    capture.release()
    return made


def preprocess(source: Path, target: Path) -> bool:
    """Step 1: write the crop of a recording as a small video; False if there is no orange.

    Parameters
    ----------
    source, target : Path
        The recording, and the mp4 file to write.

    Raises
    ------
    RuntimeError
        If OpenCV cannot write the file.
    """
    frames = crop(source)
    if not frames:
        return False
    writer = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"mp4v"), FRAME_RATE, (SIZE, SIZE))
    if not writer.isOpened():
        raise RuntimeError(f"{target}: OpenCV cannot write this video; is the folder there?")
    for frame in frames:
        writer.write(frame)
    writer.release()
    return True


def load(path: Path) -> Tensor:
    """Step 2: decode a small video into what the nets take, float32 (1, 3, T, 112, 112), BGR."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        there, frame = capture.read()
        if not there:
            break
        frames.append(frame)
    capture.release()
    return normalise(np.stack(frames))


def normalise(frames: Frame) -> Tensor:
    """Bring frames, uint8 (T, S, S, 3) BGR, into the nets' range: float32 (1, 3, T, S, S)."""
    clip = torch.from_numpy(frames).permute(3, 0, 1, 2).float().div_(255.0)
    clip.sub_(torch.tensor(MEAN).view(3, 1, 1, 1)).div_(torch.tensor(STD).view(3, 1, 1, 1))
    return clip[None]


def build(name: str) -> nn.Module:
    """Make a net with one neuron and random weights: r3d_18, mc3_18 or r2plus1d_18."""
    net: nn.Module = getattr(video, name)(weights=None)
    net.fc = nn.Linear(512, 1)
    return net.train()


@torch.inference_mode()
def logit(net: nn.Module, clip: Tensor) -> float:
    """Give what a net says of a clip from `load`, before the sigmoid."""
    return float(net(clip))


def score(net: nn.Module, clip: Tensor) -> float:
    """Step 3: the probability of stalled, 0..1, of a clip from `load`."""
    return 1.0 / (1.0 + math.exp(-logit(net, clip)))


def vote(nets: list[nn.Module], clip: Tensor) -> bool:
    """Say whether enough of the nets, built as `ENSEMBLE` names them, call a clip stalled."""
    pairs = zip(nets, ENSEMBLE, strict=True)
    return sum(score(net, clip) >= threshold for net, (_, threshold) in pairs) >= NEEDED
