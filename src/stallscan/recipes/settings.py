"""The sections of a recipe."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from stallscan.settings import Settings

Precision = Literal["32-true", "bf16-mixed", "64-true"]
Chance = Annotated[float, Field(ge=0, le=1)]


class DataSettings(Settings):
    """Which recordings to train on, and how many to hold out.

    Attributes
    ----------
    rule : str
        Selection rule, as in `stallscan select --rule`.
    limit : int
        Use at most this many of the selected recordings, drawn without changing the share of
        stalled ones; 0 uses all.
    validation : float
        Share of recordings held out, stratified by label. The epoch, calibration and threshold are
        chosen on them, so their metrics are optimistic.
    group : str
        Column that groups recordings: project_id, or mouse if the labels have it. All recordings of
        a group stay on one side of a split. Empty splits by recording, which makes metrics
        optimistic.
    folds : int
        Number of cross-validation folds. Each recording is held out once and `validation` is
        ignored. 0 trains once.
    seed : int, optional
        Seed of the selection, limit and split; None uses the recipe's seed. The nets of one
        approach share this seed and differ only in the recipe's seed.
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
            raise ValueError("one fold cannot hold anything out. Use 0, or at least 2")
        return self


class PretrainedSettings(Settings):
    """The weights that training starts from.

    Attributes
    ----------
    source : str
        none: random weights. kinetics, imagenet: the pretrained weights that torchvision downloads;
        2-D weights are inflated over time. file: a state dict with torchvision's names
        (.safetensors, .pt or .pth). bundle: a bundle with the same net.
    file : str, optional
        The state dict of `source: file`; the folder or name of the bundle of `source: bundle`. A
        folder with the name of a shipped bundle is written with its path: ./default.
    threshold : str
        chosen: calibration and threshold are chosen on the validation split. kept: they are those
        of the bundle of `source: bundle`, for validation splits too small to choose them.
    """

    source: Literal["none", "kinetics", "imagenet", "file", "bundle"] = "none"
    file: str | None = Field(default=None)  # as written: a Path would drop the ./ of ./default
    threshold: Literal["chosen", "kept"] = "chosen"

    @field_validator("file", mode="before")
    @classmethod
    def _as_text(cls, file: object) -> object:
        return str(file) if isinstance(file, Path) else file

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

    Attributes
    ----------
    rotate : float
        Rotation by 90, 180 or 270 degrees.
    flip : float
        Vertical or horizontal flip, or both.
    reverse : float
        Reversal of time; the label stays the same.
    tilt, tilt_degrees : float
        Rotation by a small angle, at most this large in either direction.
    rescale, rescale_share : float
        Rescaling of the image by a factor between 1 - rescale_share and 1 + rescale_share.
    shift, shift_share : float
        Shift of the image by at most this share of its size, in rows and columns.
    crop, crop_share : float
        Cropping at most this share of rows and columns at the borders, then enlarging the rest.
    elastic, elastic_px : float
        Smooth random warp with at most this standard deviation, px.
    drop, drop_share : float
        Dropping at most this share of the frames (docs/facts.md 3, first place).
    jitter, jitter_px : float
        Shift of each frame on its own by at most this, px, as left by imperfect registration.
    brightness : float
        Grey levels are multiplied by a factor between 1 / (1 + brightness) and 1 + brightness.
    gamma : float
        Grey levels are raised to a power between 1 / (1 + gamma) and 1 + gamma.
    blur : float
        Largest standard deviation of a Gaussian blur, px.
    noise : float
        Largest standard deviation of added Gaussian noise, as a share of the full range.
    levels : float
        Chance that brightness, gamma, blur and noise are applied at all.
    appearance : float
        Chance of another appearance: position, optics, light, noise, display and surround, each
        drawn from a wide range (`training.appearance`). Clips need the channels grey+mask.
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
    appearance: Chance = 0.0


class StageSettings(Settings):
    """One stage of training; it starts from the best weights of the previous stage.

    Attributes
    ----------
    epochs : int
        Maximum number of passes over the training recordings.
    learning_rate : float
        Peak learning rate of the schedule.
    rule : str
        Selection rule for the training recordings of this stage; empty uses that of `data`. The
        validation recordings are the same in all stages.
    appearance : float, optional
        Chance of another appearance in this stage; None uses that of `augment`. Blood is learned
        several times as fast in one appearance first (benchmarks/tried.md).
    """

    epochs: int = Field(default=30, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    rule: str = ""
    appearance: Chance | None = None


class TrainingSettings(Settings):
    """The optimisation. The defaults are those of the third place (docs/facts.md 2).

    Attributes
    ----------
    stages : tuple of StageSettings
        Stages run one after the other.
    schedule : str
        one-cycle: a rise over `warm_up` of all steps, then a cosine down to 4e-6 of the peak, with
        beta1 moving the opposite way. cosine: from the peak to 0. plateau: times 0.95 after 3
        epochs without improvement of `monitor` (docs/facts.md 3, first place).
    warm_up : float
        Share of all steps during which the learning rate rises (one-cycle).
    weight_decay : float
        Decoupled weight decay, as in AdamW; with 0 the optimiser is Adam.
    batch_size : int
        Clips per step.
    lengths : str
        How clips of different lengths share a batch. trim: longer clips are cut equally at both
        ends. pad: frames of zeros are appended to shorter clips, and the net sees them like other
        frames (docs/facts.md 3, second place). Either way, the clips of a batch are of similar
        length.
    accumulate : int
        Number of batches whose gradients are summed before a step.
    stalled_share : float
        Share of stalled clips drawn in each epoch; 0 uses every clip once.
    class_weight : str
        Weight of a stalled clip in the loss. ratio: n_flowing / n_stalled; none: 1.
    targets : str
        label: 0 or 1. crowd: the crowd's scores, which did not help (docs/facts.md 2).
    precision : str
        Lightning's names; 64-true is for numerical checks. A processor without instructions for
        bf16 trains bf16-mixed in float32.
    ema : float
        Decay per step of an exponential moving average of the weights, which is validated and saved
        in their place; 0 turns it off.
    monitor : str
        Validation metric that chooses which checkpoint of the last stage becomes the bundle.
    patience : int
        A stage ends after this many epochs without improvement of `monitor`; 0 turns it off.
    snapshots : int
        Also save the weights of this many last epochs as bundles. Not with `ema` or `patience`.
    workers : int
        Number of processes that read and augment clips; 0 uses the main process.
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
    precision: Precision = "32-true"
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
