"""Predictions of one model, read to be decided again."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stallscan.errors import InputError
from stallscan.runs import RUN_NAME
from stallscan.scores.calibration import shift

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """What one table holds on the recordings that all could score."""

    path: Path
    scores: Floats
    thresholds: Floats
    calls: NDArray[np.str_]
    run: dict[str, Any]
    calibrated_at: float | None

    @classmethod
    def of(
        cls, path: Path, table: pd.DataFrame, run: dict[str, Any], calibrated_at: float | None
    ) -> "Model":
        """Take what is needed of a table of predictions and of its run."""
        share = run.get("prevalence") if calibrated_at is None else calibrated_at
        return cls(
            path,
            table["score"].to_numpy(np.float64),
            table["threshold"].to_numpy(np.float64),
            table["call"].to_numpy(str),
            run,
            share if isinstance(share, float) and 0 < share < 1 else None,
        )

    @property
    def threshold(self) -> float:
        """The one threshold of the table."""
        found = np.unique(self.thresholds)
        if len(found) != 1 or np.isnan(found[0]):
            raise InputError(
                f"{self.path}: has no single threshold to keep; give one with --threshold, or "
                "choose one with --rule"
            )
        return float(found[0])

    @property
    def is_three_way(self) -> bool:
        """Whether some were left to a person: no threshold says which."""
        return "review" in self.calls

    @property
    def known_prevalence(self) -> float:
        """Where the scores are calibrated."""
        if self.calibrated_at is None:
            raise InputError(
                f"{self.path}: no {RUN_NAME} beside it says at which prevalence the scores "
                "are calibrated; give it with --calibrated-at"
            )
        return self.calibrated_at

    def at(self, share: float) -> "Model":
        """Read scores and thresholds at another prevalence."""
        before = self.known_prevalence
        return replace(
            self,
            scores=shift(self.scores, before, share),
            thresholds=shift(self.thresholds, before, share),
            calibrated_at=share,
        )
