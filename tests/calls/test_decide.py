import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import matthews_corrcoef

from stallscan import __version__
from stallscan.bundle import disk
from stallscan.bundle.reference import Reference
from stallscan.calls import decide, submission
from stallscan.calls.like import decide_like
from stallscan.calls.predictions import read_predictions
from stallscan.calls.settings import CallSettings
from stallscan.cli.commands import app
from stallscan.errors import InputError, SettingsError, TableError
from stallscan.runs import PREDICTION_COLUMNS
from stallscan.scores import calibration

NAMES = [f"{index}.mp4" for index in range(8)]
SCORES = [0.96, 0.94, 0.30, 0.99, 0.10, 0.97, 0.95, 0.20]
LABELS = [0, 1, 0, 1, 0, 0, 1, 0]


def _write(folder, scores, names=NAMES, threshold=0.5, prevalence=0.3, **run):
    """A run of predictions; a score of None is a recording that could not be judged."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, score in zip(names, scores, strict=True):
        failed = score is None
        call = "unscorable" if failed else ("stalled" if score >= threshold else "flowing")
        status, reason = ("no_outline", "no outline in it") if failed else ("ok", "")
        rows.append(
            (name, status, reason, 40, 40, "" if failed else score, call, threshold, folder.name)
        )
    table = pd.DataFrame(rows, columns=list(PREDICTION_COLUMNS))
    table.to_csv(folder / "predictions.csv", index=False)
    (folder / "run.json").write_text(
        json.dumps({"prevalence": prevalence, "simulated_training": False, "paths": ["x"], **run})
    )
    return folder / "predictions.csv"


@pytest.fixture
def model(tmp_path):
    return _write(tmp_path / "run", SCORES)


def _drawn(folder, count, prevalence, seed=0):
    """A run of predictions calibrated at 30 % stalled, and its labels."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < prevalence).astype(int)
    odds = 3 * rng.normal(3.0 * labels, 1.0) - 4.5 + np.log(0.3 / 0.7)
    names = [f"{index}.mp4" for index in range(count)]
    table = _write(folder, np.round(1 / (1 + np.exp(-odds)), 6), names)
    known = pd.DataFrame({"filename": names, "stalled": labels})
    known.to_csv(folder / "labels.csv", index=False)
    return table, known


SETTINGS = st.one_of(
    st.just({"rule": "keep"}),
    st.floats(0, 1).map(lambda cut: {"threshold": cut}),
    st.sampled_from(
        [
            {"rule": "mcc"},
            {"rule": "load", "load": 0.29},
            {"rule": "specificity"},
            {"rule": "limits", "missed": 0.3, "false": 0.3, "confidence": 0.5},
        ]
    ),
)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.sampled_from([0.0, 1e-6, 0.25, 0.5, 0.5 + 1e-6, 0.9, 1 - 1e-6, 1.0]), min_size=8),
    SETTINGS,
    st.sampled_from([None, 0.001, 0.0457, 0.9]),
    st.sampled_from([0.5, 0.1234567]),
)
def test_memory_table_and_what_is_decided_again_agree(tmp_path, scores, how, prevalence, threshold):
    names = [f"{index}.mp4" for index in range(len(scores))]
    path = _write(tmp_path / "run", scores, names, threshold=threshold)
    labels = tmp_path / "labels.csv"
    known = np.arange(len(scores)) % 2
    pd.DataFrame({"filename": names, "stalled": known}).to_csv(labels, index=False)
    wanted = CallSettings(prevalence=prevalence, **how)
    try:
        made = decide.decide(path, wanted, labels)
    except InputError:
        # A rule may need a threshold above a score of 1.
        assert "rule" in how
        kept = decide.decide(path, CallSettings(prevalence=prevalence))
        assert (kept.table["score"] == 1).any()
        return
    written = read_predictions(decide.write_calls(made, tmp_path / "out"))
    for name in ("score", "threshold", "call"):
        assert written[name].tolist() == made.table[name].tolist()
    again = decide.decide(tmp_path / "out" / "predictions.csv", CallSettings())
    assert again.table["call"].tolist() == made.table["call"].tolist()
    decided = written[written["call"] != "review"]
    derived = np.where(decided["score"] >= decided["threshold"], "stalled", "flowing")
    assert derived.tolist() == decided["call"].tolist()


def test_a_load_that_ties_do_not_allow_calls_none_again(tmp_path):
    path = _write(tmp_path / "run", [0.9999] * 3 + [0.2] * 17, [f"{n}.mp4" for n in range(20)])
    made = decide.decide(path, CallSettings(rule="load", load=0.05))
    assert "stalled" not in set(made.table["call"])
    again = decide.decide(decide.write_calls(made, tmp_path / "out"), CallSettings())
    assert "stalled" not in set(again.table["call"])


def test_another_threshold_changes_nothing_else(model):
    made = decide.decide(model, CallSettings(threshold=0.95))
    assert (made.table["call"] == "stalled").tolist() == [score >= 0.95 for score in SCORES]
    assert made.table["score"].tolist() == SCORES


def test_the_highest_mcc_at_a_declared_prevalence(tmp_path):
    table, known = _drawn(tmp_path / "run", 4000, 0.3)
    for rule_labels in (tmp_path / "run" / "labels.csv", None):
        settings = CallSettings(rule="mcc", prevalence=0.02)
        made = decide.decide(table, settings, rule_labels)
        assert made.table["score"].to_numpy() == pytest.approx(
            calibration.shift(read_predictions(table)["score"], 0.3, 0.02), abs=5.1e-7
        )
    rare, truth = _drawn(tmp_path / "rare", 40_000, 0.02, seed=1)
    mcc = []
    for settings in (CallSettings(), CallSettings(rule="mcc", prevalence=0.02)):
        made = decide.decide(rare, settings)
        mcc.append(matthews_corrcoef(truth["stalled"], made.table["call"] == "stalled"))
    assert mcc[1] > mcc[0] + 0.1
    assert len(known) == 4000


def test_a_prevalence_alone_reads_scores_anew_and_keeps_the_calls(model):
    before = decide.decide(model, CallSettings())
    after = decide.decide(model, CallSettings(prevalence=0.02))
    assert after.table["call"].tolist() == before.table["call"].tolist()
    assert (after.table["score"] < before.table["score"]).all()
    assert after.run["prevalence"] == 0.02


def test_the_prevalence_is_estimated_and_doubted(tmp_path):
    table, truth = _drawn(tmp_path / "run", 20_000, 0.02)
    made = decide.decide(table, CallSettings(rule="mcc", prevalence="estimate"))
    assert made.run["prevalence"] == pytest.approx(truth["stalled"].mean(), rel=0.2)
    assert made.doubts == ()
    few = _write(tmp_path / "few", SCORES, simulated_training=True)
    doubts = " ".join(decide.decide(few, CallSettings(prevalence="estimate")).doubts)
    assert "too few" in doubts
    assert "simulated recordings only" in doubts


def test_labels_that_choose_are_noted(tmp_path):
    table, known = _drawn(tmp_path / "run", 2000, 0.3)
    known.head(1500).to_csv(tmp_path / "some.csv", index=False)
    settings = CallSettings(rule="specificity", specificity=0.99)
    made = decide.decide(table, settings, tmp_path / "some.csv")
    decide.write_calls(made, tmp_path / "out")
    noted = pd.read_csv(tmp_path / "out" / "chosen_on.csv")
    assert noted["filename"].tolist() == known["filename"].head(1500).tolist()
    assert "on 1,500 labelled recordings" in str(made)
    rest = made.table.iloc[1500:]
    flowing = known["stalled"].iloc[1500:].to_numpy() == 0
    assert (rest["call"][flowing] == "flowing").mean() > 0.97


def test_limits_leave_the_rest_to_a_person(tmp_path):
    table, known = _drawn(tmp_path / "run", 6000, 0.3)
    known.head(3000).to_csv(tmp_path / "some.csv", index=False)
    made = decide.decide(table, CallSettings(rule="limits"), tmp_path / "some.csv")
    rest, labels = made.table.iloc[3000:], known["stalled"].iloc[3000:].to_numpy()
    assert 0 < (rest["call"] == "review").mean() < 0.2
    assert (rest["call"][labels == 1] == "flowing").mean() < 0.05
    assert (rest["call"][labels == 0] == "stalled").mean() < 0.01
    assert "at most 5.0% of the stalled" in str(made)


def test_a_load_needs_no_labels(tmp_path):
    table, _ = _drawn(tmp_path / "run", 1000, 0.3)
    made = decide.decide(table, CallSettings(rule="load", load=0.1))
    assert (made.table["call"] == "stalled").sum() == 100


def test_the_competitions_file_has_its_names_in_its_order(tmp_path):
    table = _write(tmp_path / "run", [0.9, None, *SCORES[2:]])
    form = pd.DataFrame({"filename": NAMES[:4][::-1], "stalled": 0})
    form.to_csv(tmp_path / "form.csv", index=False)
    made = decide.decide(table, CallSettings())
    path, doubt = submission.submit(made, tmp_path / "form.csv", tmp_path)
    assert path.read_text() == "filename,stalled\n3.mp4,1\n2.mp4,0\n1.mp4,0\n0.mp4,1\n"
    assert doubt == "1 recording without a call is submitted as flowing"
    # 'predict' names recordings by their folder, too.
    table = _write(tmp_path / "folder", SCORES, [f"train/{name}" for name in NAMES])
    made = decide.decide(table, CallSettings())
    submission.submit(made, tmp_path / "form.csv", tmp_path)
    assert path.read_text() == "filename,stalled\n3.mp4,1\n2.mp4,0\n1.mp4,1\n0.mp4,1\n"
    pd.DataFrame({"filename": ["other.mp4"], "stalled": 0}).to_csv(tmp_path / "f.csv", index=False)
    with pytest.raises(TableError, match=r"1 of its 1 recordings are not.*other\.mp4"):
        submission.submit(made, tmp_path / "f.csv", tmp_path)


def test_the_real_form_is_submitted(real_dir, tmp_path):
    form = real_dir / "metadata" / "submission_format.csv.gz"
    names = pd.read_csv(form)["filename"].tolist()
    table = _write(tmp_path / "run", np.linspace(0, 1, len(names)), names[::-1])
    made = decide.decide(table, CallSettings(threshold=0.9))
    path, _ = submission.submit(made, form, tmp_path)
    written = pd.read_csv(path)
    assert written["filename"].tolist() == names
    assert written["stalled"].mean() == pytest.approx(0.1, abs=0.001)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "mcc"}, "--labels"),
        ({"rule": "limits"}, "--labels"),
    ],
)
def test_settings_that_do_not_fit_are_refused(model, settings, message):
    with pytest.raises(InputError, match=message):
        decide.decide(model, CallSettings(**settings))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": 1.5}, "threshold"),
        ({"prevalence": 0.0}, "above 0"),
        ({"specificity": 1.0}, "specificity"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(SettingsError, match=message):
        CallSettings.parse(values, "decide")


def test_the_tables_themselves_are_not_written_over(model):
    made = decide.decide(model, CallSettings())
    with pytest.raises(InputError, match="holds the predictions themselves"):
        decide.write_calls(made, model.parent)


def test_without_its_run_the_calibration_is_asked_for(model):
    model.with_name("run.json").unlink()
    settings = CallSettings(prevalence=0.02)
    with pytest.raises(InputError, match="--calibrated-at"):
        decide.decide(model, settings)
    made = decide.decide(model, settings, calibrated_at=0.3)
    assert made.table["score"].to_numpy() == pytest.approx(
        calibration.shift(SCORES, 0.3, 0.02), abs=5.1e-7
    )
    for odd in ([], {"tables": "a"}, {"tables": [1]}, {"steps": [1]}):
        model.with_name("run.json").write_text(json.dumps({"decision": odd}))
        with pytest.raises(InputError, match=r"run\.json: does not describe a run"):
            decide.decide(model, CallSettings(threshold=0.5))
    model.with_name("run.json").write_text("{")
    with pytest.raises(InputError, match="not readable"):
        decide.decide(model, settings)


def test_nothing_scored_and_nothing_labelled_is_said(tmp_path, model):
    none = _write(tmp_path / "none", [None] * 8)
    with pytest.raises(InputError, match="no recording has a score"):
        decide.decide(none, CallSettings())
    pd.DataFrame({"filename": ["y.mp4"], "stalled": [1]}).to_csv(tmp_path / "l.csv", index=False)
    with pytest.raises(InputError, match=r"l\.csv: .*y\.mp4"):
        decide.decide(model, CallSettings(rule="mcc"), tmp_path / "l.csv")


def test_what_chose_a_threshold_before_is_not_forgotten(tmp_path):
    table, known = _drawn(tmp_path / "run", 400, 0.3)
    known.head(200).to_csv(tmp_path / "some.csv", index=False)
    first = decide.decide(table, CallSettings(rule="mcc"), tmp_path / "some.csv")
    again = decide.decide(decide.write_calls(first, tmp_path / "one"), CallSettings(prevalence=0.1))
    decide.write_calls(again, tmp_path / "two")
    for folder in ("one", "two"):
        noted = pd.read_csv(tmp_path / folder / "chosen_on.csv")
        assert noted["filename"].tolist() == known["filename"].head(200).tolist()


def test_labels_are_found_by_base_name_as_evaluate_finds_them(tmp_path):
    names = [f"mouse/{name}" for name in NAMES]
    table = _write(tmp_path / "run", SCORES, names)
    labels = pd.DataFrame({"filename": NAMES, "stalled": LABELS})
    labels.to_csv(tmp_path / "labels.csv", index=False)
    made = decide.decide(table, CallSettings(rule="mcc"), tmp_path / "labels.csv")
    assert made.chosen_on["filename"].tolist() == names


def test_a_threshold_that_is_not_there_is_not_kept(tmp_path):
    table = _write(tmp_path / "run", SCORES)
    text = table.read_text().replace(",0.5,run", ",0.6,run", 1)
    table.write_text(text)
    with pytest.raises(InputError, match="no single threshold to keep"):
        decide.decide(table, CallSettings())


def test_what_was_left_to_a_person_stays_so(tmp_path):
    table, known = _drawn(tmp_path / "run", 3000, 0.3)
    known.to_csv(tmp_path / "labels.csv", index=False)
    made = decide.decide(table, CallSettings(rule="limits"), tmp_path / "labels.csv")
    kept = decide.decide(
        decide.write_calls(made, tmp_path / "three"), CallSettings(prevalence=0.05)
    )
    assert kept.table["call"].tolist() == made.table["call"].tolist()
    assert "review" in set(kept.table["call"])
    # The limits are those of the converted scores: accuracy is asked for by them.
    score, call = kept.table["score"], kept.table["call"]
    low, high = (kept.run["decision"][name] for name in ("low", "threshold"))
    assert score[call == "flowing"].max() < low <= score[call == "review"].min()
    assert score[call == "review"].max() < high <= score[call == "stalled"].min()


def test_no_file_of_an_earlier_decision_is_left(model, tmp_path):
    pd.DataFrame({"filename": NAMES, "stalled": LABELS}).to_csv(tmp_path / "l.csv", index=False)
    out = tmp_path / "out"
    made = decide.decide(model, CallSettings(rule="mcc"), tmp_path / "l.csv")
    decide.write_calls(made, out)
    submission.submit(made, tmp_path / "l.csv", out)
    later = decide.decide(model, CallSettings(threshold=0.98))
    decide.write_calls(later, out)
    assert {path.name for path in out.glob("*.*")} >= {"predictions.csv", "run.json"}
    assert not (out / "submission.csv").exists()
    assert not (out / "chosen_on.csv").exists()


def test_a_decision_counts_its_own_calls_and_keeps_what_made_the_scores(tmp_path):
    counts = {"stalled": 5, "flowing": 3}
    table = _write(tmp_path / "run", SCORES, calls=counts, stallscan="0.0.9", git="abc")
    run = decide.decide(table, CallSettings(threshold=0.98)).run
    assert run["calls"] == {"stalled": 1, "flowing": 7}
    assert (run["stallscan"], run["git"]) == ("0.0.9", "abc")
    assert run["decision"]["stallscan"] == __version__


def test_labels_choose_for_the_prevalence_that_was_estimated(tmp_path):
    table, known = _drawn(tmp_path / "run", 20_000, 0.02)
    known.to_csv(tmp_path / "labels.csv", index=False)
    labels = tmp_path / "labels.csv"
    estimated = CallSettings(rule="mcc", prevalence="estimate")
    made = decide.decide(table, estimated, labels)
    share = made.run["prevalence"]
    declared = CallSettings(rule="mcc", prevalence=share)
    assert made.run["threshold"] == decide.decide(table, declared, labels).run["threshold"]


@pytest.mark.parametrize("share", [0.0, 1.0, 1.5, np.nan])
def test_a_prevalence_of_the_calibration_is_a_share(model, share):
    with pytest.raises(InputError, match="--calibrated-at"):
        decide.decide(model, CallSettings(prevalence=0.02), calibrated_at=share)


def test_a_threshold_and_a_rule_exclude_each_other():
    with pytest.raises(SettingsError, match=r"threshold.*rule mcc"):
        CallSettings.parse({"threshold": 0.5, "rule": "mcc"}, "decide")


@pytest.fixture(scope="module")
def validated(bundle_dir, tmp_path_factory):
    """A bundle with 500 validation scores, calibrated for 30 % stalled, and scores by it."""
    folder = tmp_path_factory.mktemp("validated")
    table, _ = _drawn(folder / "run", 500, 0.3)
    scores = read_predictions(table)["score"].to_numpy()
    before = disk.load(bundle_dir)
    spec = before.spec.model_copy(
        update={"prevalence": 0.3, "reference": Reference.of(pd.DataFrame(), scores)}
    )
    disk.save(folder / "bundle", spec, before.weights, "# for tests\n")
    return folder / "bundle"


@pytest.mark.parametrize("before", [0.3, 0.1])
def test_a_prevalence_has_the_threshold_of_predict(validated, tmp_path, before):
    model = disk.load(validated)
    told = {"bundle": model.label, "bundle_path": str(validated), "prevalence": before}
    table = _write(tmp_path / "run", SCORES, **told)
    made = decide.decide(table, CallSettings(rule="mcc", prevalence=0.05))
    assert made.run["threshold"] == model.at(0.05).spec.threshold
    # Another bundle is in this folder by now.
    _write(tmp_path / "run", SCORES, **(told | {"bundle": "other@00000000"}))
    other = decide.decide(table, CallSettings(rule="mcc", prevalence=0.05))
    assert other.run["threshold"] != made.run["threshold"]
    assert f"the bundle in {validated} is another one by now" in str(other)


def test_calibration_and_threshold_of_labels_serve_other_recordings(tmp_path):
    # The scores are those of a net that is far too certain.
    tables, known = {}, {}
    for seed, name in enumerate(("here", "there")):
        table, known[name] = _drawn(tmp_path / name / "run", 3000, 0.3, seed=seed)
        scores = read_predictions(table)["score"].to_numpy()
        certain = calibration.Calibration(scale=3.0, bias=1.0).score(calibration.log_odds(scores))
        tables[name] = _write(tmp_path / name / "run", np.round(certain, 6), known[name].filename)
    labels = tmp_path / "here" / "run" / "labels.csv"
    with pytest.raises(InputError, match="--labels"):
        decide.decide(tables["here"], CallSettings(calibrate=True))
    wanted = CallSettings(rule="mcc", calibrate=True, prevalence=0.2)
    made = decide.decide(tables["here"], wanted, labels)
    decide.write_calls(made, tmp_path / "decided")
    assert len(made.chosen_on) == 3000
    like = decide_like(tables["there"], tmp_path / "decided")
    assert like.run["threshold"] == made.run["threshold"]
    assert like.run["prevalence"] == 0.2
    # Converted back to the share of the labels, the scores are the probabilities they claim to be.
    scores = calibration.shift(like.table["score"], 0.2, known["here"]["stalled"].mean())
    middle = (scores > 0.2) & (scores < 0.8)
    assert scores[middle].mean() == pytest.approx(
        known["there"]["stalled"][middle].mean(), abs=0.05
    )
    # And it repeats itself on the very recordings that chose, which stay listed.
    again = decide_like(tables["here"], tmp_path / "decided")
    assert again.table["score"].to_numpy() == pytest.approx(made.table["score"], abs=2e-6)
    assert len(again.chosen_on) == 3000


def test_limits_are_repeated_with_their_open_calls(tmp_path):
    table, _ = _drawn(tmp_path / "run", 2000, 0.3)
    labels = tmp_path / "run" / "labels.csv"
    limits = CallSettings(rule="limits", missed=0.05, false=0.02)
    made = decide.decide(table, limits, labels)
    decide.write_calls(made, tmp_path / "limits")
    again = decide_like(table, tmp_path / "limits")
    assert again.table["call"].tolist() == made.table["call"].tolist()
    assert "review" in set(again.table["call"])
    kept = decide.decide(tmp_path / "limits" / "predictions.csv", CallSettings())
    decide.write_calls(kept, tmp_path / "kept")
    again = decide_like(table, tmp_path / "kept")
    assert again.table["call"].tolist() == made.table["call"].tolist()
    run = json.loads((tmp_path / "kept" / "run.json").read_text())
    del run["decision"]["low"]  # as older versions kept limits
    (tmp_path / "kept" / "run.json").write_text(json.dumps(run))
    with pytest.raises(InputError, match=r"kept: .*another decision"):
        decide_like(table, tmp_path / "kept")


def test_what_cannot_be_repeated_is_refused(model, tmp_path):
    with pytest.raises(InputError, match="no decision"):
        decide_like(model, model.parent)
    decide.write_calls(decide.decide(model, CallSettings(threshold=0.95)), tmp_path / "decided")
    with pytest.raises(InputError, match="a decision already"):
        decide_like(tmp_path / "decided" / "predictions.csv", tmp_path / "decided")
    other = _write(tmp_path / "other", SCORES)  # named after its folder, as by another bundle
    with pytest.raises(InputError, match=r"of other, but .* of run\. .*same bundle"):
        decide_like(other, tmp_path / "decided")
    words = ["decide", model.parent, "-o", tmp_path / "new", "--like", tmp_path / "decided"]
    with pytest.raises(InputError, match="--like"):
        app([*map(str, words), "--threshold", "0.5"], result_action="return_value")
    onto_itself = [*words[:3], tmp_path / "decided", *words[4:]]
    with pytest.raises(InputError, match="holds the decision itself"):
        app([*map(str, onto_itself)], result_action="return_value")
    app([*map(str, words)], result_action="return_value")
    assert read_predictions(tmp_path / "new" / "predictions.csv")["threshold"].eq(0.95).all()


def test_labels_of_another_simulated_corpus_are_refused(tmp_path):
    for name in ("own", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "simulation.json").write_text(f'{{"name": "{name}"}}')
    table, known = _drawn(tmp_path / "run", 40, 0.5)
    run = json.loads((table.parent / "run.json").read_text())
    (table.parent / "run.json").write_text(json.dumps(run | {"paths": [str(tmp_path / "own")]}))
    known.to_csv(tmp_path / "other" / "labels.csv", index=False)
    settings = CallSettings(rule="mcc")
    with pytest.raises(InputError, match=r"other.labels\.csv: .*simulated"):
        decide.decide(table, settings, tmp_path / "other" / "labels.csv")
