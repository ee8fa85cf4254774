"""The published approaches: the nets each trained, how it decided, and what it reported.

The figures are from docs/facts.md 2 and 3. The recipe of the same name defines how a net is
trained.
"""

from dataclasses import dataclass
from typing import Literal

from stallscan.errors import SettingsError
from stallscan.words import suggest

Part = Literal["validation", "test"]

PUBLIC = "the public part of the competition's test set (14,160 videos, 4.6 % stalled)"
PRIVATE = "the private part of the competition's test set (14,160 videos, 4.6 % stalled)"
THIRD_VALIDATION = "its validation split, about 793 videos, 8.9 % stalled"


@dataclass(frozen=True)
class Model:
    """One training of an approach."""

    name: str  # also the name of its folder
    threshold: float  # the published threshold on the sigmoid of the logit, 0..1
    changes: tuple[str, ...] = ()  # to the recipe of the approach, as ``--set`` takes them
    seed: int = 0  # added to the recipe's seed
    decides: bool = True  # whether it contributes to the final call, or is for comparison only
    # training, scoring: the published time to train it and to score the test set; empty if not
    # published.
    training: str = ""
    scoring: str = ""


@dataclass(frozen=True)
class Figure:
    """One published MCC."""

    what: str  # the model or approach, in words
    mcc: float
    on: str  # the sample and its prevalence
    part: Part  # the split of our recordings that corresponds to the sample
    model: str = ""  # the model, called at 0.5; empty for the approach as a whole


@dataclass(frozen=True)
class Approach:
    """A published approach."""

    name: str  # also the name of its recipe
    # title, decision: the approach and its decision rule, in words.
    title: str
    decision: str
    models: tuple[Model, ...]
    figures: tuple[Figure, ...]
    count: int  # the least number of recordings for training and validation
    trained_on: str  # the same in words
    unsaid: str  # what was not published and had to be chosen
    # What is combined: ``whole`` models, or the ``folds`` or last ``snapshots`` of one model.
    parts: Literal["whole", "folds", "snapshots"] = "whole"
    combine: Literal["vote", "average"] = "average"
    needed: int = 1  # votes needed to call stalled


def _leaderboard(public: float, private: float) -> tuple[Figure, Figure]:
    return (
        Figure("final calls, public leaderboard", public, PUBLIC, "test"),
        Figure("final calls, private leaderboard", private, PRIVATE, "test"),
    )


_THIRD = Approach(
    name="third-place",
    title="Third place: two R(2+1)D nets and an MC3 vote",
    decision="stalled if at least 2 of the 3 nets say so, each at its own threshold",
    # The write-up does not tell the two R(2+1)D nets apart when it gives validation MCC and
    # training time. They are listed in its order, and both have the one time.
    models=(
        Model(
            "r2plus1d_18",
            0.95,
            ("net.name=r2plus1d_18",),
            training="51 h on a Tesla P100",
            scoring="40 min on a Tesla P100",
        ),
        Model(
            "mc3_18",
            0.90,
            ("net.name=mc3_18",),
            training="36 h on a Tesla P100",
            scoring="30 min on a Tesla P100",
        ),
        Model(
            "r2plus1d_18-second",
            0.80,
            ("net.name=r2plus1d_18",),
            seed=1,
            training="51 h on a Tesla P100",
            scoring="40 min on a Tesla P100",
        ),
        Model(
            "r3d_18",
            0.5,
            ("net.name=r3d_18",),
            decides=False,
            training="30 h on a Tesla P100",
            scoring="35 min on a Tesla P100",
        ),
    ),
    combine="vote",
    needed=2,
    figures=(
        *_leaderboard(0.777, 0.810),
        Figure("MC3 alone, at 0.5", 0.799, THIRD_VALIDATION, "validation", "mc3_18"),
        Figure("R3D alone, at 0.5", 0.780, THIRD_VALIDATION, "validation", "r3d_18"),
        Figure("R(2+1)D alone, at 0.5", 0.769, THIRD_VALIDATION, "validation", "r2plus1d_18"),
        Figure(
            "second R(2+1)D alone, at 0.5",
            0.731,
            THIRD_VALIDATION,
            "validation",
            "r2plus1d_18-second",
        ),
    ),
    count=7931,
    trained_on="7,931, 8.9 % stalled",
    unsaid="the seeds, and so which recordings were drawn",
)

_FIRST = Approach(
    name="first-place",
    title="First place: five folds of a DenseNet121 in 3-D, averaged",
    decision="stalled if the mean of five folds, each over eight flips, is at least 0.7",
    models=(
        Model(
            "densenet121_3d",
            0.7,
            training="7 to 8 days on a GTX 1080 Ti",
            scoring="7 h for the test set",
        ),
    ),
    parts="folds",
    figures=_leaderboard(0.844, 0.856),
    count=51_490,
    trained_on="51,490, 3.7 % stalled",
    unsaid="the epochs, how strong the augmentation is, which flowing recordings were taken",
)

_SECOND = Approach(
    name="second-place",
    title="Second place: five snapshots of a ResNet101 in 3-D, averaged",
    decision="stalled if the mean of five snapshots is at least 0.5",
    models=(Model("resnet101_3d", 0.5, training="2 weeks on a V100", scoring="40 min on a V100"),),
    parts="snapshots",
    figures=_leaderboard(0.846, 0.838),
    count=540_242,
    trained_on="all of tier1 (540,242), then also the tier2 stalls that the crowd was sure of",
    unsaid="the epochs, how strong the augmentation is, at which epochs the snapshots were taken",
)

_MATLAB = Approach(
    name="matlab-prize",
    title="MATLAB prize: a ResNet18 on four averaged quarters of a recording",
    decision="stalled if the net's score is at least 0.5",
    models=(Model("quarters_resnet18", 0.5, training="5 h"),),
    figures=_leaderboard(0.467, 0.536),
    count=13_990,
    trained_on="13,990",
    unsaid="the threshold, the epochs, the augmentation, which flowing recordings were taken",
)

APPROACHES = {approach.name: approach for approach in (_THIRD, _FIRST, _SECOND, _MATLAB)}


def find(name: str) -> Approach:
    """Return the published approach of this name.

    Raises
    ------
    SettingsError
        If there is none.
    """
    if name not in APPROACHES:
        raise SettingsError(f"{name}: no such published approach{suggest(name, APPROACHES)}")
    return APPROACHES[name]
