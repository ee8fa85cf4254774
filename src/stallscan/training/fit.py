"""Fit one net to clips: a stage of training with Lightning, or the baseline in one step."""

import importlib.util
import logging
import signal
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytorch_lightning as lightning
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback, EarlyStopping, EMAWeightAveraging
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn import functional as F

from stallscan import files
from stallscan.clips.store import Store
from stallscan.cores import has_bf16_instructions
from stallscan.errors import InputError
from stallscan.nets import build
from stallscan.recipes.recipe import Recipe
from stallscan.recipes.settings import Precision, StageSettings
from stallscan.scores import metrics
from stallscan.training import ranks
from stallscan.training.checkpoints import (
    BAR,
    BEST_NAME,
    DONE_NAME,
    LAST_NAME,
    Bar,
    Checkpoints,
    HistoryWriter,
    Interruption,
    ModelCheckpoint,
    Pace,
    Place,
    Snapshots,
    read_checkpoint,
)
from stallscan.training.data import TrainValidation
from stallscan.training.dataset import Batch, LengthSampler
from stallscan.training.loaders import scoring_loader, training_loader, training_sampler

# docs/facts.md 3, first place: multiply the learning rate by 0.95 after 3 epochs without gain.
PLATEAU_FACTOR, PLATEAU_EPOCHS = 0.95, 3

log = logging.getLogger("stallscan")


class _Module(lightning.LightningModule):
    """One net in one stage, with its loss, optimiser and validation metrics."""

    def __init__(
        self,
        net: nn.Module,
        recipe: Recipe,
        stage: StageSettings,
        parts: TrainValidation,
        sampler: LengthSampler,
    ) -> None:
        super().__init__()
        self.net = net
        self.recipe = recipe
        self.stage = stage
        self.class_weight = parts.class_weight if recipe.training.class_weight == "ratio" else 1.0
        self.filenames = parts.train["filename"].tolist()
        self.sampler = sampler
        self.logits: list[tuple[int, float, float]] = []  # (row, logit, label) of validation

    def on_train_start(self) -> None:
        # On a CPU, the per-video statistics need channels first and cost more than convolutions
        # gain by channels last: a step takes 10 to 26 % longer (all nets in 3-D, torch 2.15).
        if self.device.type == "cuda":
            build.lay_out(self.net)

    # Lightning passes the epoch to samplers but not to batch samplers. These two hooks run before
    # the first batch is drawn: the first in a resumed run, the second in every later epoch.
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.sampler.set_epoch(checkpoint["epoch"] + 1)

    def on_train_epoch_start(self) -> None:
        self.sampler.set_epoch(self.current_epoch)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout draws from torch's global generator. Seed it for each batch, so that a resumed
        # epoch draws the same numbers as an uninterrupted one.
        seed = [self.recipe.seed, self.sampler.epoch, batch_idx, self.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))

    def training_step(self, batch: Batch, index: int) -> Tensor:
        losses = self._losses(self._logits(batch), batch.labels)  # (N,)
        loss = (losses * batch.weights).sum()
        if not torch.isfinite(loss):
            names = [self.filenames[row] for row in batch.rows.tolist()]
            raise InputError(
                f"the loss became {loss.item()} in epoch {self.current_epoch + 1}, step "
                f"{index + 1}, at {', '.join(names)}. Lower learning_rate, or check these "
                "recordings"
            )
        self.log(
            "train_loss",
            loss,
            on_epoch=True,
            on_step=False,
            batch_size=batch.together,  # weight the mean by the clips of all processes
            sync_dist=True,
        )
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        # oneDNN (torch 2.15) does not write all of the weight gradient of a bf16 convolution over
        # two frames: the loss stays finite, but the step would ruin the net.
        gradients = [weights.grad for weights in self.parameters() if weights.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not torch.isfinite(norm):
            raise InputError(
                f"the gradient became {norm.item()} in epoch {self.current_epoch + 1}, although "
                "the loss is finite. Set training.precision to 32-true (bf16 on a CPU can fail on "
                "very few frames), or lower learning_rate"
            )

    def validation_step(self, batch: Batch, _index: int) -> None:
        logits = self._logits(batch).float().cpu()
        rows = zip(batch.rows.tolist(), logits.tolist(), batch.labels.tolist(), strict=True)
        self.logits.extend(rows)

    def on_validation_epoch_end(self) -> None:
        rows, self.logits = sorted(ranks.gather(self.logits)), []
        logits = torch.tensor([logit for _, logit, _ in rows])  # (recordings,)
        labels = torch.tensor([label for _, _, label in rows])
        for name, value in measure(logits, labels, float(self._losses(logits, labels).mean())):
            self.log(name, value, prog_bar=name in BAR)

    def _logits(self, batch: Batch) -> Tensor:
        return build.forward(self.net, batch.inputs)

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits = logits.to(labels.dtype)  # bf16 is too imprecise for the loss
        return F.binary_cross_entropy_with_logits(
            logits, labels, pos_weight=logits.new_tensor(self.class_weight), reduction="none"
        )

    def configure_optimizers(self) -> Any:
        settings = self.recipe.training
        peak = self.stage.learning_rate
        optimiser = torch.optim.AdamW(
            self.parameters(), lr=peak, weight_decay=settings.weight_decay
        )
        steps = int(self.trainer.estimated_stepping_batches)
        schedule: Any
        if settings.schedule == "one-cycle":
            # PyTorch's defaults are the published values: div_factor 25, final_div_factor 1e4, and
            # Adam's beta1 from 0.85 (at the peak) to 0.95.
            # A rise of exactly one step divides by zero in PyTorch. Without it, the first step is
            # as good as at the peak.
            rise = 0.0 if settings.warm_up * steps == 1 else settings.warm_up
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimiser, max_lr=peak, total_steps=steps, pct_start=rise
            )
        elif settings.schedule == "cosine":
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=steps)
        else:
            schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimiser,
                mode=_direction(settings.monitor),
                factor=PLATEAU_FACTOR,
                patience=PLATEAU_EPOCHS - 1,
            )
        return {
            "optimizer": optimiser,
            "lr_scheduler": {
                "scheduler": schedule,
                "interval": "epoch" if settings.schedule == "plateau" else "step",
                "monitor": settings.monitor,
            },
        }

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if self.recipe.training.schedule != "plateau":
            scheduler.step()

    def on_train_epoch_end(self) -> None:
        # Step here: Lightning would step after the checkpoint is written, and a resumed run would
        # lose the step.
        if self.recipe.training.schedule == "plateau":
            schedule: Any = self.lr_schedulers()
            schedule.step(self.trainer.callback_metrics[self.recipe.training.monitor])


def measure(logits: Tensor, labels: Tensor, loss: float) -> Iterable[tuple[str, float]]:
    """Yield the validation metrics by their names in `HISTORY_COLUMNS`.

    `logits` and `labels` are (recordings,).
    """
    scores = torch.sigmoid(logits)
    measured = metrics.measure(metrics.Scored.check(labels, scores, scores >= 0.5, (0.5,)))
    yield "val_loss", loss
    for name in ("mcc", "accuracy", "roc_auc", "pr_auc"):
        # The AUCs are undefined with one class. 0 ranks such a checkpoint last.
        yield f"val_{name}", float(getattr(measured, name) or 0.0)


def fit_stage(
    net: nn.Module,
    recipe: Recipe,
    stage: StageSettings,
    parts: TrainValidation,
    history: Path,
    folder: Path,
    first_epoch: int,
    place: Place | None = None,
) -> int:
    """Train a net through one stage, resuming if it was interrupted, and load its best weights.

    Parameters
    ----------
    net : Module
        Trained in place.
    recipe, stage
        The experiment and its stage.
    parts : TrainValidation
        The training and validation splits.
    history : Path
        ``history.csv``, written after each epoch.
    folder : Path
        Folder of the checkpoints. An existing ``last.ckpt`` in it is resumed from.
    first_epoch : int
        Number of epochs in the previous stages.
    place : Place, optional
        Which net, fold and stage this is, for messages; by default, only the net.

    Returns
    -------
    int
        The best epoch of this stage by the recipe's ``monitor``, counted from 0.

    Raises
    ------
    InputError
        If the loss or a gradient is not finite, or a checkpoint cannot be read or written.
    """
    sampler = training_sampler(recipe, parts, first_epoch)
    module = _Module(net, recipe, stage, parts, sampler)
    done = folder / DONE_NAME
    if done.is_file():
        return _take_best(module, folder)
    if ranks.world() > 1 and recipe.net.normalisation == "running":
        log.warning(
            "each of the %d processes computes the statistics of running normalisation from its "
            "own share of a batch of %d clips. Raise training.batch_size or use fewer processes",
            ranks.world(),
            recipe.training.batch_size,
        )
    last = folder / LAST_NAME
    place = place or Place(recipe.net.name)
    interruption = Interruption()
    callbacks = [interruption, *_callbacks(recipe, stage, history, folder, first_epoch, place)]
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # Lightning warns about worker counts and unlogged steps, which our users cannot act on.
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        # And where SLURM is installed, about not using it.
        warnings.filterwarnings("ignore", message="The `srun` command is available")
        trainer = lightning.Trainer(
            max_epochs=stage.epochs,
            precision=_precision(recipe),
            accumulate_grad_batches=recipe.training.accumulate,
            **ranks.trainer_settings(),
            logger=_logger(history.parent),
            callbacks=callbacks,
            plugins=[Checkpoints()],
            num_sanity_val_steps=0,
            enable_model_summary=False,
            enable_progress_bar=_shows_progress(),
            use_distributed_sampler=False,
            default_root_dir=folder,
        )
        try:
            trainer.fit(
                module,
                training_loader(recipe, stage, parts, sampler),
                scoring_loader(recipe, parts.store, parts.validation, ranks.rank(), ranks.world()),
                ckpt_path=str(last) if last.is_file() else None,
                weights_only=True,
            )
        except SystemExit:
            if interruption.happened:
                raise KeyboardInterrupt from None
            if not trainer.received_sigterm:
                raise
        if trainer.received_sigterm:
            # Lightning exits with code 0, as if all was done; in the last epoch it does not exit.
            sys.exit(128 + signal.SIGTERM)
    if ranks.rank() == 0:
        files.write_text(done, "")
        last.unlink(missing_ok=True)  # three times the size of the net, and no longer needed
    ranks.wait()
    return _take_best(module, folder)


def _precision(recipe: Recipe) -> Precision:
    """Return the recipe's precision, or float32 on a processor without instructions for bf16."""
    precision = recipe.training.precision
    if precision != "bf16-mixed" or torch.cuda.is_available() or has_bf16_instructions():
        return precision
    log.info("training in float32: this processor has no instructions for bf16")
    return "32-true"


def _take_best(module: _Module, folder: Path) -> int:
    best = read_checkpoint(folder / BEST_NAME)
    module.load_state_dict(best["state_dict"])
    return int(best["epoch"])


def _callbacks(
    recipe: Recipe,
    stage: StageSettings,
    history: Path,
    folder: Path,
    first_epoch: int,
    place: Place,
) -> list[Callback]:
    settings = recipe.training
    mode = _direction(settings.monitor)
    callbacks: list[Callback] = [
        HistoryWriter(history, first_epoch),
        Pace(settings.monitor, place),
    ]
    if _shows_progress():
        callbacks.append(Bar(place))
    if settings.ema:
        callbacks.append(EMAWeightAveraging(decay=settings.ema))
    if settings.patience:
        callbacks.append(EarlyStopping(settings.monitor, mode=mode, patience=settings.patience))
    if settings.snapshots and stage == settings.stages[-1]:
        callbacks.append(Snapshots(files.make_folder(folder), settings.snapshots))
    best = ModelCheckpoint(
        dirpath=folder,
        filename=Path(BEST_NAME).stem,
        monitor=settings.monitor,
        mode=mode,
        enable_version_counter=False,
    )
    # A second callback, because `save_last` saves only when the monitored metric improves.
    last = ModelCheckpoint(
        dirpath=folder, filename=Path(LAST_NAME).stem, enable_version_counter=False
    )
    return [*callbacks, best, last]


def _shows_progress() -> bool:
    """Return whether the caller wants progress messages; the command line does."""
    return log.isEnabledFor(logging.INFO)


def _direction(monitor: str) -> Literal["min", "max"]:
    return "min" if monitor == "val_loss" else "max"


def _logger(run: Path) -> Any:
    """Return a TensorBoard logger, or False if the extra `track` is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return False
    return TensorBoardLogger(run, name="tensorboard", version="")


@torch.inference_mode()
def score(net: nn.Module, recipe: Recipe, clips: Store, rows: pd.DataFrame) -> NDArray[np.float64]:
    """Compute the logits of recordings in float32, as prediction does: float64 (rows,).

    `rows` has the columns ``filename`` and ``stalled``. The net is moved to the CPU and to float32.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = net.eval().float().to(device)
    logits = [
        float(build.score(net, batch.inputs.to(device), recipe.net)[0])
        for batch in scoring_loader(recipe, clips, rows)
    ]
    net.cpu()
    return np.array(logits)
