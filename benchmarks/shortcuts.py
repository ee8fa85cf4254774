"""What the label of a simulated recording can be read from, besides the motion of its blood.

Classifiers that see only part of a recording, all trained on the same balanced corpus of simulated
clips and measured on the same held-out ones: its project, the size of the crop and the number of
frames; one frame; the mean over time; all frames in random order; all frames as they are. If a
classifier does well that cannot see motion, the simulator gives the label away.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
import pandas as pd
import torch
from common import HERE, machine, markdown, publish, say, show_progress, version
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from stallscan import workers
from stallscan.clips import clip
from stallscan.clips.store import Store
from stallscan.nets import build
from stallscan.recipes import recipe
from stallscan.recipes.recipe import Recipe
from stallscan.recipes.settings import AugmentSettings
from stallscan.recordings.recording import Box
from stallscan.scores import bootstrap, metrics, thresholds
from stallscan.simulate import SimulateSettings, make_plan
from stallscan.simulate.corpus import simulate_clips
from stallscan.training.dataset import Batch, ClipDataset, Collate, LengthSampler

TEST_SHARE = 1 / 3
VALIDATION_SHARE = 1 / 5  # of what is not test; it chooses thresholds and nothing else
# chosen: of three numbers, small trees learn all that there is
TREES = {"max_iter": 80, "max_leaf_nodes": 8, "min_samples_leaf": 20}
# chosen: every epoch shows another frame of each clip, after so many a net learns no more
PICTURE_EPOCHS = 20
PICTURE_RATE = 2e-3
PICTURE_BATCH = 32
# A picture keeps its grey levels: noise and gamma would hide what is to be found in it.
PICTURE_AUGMENT = AugmentSettings(rotate=0.75, flip=0.75)
# The middle of a clip, where its segment is: more frames cost time and tell nothing new.
WINDOW_FRAMES = 40
DRAWS = 1000

# What a classifier sees of a clip, uint8 (T, S, S, C), given a generator and the clip's row.
See = Callable[[Tensor, np.random.Generator, int], Tensor]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Corpus:
    """Simulated clips, split.

    Attributes
    ----------
    store : Store
        The clips.
    truth : DataFrame
        A row for each clip.
    fit, validation, test : ndarray
        int: places in `truth`.
    """

    store: Store
    truth: pd.DataFrame
    fit: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]

    @property
    def labels(self) -> NDArray[np.int64]:
        """0 flowing, 1 stalled, for each row of `truth`."""
        return self.truth["stalled"].to_numpy(dtype=np.int64)


@dataclass(frozen=True)
class Result:
    """What one classifier makes of the clips held out.

    Attributes
    ----------
    sees : str
        What it is given.
    asked : str
        What its MCC is to be.
    scores : ndarray
        float64 (test,), 0..1.
    calls : ndarray
        bool (test,).
    """

    sees: str
    asked: str
    scores: Floats
    calls: NDArray[np.bool_]


def main(
    out: Path,
    *,
    count: int = 2400,
    seed: int = 0,
    epochs: int = 8,
    quick: bool = False,
    page: Path | None = None,
    processes: int | None = None,
) -> None:
    """Simulate a balanced corpus, train every classifier, and write the table.

    Parameters
    ----------
    out
        Folder for the simulated clips; a run that was stopped uses those that are there.
    count
        Clips to simulate; a third of them is held out.
    seed
        Seed of simulation, split and training.
    epochs
        Epochs of the nets that see all frames.
    quick
        Try the script: 200 clips, one epoch; the table goes into the folder.
    page
        The table, a Markdown file; benchmarks/shortcuts.md if not given.
    processes
        Processes that simulate; one a core if not given.
    """
    if quick:
        count, epochs = 200, 1
    settings = SimulateSettings(count=count, stalled=0.5, seed=seed)
    shipped = recipe.read_recipe("default")
    corpus = make_corpus(out, settings, shipped, processes)
    results = list(_classify(corpus, settings, shipped, epochs, quick, processes))
    lead = (
        f"{len(corpus.truth):,} simulated clips, half of them stalled (seed {seed}; {version()}): "
        f"{len(corpus.fit):,} trained on, {len(corpus.validation):,} for the threshold, "
        f"{len(corpus.test):,} held out, on which all figures are. Intervals are 95 %, from "
        f"{DRAWS:,} bootstrap draws; *less* is by how much the MCC is below that of the frames in "
        f"order, on the same draws. All frames are at most the {WINDOW_FRAMES} in the middle; both "
        "nets that see them have the architecture of the shipped model and the settings of the "
        f"first stage of its recipe, but {epochs} epochs, and no choice among them. On the project "
        f"the label depends by design, as it does in the real tables. Measured on {machine()}."
    )
    page = page or (out if quick else HERE) / "shortcuts.md"
    labels = corpus.labels[corpus.test] == 1
    publish(page, "What the label can be read from", lead, [_table(results, labels, seed)])


def make_corpus(
    out: Path, settings: SimulateSettings, shipped: Recipe, processes: int | None
) -> Corpus:
    """Simulate the clips that are not there yet, and split them by label."""
    simulate_clips(
        out, settings, shipped.outline, shipped.clip, processes, show_progress("simulated")
    )
    store = Store(out / "store")
    truth = pd.read_csv(out / "truth.csv")
    truth["row"] = np.arange(len(truth))
    truth = truth[[name in store for name in truth["filename"]]].reset_index(drop=True)
    split = partial(train_test_split, random_state=settings.seed)
    stalled = truth["stalled"].to_numpy()
    rest, test = split(np.arange(len(truth)), test_size=TEST_SHARE, stratify=stalled)
    fit, validation = split(rest, test_size=VALIDATION_SHARE, stratify=stalled[rest])
    return Corpus(store, truth, fit, validation, test)


def _classify(
    corpus: Corpus,
    settings: SimulateSettings,
    shipped: Recipe,
    epochs: int,
    quick: bool,
    processes: int | None,
) -> Iterator[Result]:
    """Train one classifier after the other."""
    letters = np.unique(corpus.truth["project"], return_inverse=True)[1]
    project = letters.astype(np.float64)[:, None]
    yield _grow_trees("project alone", "", corpus, project, settings.seed, categorical=True)
    sizes = _crop_sizes(corpus, settings, shipped.clip.margin, processes)
    yield _grow_trees(
        "crop width and height, number of frames", "under 0.2", corpus, sizes, settings.seed
    )
    focus = corpus.truth[["first_in_focus", "last_in_focus"]].to_numpy(np.int64)
    pictures: list[tuple[str, str, See]] = [
        ("one frame, any", "under 0.35", see_one_frame),
        ("one frame, in focus", "", partial(see_frame_in_focus, focus=focus)),
        ("mean over all frames", "clearly less", see_mean),
    ]
    for sees, asked, see in pictures:
        training = _Training(1 if quick else PICTURE_EPOCHS, PICTURE_BATCH, PICTURE_RATE)
        yield _train_net(sees, asked, corpus, shipped, see, training, PICTURE_AUGMENT)
    all_frames: list[tuple[str, str, See]] = [
        ("all frames, shuffled", "clearly less", see_shuffled),
        ("all frames, in order", "", see_all),
    ]
    for sees, asked, see in all_frames:
        training = _Training(
            epochs, shipped.training.batch_size, shipped.training.stages[0].learning_rate
        )
        yield _train_net(sees, asked, corpus, shipped, see, training, shipped.augment)


def see_one_frame(pixels: Tensor, rng: np.random.Generator, _row: int) -> Tensor:
    """Give one frame at random."""
    at = int(rng.integers(len(pixels)))
    return pixels[at : at + 1]


def see_frame_in_focus(
    pixels: Tensor, rng: np.random.Generator, row: int, focus: NDArray[np.int64]
) -> Tensor:
    """Give one frame at random between the first and the last in focus, int (rows, 2)."""
    at = int(rng.integers(focus[row, 0], focus[row, 1] + 1))
    return pixels[at : at + 1]


def see_mean(pixels: Tensor, _rng: np.random.Generator, _row: int) -> Tensor:
    """Give the mean over time."""
    return pixels.float().mean(dim=0, keepdim=True).round().to(torch.uint8)


def see_shuffled(pixels: Tensor, rng: np.random.Generator, row: int) -> Tensor:
    """Give what `see_all` gives in an order of chance, a new one in each epoch."""
    pixels = see_all(pixels, rng, row)
    return pixels[torch.from_numpy(rng.permutation(len(pixels)))]


def see_all(pixels: Tensor, _rng: np.random.Generator, _row: int) -> Tensor:
    """Give the frames in the middle, `WINDOW_FRAMES` at most."""
    start = max(len(pixels) - WINDOW_FRAMES, 0) // 2
    return pixels[start : start + WINDOW_FRAMES]


class SeenClips(ClipDataset):
    """Clips of which only a part is seen.

    Parameters
    ----------
    see : callable
        What is seen of a clip.
    rows : ndarray
        int: places in the corpus' truth.
    corpus : Corpus
        The clips.
    augmentation : AugmentSettings or None
        None for clips that are scored.
    seed : int
        For the augmentation and what is drawn in `see`.
    """

    def __init__(
        self,
        see: See,
        rows: NDArray[np.int64],
        corpus: Corpus,
        augmentation: AugmentSettings | None,
        seed: int,
    ) -> None:
        names = corpus.truth["filename"].iloc[rows].tolist()
        super().__init__(corpus.store, names, corpus.labels[rows].tolist(), augmentation, seed)
        self.see = see
        self.rows = rows

    def load(self, epoch: int, row: int) -> Tensor:
        """Read what is seen of a clip; what is drawn depends on nothing but the arguments."""
        # The clip's own number keeps the draws of the parts apart.
        place = int(self.rows[row])
        rng = np.random.default_rng([self.seed, epoch, place])
        return self.see(super().load(epoch, row), rng, place)


class PictureNet(nn.Module):
    """A small 2-D net for clips of one frame, pooled inside the mask and over the whole picture.

    Takes float32 (N, 2, 1, S, S), grey and mask; gives float32 (N,).
    """

    WIDTHS = (16, 32, 64, 96)

    def __init__(self) -> None:
        super().__init__()
        before, layers = 2, list[nn.Module]()
        for width in self.WIDTHS:
            layers += [
                nn.Conv2d(before, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
                # The last pictures are 8 x 8 at 64 px: capillaries are still seen.
                nn.MaxPool2d(2) if width < self.WIDTHS[-1] else nn.Identity(),
            ]
            before = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(3 * before, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        """Give the logits."""
        grey, mask = pictures[:, :1, 0], pictures[:, 1:, 0]
        # Each picture by itself: how bright it is says nothing.
        inside = mask / mask.sum(dim=(-2, -1), keepdim=True).clamp(min=1e-6)
        mean = (grey * inside).sum(dim=(-2, -1), keepdim=True)
        variance = ((grey - mean) ** 2 * inside).sum(dim=(-2, -1), keepdim=True)
        grey = (grey - mean) * torch.rsqrt(variance + 1e-4)
        features = self.layers(torch.cat([grey, mask], dim=1))
        weight = F.adaptive_avg_pool2d(inside, features.shape[-2:])
        weight = weight / weight.sum(dim=(-2, -1), keepdim=True).clamp(min=1e-6)
        pooled = [
            (features * weight).sum(dim=(-2, -1)),
            features.mean(dim=(-2, -1)),
            features.amax(dim=(-2, -1)),
        ]
        logits: Tensor = self.head(torch.cat(pooled, dim=1)).squeeze(1)
        return logits


@dataclass(frozen=True)
class _Training:
    epochs: int
    batch_size: int
    learning_rate: float


def _train_net(
    sees: str,
    asked: str,
    corpus: Corpus,
    shipped: Recipe,
    see: See,
    training: _Training,
    augmentation: AugmentSettings,
) -> Result:
    torch.manual_seed(shipped.seed)
    is_picture = augmentation is PICTURE_AUGMENT
    net = PictureNet() if is_picture else build.build(shipped.net)
    frames = [
        1 if is_picture else min(corpus.store.frames(name), WINDOW_FRAMES)
        for name in corpus.truth["filename"].iloc[corpus.fit]
    ]
    loader: Any = DataLoader(
        SeenClips(see, corpus.fit, corpus, augmentation, shipped.seed),
        batch_sampler=(sampler := LengthSampler(frames, training.batch_size, shipped.seed)),
        collate_fn=Collate(shipped.net),
    )
    optimiser = torch.optim.AdamW(
        net.parameters(), lr=training.learning_rate, weight_decay=shipped.training.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=training.learning_rate,
        total_steps=training.epochs * len(sampler),
        pct_start=shipped.training.warm_up,
    )
    update = show_progress(f"{sees}: epoch")
    for epoch in range(training.epochs):
        sampler.set_epoch(epoch)
        for batch in loader:
            _step(net, batch, optimiser)
            schedule.step()
        update(epoch + 1, training.epochs)
    score = partial(_score, net.eval(), see, corpus, shipped)
    return _decide(sees, asked, corpus, score(corpus.validation), score(corpus.test))


def _step(net: nn.Module, batch: Batch, optimiser: torch.optim.Optimizer) -> None:
    loss = F.binary_cross_entropy_with_logits(net(batch.inputs), batch.labels)
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


@torch.inference_mode()
def _score(
    net: nn.Module, see: See, corpus: Corpus, shipped: Recipe, rows: NDArray[np.int64]
) -> Floats:
    # One clip at a time: none is trimmed to the length of another.
    loader: Any = DataLoader(
        SeenClips(see, rows, corpus, None, shipped.seed), collate_fn=Collate(shipped.net)
    )
    return np.array([float(torch.sigmoid(net(batch.inputs))[0]) for batch in loader])


def _grow_trees(
    sees: str, asked: str, corpus: Corpus, table: Floats, seed: int, categorical: bool = False
) -> Result:
    trees = HistGradientBoostingClassifier(
        **TREES, categorical_features=[0] if categorical else None, random_state=seed
    )
    trees.fit(table[corpus.fit], corpus.labels[corpus.fit])
    validation, test = (
        trees.predict_proba(table[rows])[:, 1] for rows in (corpus.validation, corpus.test)
    )
    return _decide(sees, asked, corpus, validation, test)


def _decide(sees: str, asked: str, corpus: Corpus, validation: Floats, test: Floats) -> Result:
    """Call at the threshold that is best on the validation part."""
    threshold = thresholds.best_mcc_threshold(validation, corpus.labels[corpus.validation])
    say(f"{sees}: done")
    return Result(sees, asked, test, test >= threshold)


def _crop_sizes(
    corpus: Corpus, settings: SimulateSettings, margin: int, processes: int | None
) -> Floats:
    """Width and height of each crop in px, and its frames; a clip itself does not tell them."""
    items = list(zip(corpus.truth["row"], corpus.truth["stalled"] == 1, strict=True))
    update = show_progress("crops measured")
    sizes = []
    for size in workers.in_order(partial(_crop_size, settings, margin), items, processes):
        sizes.append(size)
        update(len(sizes), len(items))
    return np.column_stack([sizes, corpus.truth["frames"]]).astype(np.float64)


def _crop_size(settings: SimulateSettings, margin: int, item: tuple[int, bool]) -> tuple[int, int]:
    row, stalled = item
    line = make_plan(settings.seed, int(row), bool(stalled), settings).scene.outline.line
    rows, columns = (np.flatnonzero(line.any(axis=axis)) for axis in (1, 0))
    drawn = Box(int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)
    box = clip.crop_box(drawn, margin, line.shape)
    return box.col1 - box.col0, box.row1 - box.row0


def _table(results: list[Result], labels: NDArray[np.bool_], seed: int) -> str:
    """Write MCC and ROC AUC of each, the last being what the others are compared with."""
    rng = np.random.default_rng(seed)
    draws = np.concatenate(
        [
            rng.choice(np.flatnonzero(labels == label), (DRAWS, np.count_nonzero(labels == label)))
            for label in (False, True)
        ],
        axis=1,
    )
    drawn = [_mcc(labels[draws], result.calls[draws]) for result in results]
    rows = []
    for result, mcc in zip(results, drawn, strict=True):
        auc = [roc_auc_score(labels[draw], result.scores[draw]) for draw in draws]
        less = "-" if result is results[-1] else _show_interval(drawn[-1] - mcc)
        rows.append(
            [
                result.sees,
                f"{float(_mcc(labels, result.calls)):.3f}",
                _show_interval(mcc),
                result.asked or "-",
                less,
                f"{float(roc_auc_score(labels, result.scores)):.3f}",
                _show_interval(np.array(auc)),
            ]
        )
    return markdown(["sees", "MCC", "95 %", "asked", "less, 95 %", "ROC AUC", "95 %"], rows)


def _mcc(labels: NDArray[np.bool_], calls: NDArray[np.bool_]) -> Floats:
    counts = [
        (labels == stalled) & (calls == called)
        for stalled, called in ((True, True), (False, True), (False, False), (True, False))
    ]
    return metrics.mcc_of_counts(*(count.sum(axis=-1) for count in counts))


def _show_interval(draws: Floats) -> str:
    low, high = np.percentile(draws, bootstrap.INTERVAL)
    return f"{low:.3f} to {high:.3f}"


if __name__ == "__main__":
    cyclopts.run(main)
