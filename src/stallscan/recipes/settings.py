"""The sections of a recipe."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from stallscan.settings import Settings

Chance = Annotated[float, Field(ge=0, le=1)]


class DataSettings(Settings):
    """Which recordings to train on, and how many to hold out."""

    # Selection rule, by its name in `select.RULES`.
    rule: str = "all"
    # Use at most this many of the selected recordings, drawn with the same share of stalled ones; 0
    # uses all.
    limit: int = Field(default=0, ge=0)
    # Share held out, stratified by label. It chooses the epoch, the calibration and the threshold,
    # so metrics on it are optimistic.
    validation: float = Field(default=0.1, gt=0, lt=1)
    # Column (project_id; mouse where labels have it) whose recordings stay on one side of a split.
    # Empty splits by recording, which makes metrics optimistic.
    group: str = ""
    # Train this many times, each recording being held out once, and ignore `validation`; 0 trains
    # once.
    folds: int = Field(default=0, ge=0, le=50)
    # Of the selection, limit and split; None uses the recipe's seed. Nets of one approach share it
    # and differ only in the seed of their training.
    seed: int | None = Field(default=None, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _check_folds(self) -> "DataSettings":
        if self.folds == 1:
            raise ValueError("one fold holds nothing out. Use 0, or at least 2")
        return self


class PretrainedSettings(Settings):
    """The weights that training starts from."""

    # none: random. kinetics, imagenet: torchvision's weights of that name, downloaded by
    # torchvision (those of a 2-D net are inflated over time). file: a state dict with torchvision's
    # names (.safetensors, .pt or .pth). bundle: a bundle with the same net.
    source: Literal["none", "kinetics", "imagenet", "file", "bundle"] = "none"
    # With source: file the file, with source: bundle the bundle's folder or name.
    file: Path | None = Field(default=None)


class AugmentSettings(Settings):
    """Random changes of a clip in training, drawn once for all of its frames.

    Each `Chance` is the probability that the change is made; its strength is then drawn uniformly
    up to the setting below it. The defaults are published (docs/facts.md 2), everything else is
    off.
    """

    # Rotation by 90, 180 or 270 degrees.
    rotate: Chance = 0.25
    # Vertical or horizontal flip, or both.
    flip: Chance = 0.25
    # Reversed time: the label stays the same.
    reverse: Chance = 0.0
    # Rotation by a small angle, at most this large in either direction.
    tilt: Chance = 0.0
    tilt_degrees: float = Field(default=10.0, ge=0, le=180)
    # Rescaling of the image, which shrinks or grows by at most this share.
    rescale: Chance = 0.0
    rescale_share: float = Field(default=0.2, ge=0, lt=1)
    # Shift of the image by at most this share of its size, in rows and columns.
    shift: Chance = 0.0
    shift_share: float = Field(default=0.06, ge=0, lt=1)
    # Cropping at most this share of rows and columns at the borders and enlarging the rest.
    crop: Chance = 0.0
    crop_share: float = Field(default=0.1, ge=0, lt=1)
    # Smooth random warp with at most this standard deviation, px.
    elastic: Chance = 0.0
    elastic_px: float = Field(default=2.0, ge=0)
    # Dropping at most this share of the frames (first place: dropped planes).
    drop: Chance = 0.0
    drop_share: float = Field(default=0.1, ge=0, lt=1)
    # Shifting each frame by itself by at most this, px, as with imperfect registration.
    jitter: Chance = 0.0
    jitter_px: float = Field(default=1.0, ge=0)
    # Grey levels are multiplied or divided by up to 1 + brightness.
    brightness: float = Field(default=0.0, ge=0, le=2)
    # Grey levels are raised to a power between 1 / (1 + gamma) and 1 + gamma.
    gamma: float = Field(default=0.0, ge=0, le=2)
    # Largest standard deviation of a Gaussian blur, px.
    blur: float = Field(default=0.0, ge=0, le=10)
    # Largest standard deviation of added Gaussian noise, as a share of the full range.
    noise: float = Field(default=0.0, ge=0, le=0.5)
    # Chance that brightness, gamma, blur and noise are applied at all.
    levels: Chance = 1.0


class StageSettings(Settings):
    """One stage of training; it starts from the best weights of the previous stage."""

    # Maximum number of passes over the training recordings.
    epochs: int = Field(default=30, ge=1)
    # Peak of the schedule.
    learning_rate: float = Field(default=1e-4, gt=0)
    # Selection rule of the training recordings of this stage; empty uses that of `data`. The
    # validation recordings are the same in all stages.
    rule: str = ""


class TrainingSettings(Settings):
    """The optimisation. The defaults are those of the third place (docs/facts.md 2)."""

    # Run one after the other.
    stages: tuple[StageSettings, ...] = Field(default=(StageSettings(),), min_length=1)
    # one-cycle: a rise over `warm_up` of all steps, then a cosine down to 4e-6 of the peak, with
    # beta1 moving the opposite way. cosine: from the peak to 0. plateau: times 0.95 after 3 epochs
    # without improvement of `monitor` (docs/facts.md 3, first place).
    schedule: Literal["one-cycle", "cosine", "plateau"] = "one-cycle"
    # Share of all steps in which the learning rate rises (one-cycle).
    warm_up: float = Field(default=0.0001, ge=0, lt=1)
    # Decoupled, as in AdamW; 0 makes it Adam.
    weight_decay: float = Field(default=0.0, ge=0)
    # Clips per step.
    batch_size: int = Field(default=1, ge=1)
    # How clips of different length share a batch. trim: the longer ones are cut equally at both
    # ends. pad: frames of zeros are appended to the shorter ones, and the net sees them like any
    # other frames (docs/facts.md 3, second place). Either way a batch is drawn from clips of
    # similar length.
    lengths: Literal["trim", "pad"] = "trim"
    # Number of batches whose gradients are summed before a step.
    accumulate: int = Field(default=1, ge=1)
    # Share of stalled clips drawn in each epoch; 0 uses every clip once.
    stalled_share: float = Field(default=0.0, ge=0, lt=1)
    # Weight of a stalled clip in the loss. ratio: n_flowing / n_stalled; none: 1.
    class_weight: Literal["ratio", "none"] = "ratio"
    # crowd: the crowd's scores (docs/facts.md 2: no improvement).
    targets: Literal["label", "crowd"] = "label"
    # As named by Lightning; 64-true is for checks.
    precision: Literal["32-true", "bf16-mixed", "64-true"] = "32-true"
    # Decay of the exponential moving average of the weights, which is then validated and kept; 0
    # turns it off.
    ema: float = Field(default=0.0, ge=0, lt=1)
    # Validation metric that chooses the checkpoint of the last stage for the bundle.
    monitor: Literal["val_mcc", "val_loss", "val_roc_auc", "val_pr_auc"] = "val_mcc"
    # A stage ends after this many epochs without improvement of `monitor`; 0 turns it off.
    patience: int = Field(default=0, ge=0)
    # Number of last epochs whose weights are also kept as bundles. Not with `ema` or `patience`.
    snapshots: int = Field(default=0, ge=0)
    # Processes that read and augment clips; 0 uses the main process.
    workers: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check_snapshots(self) -> "TrainingSettings":
        if self.snapshots and (self.ema or self.patience):
            raise ValueError("snapshots cannot be combined with ema or patience")
        return self
