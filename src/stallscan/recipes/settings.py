"""The sections of a recipe."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from stallscan.settings import Settings

Chance = Annotated[float, Field(ge=0, le=1)]


class DataSettings(Settings):
    """Which recordings are trained on, and how many are held back.

    Attributes
    ----------
    rule : str
        Selection rule, by its name in `select.RULES`.
    limit : int
        At most so many of the selected recordings, drawn with the same share of stalled ones; 0
        takes all.
    validation : float
        Share held back: it chooses the epoch, the calibration and the threshold, so figures on it
        flatter. Stratified by label.
    group : str
        Column (``project_id``; ``mouse`` where labels have it) whose recordings stay on one side
        of a split; empty splits by recording, which flatters.
    folds : int
        Train so many times, each recording being held back once, instead of once with `validation`;
        0 is once.
    seed : int or None
        Of all that is drawn of the data: selection, limit and split. None: the recipe's seed.
        Nets of one approach share it, and differ in the seed of their training only.
    """

    rule: str = "all"
    limit: int = Field(default=0, ge=0)
    validation: float = Field(default=0.1, gt=0, lt=1)
    group: str = ""
    folds: int = Field(default=0, ge=0, le=50)
    seed: int | None = Field(default=None, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _enough_folds(self) -> "DataSettings":
        if self.folds == 1:
            raise ValueError("one fold holds nothing back; use 0 or at least 2")
        return self


class PretrainedSettings(Settings):
    """What the training starts from.

    Attributes
    ----------
    source : str
        ``none``: random; ``kinetics``, ``imagenet``: torchvision's weights of that name, downloaded
        by torchvision (those of a 2-D net are inflated over time); ``file``: a state dict in
        torchvision's names (.safetensors, .pt or .pth); ``bundle``: a bundle with the same net.
    file : Path or None
        With ``source: file`` the file, with ``source: bundle`` the bundle's folder or name.
    """

    source: Literal["none", "kinetics", "imagenet", "file", "bundle"] = "none"
    file: Path | None = Field(default=None)


class AugmentSettings(Settings):
    """How a clip is changed in training, one draw for all of its frames.

    Each chance is that of the change being made at all; how strong it is, is drawn evenly up to
    the strength that stands beside it. The defaults are published (docs/facts.md 2), all else is
    off.

    Attributes
    ----------
    rotate : float
        Chance of a rotation by 90, 180 or 270 degrees.
    flip : float
        Chance of a flip: vertical, horizontal, or both.
    reverse : float
        Chance of reversed time. Blood that flows backwards flows; blood that stands, stands.
    tilt, tilt_degrees : float
        Chance of a rotation by a small angle, and the largest one, either way.
    rescale, rescale_share : float
        Chance of another size of the picture, and by which share at most, smaller or larger.
    shift, shift_share : float
        Chance of moving the picture, and by which share of its size at most, in rows and columns.
    crop, crop_share : float
        Chance of cutting the borders off and enlarging the rest, and which share of rows and
        columns at most.
    elastic, elastic_px : float
        Chance of a smooth random warp, and its largest standard deviation in pixels.
    drop, drop_share : float
        Chance of leaving frames out, and which share at most (first place: dropped planes).
    jitter, jitter_px : float
        Chance of moving each frame by itself, and by how many pixels at most: imperfect
        registration.
    brightness : float
        Grey levels are multiplied by up to 1 + brightness or divided by as much.
    gamma : float
        Grey levels are raised to a power between 1 / (1 + gamma) and 1 + gamma.
    blur : float
        Highest standard deviation of a Gaussian blur, px.
    noise : float
        Highest standard deviation of added Gaussian noise, as a share of the full range.
    levels : float
        Chance that any of brightness, gamma, blur and noise is applied.
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
    """One stage of training: it starts from the best weights of the stage before.

    Attributes
    ----------
    epochs : int
        Passes over the training recordings, at most.
    learning_rate : float
        Peak of the schedule.
    rule : str
        Selection rule of this stage's training part; empty: that of the data. The validation part
        is the same in all stages.
    """

    epochs: int = Field(default=30, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    rule: str = ""


class TrainingSettings(Settings):
    """The optimisation. The defaults are the published third-place ones (docs/facts.md 2).

    Attributes
    ----------
    stages : tuple of StageSettings
        One after the other.
    schedule : str
        ``one-cycle``: a rise over `warm_up` of all steps, then a cosine down to 4e-6 of the peak,
        beta1 the other way round; ``cosine``: from the peak to 0; ``plateau``: times 0.95 after 3
        epochs without gain in `monitor` (docs/facts.md 3, first place).
    warm_up : float
        Share of all steps in which the learning rate rises (``one-cycle``).
    weight_decay : float
        Decoupled, as in AdamW; at 0 this is Adam.
    batch_size : int
        Clips a step.
    lengths : str
        How clips of different length share a batch: ``trim`` cuts the longer ones equally at both
        ends; ``pad`` appends frames of zeros to the shorter ones, which the net sees like any
        other frames (docs/facts.md 3, second place). Either way a batch is drawn from clips of
        similar length.
    accumulate : int
        Batches whose gradients are added up before a step.
    stalled_share : float
        Share of stalled clips that each epoch is drawn with; 0 takes every clip once.
    class_weight : str
        ``ratio``: a stalled clip counts n_flowing / n_stalled in the loss; ``none``: 1.
    targets : str
        ``label``; ``crowd``: the crowd's scores (docs/facts.md 2: no gain).
    precision : str
        As Lightning names it; ``64-true`` is for checks.
    ema : float
        Decay of the exponential moving average of the weights, which is what is validated and
        kept; 0 is none.
    monitor : str
        The checkpoint with the best of this validation metric in the last stage becomes the bundle.
    patience : int
        A stage ends after so many epochs without gain in `monitor`; 0 never.
    snapshots : int
        The weights at the end of each of the last so many epochs are kept as bundles, too; not
        together with `ema` or `patience`.
    workers : int
        Processes that read and augment; 0 does it in the main process.
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
    def _snapshots_of_what_is_known(self) -> "TrainingSettings":
        if self.snapshots and (self.ema or self.patience):
            raise ValueError("snapshots cannot be taken together with ema or patience")
        return self
