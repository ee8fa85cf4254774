"""Write what a training saves while it runs: history, checkpoints, snapshots."""

import io
import logging
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import safetensors.torch
import torch
from pytorch_lightning import callbacks
from pytorch_lightning.callbacks import Callback, RichProgressBar
from pytorch_lightning.plugins.io import TorchCheckpointIO

from stallscan import files, words
from stallscan.errors import InputError
from stallscan.nets.weights import read_plain
from stallscan.runs import HISTORY_COLUMNS

# In a stage's folder: its best weights, the state to resume from, and a marker of completion.
BEST_NAME, LAST_NAME, DONE_NAME = "best.ckpt", "last.ckpt", "done"

# Figures of `HISTORY_COLUMNS` as they are called on the screen, and those beside the bar.
WORDS = {
    "train_loss": "loss",
    "val_loss": "loss",
    "val_mcc": "MCC",
    "val_roc_auc": "ROC AUC",
    "val_pr_auc": "PR AUC",
}
BAR = ("val_loss", "val_mcc")

log = logging.getLogger("stallscan")


class HistoryWriter(Callback):
    """Write ``history.csv`` after each epoch; a resumed run continues the same file."""

    def __init__(self, path: Path, first_epoch: int) -> None:
        self.path = path
        self.first_epoch = first_epoch

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the row of this epoch."""
        row = {name: float(trainer.callback_metrics[name]) for name in HISTORY_COLUMNS[1:-1]}
        row["epoch"] = self.first_epoch + trainer.current_epoch
        row["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        if trainer.is_global_zero:
            write_history(self.path, row)


def write_history(path: Path, row: dict[str, float]) -> None:
    """Add the row of an epoch, with the columns of `HISTORY_COLUMNS`, replacing later rows."""
    history = pd.DataFrame([row], columns=list(HISTORY_COLUMNS)).astype({"epoch": int})
    if path.is_file():
        before = pd.read_csv(path)
        # A resumed run repeats the epoch that was interrupted.
        history = pd.concat([before[before["epoch"] < row["epoch"]], history])
    files.write_text(path, history.to_csv(index=False))


class Place(NamedTuple):
    """Where a stage is in a training, for messages."""

    name: str  # net, fold and stage
    epochs_after: int = 0  # of later stages and folds


class Bar(RichProgressBar):
    """Lightning's progress bar on stderr, with the words of `Pace`: it would count from 0."""

    def __init__(self, place: Place) -> None:
        super().__init__(console_kwargs={"stderr": True})
        self.place = place

    def get_metrics(self, trainer: Any, pl_module: Any) -> dict[str, Any]:
        """Return the figures beside the bar, named in words."""
        figures = super().get_metrics(trainer, pl_module)
        return {f"validation {WORDS[name]}": figures[name] for name in BAR if name in figures}

    def _get_train_description(self, current_epoch: int) -> str:
        return f"{self.place.name}, epoch {current_epoch + 1} of {self.trainer.max_epochs}"


class Pace(Callback):
    """Log a line after each epoch, with the time that is left: progress bars need a terminal."""

    def __init__(self, monitor: str, place: Place) -> None:
        self.monitor = monitor
        self.place = place
        self.took: list[float] = []  # seconds of each epoch
        self.began = 0.0

    def on_train_epoch_start(self, _trainer: Any, _pl_module: Any) -> None:
        """Note the time."""
        self.began = time.monotonic()

    def on_train_epoch_end(self, trainer: Any, _pl_module: Any) -> None:
        """Log the line; the first epoch counts only until there is another, because it warms up."""
        self.took.append(time.monotonic() - self.began)
        done, of = trainer.current_epoch + 1, trainer.max_epochs
        if not trainer.is_global_zero:
            return
        loss, *validated = (
            f"{WORDS[name]} {float(trainer.callback_metrics[name]):.3f}"
            for name in dict.fromkeys(("train_loss", "val_loss", self.monitor))
        )
        said = f"{self.place.name}, epoch {done} of {of}: {loss}; on the validation recordings "
        said += ", ".join(validated)
        if left := of - done + self.place.epochs_after:
            seconds = statistics.mean(self.took[1:] or self.took) * left
            said += f"; about {words.say_time(seconds)} of training left"
        log.info("%s", said)


class Snapshots(Callback):
    """Save the weights at the end of each of the last `count` epochs of a stage."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.count = count

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Save the weights if this is one of the last epochs."""
        number = self.count - (trainer.max_epochs - trainer.current_epoch) + 1
        if number >= 1 and trainer.is_global_zero:
            weights = {
                name: tensor.detach().cpu().contiguous()
                for name, tensor in pl_module.net.state_dict().items()
            }
            path = self.folder / f"snapshot-{number}.safetensors"
            _write(path, safetensors.torch.save(weights))


class Interruption(Callback):
    """Record whether Ctrl-C stopped the training: Lightning turns it into SystemExit."""

    def __init__(self) -> None:
        self.happened = False

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Record the kind of exception."""
        self.happened = isinstance(exception, KeyboardInterrupt)


class ModelCheckpoint(callbacks.ModelCheckpoint):
    """Lightning's callback, which would forget the best score once the run folder was moved.

    It has the same name, because checkpoints name the callbacks whose state they contain.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state, with the paths of the folder as it is called now."""

        def here(path: str) -> str:
            return str(Path(self.dirpath or "") / Path(path).name) if path else ""

        scores = {here(path): score for path, score in state_dict["best_k_models"].items()}
        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved = {name: here(state_dict[name]) for name in paths}
        super().load_state_dict(
            state_dict | moved | {"best_k_models": scores, "dirpath": self.dirpath}
        )


class Checkpoints(TorchCheckpointIO):
    """Write checkpoints atomically, and the best one without the optimiser.

    Lightning writes through the system's temporary folder. If that is on another disk, the last
    checkpoint is overwritten in place and lost when the disk is full or the process is killed. And
    its `save_weights_only` bypasses callbacks, so with `ema` it saves the unaveraged weights.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint atomically."""
        if Path(path).name == BEST_NAME:  # Adam's state is twice the size of the net
            checkpoint = {name: checkpoint[name] for name in ("epoch", "state_dict")}
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        _write(Path(path), buffer.getvalue())

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """Read a checkpoint."""
        return read_checkpoint(Path(path))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing anything in it.

    Raises
    ------
    InputError
        If it is damaged, or contains anything but tensors and plain values.
    """
    try:
        checkpoint: dict[str, Any] = read_plain(path)
        if checkpoint["state_dict"] and checkpoint["epoch"] >= 0:
            return checkpoint
        reason = "it has no weights"
    except (ValueError, KeyError, TypeError) as error:
        reason = str(error)
    raise InputError(
        f"{path}: not readable as a checkpoint ({reason}). Remove the folder {path.parent} and run "
        "the same command again to train this stage again"
    )


def _write(path: Path, content: bytes) -> None:
    try:
        files.write_bytes(path, content)
    except InputError as error:
        raise InputError(f"{error}. The last good checkpoint is kept") from error
