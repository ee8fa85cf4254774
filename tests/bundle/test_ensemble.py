"""Ensembles: joining members on held-out recordings, and using the result like a bundle."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from stallscan.bundle import disk, ensemble
from stallscan.bundle.ensemble import EnsembleSettings
from stallscan.bundle.reference import Reference
from stallscan.bundle.spec import combine
from stallscan.calls import predict
from stallscan.cli.commands import app
from stallscan.errors import BundleError, InputError, SettingsError, TableError
from stallscan.scores.calibration import fit_calibration, shift
from stallscan.scores.thresholds import best_mcc_threshold
from tests import drawing

COUNT = 400


def _odds(score):
    return np.log(score) - np.log1p(-score)


def _member(where, model, *, seed, names=None, threshold=0.5):
    """Write a bundle with its own weights, and held-out logits that separate the classes."""
    random = np.random.default_rng(seed)
    names = [f"{row}.mp4" for row in range(COUNT)] if names is None else names
    stalled = np.array([int(name.split(".")[0]) % 3 == 0 for name in names], int)
    logits = 4 * stalled - 2 + random.normal(0, 2, len(names))
    calibration = fit_calibration(logits, stalled)
    # Different folder names give the members different weights.
    offset = 0.01 * seed + 0.001 * int(where.name)
    weights = {name: tensor + offset for name, tensor in model.weights.items()}
    scores = calibration.score(logits)
    spec = model.spec.model_copy(
        update={
            "name": f"net{seed}",
            "calibration": calibration,
            "threshold": threshold,
            "prevalence": float(stalled.mean()),
            "reference": Reference.of(pd.DataFrame(), scores),
            "frames": (4 + seed, 100 - seed),
        }
    )
    disk.save(where / "bundle", spec, weights, "# for tests\n")
    pd.DataFrame({"filename": names, "stalled": stalled, "logit": logits, "score": scores}).to_csv(
        where / "validation.csv", index=False
    )
    return where / "bundle"


@pytest.fixture
def members(tmp_path, bundle_dir):
    model = disk.load(bundle_dir)
    return [_member(tmp_path / str(seed), model, seed=seed) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for index in range(4):
        drawing.write(folder / f"{index}.mp4", seed=index, count=8)
    return folder


def _validation(folder):
    return pd.read_csv(folder.parent / "validation.csv").set_index("filename")


def _warning(folder):
    """Return the first bold line of a model card."""
    lines = (folder / "README.md").read_text().splitlines()
    return next(line for line in lines if line.startswith("**"))


def test_the_mean_is_calibrated_on_recordings_that_all_held_out(members, tmp_path):
    spec = ensemble.join(members, tmp_path / "out", EnsembleSettings(name="three"))
    tables = [_validation(folder) for folder in members]
    labels = tables[0]["stalled"].to_numpy()
    mean = np.mean([_odds(table["score"].to_numpy()) for table in tables], axis=0)
    expected = fit_calibration(mean, labels)
    assert spec.calibration.scale == pytest.approx(expected.scale, rel=1e-3)
    assert spec.calibration.bias == pytest.approx(expected.bias, abs=1e-2)
    # Three independent views of a recording are more certain than one.
    assert spec.calibration.scale > 2
    assert spec.prevalence == pytest.approx(labels.mean())
    measured = spec.metrics["validation"]
    assert measured["count"] == COUNT
    calls = spec.calibration.score(mean) >= spec.threshold
    assert measured["accuracy"] == pytest.approx(np.mean(calls == labels))
    assert spec.frames == (5, 99)
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("# three")
    assert "simulated" in card


def test_a_recording_is_scored_only_by_members_that_held_it_out(tmp_path, bundle_dir):
    model = disk.load(bundle_dir)
    folds = [[f"{row}.mp4" for row in range(COUNT) if row % 2 == fold] for fold in (0, 1)]
    folders = [
        _member(tmp_path / str(fold), model, seed=fold + 1, names=names)
        for fold, names in enumerate(folds)
    ]
    spec = ensemble.join(folders, tmp_path / "out", EnsembleSettings())
    measured = spec.metrics["validation"]
    assert measured["count"] == COUNT
    # No recording was held out by all members, so the mean cannot itself be calibrated.
    assert spec.calibration.scale == 1
    tables = pd.concat([_validation(folder) for folder in folders])
    priors = [float(_odds(disk.load(folder).spec.prevalence)) for folder in folders]
    prior = float(_odds(tables["stalled"].mean()))
    assert spec.calibration.bias == pytest.approx(prior - np.mean(priors), abs=1e-9)
    correct = (tables["score"] >= spec.threshold) == (tables["stalled"] == 1)
    assert measured["accuracy"] == pytest.approx(correct.mean(), abs=0.01)
    assert not measured["by_all"]


def test_folds_of_different_prevalence_are_joined_at_that_of_all(tmp_path, bundle_dir):
    """Folds by project, with 3 % and 30 % stalled."""
    model = disk.load(bundle_dir)
    stalled, flowing = range(0, 3 * COUNT, 3), range(1, 3 * COUNT, 3)
    rows = ([*stalled[:6], *flowing[:194]], [*stalled[6:66], *flowing[194:334]])
    folders = [
        _member(
            tmp_path / str(fold), model, seed=fold + 1, names=[f"{row}.mp4" for row in fold_rows]
        )
        for fold, fold_rows in enumerate(rows)
    ]
    ensemble.join(folders, tmp_path / "out", EnsembleSettings())
    spec = disk.load_any(tmp_path / "out").spec
    priors = [disk.load(folder).spec.prevalence for folder in folders]
    assert priors == pytest.approx([0.03, 0.3])
    assert spec.prevalence == pytest.approx(66 / 400)
    # Members that know nothing but their prevalence: neither does the ensemble.
    assert combine(spec, np.array(priors)[:, None]) == pytest.approx(spec.prevalence)
    # The threshold, too, is for this prevalence, at which most are called right.
    tables = [_validation(folder) for folder in folders]
    scores = [
        shift(table["score"], prior, spec.prevalence)
        for table, prior in zip(tables, priors, strict=True)
    ]
    labels = pd.concat(tables)["stalled"].to_numpy()
    assert spec.threshold == pytest.approx(best_mcc_threshold(np.concatenate(scores), labels))
    assert np.sort(spec.reference.scores) == pytest.approx(
        np.sort(np.concatenate(scores)), abs=1e-5
    )


def test_a_member_without_held_out_recordings_needs_a_given_threshold(members, tmp_path):
    (members[1].parent / "validation.csv").unlink()
    with pytest.raises(InputError, match="--threshold"):
        ensemble.join(members, tmp_path / "out", EnsembleSettings())


def test_members_of_different_prevalence_are_joined_at_one(tmp_path, bundle_dir):
    """Two members with the same evidence, calibrated for one third and for 2 % stalled."""
    model = disk.load(bundle_dir)
    folders = [_member(tmp_path / str(seed), model, seed=1) for seed in (1, 2)]
    rare = disk.load(folders[1])
    before, now = rare.spec.prevalence, 0.02
    update = {"calibration": rare.spec.calibration.at(before, now), "prevalence": now}
    disk.save(folders[1], rare.spec.model_copy(update=update), rare.weights, "# for tests\n")
    spec = ensemble.join(folders, tmp_path / "out", EnsembleSettings())
    table = _validation(folders[0])
    scores = np.stack([disk.load(f).score([table["logit"]]) for f in folders])
    assert combine(spec, scores).mean() == pytest.approx(table["stalled"].mean(), abs=1e-3)
    # Both members have the same evidence, so the first member's scores are already right.
    assert combine(spec, scores) == pytest.approx(scores[0], abs=5e-3)


def test_a_folder_that_is_not_a_bundle_is_not_replaced(members, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"out: .* -o"):
        ensemble.join(members, tmp_path / "out", EnsembleSettings())
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"
    ensemble.join(members, tmp_path / "joined", EnsembleSettings(needed=2))
    ensemble.join(members, tmp_path / "joined", EnsembleSettings())
    assert disk.load_any(tmp_path / "joined").spec.combine == "average"


def test_an_ensemble_with_some_simulated_members_is_marked(members, tmp_path):
    ensemble.join(members, tmp_path / "all", EnsembleSettings())
    real = disk.load(members[0])
    disk.save(members[0], real.spec.model_copy(update={"simulated": False}), real.weights, "#\n")
    spec = ensemble.join(members, tmp_path / "out", EnsembleSettings())
    assert spec.simulated
    # Its card has a warning of its own.
    all_simulated, some_simulated = (_warning(tmp_path / name) for name in ("all", "out"))
    assert "simulated" in all_simulated
    assert "simulated" in some_simulated
    assert all_simulated != some_simulated


def test_the_label_depends_on_everything_that_determines_calls(members, tmp_path):
    ensemble.join(members, tmp_path / "out", EnsembleSettings(needed=2))
    model = disk.load_any(tmp_path / "out")
    assert model.at(0.01).label != model.label
    path = tmp_path / "out" / "members" / "1-net1" / "bundle.json"
    content = json.loads(path.read_text())
    content["calibration"]["bias"] += 5
    path.write_text(json.dumps(content))
    assert disk.load_any(tmp_path / "out").label != model.label


@pytest.mark.parametrize("settings", [EnsembleSettings(), EnsembleSettings(needed=2)])
def test_predict_accepts_an_ensemble_like_any_bundle(members, recordings, tmp_path, settings):
    ensemble.join(members, tmp_path / "joined", settings)
    summary = predict.predict([recordings], tmp_path / "all", tmp_path / "joined", processes=0)
    table = pd.read_csv(tmp_path / "all" / "predictions.csv")
    singles = []
    for number, folder in enumerate(members):
        predict.predict([recordings], tmp_path / f"p{number}", folder, processes=0)
        singles.append(pd.read_csv(tmp_path / f"p{number}" / "predictions.csv"))
    model = disk.load_any(tmp_path / "joined")
    if settings.needed:
        votes = sum((single["call"] == "stalled").astype(int) for single in singles)
        assert ((table["call"] == "stalled") == (votes >= 2)).all()
    else:
        mean = np.mean([_odds(single["score"].to_numpy()) for single in singles], axis=0)
        odds = model.spec.calibration.scale * mean + model.spec.calibration.bias
        assert table["score"].to_numpy() == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-4)
    assert set(table["bundle"]) == {model.label}
    assert sum(summary.calls.values()) == 4
    run = json.loads((tmp_path / "all" / "run.json").read_text())
    assert run["threshold"] == pytest.approx(model.spec.threshold)
    # The score of a vote is not calibrated.
    assert run["prevalence"] == (None if settings.needed else model.spec.prevalence)


def test_members_may_see_different_clips_of_a_recording_that_is_decoded_once(
    members, recordings, tmp_path, monkeypatch
):
    other = disk.load(members[1])
    spec = other.spec.model_copy(
        update={"clip": other.spec.clip.model_copy(update={"size": 48, "shape": "stretch"})}
    )
    disk.save(members[1], spec, other.weights, "# for tests\n")
    ensemble.join(members[:2], tmp_path / "joined", EnsembleSettings())
    from stallscan.clips import prepare
    from stallscan.recordings import video

    decoded = []
    read = video.read_recording
    monkeypatch.setattr(
        prepare.video, "read_recording", lambda path: decoded.append(path) or read(path)
    )
    predict.predict([recordings], tmp_path / "all", tmp_path / "joined", processes=0)
    assert len(decoded) == 4
    monkeypatch.undo()
    scores = []
    for number, folder in enumerate(members[:2]):
        predict.predict([recordings], tmp_path / f"p{number}", folder, processes=0)
        scores.append(pd.read_csv(tmp_path / f"p{number}" / "predictions.csv")["score"])
    model = disk.load_any(tmp_path / "joined")
    table = pd.read_csv(tmp_path / "all" / "predictions.csv")
    mean = np.mean([_odds(member.to_numpy()) for member in scores], axis=0)
    odds = model.spec.calibration.scale * mean + model.spec.calibration.bias
    assert table["score"].to_numpy() == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-4)


def test_another_prevalence_moves_scores_and_keeps_their_order(members, tmp_path):
    ensemble.join(members, tmp_path / "out", EnsembleSettings())
    model = disk.load_any(tmp_path / "out")
    rare = model.at(0.01)
    logits = np.random.default_rng(0).normal(0, 3, (3, 50))
    before, now = model.score(logits), rare.score(logits)
    assert now == pytest.approx(shift(before, model.spec.prevalence, 0.01), abs=1e-6)
    stalled = (now >= rare.spec.threshold).sum()
    assert stalled < (before >= model.spec.threshold).sum()


def test_a_vote_at_another_prevalence_moves_the_thresholds_of_its_members(members, tmp_path):
    ensemble.join(members, tmp_path / "out", EnsembleSettings(needed=2))
    model = disk.load_any(tmp_path / "out")
    rare = model.at(0.005)
    assert all(
        now > before
        for now, before in zip(rare.spec.thresholds, model.spec.thresholds, strict=True)
    )
    assert rare.spec.prevalence == 0.005
    # A threshold cannot be chosen on vote margins.
    assert model.spec.reference.scores == ()
    assert rare.spec.threshold == 0.5


def test_the_published_vote_has_one_threshold_for_each(members, tmp_path):
    settings = EnsembleSettings(needed=2, thresholds=(0.95, 0.9, 0.8))
    ensemble.join(members, tmp_path / "out", settings)
    model = disk.load_any(tmp_path / "out")
    scores = np.array([[0.96, 0.94, 0.1, 0.99], [0.91, 0.95, 0.95, 0.5], [0.1, 0.7, 0.85, 0.7]])
    calls = combine(model.spec, scores) >= model.spec.threshold
    assert calls.tolist() == [True, False, True, False]


def test_without_held_out_recordings_a_threshold_must_be_given(members, tmp_path):
    for folder in members:
        (folder.parent / "validation.csv").unlink()
    with pytest.raises(InputError, match="--threshold"):
        ensemble.join(members, tmp_path / "out", EnsembleSettings())
    spec = ensemble.join(members, tmp_path / "out", EnsembleSettings(thresholds=(0.7,)))
    assert spec.threshold == 0.7
    assert spec.metrics == {}
    with pytest.raises(BundleError, match=r"out: .*prevalence"):
        disk.load_any(tmp_path / "out").at(0.02)


def test_members_of_different_prevalence_are_read_at_that_of_the_first(tmp_path, bundle_dir):
    model = disk.load(bundle_dir)
    folders = []
    for number, prevalence in enumerate((0.3, 0.05)):
        spec = model.spec.model_copy(update={"prevalence": prevalence})
        weights = {name: tensor + number for name, tensor in model.weights.items()}
        disk.save(tmp_path / str(number), spec, weights, "# for tests\n")
        folders.append(tmp_path / str(number))
    spec = ensemble.join(folders, tmp_path / "out", EnsembleSettings(thresholds=(0.5,)))
    both = combine(spec, np.array([[0.3], [0.05]]))
    assert both == pytest.approx([0.3], abs=1e-6)


def test_an_ensemble_is_refused_where_a_single_net_is_needed(members, tmp_path):
    ensemble.join(members, tmp_path / "out", EnsembleSettings())
    with pytest.raises(BundleError, match=r"out.*members"):
        disk.load(tmp_path / "out")


def test_an_exchanged_member_is_named(members, tmp_path):
    ensemble.join(members, tmp_path / "out", EnsembleSettings())
    first, second = sorted((tmp_path / "out" / "members").iterdir())[:2]
    shutil.rmtree(first)
    shutil.copytree(second, first)
    with pytest.raises(BundleError, match=first.name):
        disk.load_any(tmp_path / "out")
    shutil.rmtree(first)
    with pytest.raises(BundleError, match=first.name):
        disk.load_any(tmp_path / "out")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"needed": 4}, r"3 .*4\b"),
        ({"needed": 2, "thresholds": (0.5,)}, r"\b1 .*\b3\b"),
        ({"weights": (1.0, 1.0)}, r"\b2 .*\b3\b"),
        ({"weights": (0.0, 0.0, 0.0)}, "weights .*0"),
        ({"thresholds": (0.1, 0.2)}, r"\b2 .*--vote"),
        ({"needed": 2, "weights": (1.0, 1.0, 1.0)}, "vote .*weights"),
        ({"thresholds": (2.0,)}, "thresholds .*1"),
    ],
)
def test_settings_that_do_not_match_are_refused(members, tmp_path, given, named):
    with pytest.raises((InputError, SettingsError), match=named):
        ensemble.join(members, tmp_path / "out", EnsembleSettings.parse(given, "it"))
    assert not (tmp_path / "out").exists()


def test_one_bundle_is_not_enough_and_a_member_is_not_overwritten(members, tmp_path):
    with pytest.raises(InputError, match=r"\b1\b"):
        ensemble.join(members[:1], tmp_path / "out", EnsembleSettings())
    for out in (members[0].parent, members[0], members[1] / "joined"):
        with pytest.raises(InputError, match="-o"):
            ensemble.join(members, out, EnsembleSettings())
    assert not (members[1] / "joined").exists()


def test_a_net_given_twice_is_refused(members, tmp_path):
    again = shutil.copytree(members[0], tmp_path / "again")
    for twice in (again, members[0]):
        with pytest.raises(InputError, match=r"weights"):
            ensemble.join([*members, twice], tmp_path / "out", EnsembleSettings())


@pytest.mark.parametrize("name", ["x/../../../ESCAPED", "/tmp/ESCAPED", "..", "a\nb"])
def test_a_name_never_leaves_the_folder(members, tmp_path, name):
    """This holds for the names of members and ensembles, and for the names an ensemble lists."""
    with pytest.raises(SettingsError, match="name"):
        EnsembleSettings.parse({"name": name}, "ensemble")
    ensemble.join(members, tmp_path / "out", EnsembleSettings())
    spec = json.loads((tmp_path / "out" / "bundle.json").read_text())
    for changed in ({"name": name}, {"members": [name, *spec["members"][1:]]}):
        (tmp_path / "out" / "bundle.json").write_text(json.dumps(spec | changed))
        with pytest.raises(BundleError, match="name"):
            disk.load_any(tmp_path / "out")
    spec = json.loads((members[0] / "bundle.json").read_text())
    (members[0] / "bundle.json").write_text(json.dumps(spec | {"name": name}))
    with pytest.raises(BundleError, match="name"):
        ensemble.join(members, tmp_path / "new", EnsembleSettings())
    assert not (tmp_path / "new").exists()


def test_only_the_files_of_a_bundle_are_copied(members, tmp_path):
    (members[0] / "notes.txt").write_text("private")
    (members[0] / "openvino").mkdir()
    (members[0] / "openvino" / "f32.xml").write_text("<net/>")
    (members[0] / "openvino" / "run.sh").write_text("rm")
    ensemble.join(members, tmp_path / "out", EnsembleSettings())
    first = tmp_path / "out" / "members" / "1-net1"
    assert {path.relative_to(first).as_posix() for path in first.rglob("*")} == {
        *("README.md", "bundle.json", "weights.safetensors", "openvino", "openvino/f32.xml")
    }
    (tmp_path / "secret").write_text("key")
    (members[0] / "README.md").unlink()
    (members[0] / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=r"README\.md"):
        ensemble.join(members, tmp_path / "linked", EnsembleSettings())
    assert not (tmp_path / "linked").exists()


def test_labels_that_differ_between_members_are_an_error(members, tmp_path):
    path = members[0].parent / "validation.csv"
    table = pd.read_csv(path)
    table.loc[0, "stalled"] = 1 - table.loc[0, "stalled"]
    table.to_csv(path, index=False)
    with pytest.raises(TableError, match=r"0\.mp4"):
        ensemble.join(members, tmp_path / "out", EnsembleSettings())
    table.drop(columns="logit").to_csv(path, index=False)
    with pytest.raises(TableError, match=r"validation\.csv: .*logit"):
        ensemble.join(members, tmp_path / "out", EnsembleSettings())


def test_recordings_that_only_share_their_names_are_told_apart(members, tmp_path):
    for number, folder in enumerate(members[:2]):
        path = folder.parent / "validation.csv"
        table = pd.read_csv(path)
        if number:  # another laboratory has recordings 0.mp4 to 399.mp4, too
            table["stalled"] = 1 - table["stalled"]
        hashes = [f"{number}{row:015x}" for row in range(COUNT)]
        table.assign(file_sha256=hashes, clip_sha256="").to_csv(path, index=False)
    spec = ensemble.join(members[:2], tmp_path / "out", EnsembleSettings())
    assert spec.metrics["validation"]["count"] == 2 * COUNT
    assert not spec.metrics["validation"]["by_all"]
    # The third bundle does not know what it held out, so its names mean the same recordings.
    with pytest.raises(TableError, match=r"0\.mp4"):
        ensemble.join([members[1], members[2]], tmp_path / "both", EnsembleSettings())


@pytest.mark.parametrize("column", ["file_sha256", "clip_sha256"])
def test_a_recording_known_by_its_hash_is_one_recording(members, tmp_path, column):
    for folder in members:
        path = folder.parent / "validation.csv"
        hashes = dict.fromkeys(("file_sha256", "clip_sha256"), "")
        table = pd.read_csv(path).assign(**hashes)
        table[column] = [f"{row:016x}" for row in range(COUNT)]
        table.to_csv(path, index=False)
    spec = ensemble.join(members, tmp_path / "out", EnsembleSettings())
    assert spec.metrics["validation"]["count"] == COUNT
    assert spec.metrics["validation"]["by_all"]


def test_the_command_joins(members, tmp_path, capsys):
    words = ["ensemble", *members, "-o", tmp_path / "out", "--vote", 2, "--name", "voted"]
    app([*map(str, words)], result_action="return_value")
    assert disk.load_any(tmp_path / "out").spec.needed == 2
    shown = capsys.readouterr().out
    assert str(disk.load_any(tmp_path / "out").spec) in shown
    assert "voted" in shown
