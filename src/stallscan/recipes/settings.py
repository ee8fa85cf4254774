"""The sections of a recipe."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from stallscan.settings import Settings

Chance = Annotated[float, Field(ge=0, le=1)]


class DataSettings(Settings):
    """Which recordings to train on, and how many to hold out.

    Attributes
    ----------
    rule : str
        Selection rule, by its name in `select.RULES`.
    limit : int
        Use at most this many of the selected recordings, drawn with the same share of stalled ones;
        0 uses all.
    validation : float
        Share held out, stratified by label. It chooses the epoch, the calibration and the
        threshold, so metrics on it are optimistic.
    group : str
        Column (``project_id``; ``mouse`` where labels have it) whose recordings stay on one side
        of a split. Empty splits by recording, which makes metrics optimistic.
    folds : int
        Train this many times, each recording being held out once, and ignore `validation`; 0 trains
        once.
    seed : int or None
        Seed of the selection, limit and split; None uses the recipe's seed. Nets of one approach
        share it and differ only in the seed of their training.
    """

    rule: str = "all"
    limit: int = Field(default=0, ge=0)
    validation: float = Field(default=0.1, gt=0, lt=1)
    group: str = ""
    folds: int = Field(default=0, ge=0, le=50)
    seed: int | None = Field(default=None, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _check_folds(self) -> "DataSettings":
        if self.folds == 1:
            raise ValueError("one fold holds nothing out. Use 0, or at least 2")
        return self


class PretrainedSettings(Settings):
    """The weights that training starts from.

    Attributes
    ----------
    source : str
        ``none``: random; ``kinetics``, ``imagenet``: torchvision's weights of that name, downloaded
        by torchvision (those of a 2-D net are inflated over time); ``file``: a state dict with
        torchvision's names (.safetensors, .pt or .pth); ``bundle``: a bundle with the same net.
    file : Path or None
        For ``source: file`` the file, for ``source: bundle`` the bundle's folder or name.
    """

    source: Literal["none", "kinetics", "imagenet", "file", "bundle"] = "none"
    file: Path | None = Field(default=None)


class AugmentSettings(Settings):
    """Random changes of a clip in training, drawn once for all of its frames.

    Each chance is the probability that the change is made; its strength is then drawn uniformly up
    to the setting beside it. The defaults are published (docs/facts.md 2), everything else is off.

    Attributes
    ----------
    rotate : float
        Chance of a rotation by 90, 180 or 270 degrees.
    flip : float
        Chance of a vertical or horizontal flip, or both.
    reverse : float
        Chance of reversed time: the label stays the same.
    tilt, tilt_degrees : float
        Chance of a rotation by a small angle, and the largest angle in either direction.
    rescale, rescale_share : float
        Chance of rescaling the image, and the largest share by which it shrinks or grows.
    shift, shift_share : float
        Chance of shifting the image, and the largest share of its size, in rows and columns.
    crop, crop_share : float
        Chance of cropping the borders and enlarging the rest, and the largest share of rows and
        columns cropped.
    elastic, elastic_px : float
        Chance of a smooth random warp, and its largest standard deviation in pixels.
    drop, drop_share : float
        Chance of dropping frames, and the largest share dropped (first place: dropped planes).
    jitter, jitter_px : float
        Chance of shifting each frame by itself, as with imperfect registration, and the largest
        shift in pixels.
    brightness : float
        Grey levels are multiplied or divided by up to 1 + brightness.
    gamma : float
        Grey levels are raised to a power between 1 / (1 + gamma) and 1 + gamma.
    blur : float
        Largest standard deviation of a Gaussian blur, px.
    noise : float
        Largest standard deviation of added Gaussian noise, as a share of the full range.
    levels : float
        Chance that brightness, gamma, blur and noise are applied at all.
    """

    rotate: Chance = 0.25
    flip: Chance = 0.25
    reverse: Chance = 0.0
    tilt: Chance = 0.0
    tilt_degrees: float = Field(default=10.0, ge=0, le=180)
    rescale: Chance = 0.0
    rescale_share: float = Field(default=0.2, ge=0, lt=1)
    shift: Chance = 0.0
    shift_share: float = Field(default=0.06, ge=0, lt=1)
    crop: Chance = 0.0
    crop_share: float = Field(default=0.1, ge=0, lt=1)
    elastic: Chance = 0.0
    elastic_px: float = Field(default=2.0, ge=0)
    drop: Chance = 0.0
    drop_share: float = Field(default=0.1, ge=0, lt=1)
    jitter: Chance = 0.0
    jitter_px: float = Field(default=1.0, ge=0)
    brightness: float = Field(default=0.0, ge=0, le=2)
    gamma: float = Field(default=0.0, ge=0, le=2)
    blur: float = Field(default=0.0, ge=0, le=10)
    noise: float = Field(default=0.0, ge=0, le=0.5)
    levels: Chance = 1.0


class StageSettings(Settings):
    """One stage of training; it starts from the best weights of the previous stage.

    Attributes
    ----------
    epochs : int
        Maximum number of passes over the training recordings.
    learning_rate : float
        Peak of the schedule.
    rule : str
        Selection rule for the training recordings of this stage; empty uses that of `data`. The
        validation recordings are the same in all stages.
    """

    epochs: int = Field(default=30, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    rule: str = ""


class TrainingSettings(Settings):
    """The optimisation. The defaults are those of the third place (docs/facts.md 2).

    Attributes
    ----------
    stages : tuple of StageSettings
        Run one after the other.
    schedule : str
        ``one-cycle``: a rise over `warm_up` of all steps, then a cosine down to 4e-6 of the peak,
        with beta1 moving the opposite way; ``cosine``: from the peak to 0; ``plateau``: times 0.95
        after 3 epochs without improvement of `monitor` (docs/facts.md 3, first place).
    warm_up : float
        Share of all steps in which the learning rate rises (``one-cycle``).
    weight_decay : float
        Decoupled, as in AdamW; 0 makes it Adam.
    batch_size : int
        Clips per step.
    lengths : str
        How clips of different length share a batch: ``trim`` cuts the longer ones equally at both
        ends; ``pad`` appends frames of zeros to the shorter ones, which the net sees like any
        other frames (docs/facts.md 3, second place). Either way a batch is drawn from clips of
        similar length.
    accumulate : int
        Number of batches whose gradients are summed before a step.
    stalled_share : float
        Share of stalled clips drawn in each epoch; 0 uses every clip once.
    class_weight : str
        Weight of a stalled clip in the loss. ``ratio``: n_flowing / n_stalled; ``none``: 1.
    targets : str
        ``label``, or ``crowd``: the crowd's scores (docs/facts.md 2: no improvement).
    precision : str
        As named by Lightning; ``64-true`` is for checks.
    ema : float
        Decay of the exponential moving average of the weights, which is then validated and kept;
        0 turns it off.
    monitor : str
        Validation metric that chooses the checkpoint of the last stage for the bundle.
    patience : int
        A stage ends after this many epochs without improvement of `monitor`; 0 turns it off.
    snapshots : int
        Number of last epochs whose weights are also kept as bundles. Cannot be combined with `ema`
        or `patience`.
    workers : int
        Processes that read and augment clips; 0 uses the main process.
    """

    stages: tuple[StageSettings, ...] = Field(default=(StageSettings(),), min_length=1)
    schedule: Literal["one-cycle", "cosine", "plateau"] = "one-cycle"
    warm_up: float = Field(default=0.0001, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    batch_size: int = Field(default=1, ge=1)
    lengths: Literal["trim", "pad"] = "trim"
    accumulate: int = Field(default=1, ge=1)
    stalled_share: float = Field(default=0.0, ge=0, lt=1)
    class_weight: Literal["ratio", "none"] = "ratio"
    targets: Literal["label", "crowd"] = "label"
    precision: Literal["32-true", "bf16-mixed", "64-true"] = "32-true"
    ema: float = Field(default=0.0, ge=0, lt=1)
    monitor: Literal["val_mcc", "val_loss", "val_roc_auc", "val_pr_auc"] = "val_mcc"
    patience: int = Field(default=0, ge=0)
    snapshots: int = Field(default=0, ge=0)
    workers: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check_snapshots(self) -> "TrainingSettings":
        if self.snapshots and (self.ema or self.patience):
            raise ValueError("snapshots cannot be combined with ema or patience")
        return self
