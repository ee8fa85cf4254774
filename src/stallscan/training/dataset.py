"""Load clips and labels in batches for training.

The randomness of a sample depends only on (seed, epoch, row), so the batches are the same with any
number of workers, and any number of training processes shares the same batches.
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
    """A sampler's request to the dataset for one clip of a batch."""

    row: int
    epoch: int = 0
    frames: int = 0  # trim equally at both ends to this length; 0 keeps all frames
    weight: float = 1.0  # weight of the clip's loss in the loss of the batch
    together: int = 1  # clips in the batch, over all processes


class Example(NamedTuple):
    """A clip and its label."""

    pixels: Tensor  # uint8 (T, S, S, C)
    label: float
    pick: Pick


class Batch(NamedTuple):
    """The clips of one step, as the net takes them."""

    inputs: Tensor  # float32 (N, C, T, S, S)
    labels: Tensor  # float32 (N,), 1 for stalled; fractions if the targets are the crowd's scores
    rows: Tensor  # int64 (N,), row of each clip in the dataset
    weights: Tensor  # float32 (N,): the loss of the batch is the sum of weight times loss
    together: int  # N of all processes


class ClipDataset(Dataset[Example]):
    """Labelled clips of a store.

    Parameters
    ----------
    store : Store
        Must have a clip of each of `filenames`.
    filenames : sequence of str
        The recordings; a sample's row is its index in this list.
    labels : sequence of float
        0 for flowing, 1 for stalled, or the crowd's score.
    augmentation : AugmentSettings or None
        None leaves the clips as prediction sees them.
    seed : int
        Seed of the augmentation.
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
        """Return a sample by its row or as a sampler picked it, augmented for its epoch."""
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
        """Read a clip without augmentation: uint8 (T, S, S, C). A subclass may use the epoch."""
        return torch.from_numpy(self.store.read(self.filenames[row]))


class LengthSampler(Sampler[list[Pick]]):
    """Yield batches of clips of similar length, shuffled in every epoch.

    The clips of a batch are trimmed to a common number of frames. Sorting by length with some
    jitter keeps the trimmed share small and the batches varied. With several training processes,
    each gets its share of every batch.

    Parameters
    ----------
    frames : sequence of int
        Number of frames of each row.
    batch_size : int
        Rows per batch, over all processes; the last batch may have fewer.
    seed : int
        Seed of the shuffling.
    labels : sequence of float, optional
        Label of each row; needed with `stalled_share`.
    stalled_share : float
        Share of stalled clips in each epoch, and approximately in each batch, but at least one clip
        of each class. No clip is repeated before all others of its class have been drawn. 0 takes
        every row once.
    trim : bool
        Trim the clips of a batch to the shortest.
    first_epoch : int
        Number of epochs in the previous stages.
    rank, world : int
        Number of this process, and of all processes.
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
        """Set the epoch of the stage that the next batches are drawn for."""
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
        """Draw the rows of the epoch, (rows,), from short to long clips."""
        jittered = self.frames + random.uniform(0, self.JITTER_FRAMES, len(self.frames))
        if not self.stalled_share:
            return np.argsort(jittered)
        # Spread both classes evenly over the order, so that each batch gets its share of both.
        drawn, positions = [], []
        count = len(self.frames)
        stalled_count = min(max(round(count * self.stalled_share), 1), count - 1)
        for rows, wanted in (
            (np.flatnonzero(self.stalled), stalled_count),
            (np.flatnonzero(~self.stalled), count - stalled_count),
        ):
            turns = [random.permutation(rows) for _ in range(-(-wanted // len(rows)))]
            chosen = np.concatenate(turns)[:wanted]  # (wanted,)
            drawn.append(chosen[np.argsort(jittered[chosen], kind="stable")])
            positions.append((np.arange(wanted) + random.random()) / wanted)  # in [0, 1)
        return np.concatenate(drawn)[np.argsort(np.concatenate(positions), kind="stable")]

    def _pick(self, batch: Rows) -> list[Pick]:
        frames = int(self.frames[batch].min()) if self.trim else 0
        # DDP averages the gradients of the processes, so weight each clip by world / N: the step is
        # then the mean over the whole batch, however it is divided.
        weight, together = self.world / len(batch), len(batch)
        mine = [
            Pick(int(row), self.epoch, frames, weight, together)
            for row in batch[self.rank :: self.world]
        ]
        # A process without a clip computes one with weight 0, because the others wait for it.
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
            inputs = [  # (C, T, S, S) each
                np.pad(frames, ((0, 0), (0, longest - frames.shape[1]), (0, 0), (0, 0)))
                for frames in inputs
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
