"""Settings of a decision: how scores become calls."""

from typing import Literal

from pydantic import Field, model_validator

from stallscan.settings import Settings


class CallSettings(Settings):
    """How scores become calls.

    Attributes
    ----------
    threshold : float, optional
        A given threshold, instead of a rule that chooses one.
    prevalence : float or "estimate" or None
        Share of stalled recordings among these, to which the scores are converted; ``estimate``
        estimates it from the scores. None leaves the scores as they are.
    calibrate : bool
        Whether to calibrate the scores again, on labels, before anything else.
    rule : str
        How the threshold is chosen: ``mcc`` (the highest MCC, on labels or as the scores predict
        it), ``specificity``, ``load``, ``limits``, or ``keep`` (the threshold of the table).
    specificity : float
        For the rule ``specificity``; users need 99.9 % (docs/facts.md 6).
    load : float
        For the rule ``load``: the share of the recordings to call stalled, all of which a person
        reviews.
    missed, false, confidence : float
        For the rule ``limits``, see `thresholds.ReviewBand`.
    """

    threshold: float | None = Field(default=None, ge=0, le=1)
    prevalence: float | Literal["estimate"] | None = None
    calibrate: bool = False
    rule: Literal["mcc", "specificity", "load", "limits", "keep"] = "keep"
    specificity: float = Field(default=0.999, gt=0, lt=1)
    load: float = Field(default=0.05, gt=0, lt=1)
    missed: float = Field(default=0.05, gt=0, lt=1)
    false: float = Field(default=0.01, gt=0, lt=1)
    confidence: float = Field(default=0.95, gt=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> "CallSettings":
        if isinstance(self.prevalence, float) and not 0 < self.prevalence < 1:
            raise ValueError("prevalence must be above 0 and below 1")
        if self.threshold is not None and self.rule != "keep":
            raise ValueError(
                f"a threshold is given, so the rule {self.rule} would choose none. Give one of them"
            )
        return self
