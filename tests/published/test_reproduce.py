"""Reproduce the published approaches with a small net on small recordings, and slowly in full."""

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from stallscan import runs
from stallscan.bundle import disk
from stallscan.bundle.spec import WEIGHTS_NAME
from stallscan.calls import decide
from stallscan.calls.predictions import Predictions
from stallscan.calls.settings import CallSettings
from stallscan.catalog import tables
from stallscan.errors import InputError, SettingsError, StallscanError, TableError
from stallscan.published import approaches, decisions, reproduce, test_part, writeup
from stallscan.published.decisions import Member
from stallscan.published.results import Change, Sample, notes
from stallscan.recipes import recipe
from stallscan.scores import calibration
from stallscan.scores.calibration import Calibration
from stallscan.simulate import SimulateSettings, corpus
from tests import browsing, drawing

pytestmark = pytest.mark.usefixtures("no_processes")

# A small net in place of the published ones, which take minutes per recording.
SMALL = (
    *("net.name=stallnet", "net.mean=[0.2,0.0]", "net.std=[0.2,1.0]", "net.views=one"),
    *("clip.size=24", "clip.shape=pad", "clip.channels=grey+mask", "clip.frames=0"),
    *("clip.background=keep", "outline.rule=contour", "pretrained.source=none"),
    *("data.rule=all", "training.batch_size=4", "training.accumulate=1"),
    "training.precision=32-true",
)
CHANGES = {
    "third-place": (*SMALL, "data.validation=0.25"),
    "first-place": (*SMALL, "data.folds=2", "training.stages.1.rule=all"),
    "second-place": (*SMALL, "data.validation=0.25", "training.stages.1.rule=all"),
    "matlab-prize": (*SMALL, "data.validation=0.25"),
}
# Two epochs for second-place, to average two snapshots.
EPOCHS = {"third-place": 1, "first-place": 1, "second-place": 2, "matlab-prize": 1}
# Folders of calls by approach.
MEMBERS = {
    "third-place": ["r2plus1d_18", "mc3_18", "r2plus1d_18-second", "r3d_18", "vote"],
    "first-place": ["fold-0", "fold-1", "mean"],
    "second-place": ["snapshot-4", "snapshot-5", "mean"],
    "matlab-prize": ["quarters_resnet18"],
}


@contextlib.contextmanager
def _silent(_name):
    yield lambda _done, _of: None


def _run(name, data, out, display=_silent, **more):
    return reproduce.run(
        name, data, out, display, **{"changes": CHANGES[name], "epochs": EPOCHS[name], **more}
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data folder of 12 recordings to train on and 6 to test, in the competition's form."""
    folder = tmp_path_factory.mktemp("data")
    for part, first, count in (("train", 0, 12), ("test", 12, 6)):
        names = [f"{index}.mp4" for index in range(first, first + count)]
        for index, name in enumerate(names, start=first):
            drawing.write(folder / part / name, seed=index, count=6, height=64, width=64)
        metadata = pd.DataFrame({"filename": names, "url": "s3://x/y", "num_frames": 6})
        if part == "train":
            metadata = metadata.assign(project_id="A", crowd_score=0.0, tier1=True, micro=True)
            metadata = metadata.assign(nano=False)[list(tables.TRAIN_COLUMNS)]
        labels = pd.DataFrame({"filename": names, "stalled": [i % 2 for i in range(count)]})
        metadata.to_csv(folder / f"{part}_metadata.csv", index=False)
        labels.to_csv(folder / f"{part}_labels.csv", index=False)
    labels.iloc[::-1].assign(stalled=0).to_csv(folder / "submission_format.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def third(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("third")
    return out, _run("third-place", data, out)


@pytest.fixture(scope="module")
def others(data, tmp_path_factory):
    """Runs of the other approaches by name, each made on first use."""
    made = {}

    def run(name):
        if name not in made:
            out = tmp_path_factory.mktemp(name)
            made[name] = out, _run(name, data, out)
        return made[name]

    return run


@pytest.fixture
def trained(others, tmp_path):
    """The output of a run of matlab-prize that was interrupted before scoring."""
    out = tmp_path / "out"
    for name in ("models", "store"):
        shutil.copytree(others("matlab-prize")[0] / name, out / name)
    shutil.copy(others("matlab-prize")[0] / reproduce.NOTES_NAME, out)
    return out


@pytest.fixture
def copied(data, tmp_path):
    """A copy of the data folder, to remove files from."""
    return shutil.copytree(data, tmp_path / "data")


# The plan


@pytest.mark.parametrize("name", approaches.APPROACHES)
def test_every_approach_has_a_recipe_and_a_model_for_each_figure(name):
    approach = approaches.find(name)
    assert name in {path.stem for path in recipe.SHIPPED.glob("*.yaml")}
    assert list(reproduce.plan(approach)) == [model.name for model in approach.models]
    known = {model.name for model in approach.models} | {""}
    assert {figure.model for figure in approach.figures} <= known


def test_third_place_is_as_published():
    planned = reproduce.plan(approaches.find("third-place"))
    assert [one.net.name for one in planned.values()] == [
        *("r2plus1d_18", "mc3_18", "r2plus1d_18", "r3d_18")
    ]
    first, _, second, _ = planned.values()
    assert first != second
    assert first.model_copy(update={"seed": second.seed}) == second
    assert {one.data_seed for one in planned.values()} == {0}
    deciding = [model for model in approaches.find("third-place").models if model.decides]
    assert [model.threshold for model in deciding] == [0.95, 0.90, 0.80]


def test_settings_of_the_command_override_those_of_all_nets():
    approach = approaches.find("third-place")
    planned = reproduce.plan(approach, ["net.name=r3d_18", "seed=7", "clip.size=32"], epochs=2)
    assert {one.net.name for one in planned.values()} == {"r3d_18"}
    assert {one.clip.size for one in planned.values()} == {32}
    assert [one.seed for one in planned.values()] == [7, 7, 8, 7]
    assert {one.data_seed for one in planned.values()} == {7}
    assert {one.training.stages[0].epochs for one in planned.values()} == {2}


def test_an_unknown_approach_is_refused_with_a_suggestion(data, tmp_path):
    with pytest.raises(SettingsError, match="third-place"):
        reproduce.run("thrid-place", data, tmp_path / "out", _silent)
    assert not (tmp_path / "out").exists()


# Thresholds: published ones apply to the sigmoid of the logit, ours to calibrated scores


def _member(name, scale, bias, threshold=0.7, prevalence=0.3, folder=None):
    from stallscan.bundle.spec import BundleSpec
    from stallscan.clips.clip import ClipSettings
    from stallscan.nets.settings import NetSettings
    from stallscan.vessels.outline import OutlineSettings

    spec = BundleSpec(
        name=name,
        outline=OutlineSettings(),
        clip=ClipSettings(),
        net=NetSettings(),
        calibration=Calibration(scale=scale, bias=bias),
        threshold=0.4,
        prevalence=prevalence,
        frames=(4, 100),
        simulated=True,
    )
    return Member(name, approaches.Model(name, threshold), folder, spec)


@pytest.mark.parametrize(("scale", "bias"), [(1.0, 0.0), (0.3, -2.0), (2.5, 1.0)])
@pytest.mark.parametrize("raw", [0.5, 0.8, 0.95])
def test_the_equivalent_threshold_gives_the_same_calls(scale, bias, raw):
    logits = np.linspace(-6, 6, 1001) + 1e-4
    member = _member("a", scale, bias)
    scores = member.spec.calibration.score(logits)
    sigmoids = 1 / (1 + np.exp(-logits))
    assert np.array_equal(scores >= member.cut(raw), sigmoids >= raw)


def test_an_uncalibrated_net_keeps_the_published_threshold():
    assert _member("a", 1.0, 0.0).cut(0.95) == pytest.approx(0.95)


def test_a_mean_agrees_with_unanimous_folds_whatever_their_calibration(tmp_path):
    # Folds differ in calibration and prevalence; the mean is computed at that of the first.
    rng = np.random.default_rng(0)
    logits = rng.normal(0.8, 1.5, (3, 300))
    members, paths = [], []
    for index, (scale, bias, prevalence) in enumerate(
        [(1.0, 0.0, 0.3), (0.5, -1.5, 0.1), (1.7, 0.8, 0.5)]
    ):
        member = _member(f"fold-{index}", scale, bias, prevalence=prevalence)
        scores = member.spec.calibration.score(logits[index])
        table = pd.DataFrame({"filename": [f"{i}.mp4" for i in range(300)], "status": "ok"})
        table = table.assign(reason="", frames=9, frames_declared=9, score=scores, call="flowing")
        folder = tmp_path / member.name
        folder.mkdir()
        table.assign(threshold=0.999, bundle="x")[list(runs.PREDICTION_COLUMNS)].to_csv(
            folder / "predictions.csv", index=False
        )
        (folder / "run.json").write_text(json.dumps({"prevalence": prevalence}))
        members.append(member)
        paths.append(folder / "predictions.csv")
    approach = approaches.find("first-place")
    decision = decisions.list_decisions(approach, members)[-2]
    assert (decision.who, decision.at) == ("mean", "published")
    joined = decision.join([Predictions.read(path) for path in paths])
    assert joined.prevalence == 0.3
    called = (decide.decide(joined, decision.settings).table["call"] == "stalled").to_numpy()
    above = 1 / (1 + np.exp(-logits)) >= 0.7
    assert called[above.all(axis=0)].all()
    assert not called[~above.any(axis=0)].any()
    assert 0 < above.all(axis=0).sum() < 300 - (~above.any(axis=0)).sum()
    # The threshold is the mean of the folds' thresholds.
    cuts = [calibration.shift(one.cut(0.7), one.spec.prevalence, 0.3) for one in members]
    odds = np.mean([np.log(cut / (1 - cut)) for cut in cuts])
    assert decision.settings.threshold == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-6)


def _predictions(folder, scores, status="ok", reason="", prevalence=0.3):
    """Return predictions of two recordings; the first has this status."""
    rows = {"filename": ["a.mp4", "b.mp4"], "status": [status, "ok"], "reason": [reason, ""]}
    table = pd.DataFrame({**rows, "score": scores, "threshold": 0.5, "bundle": folder})
    table = table.assign(frames=9.0, frames_declared=9.0)
    table["call"] = ["unscorable" if status != "ok" else "flowing", "flowing"]
    path = pathlib.Path(folder) / "predictions.csv"
    return Predictions(path, table[list(runs.PREDICTION_COLUMNS)], {"prevalence": prevalence})


def test_a_recording_without_a_score_by_one_member_keeps_its_reason():
    members = [_member("a", 1.0, 0.0), _member("b", 1.0, 0.0, prevalence=0.05)]
    approach = approaches.find("first-place")
    spec = decisions.ensemble_of(approach, members, "published")
    tables = [
        _predictions("a", [0.6, 0.6]),
        _predictions("b", [np.nan, 0.05], "no_outline", "no outline in it", prevalence=0.05),
    ]
    joined = decisions.join(tables, spec)
    first, second = joined.table.itertuples(index=False)
    assert (first.status, first.reason, first.call) == (
        *("no_outline", "no outline in it", "unscorable"),
    )
    assert np.isnan(first.score)
    odds = np.log([0.6 / 0.4, 0.3 / 0.7])  # 0.05 becomes 0.3 at the first member's prevalence
    assert second.score == pytest.approx(1 / (1 + np.exp(-odds.mean())))
    assert second.bundle == "a+b"
    assert joined.prevalence == 0.3


def test_the_score_of_a_vote_is_calibrated_for_no_prevalence():
    approach = approaches.find("third-place")
    members = [_member(name, 1.0, 0.0) for name in "abc"]
    spec = decisions.ensemble_of(approach, members, "chosen")
    joined = decisions.join([_predictions(name, [0.6, 0.1]) for name in "abc"], spec)
    assert joined.prevalence is None
    calls = decide.decide(joined, CallSettings(threshold=spec.threshold))
    assert calls.table["call"].tolist() == ["stalled", "flowing"]
    assert calls.run["prevalence"] is None
    with pytest.raises(InputError, match="no probabilities"):
        decide.decide(joined, CallSettings(prevalence=0.05))


# Calls of nets with given logits, because those of small nets are not near published thresholds

# Calibration and prevalence of each net: the same threshold is another score for each.
FITTED = [(1.0, 0.0, 0.3), (0.5, -1.5, 0.1), (1.7, 0.8, 0.5)]


def _with_logits(tmp_path, model, index, names, sigmoids, labels):
    """Write the outputs of a net with these sigmoids, for the validation and the test split."""
    scale, bias, prevalence = FITTED[index]
    folder = tmp_path / "models" / f"{index}"
    member = _member(f"{index}-{model.name}", scale, bias, prevalence=prevalence, folder=folder)
    member = dataclasses.replace(member, model=model)
    logits = np.log(sigmoids) - np.log1p(-sigmoids)
    scores = member.spec.calibration.score(logits)
    scored = pd.DataFrame({"filename": names, "score": scores, "call": "flowing", "threshold": 0.4})
    folder.mkdir(parents=True)
    scored.assign(stalled=labels, logit=logits).to_csv(folder / "validation.csv", index=False)
    tested = tmp_path / "out" / "test" / member.name
    tested.mkdir(parents=True)
    scored = scored.assign(status="ok", reason="", frames=9, frames_declared=9, bundle="x")
    scored[list(runs.PREDICTION_COLUMNS)].to_csv(tested / "predictions.csv", index=False)
    (tested / "run.json").write_text(json.dumps({"prevalence": prevalence}))
    return member


def test_the_vote_is_two_of_three_at_the_published_thresholds_of_the_logits(tmp_path):
    # All combinations of three nets below, between and above the three thresholds.
    ways = np.array(list(itertools.product([0.3, 0.78, 0.82, 0.88, 0.92, 0.94, 0.96], repeat=3)))
    names = [f"{index}.mp4" for index in range(len(ways))]
    labels = np.arange(len(ways)) % 2
    approach = approaches.find("third-place")
    models = [model for model in approach.models if model.decides]
    members = [
        _with_logits(tmp_path, model, index, names, ways[:, index], labels)
        for index, model in enumerate(models)
    ]
    above = np.array([[first >= 0.95, mc3 >= 0.9, second >= 0.8] for first, mc3, second in ways])
    expected = above.sum(axis=1) >= 2
    assert {0, 1, 2, 3} == set(above.sum(axis=1))
    everyone = decisions.list_decisions(approach, members)
    published = everyone[-2]
    assert (published.who, published.at) == ("vote", "published")
    held_out = reproduce._call_validation(approach, published)
    assert held_out.counts == {"stalled": expected.sum(), "flowing": (~expected).sum()}
    assert np.array_equal(held_out.scored.calls, expected)
    assert np.array_equal(held_out.scored.labels, labels == 1)
    # The same on the test split and in the submission.
    pd.DataFrame({"filename": names, "stalled": labels}).to_csv(tmp_path / "labels.csv")
    test = test_part.TestPart(tmp_path, tuple(names), None, tmp_path / "labels.csv")
    made, doubts = reproduce._call_test(everyone, test, tmp_path / "out")
    assert doubts == []
    voted = next(one for one in made if (one.who, one.at) == ("vote", "published"))
    assert np.array_equal(voted.scored.calls, expected)
    sent = pd.read_csv(tmp_path / "out" / "submission.csv")
    assert np.array_equal(sent["stalled"] == 1, expected)
    for index, member in enumerate(members):
        alone = next(one for one in made if (one.who, one.at) == (member.name, "published"))
        assert np.array_equal(alone.scored.calls, above[:, index])


def test_out_of_fold_calls_are_those_of_each_fold_at_the_published_cut(tmp_path):
    approach = approaches.find("first-place")
    members, expected = [], {}
    # The threshold of one fold would give other calls for another fold.
    for fold in range(3):
        sigmoids = np.linspace(0.02, 0.98, 49) + 0.001 * fold
        names = [f"{fold}-{index}.mp4" for index in range(49)]
        labels = np.arange(49) % 2
        members.append(_with_logits(tmp_path, approach.models[0], fold, names, sigmoids, labels))
        expected |= dict(zip(names, sigmoids >= 0.7, strict=True))
    decision = decisions.list_decisions(approach, members)[-2]
    assert (decision.who, decision.at) == ("mean", "published")
    called = reproduce._call_validation(approach, decision)
    assert 0 < sum(expected.values()) < len(expected)
    assert np.array_equal(called.scored.calls, list(expected.values()))
    assert called.counts["stalled"] == sum(expected.values())


# The complete run


def _artefacts(out, name):
    whole = [writeup.PAGE_NAME, writeup.METRICS_NAME, "submission.csv"]
    whole += [f"plots/{plot}.png" for plot in ("roc", "thresholds", "confusion")]
    for who in MEMBERS[name]:
        whole.append(f"calls/{who}/published/predictions.csv")
        whole.append(f"calls/{who}/chosen/predictions.csv")
        whole.append(f"plots/confusion-{who}-published.svg")
    return [path for path in whole if not (out / path).is_file()]


def test_third_place_writes_every_artefact(third, data):
    out, made = third
    assert _artefacts(out, "third-place") == []
    for who in MEMBERS["third-place"][:-1]:
        assert len(pd.read_csv(out / "test" / who / "predictions.csv")) == 6
        assert (out / "models" / who / "plots" / "history.png").is_file()
        assert disk.load(out / "models" / who / "bundle").spec.name == "third-place"
    form = pd.read_csv(data / "submission_format.csv")
    sent = pd.read_csv(out / "submission.csv")
    assert list(sent["filename"]) == list(form["filename"])
    voted = pd.read_csv(out / "calls" / "vote" / "published" / "predictions.csv")
    stalled = set(voted["filename"][voted["call"] == "stalled"])
    assert set(sent["filename"][sent["stalled"] == 1]) == stalled
    assert made.final == "vote"
    assert made.final_calls.part == "test"


def test_nets_share_recordings_and_split_but_not_weights(third):
    out, _ = third
    folders = [out / "models" / who for who in MEMBERS["third-place"][:-1]]
    assert len({(folder / "data.sha256").read_text() for folder in folders}) == 1
    held_out = [pd.read_csv(folder / "validation.csv")["filename"].tolist() for folder in folders]
    assert all(names == held_out[0] for names in held_out)
    first, second = (
        disk.load(out / "models" / who / "bundle").spec.weights_sha256
        for who in ("r2plus1d_18", "r2plus1d_18-second")
    )
    assert first != second


def test_the_figures_have_sample_prevalence_and_interval(third):
    told = json.loads((third[0] / writeup.METRICS_NAME).read_text())
    assert told["test"] == {"count": 6, "labelled": 6, "stalled": 3}
    assert told["trained_on"] == {"count": 12, "labelled": 12, "stalled": 6}
    assert not told["simulated"]
    parts = {"test": 6, "validation": 4}
    for one in told["calls"]:
        assert one["metrics"]["count"] == sum(one["calls"].values()) == parts[one["part"]]
        low, high = one["intervals_95"]["mcc"]
        assert -1 <= low <= one["metrics"]["mcc"] <= high <= 1
    assert {figure["mcc"] for figure in told["published"]} == {
        *(0.777, 0.810, 0.799, 0.780, 0.769, 0.731)
    }
    changed = {change["setting"]: change for change in told["not_as_published"]}
    assert changed["clip.size"] == {"setting": "clip.size", "published": "112", "here": "24"}
    assert changed["training.stages.0.epochs"]["here"] == "1"
    assert changed["pretrained.source"]["published"] == "kinetics"
    # The name of the net differs for each model, so it is listed for each.
    assert changed["net.name (mc3_18)"]["here"] == "stallnet"
    assert "seed" not in changed


def test_the_page_is_self_contained_and_lists_published_figures(third, data):
    page = (third[0] / writeup.PAGE_NAME).read_text()
    for words in (
        *("0.777", "0.810", "stallnet", "kinetics", "51 h on a Tesla P100", "private leaderboard"),
    ):
        assert words in page
    assert "simulated" not in page
    assert "Do not compare" in page
    assert page.count('role="img"') == page.count("<svg ") > 8
    identifiers = re.findall(r' id="([^"]*)"', page)
    assert len(identifiers) == len(set(identifiers))
    assert "src=" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_notes_describe_the_split(third):
    made = third[1]
    by_recording, by_project = (
        " ".join(notes(dataclasses.replace(made, group=group))) for group in ("", "project_id")
    )
    assert made.group == ""
    assert "split by recording" in by_recording
    assert "split by recording" not in by_project
    assert "project_id" in by_project


@pytest.mark.parametrize("epochs", [1, 60])
def test_any_changed_setting_is_a_warning(third, epochs):
    change = Change("training.stages.0.epochs", "30", f"{epochs}")
    whole = Sample(8000, 8000, 700)
    as_published = dataclasses.replace(third[1], changes=(), trained_on=whole)
    changed = dataclasses.replace(as_published, changes=(change,))
    assert as_published.is_as_published
    assert not changed.is_as_published
    assert len(notes(changed)) == len(notes(as_published)) + 1


@pytest.mark.parametrize("name", ["first-place", "second-place", "matlab-prize"])
@pytest.mark.slow
def test_the_other_approaches_run_through_the_same_code(name, others):
    out, made = others(name)
    assert _artefacts(out, name) == []
    assert list(dict.fromkeys(one.who for one in made.calls)) == MEMBERS[name]
    assert made.final == MEMBERS[name][-1]
    count = {"first-place": 12}.get(name, 4)  # with folds each recording is held back once
    on = made.find(made.final, "published", "validation")
    assert len(on.scored.labels) == count
    if name == "second-place":
        changed = {change.setting: change for change in made.changes}
        assert changed["snapshots kept"][1:] == ("5", "2")


# Resumed runs


@pytest.mark.slow
def test_an_interrupted_run_resumes_and_repeats_nothing(others, data, tmp_path):
    net = "quarters_resnet18"

    @contextlib.contextmanager
    def stops(name):
        if name == f"scoring with {net}":
            raise KeyboardInterrupt
        yield lambda _done, _of: None

    with pytest.raises(KeyboardInterrupt):
        _run("matlab-prize", data, tmp_path, stops)
    assert not (tmp_path / writeup.PAGE_NAME).exists()
    kept = [*tmp_path.glob("store/*"), *tmp_path.glob(f"models/{net}/**/*.*")]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in kept}
    assert {"manifest.json", "history.svg", WEIGHTS_NAME} <= {path.name for path in kept}
    _run("matlab-prize", data, tmp_path)
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before}
    written = {path.name for path in before if before[path] != after[path]}
    # Files that identify a run are written each time, with the same content.
    assert written <= {"recipe.yaml", "data.sha256"}
    # The results are those of an uninterrupted run.
    whole = others("matlab-prize")[0]
    told = [json.loads((one / writeup.METRICS_NAME).read_text()) for one in (tmp_path, whole)]
    assert told[0]["calls"] == told[1]["calls"]
    assert (tmp_path / "submission.csv").read_bytes() == (whole / "submission.csv").read_bytes()


@pytest.mark.slow
def test_a_removed_net_is_trained_again(others, data):
    out, _ = others("matlab-prize")
    weights = out / "models" / "quarters_resnet18" / "bundle" / "weights.safetensors"
    scores = out / "test" / "quarters_resnet18" / "predictions.csv"
    before, scored = weights.read_bytes(), scores.stat().st_mtime_ns
    shutil.rmtree(weights.parent)
    _run("matlab-prize", data, out)
    assert weights.read_bytes() == before
    # The weights are the same, so the scores are kept.
    assert scores.stat().st_mtime_ns == scored


# Refused and missing inputs


def test_another_approach_in_the_same_folder_is_refused(third, data):
    with pytest.raises(InputError, match=r"third-place.*matlab-prize"):
        _run("matlab-prize", data, third[0])


def test_other_settings_in_the_same_folder_are_refused_by_name(third, data):
    with pytest.raises(InputError, match=r"mc3_18\.training\.stages\.0\.epochs .*1.*3"):
        _run("third-place", data, third[0], epochs=3)


def test_a_start_without_a_result_does_not_block_the_corrected_command(data, tmp_path):
    def start(name, *more):
        with pytest.raises(StallscanError) as caught:
            _run(name, data, tmp_path, changes=[*CHANGES[name], "data.limit=1", *more])
        return str(caught.value)

    refused = start("third-place")
    clips, notes = tmp_path / "store", tmp_path / reproduce.NOTES_NAME
    (tmp_path / "models" / "mc3_18" / "checkpoints").mkdir(parents=True)
    kept = clips / "kept"
    kept.touch()
    assert start("third-place", "training.weight_decay=0.1") == refused
    assert not (tmp_path / "models" / "mc3_18").exists()
    assert kept.exists()
    # The clips of another approach cannot be used.
    assert start("matlab-prize") == refused
    assert not kept.exists()
    assert json.loads(notes.read_text())["approach"] == "matlab-prize"


def test_unreadable_settings_are_refused(data, tmp_path):
    (tmp_path / reproduce.NOTES_NAME).write_text("[]")
    with pytest.raises(InputError, match=str(tmp_path)):
        _run("third-place", data, tmp_path)


def test_missing_test_recordings_are_refused_before_training(copied, tmp_path):
    (copied / "test" / "13.mp4").unlink()
    with pytest.raises(InputError, match=r"1 of the 6 .*test_metadata\.csv.*13\.mp4"):
        _run("matlab-prize", copied, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_form_with_other_recordings_is_refused(copied, trained):
    form = copied / "submission_format.csv"
    form.write_text(form.read_text() + "99.mp4,0\n")
    with pytest.raises(TableError, match=r"submission_format\.csv: 1 of its 7 .*99\.mp4"):
        _run("matlab-prize", copied, trained)


@pytest.mark.slow
def test_without_a_test_split_the_rest_is_written(copied, trained):
    shutil.rmtree(copied / "test")
    (copied / "test_metadata.csv").unlink()
    made = _run("matlab-prize", copied, trained)
    assert made.test is None
    assert {one.part for one in made.calls} == {"validation"}
    assert made.final_calls.part == "validation"
    page = (trained / writeup.PAGE_NAME).read_text()
    assert "no test split" in page
    assert not (trained / "submission.csv").exists()
    assert (trained / "plots" / "roc.png").is_file()


@pytest.mark.slow
def test_the_test_split_is_called_without_labels_and_form(copied, trained):
    (copied / "test_labels.csv").unlink()
    (copied / "submission_format.csv").unlink()
    made = _run("matlab-prize", copied, trained)
    called = made.find("quarters_resnet18", "published", "test")
    assert called.metrics is None
    assert sum(called.counts.values()) == 6
    assert list(pd.read_csv(trained / "submission.csv")["filename"]) == [
        f"{index}.mp4" for index in range(12, 18)
    ]
    page = (trained / writeup.PAGE_NAME).read_text()
    assert "6, no labels" in page


@pytest.mark.slow
def test_recordings_without_a_call_are_submitted_and_measured_as_flowing(copied, trained):
    (copied / "test" / "13.mp4").write_bytes(b"no video")  # a stalled one
    made = _run("matlab-prize", copied, trained)
    called = made.find("quarters_resnet18", "published", "test")
    assert called.counts["unscorable"] == 1
    sent = pd.read_csv(trained / "submission.csv").set_index("filename")["stalled"]
    assert sent["13.mp4"] == 0
    # All submitted recordings are measured.
    labels = pd.read_csv(copied / "test_labels.csv").set_index("filename")["stalled"]
    sent = sent.loc[labels.index]
    assert called.metrics.confusion._asdict() == {
        "true_stalled": int(((sent == 1) & (labels == 1)).sum()),
        "false_stalled": int(((sent == 1) & (labels == 0)).sum()),
        "true_flowing": int(((sent == 0) & (labels == 0)).sum()),
        "missed_stalled": int(((sent == 0) & (labels == 1)).sum()),
    }
    assert called.scored.scores[list(labels.index).index("13.mp4")] == 0
    page = (trained / writeup.PAGE_NAME).read_text()
    assert "submission.csv: 1 recording without a call is" in page


@pytest.mark.slow
def test_the_share_of_stalled_counts_labelled_recordings_only(copied, trained):
    labels = pd.read_csv(copied / "test_labels.csv")
    labels[labels["filename"].isin(["12.mp4", "13.mp4", "15.mp4"])].to_csv(
        copied / "test_labels.csv", index=False
    )
    made = _run("matlab-prize", copied, trained)
    assert made.test == Sample(6, 3, 2)
    assert "66.7 %" in str(made.test)
    assert made.find("quarters_resnet18", "published", "test").metrics.count == 3


@pytest.mark.slow
def test_labels_of_other_recordings_are_reported_on_the_page(copied, trained):
    (copied / "test_labels.csv").write_text("filename,stalled\n99.mp4,1\n")
    made = _run("matlab-prize", copied, trained)
    assert made.test == Sample(6, 0, 0)
    assert made.find("quarters_resnet18", "published", "test").scored is None
    assert made.final_calls.part == "validation"
    assert (trained / "submission.csv").is_file()
    page = (trained / writeup.PAGE_NAME).read_text()
    assert "test_labels.csv has no label" in page


@pytest.mark.slow
def test_a_test_split_without_scores_is_reported_on_the_page(copied, trained):
    for path in (copied / "test").iterdir():
        path.write_bytes(b"no video")
    made = _run("matlab-prize", copied, trained)
    assert {one.part for one in made.calls} == {"validation"}
    assert not (trained / "submission.csv").exists()
    page = (trained / writeup.PAGE_NAME).read_text()
    (unscored, no_submission) = made.doubts
    assert "quarters_resnet18" in unscored
    assert "submission.csv" in no_submission
    assert unscored in page
    assert "no test split" not in page


def test_an_approach_of_snapshots_needs_them(data, tmp_path):
    changes = (*CHANGES["second-place"], "training.snapshots=0")
    with pytest.raises(InputError, match=r"training\.snapshots"):
        _run("second-place", data, tmp_path, changes=changes, epochs=1)


# The real nets on simulated recordings


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_third_place_from_the_command_line_killed_and_resumed(tmp_path):
    data, out = tmp_path / "corpus", tmp_path / "out"
    small = {"height": 192, "width": 256}
    settings = SimulateSettings(count=12, stalled=0.5, test=6, test_stalled=0.5, seed=3, **small)
    corpus.simulate(data, settings, processes=0)
    command = [sys.executable, "-m", "stallscan", "reproduce", "third-place"]
    command += ["--data", str(data), "-o", str(out), "--epochs", "1", "--size", "32"]
    changes = ("pretrained.source=none", "data.rule=all", "data.validation=0.25", "clip.frames=8")
    for change in changes:
        command += ["--set", change]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first = out / "models" / "r2plus1d_18" / "bundle" / WEIGHTS_NAME
    while process.poll() is None and not first.is_file():
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / writeup.PAGE_NAME).exists()
    before = first.stat().st_mtime_ns
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=1200)
    assert first.stat().st_mtime_ns == before
    assert _artefacts(out, "third-place") == []
    assert "6 simulated recordings" in done.stdout
    assert str(writeup.PAGE_NAME) in done.stdout
    page = (out / writeup.PAGE_NAME).read_text()
    assert "simulated" in page
    told = json.loads((out / writeup.METRICS_NAME).read_text())
    changed = {change["setting"]: change["here"] for change in told["not_as_published"]}
    assert changed == {
        "data.rule": "all",
        "data.validation": "0.25",
        "clip.frames": "8",
        "clip.size": "32",
        "pretrained.source": "none",
        "training.stages.0.epochs": "1",
    }


@pytest.mark.slow
@pytest.mark.skipif(browsing.CHROMIUM is None, reason="there is no Chromium")
def test_the_page_is_readable_on_any_screen(third):
    browsing.refuse_unreadable((third[0] / writeup.PAGE_NAME).as_uri(), 100)
