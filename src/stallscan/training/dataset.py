"""Clips and labels as batches for training.

Every sample's randomness comes from (seed, epoch, row), so any number of workers gives the same
batches, and any number of training processes shares out the same ones.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from stallscan.clips import clip
from stallscan.clips.store import Store
from stallscan.nets.settings import NetSettings
from stallscan.recipes.settings import AugmentSettings
from stallscan.training import augment

Rows = NDArray[np.int64]


class Pick(NamedTuple):
    """What a sampler asks the dataset for."""

    row: int
    epoch: int = 0
    frames: int = 0  # cut to so many, at both ends alike; 0 keeps all
    weight: float = 1.0  # of its loss in that of the batch
    together: int = 1  # clips of the batch, in all processes


class Example(NamedTuple):
    """A clip and its label."""

    pixels: Tensor  # uint8 (T, S, S, C)
    label: float
    pick: Pick


class Batch(NamedTuple):
    """What the net is given at once."""

    inputs: Tensor  # float32 (N, C, T, S, S)
    labels: Tensor  # float32 (N,), 1 for stalled; between where the crowd's scores are learned
    rows: Tensor  # int64 (N,)
    weights: Tensor  # float32 (N,): the loss of the batch is the sum of weight times loss
    together: int  # N of all processes


class ClipDataset(Dataset[Example]):
    """Labelled clips of a store.

    Parameters
    ----------
    store : Store
        Holds every one of `filenames`.
    filenames : sequence of str
        The recordings; a sample is asked for by its row in this list.
    labels : sequence of float
        0 flowing, 1 stalled, or a crowd's score.
    augmentation : AugmentSettings or None
        None leaves the clips as prediction sees them.
    seed : int
        For the augmentation.
    """

    def __init__(
        self,
        store: Store,
        filenames: Sequence[str],
        labels: Sequence[float],
        augmentation: AugmentSettings | None = None,
        seed: int = 0,
    ) -> None:
        self.store = store
        self.filenames = list(filenames)
        self.labels = [float(label) for label in labels]
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.filenames)

    def __getitem__(self, index: int | Pick) -> Example:
        """Give a sample by row, or as a sampler picked it: augmented for its epoch."""
        pick = index if isinstance(index, Pick) else Pick(index)
        pixels = self.load(pick.epoch, pick.row)
        if pick.frames:
            pixels = _middle(pixels, pick.frames)
        if self.augmentation is not None:
            seeds = np.random.SeedSequence([self.seed, pick.epoch, pick.row])
            state = seeds.generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(state[0]) >> 1)
            pixels = augment.apply(pixels, self.augmentation, generator)
        return Example(pixels, self.labels[pick.row], pick)

    def load(self, epoch: int, row: int) -> Tensor:
        """Read a clip, not augmented: uint8 (T, S, S, C); here it is the same in every epoch."""
        return torch.from_numpy(self.store.read(self.filenames[row]))


class LengthSampler(Sampler[list[Pick]]):
    """Batches of clips of about equal length, shuffled anew in every epoch.

    Clips of a batch must have the same number of frames for each to be normalised by itself.
    Sorting by length with some jitter keeps what is cut off small and the batches varied. Of
    several training processes each is given its part of every batch.

    Parameters
    ----------
    frames : sequence of int
        Frames of each row.
    batch_size : int
        Rows a batch, in all processes together; the last one may have fewer.
    seed : int
        For the shuffling.
    labels : sequence of float, optional
        Of each row; needed with `stalled_share`.
    stalled_share : float
        This share of each epoch's clips, and about of each batch, is stalled, none being repeated
        before all of its class had their turn; 0 takes every row once.
    trim : bool
        Cut the clips of a batch to its shortest.
    first_epoch : int
        Number of the epoch that the training calls 0: those of the stages before.
    rank, world : int
        Which of how many processes this is.
    """

    JITTER_FRAMES = 4

    def __init__(
        self,
        frames: Sequence[int],
        batch_size: int,
        seed: int,
        *,
        labels: Sequence[float] | None = None,
        stalled_share: float = 0.0,
        trim: bool = True,
        first_epoch: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.frames = np.asarray(frames)
        self.batch_size = batch_size
        self.seed = seed
        self.stalled = np.asarray(labels if labels is not None else np.zeros(len(frames))) >= 0.5
        self.stalled_share = stalled_share
        self.trim = trim
        self.rank, self.world = rank, world
        self.first_epoch = self.epoch = first_epoch

    def __len__(self) -> int:
        return -(-len(self.frames) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Shuffle for this epoch of the stage; Lightning says which before it begins."""
        self.epoch = self.first_epoch + epoch

    def __iter__(self) -> Iterator[list[Pick]]:
        random = np.random.default_rng([self.seed, self.epoch])
        rows = self._order(random)
        batches = [
            rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)
        ]
        for index in random.permutation(len(batches)):
            yield self._pick(batches[index])

    def _order(self, random: np.random.Generator) -> Rows:
        """Rows of the epoch, short clips first."""
        jittered = self.frames + random.uniform(0, self.JITTER_FRAMES, len(self.frames))
        if not self.stalled_share:
            return np.argsort(jittered)
        # Both classes in even steps, so that each batch has its share of both.
        drawn, place = [], []
        wanted = round(len(self.frames) * self.stalled_share)
        for rows, count in (
            (np.flatnonzero(self.stalled), wanted),
            (np.flatnonzero(~self.stalled), len(self.frames) - wanted),
        ):
            turns = [random.permutation(rows) for _ in range(-(-count // len(rows)))]
            some = np.concatenate(turns)[:count]
            drawn.append(some[np.argsort(jittered[some], kind="stable")])
            place.append((np.arange(count) + random.random()) / count)
        return np.concatenate(drawn)[np.argsort(np.concatenate(place), kind="stable")]

    def _pick(self, batch: Rows) -> list[Pick]:
        frames = int(self.frames[batch].min()) if self.trim else 0
        # DDP averages the gradients of the processes: their parts count by their size.
        weight, together = self.world / len(batch), len(batch)
        mine = [
            Pick(int(row), self.epoch, frames, weight, together)
            for row in batch[self.rank :: self.world]
        ]
        # A process without a clip computes one that does not count: the others wait for it.
        return mine or [Pick(int(batch[0]), self.epoch, frames, 0.0, together)]


class Collate:
    """Examples to a batch.

    Parameters
    ----------
    net : NetSettings
        For the mean and standard deviation of the input.
    pad : bool
        Append zeros to shorter clips instead of cutting longer ones at both ends.
    """

    def __init__(self, net: NetSettings, *, pad: bool = False) -> None:
        self.net = net
        self.pad = pad

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """Stack the examples."""
        lengths = [len(example.pixels) for example in examples]
        if self.pad:
            inputs = [self._input(example.pixels) for example in examples]
            longest = max(lengths)
            inputs = [
                np.pad(one, ((0, 0), (0, longest - one.shape[1]), (0, 0), (0, 0))) for one in inputs
            ]
        else:
            shortest = min(lengths)
            inputs = [self._input(_middle(example.pixels, shortest)) for example in examples]
        picks = [example.pick for example in examples]
        return Batch(
            torch.from_numpy(np.stack(inputs)),
            torch.tensor([example.label for example in examples]),
            torch.tensor([pick.row for pick in picks]),
            torch.tensor([pick.weight for pick in picks]),
            picks[0].together,
        )

    def _input(self, pixels: Tensor) -> NDArray[np.float32]:
        return clip.to_input(pixels.numpy(), self.net.mean, self.net.std)


def _middle(pixels: Tensor, frames: int) -> Tensor:
    start = max(len(pixels) - frames, 0) // 2
    return pixels[start : start + frames]
