"""Clips and labels as batches for training.

Every sample's randomness comes from (seed, epoch, row), so any number of workers gives the same
batches.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from stallscan import augment, clip
from stallscan.recipe import AugmentSettings, NetSettings
from stallscan.store import Store


class Example(NamedTuple):
    """A clip and its label; `row` tells which."""

    pixels: Tensor  # uint8 (T, S, S, C)
    label: int
    row: int


class Batch(NamedTuple):
    """What the net is given at once."""

    inputs: Tensor  # float32 (N, C, T, S, S)
    labels: Tensor  # float32 (N,), 1 for stalled
    rows: Tensor  # int64 (N,)


class ClipDataset(Dataset[Example]):
    """Labelled clips of a store.

    Parameters
    ----------
    store : Store
        Holds every one of `filenames`.
    filenames : sequence of str
        The recordings; a sample is asked for by its row in this list.
    labels : sequence of int
        0 flowing, 1 stalled.
    augmentation : AugmentSettings or None
        None leaves the clips as prediction sees them.
    seed : int
        For the augmentation.
    """

    def __init__(
        self,
        store: Store,
        filenames: Sequence[str],
        labels: Sequence[int],
        augmentation: AugmentSettings | None = None,
        seed: int = 0,
    ) -> None:
        self.store = store
        self.filenames = list(filenames)
        self.labels = [int(label) for label in labels]
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.filenames)

    def __getitem__(self, index: int | tuple[int, int]) -> Example:
        """Give a sample by row, or by (epoch, row) to have it augmented for that epoch."""
        epoch, row = index if isinstance(index, tuple) else (0, index)
        pixels = self.load(epoch, row)
        if self.augmentation is not None:
            state = np.random.SeedSequence([self.seed, epoch, row]).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(state[0]) >> 1)
            pixels = augment.apply(pixels, self.augmentation, generator)
        return Example(pixels, self.labels[row], row)

    def load(self, epoch: int, row: int) -> Tensor:
        """Read a clip, not augmented: uint8 (T, S, S, C); here it is the same in every epoch."""
        return torch.from_numpy(self.store.read(self.filenames[row]))


class LengthSampler(Sampler[list[tuple[int, int]]]):
    """Batches of clips of about equal length, shuffled anew in every epoch.

    Clips of a batch must have the same number of frames for each to be normalised by itself.
    Sorting by length with some jitter keeps what is trimmed small and the batches varied.

    Parameters
    ----------
    frames : sequence of int
        Frames of each row.
    batch_size : int
        Rows a batch; the last one may have fewer.
    seed : int
        For the shuffling.
    """

    JITTER_FRAMES = 4

    def __init__(self, frames: Sequence[int], batch_size: int, seed: int) -> None:
        self.frames = np.asarray(frames)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.frames) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Shuffle for this epoch; Lightning says which before it begins."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        random = np.random.default_rng([self.seed, self.epoch])
        jittered = self.frames + random.uniform(0, self.JITTER_FRAMES, len(self.frames))
        rows = np.argsort(jittered)
        batches = [
            rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)
        ]
        for index in random.permutation(len(batches)):
            yield [(self.epoch, int(row)) for row in batches[index]]


class Collate:
    """Examples to a batch; longer clips lose frames at both ends alike.

    Parameters
    ----------
    net : NetSettings
        For the mean and standard deviation of the input.
    """

    def __init__(self, net: NetSettings) -> None:
        self.net = net

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """Stack the examples."""
        shortest = min(len(example.pixels) for example in examples)
        inputs = [self._input(example.pixels, shortest) for example in examples]
        return Batch(
            torch.from_numpy(np.stack(inputs)),
            torch.tensor([float(example.label) for example in examples]),
            torch.tensor([example.row for example in examples]),
        )

    def _input(self, pixels: Tensor, frames: int) -> NDArray[np.float32]:
        start = (len(pixels) - frames) // 2
        return clip.to_input(pixels[start : start + frames].numpy(), self.net.mean, self.net.std)
