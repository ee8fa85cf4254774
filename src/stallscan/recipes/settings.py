"""The sections of a recipe."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from stallscan.settings import Settings

Precision = Literal["32-true", "bf16-mixed", "64-true"]
Chance = Annotated[float, Field(ge=0, le=1)]


class DataSettings(Settings):
    """Which recordings to train on, and how many to hold out."""

    # Selection rule, a name in `select.RULES`.
    rule: str = "all"
    # Use at most this many of the selected recordings, drawn without changing the share of stalled
    # ones; 0 uses all.
    limit: int = Field(default=0, ge=0)
    # Share of recordings held out, stratified by label. The epoch, calibration and threshold are
    # chosen on them, so their metrics are optimistic.
    validation: float = Field(default=0.1, gt=0, lt=1)
    # Column that groups recordings: project_id, or mouse if the labels have it. All recordings of a
    # group stay on one side of a split. Empty splits by recording, which makes metrics optimistic.
    group: str = ""
    # Number of cross-validation folds. Each recording is held out once and `validation` is ignored.
    # 0 trains once.
    folds: int = Field(default=0, ge=0, le=50)
    # Seed of the selection, limit and split; None uses the recipe's seed. The nets of one approach
    # share this seed and differ only in the recipe's seed.
    seed: int | None = Field(default=None, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _check_folds(self) -> "DataSettings":
        if self.folds == 1:
            raise ValueError("one fold cannot hold anything out. Use 0, or at least 2")
        return self


class PretrainedSettings(Settings):
    """The weights that training starts from."""

    # none: random weights. kinetics, imagenet: the pretrained weights that torchvision downloads;
    # 2-D weights are inflated over time. file: a state dict with torchvision's names (.safetensors,
    # .pt or .pth). bundle: a bundle with the same net.
    source: Literal["none", "kinetics", "imagenet", "file", "bundle"] = "none"
    # The state dict of `source: file`; the folder or name of the bundle of `source: bundle`.
    file: Path | None = Field(default=None)
    # chosen: calibration and threshold are chosen on the validation split. kept: they are those of
    # the bundle of `source: bundle`, for validation splits too small to choose them.
    threshold: Literal["chosen", "kept"] = "chosen"

    @model_validator(mode="after")
    def _check_kept(self) -> "PretrainedSettings":
        if self.threshold == "kept" and self.source != "bundle":
            raise ValueError("threshold: kept needs a bundle to keep it from (source: bundle)")
        return self


class AugmentSettings(Settings):
    """Random changes of a clip in training, drawn once for all of its frames.

    Each `Chance` is the probability of the change. Its strength is drawn uniformly, up to the
    setting below the chance. The defaults are those of the third place (docs/facts.md 2); all other
    changes are off.
    """

    # Rotation by 90, 180 or 270 degrees.
    rotate: Chance = 0.25
    # Vertical or horizontal flip, or both.
    flip: Chance = 0.25
    # Reversal of time; the label stays the same.
    reverse: Chance = 0.0
    # Rotation by a small angle, at most this large in either direction.
    tilt: Chance = 0.0
    tilt_degrees: float = Field(default=10.0, ge=0, le=180)
    # Rescaling of the image by a factor between 1 - rescale_share and 1 + rescale_share.
    rescale: Chance = 0.0
    rescale_share: float = Field(default=0.2, ge=0, lt=1)
    # Shift of the image by at most this share of its size, in rows and columns.
    shift: Chance = 0.0
    shift_share: float = Field(default=0.06, ge=0, lt=1)
    # Cropping at most this share of rows and columns at the borders, then enlarging the rest.
    crop: Chance = 0.0
    crop_share: float = Field(default=0.1, ge=0, lt=1)
    # Smooth random warp with at most this standard deviation, px.
    elastic: Chance = 0.0
    elastic_px: float = Field(default=2.0, ge=0)
    # Dropping at most this share of the frames (docs/facts.md 3, first place).
    drop: Chance = 0.0
    drop_share: float = Field(default=0.1, ge=0, lt=1)
    # Shift of each frame on its own by at most this, px, as left by imperfect registration.
    jitter: Chance = 0.0
    jitter_px: float = Field(default=1.0, ge=0)
    # Grey levels are multiplied by a factor between 1 / (1 + brightness) and 1 + brightness.
    brightness: float = Field(default=0.0, ge=0, le=2)
    # Grey levels are raised to a power between 1 / (1 + gamma) and 1 + gamma.
    gamma: float = Field(default=0.0, ge=0, le=2)
    # Largest standard deviation of a Gaussian blur, px.
    blur: float = Field(default=0.0, ge=0, le=10)
    # Largest standard deviation of added Gaussian noise, as a share of the full range.
    noise: float = Field(default=0.0, ge=0, le=0.5)
    # Chance that brightness, gamma, blur and noise are applied at all.
    levels: Chance = 1.0
    # Chance of another appearance: position, optics, light, noise, display and surround, each drawn
    # from a wide range (`training.appearance`). Clips need the channels grey+mask.
    appearance: Chance = 0.0


class StageSettings(Settings):
    """One stage of training; it starts from the best weights of the previous stage."""

    # Maximum number of passes over the training recordings.
    epochs: int = Field(default=30, ge=1)
    # Peak learning rate of the schedule.
    learning_rate: float = Field(default=1e-4, gt=0)
    # Selection rule for the training recordings of this stage; empty uses that of `data`. The
    # validation recordings are the same in all stages.
    rule: str = ""
    # Chance of another appearance in this stage; None uses that of `augment`. Blood is learned
    # several times as fast in one appearance first (benchmarks/tried.md).
    appearance: Chance | None = None


class TrainingSettings(Settings):
    """The optimisation. The defaults are those of the third place (docs/facts.md 2)."""

    # Stages run one after the other.
    stages: tuple[StageSettings, ...] = Field(default=(StageSettings(),), min_length=1)
    # one-cycle: a rise over `warm_up` of all steps, then a cosine down to 4e-6 of the peak, with
    # beta1 moving the opposite way. cosine: from the peak to 0. plateau: times 0.95 after 3 epochs
    # without improvement of `monitor` (docs/facts.md 3, first place).
    schedule: Literal["one-cycle", "cosine", "plateau"] = "one-cycle"
    # Share of all steps during which the learning rate rises (one-cycle).
    warm_up: float = Field(default=0.0001, ge=0, lt=1)
    # Decoupled weight decay, as in AdamW; with 0 the optimiser is Adam.
    weight_decay: float = Field(default=0.0, ge=0)
    # Clips per step.
    batch_size: int = Field(default=1, ge=1)
    # How clips of different lengths share a batch. trim: longer clips are cut equally at both ends.
    # pad: frames of zeros are appended to shorter clips, and the net sees them like other frames
    # (docs/facts.md 3, second place). Either way, the clips of a batch are of similar length.
    lengths: Literal["trim", "pad"] = "trim"
    # Number of batches whose gradients are summed before a step.
    accumulate: int = Field(default=1, ge=1)
    # Share of stalled clips drawn in each epoch; 0 uses every clip once.
    stalled_share: float = Field(default=0.0, ge=0, lt=1)
    # Weight of a stalled clip in the loss. ratio: n_flowing / n_stalled; none: 1.
    class_weight: Literal["ratio", "none"] = "ratio"
    # label: 0 or 1. crowd: the crowd's scores, which did not help (docs/facts.md 2).
    targets: Literal["label", "crowd"] = "label"
    # Lightning's names; 64-true is for numerical checks. A processor without instructions for bf16
    # trains bf16-mixed in float32.
    precision: Precision = "32-true"
    # Decay per step of an exponential moving average of the weights, which is validated and saved
    # in their place; 0 turns it off.
    ema: float = Field(default=0.0, ge=0, lt=1)
    # Validation metric that chooses which checkpoint of the last stage becomes the bundle.
    monitor: Literal["val_mcc", "val_loss", "val_roc_auc", "val_pr_auc"] = "val_mcc"
    # A stage ends after this many epochs without improvement of `monitor`; 0 turns it off.
    patience: int = Field(default=0, ge=0)
    # Also save the weights of this many last epochs as bundles. Not with `ema` or `patience`.
    snapshots: int = Field(default=0, ge=0)
    # Number of processes that read and augment clips; 0 uses the main process.
    workers: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check_snapshots(self) -> "TrainingSettings":
        if self.snapshots and (self.ema or self.patience):
            raise ValueError("snapshots cannot be combined with ema or patience")
        return self
