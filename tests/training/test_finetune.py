"""Fine-tuning: the splits, the comparison with the original bundle, and refused labels."""

import logging
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from stallscan.bundle import disk
from stallscan.calls import decide, inputs, predict
from stallscan.calls.predictions import read_predictions
from stallscan.cli import training
from stallscan.clips import fill
from stallscan.errors import BundleError, InputError, SettingsError
from stallscan.evaluation import evaluate, present
from stallscan.rates import rates
from stallscan.rates.correction import PERFECT
from stallscan.recordings import find
from stallscan.runs import LEARNED
from stallscan.scores.metrics import Scored
from stallscan.training import finetune, gain
from tests import drawing


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Return a folder of recordings of eight mice, four each, and their labels."""
    folder = tmp_path_factory.mktemp("lab")
    rows = []
    for index in range(32):
        name = f"{index}.mp4"
        drawing.write(folder / name, seed=index, count=8, height=64, width=64)
        rows.append((name, int(index % 4 == 0), f"m{index // 4}"))
    table = pd.DataFrame(rows, columns=["filename", "stalled", "mouse"])
    table.to_csv(folder / "labels.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def tuned(recordings, bundle_dir, tmp_path_factory):
    run = tmp_path_factory.mktemp("tuned")
    comparison = finetune.fine_tune(
        bundle_dir, [recordings], recordings / "labels.csv", run, epochs=2, learning_rate=1e-3
    )
    return run, comparison


def test_the_comparison_shows_both_bundles(tuned, bundle_dir):
    run, comparison = tuned
    text = str(comparison)
    before, after = disk.load(bundle_dir), disk.load(run / "bundle")
    assert before.label in text
    assert after.label in text
    assert "by mouse" in text
    cells = comparison.after.measured.confusion
    assert text.startswith(f"{cells.true_stalled} of {cells.stalled} stalled found (old: ")
    assert "new minus old" in text
    assert f"{comparison.after.measured.recall - comparison.before.measured.recall:+.3f}" in text
    assert before.spec.net == after.spec.net
    assert before.spec.clip == after.spec.clip
    assert before.spec.weights_sha256 != after.spec.weights_sha256
    table = pd.read_csv(run / "comparison.csv")
    assert list(table.columns) == ["figure", "before", "after"]
    assert any(name.startswith("MCC at") for name in table["figure"])


def test_only_fine_tune_offers_to_train_from_all_labels(tuned, recordings, run, monkeypatch):
    folder, comparison = tuned
    assert "--final" not in str(comparison)  # 'improve' prints it, too, and has no such option
    monkeypatch.setattr(training, "tune", lambda *_words, **_settings: comparison)
    command = ("fine-tune", recordings, "--labels", recordings / "labels.csv", "-o", folder)
    assert "with --final" in run(*command)[1]
    assert "with --final" not in run(*command, "--final")[1]


def test_few_labels_keep_calibration_and_threshold(
    tuned, recordings, bundle_dir, tmp_path, monkeypatch
):
    before, after = disk.load(bundle_dir).spec, disk.load(tuned[0] / "bundle").spec
    for name in ("calibration", "threshold", "prevalence"):
        assert getattr(after, name) == getattr(before, name)
    card = (tuned[0] / "bundle" / "README.md").read_text(encoding="utf-8")
    assert "that training started from" in card
    monkeypatch.setattr(finetune, "FEWEST_TO_CHOOSE", 32)
    labels = recordings / "labels.csv"
    finetune.fine_tune(bundle_dir, [recordings], labels, tmp_path, epochs=1, name="our-own")
    chosen = disk.load(tmp_path / "bundle").spec
    assert chosen.prevalence != before.prevalence
    assert (after.name, chosen.name) == (f"{before.name}-tuned", "our-own")


def test_held_out_recordings_are_not_trained_or_validated_on(tuned, recordings):
    run, comparison = tuned
    mice = pd.read_csv(recordings / "labels.csv").set_index("filename")["mouse"]
    held_out = set(pd.read_csv(run / "held_out.csv")["filename"])
    validation = set(pd.read_csv(run / "validation.csv")["filename"])
    assert not {mice[name] for name in held_out} & {mice[name] for name in validation}
    spec = disk.load(run / "bundle").spec
    seen = spec.provenance["trained_on"] + spec.provenance["validated_on"]
    assert seen + len(held_out) == 32
    assert comparison.before.measured.count == len(held_out)


def test_what_each_label_is_for_is_said_before_the_training(
    recordings, bundle_dir, tmp_path, caplog
):
    caplog.set_level(logging.INFO, "stallscan")
    labels = recordings / "labels.csv"
    tuned = finetune.fine_tune(bundle_dir, [recordings], labels, tmp_path, epochs=1, final=True)
    said = [record.getMessage() for record in caplog.records]
    uses = next(text for text in said if "to learn" in text)
    parts = [int(count) for count in re.findall(r"(\d+) to ", uses)]
    spec = disk.load(tmp_path / "bundle").spec
    compared = len(pd.read_csv(tmp_path / "held_out.csv"))
    expected = [spec.provenance["trained_on"], spec.provenance["validated_on"], compared]
    assert parts == expected
    assert sum(parts) == 32
    assert "split by mouse" in uses
    took = next(text for text in said if "training takes about" in text)
    assert re.search(r"cutting the clips took \d+ s, .* about (\d+) s: \d+ s in all", took)
    net = spec.net.name
    assert re.search(
        rf"{net}, epoch 1 of 1: loss \d\S+; on the validation recordings loss \d\S+, PR AUC \d",
        caplog.text,
    )
    # Then once more, from all of them.
    final = disk.load(tuned.final).spec
    assert final.provenance["trained_on"] + final.provenance["validated_on"] == 32
    assert str(tuned.final) in str(tuned)


def test_a_bundle_trained_on_real_recordings_is_not_marked_simulated(
    tuned, recordings, bundle_dir, tmp_path
):
    run, _ = tuned
    assert disk.load(bundle_dir).spec.simulated
    assert not disk.load(run / "bundle").spec.simulated
    simulated = tmp_path / "simulated" / "train"
    shutil.copytree(recordings, simulated)
    (simulated.parent / "simulation.json").touch()
    labels = simulated / "labels.csv"
    finetune.fine_tune(bundle_dir, [simulated], labels, tmp_path / "run", epochs=1)
    assert disk.load(tmp_path / "run" / "bundle").spec.simulated


def test_a_store_can_replace_the_recordings(tuned, recordings, bundle_dir, tmp_path):
    clips, run = tmp_path / "clips", tmp_path / "run"
    sources = find.list_recordings([recordings])
    fill.build(clips, sources, *inputs.view_of(bundle_dir), processes=0)
    finetune.fine_tune(bundle_dir, [clips], recordings / "labels.csv", run, epochs=1)
    ours, theirs = (pd.read_csv(folder / "held_out.csv") for folder in (run, tuned[0]))
    columns = ["filename", "stalled", "mouse", "score_before"]
    assert ours[columns].equals(theirs[columns])
    assert not (run / "store").exists()


def test_labels_without_a_mouse_are_split_by_recording_with_a_warning(
    recordings, bundle_dir, tmp_path, caplog
):
    labels = pd.read_csv(recordings / "labels.csv")[["filename", "stalled"]]
    labels["filename"] = "D:\\lab\\" + labels["filename"]
    labels.to_csv(tmp_path / "labels.csv", index=False, sep=";")
    with caplog.at_level(logging.WARNING):
        comparison = finetune.fine_tune(
            bundle_dir, [recordings], tmp_path / "labels.csv", tmp_path / "run", epochs=1
        )
    warnings = caplog.messages
    assert any("labels.csv" in text and "mouse" in text for text in warnings)
    assert any("file name" in text for text in warnings)  # paired by `names.match`
    assert "by recording" in str(comparison)


def test_labels_of_missing_recordings_are_named(recordings, bundle_dir, tmp_path):
    labels = pd.DataFrame({"filename": ["0.mp4", "no.mp4"], "stalled": [1, 0]})
    labels.to_csv(tmp_path / "labels.csv", index=False)
    with pytest.raises(InputError, match=r"labels\.csv: 1 of 2 .*no\.mp4"):
        finetune.fine_tune(bundle_dir, [recordings], tmp_path / "labels.csv", tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("3.mp4,0,m0", "3.mp4,0, "), "line 5 .*--group ''"),
        (("3.mp4,0,m0", "3.mp4,0,M0"), "line 2 .*line 5"),
        (("3.mp4,0,m0", "3.mp4,0,m0\n3.mp4,0,m1"), "lines 5 and 6"),
    ],
)
def test_an_ambiguous_mouse_is_refused(recordings, bundle_dir, tmp_path, change, named):
    labels = tmp_path / "labels.csv"
    labels.write_text((recordings / "labels.csv").read_text().replace(*change))
    with pytest.raises(InputError, match=rf"labels\.csv: .*{named}"):
        finetune.fine_tune(bundle_dir, [recordings], labels, tmp_path / "run")


def test_too_few_of_a_class_are_refused_before_clips_are_prepared(recordings, bundle_dir, tmp_path):
    labels = tmp_path / "few.csv"
    table = pd.read_csv(recordings / "labels.csv").iloc[1:8]
    assert table["stalled"].sum() == 1
    table.to_csv(labels, index=False)
    with pytest.raises(InputError, match=r"6 flowing and 1 stalled .* at least 3 of each") as error:
        finetune.fine_tune(bundle_dir, [recordings], labels, tmp_path / "run")
    assert str(labels) in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("share", [0, 1, 30])
def test_a_share_out_of_range_is_refused_before_clips_are_cut(
    recordings, bundle_dir, tmp_path, share
):
    run = tmp_path / "run"
    with pytest.raises(SettingsError, match=f"--hold-out {share} "):
        finetune.fine_tune(bundle_dir, [recordings], recordings / "labels.csv", run, hold_out=share)
    assert not run.exists()


def test_an_unknown_group_is_refused(recordings, bundle_dir, tmp_path):
    with pytest.raises(InputError, match=r"labels\.csv: .*column cage.*--group"):
        finetune.fine_tune(
            bundle_dir, [recordings], recordings / "labels.csv", tmp_path, group="cage"
        )


def test_another_share_held_out_is_refused_in_the_same_folder(tuned, recordings, bundle_dir):
    run, _ = tuned
    with pytest.raises(InputError, match=r"other recordings.* -o"):
        finetune.fine_tune(
            bundle_dir,
            [recordings],
            recordings / "labels.csv",
            run,
            epochs=2,
            learning_rate=1e-3,
            hold_out=0.5,
        )


def test_the_intervals_of_both_bundles_are_resampled_by_mouse(tuned, bundle_dir):
    # All calls of four mice are right, and all calls of the other four are wrong: resampled by
    # mouse the interval of the MCC is wide, and resampled by recording it is narrow.
    mice = np.repeat(np.arange(8), 20)
    labels = np.tile([0, 0, 0, 0, 1], 32)
    calls = np.where(mice % 2, labels, 1 - labels)
    scored = Scored.check(labels, np.full(160, 0.5), calls)
    model = disk.load(bundle_dir)
    by_mouse = gain.measure(model, scored, mice).mcc_interval
    by_recording = gain.measure(model, scored).mcc_interval
    assert by_mouse.high - by_mouse.low > 2 * (by_recording.high - by_recording.low)
    run, comparison = tuned
    held_out = pd.read_csv(run / "held_out.csv")
    scored = Scored.check(
        held_out["stalled"],
        held_out["score_after"],
        held_out["score_after"] >= disk.load(run / "bundle").spec.threshold,
    )
    expected = gain.measure(model, scored, held_out["mouse"].to_numpy()).mcc_interval
    assert comparison.after.mcc_interval == expected


def test_no_interval_is_shown_for_few_mice_or_an_undefined_gain(tuned):
    _, comparison = tuned
    assert comparison.groups < gain.FEWEST_HELD_OUT
    verdict = str(comparison).splitlines()[1]
    assert "mouse" in verdict
    assert str(comparison.groups) in verdict
    undefined = replace(comparison, gain=None, groups=gain.FEWEST_HELD_OUT)
    assert "class" in str(undefined).splitlines()[1]
    for text in (str(comparison), str(undefined)):
        assert not text.splitlines()[1].endswith(("better", "worse", "noise"))


@pytest.mark.parametrize("chance", [None, 0.6])
def test_the_appearances_of_the_last_stage_are_kept(chance):
    start = disk.load("default")
    recipe = {"training": {"stages": [{"appearance": 0.1}, {"appearance": chance}]}}
    spec = start.spec.model_copy(update={"provenance": {"recipe": recipe}})
    made = finetune.make_recipe(replace(start, spec=spec), "", 3, 1e-4, 0)
    (stage,) = made.training.stages
    assert (stage.epochs, stage.learning_rate, stage.appearance) == (3, 1e-4, chance)


def test_the_balance_of_classes_is_kept():
    start = disk.load("default")
    training = {"class_weight": "none", "stalled_share": 0.25}
    spec = start.spec.model_copy(update={"provenance": {"recipe": {"training": training}}})
    made = finetune.make_recipe(replace(start, spec=spec), "", 3, 1e-4, 0, keep=True)
    assert (made.training.class_weight, made.training.stalled_share) == ("none", 0.25)
    assert finetune.make_recipe(start, "", 3, 1e-4, 0).training.class_weight == "ratio"


@pytest.fixture(scope="module")
def predicted(tuned, recordings, tmp_path_factory):
    """Return the folder of the new bundle's predictions of all recordings, under other names."""
    out = tmp_path_factory.mktemp("predicted")
    for path in recordings.glob("*.mp4"):
        shutil.copyfile(path, out / f"copy-{path.name}")
    shutil.copyfile(recordings / "labels.csv", out / "labels.csv")
    labels = out / "labels.csv"
    labels.write_text(re.sub(r"^(\d)", r"copy-\1", labels.read_text(), flags=re.MULTILINE))
    predict.predict([out], out / "calls", tuned[0] / "bundle", processes=0)
    return out


def test_no_figure_is_measured_on_what_the_bundle_has_learned_from(tuned, predicted):
    held_out = "copy-" + pd.read_csv(tuned[0] / "held_out.csv")["filename"]
    table = read_predictions(predicted / "calls" / "predictions.csv")
    is_seen = table["reason"].str.contains(LEARNED)
    assert set(table["filename"][~is_seen]) == set(held_out)
    evaluation = evaluate.evaluate(predicted / "calls/predictions.csv", predicted / "labels.csv")
    assert set(evaluation.evaluated["filename"]) == set(held_out)
    assert evaluation.rows.learned == is_seen.sum() == 32 - len(held_out)
    assert evaluation.rows.coverage == 1
    assert any(f"{is_seen.sum()} recordings" in note for note in present.notes(evaluation))
    # Nor is a threshold chosen on it.
    settings = decide.CallSettings.parse({"rule": "mcc"}, "test")
    calls = decide.decide(
        predicted / "calls" / "predictions.csv", settings, predicted / "labels.csv"
    )
    assert set(calls.chosen_on["filename"]) == set(held_out)
    assert any("learned" in doubt for doubt in calls.doubts)
    # And rates of such recordings come with a warning.
    groups = pd.read_csv(predicted / "labels.csv")[["filename", "mouse"]]
    groups.to_csv(predicted / "groups.csv", index=False)
    result = rates.rate(predicted / "calls" / "predictions.csv", predicted / "groups.csv", PERFECT)
    assert result.learned == is_seen.sum()
    assert any("learned" in sentence for sentence in result.sentences())


def test_labels_of_nothing_but_training_recordings_measure_nothing(tuned, predicted, tmp_path):
    held_out = "copy-" + pd.read_csv(tuned[0] / "held_out.csv")["filename"]
    labels = pd.read_csv(predicted / "labels.csv")
    labels[~labels["filename"].isin(held_out)].to_csv(tmp_path / "seen.csv", index=False)
    with pytest.raises(InputError, match="learned from"):
        evaluate.evaluate(predicted / "calls/predictions.csv", tmp_path / "seen.csv", partial=True)


def test_clips_are_recognised_in_a_store(tuned, recordings, tmp_path):
    clips = tmp_path / "clips"
    sources = find.list_recordings([recordings])
    fill.build(clips, sources, *inputs.view_of(tuned[0] / "bundle"), processes=0)
    # A copy of the bundle, as an export makes it, and an ensemble know it, too.
    bundle = disk.copy(tuned[0] / "bundle", tmp_path / "copy")
    out = predict.predict([clips], tmp_path / "out", bundle, processes=0)
    held_out = pd.read_csv(tuned[0] / "held_out.csv")["filename"]
    assert out.learned == 32 - len(held_out)


def test_what_the_bundle_has_learned_from_is_only_trained_on(tuned, recordings, tmp_path, caplog):
    """Nor is another recording of its mice compared on, and the new bundle knows both."""
    caplog.set_level(logging.INFO, "stallscan")
    bundle, lab, run = tuned[0] / "bundle", tmp_path / "lab", tmp_path / "run"
    labels = recordings / "labels.csv"
    with pytest.raises(InputError, match=r"labels\.csv: .* learned from.* mouse.* 2 stalled"):
        finetune.fine_tune(bundle, [recordings], labels, run, seed=1)
    shutil.copytree(recordings, lab)
    table = pd.read_csv(labels)
    unknown = set(pd.read_csv(tuned[0] / "held_out.csv")["mouse"])
    new = [(f"new-{index}.mp4", int(index % 4 == 0), f"n{index // 4}") for index in range(12)]
    new += [("new-12.mp4", 1, (set(table["mouse"]) - unknown).pop())]
    for seed, (name, _, _) in enumerate(new, start=100):
        drawing.write(lab / name, seed=seed, count=8, height=64, width=64)
    table = pd.concat([table, pd.DataFrame(new, columns=table.columns)])
    table.to_csv(lab / "labels.csv", index=False)
    again = finetune.fine_tune(bundle, [lab], lab / "labels.csv", run, epochs=1, seed=1)
    unknown |= {"n0", "n1", "n2"}
    mouse = table.set_index("filename")["mouse"]
    for name in ("held_out.csv", "validation.csv"):
        assert set(mouse[pd.read_csv(run / name)["filename"]]) < unknown
    after = disk.load(run / "bundle")
    validated = len(pd.read_csv(run / "validation.csv"))
    assert after.spec.provenance["trained_on"] == len(table) - len(again.held_out) - validated
    assert after.learned > disk.load(bundle).learned
    assert f"{(~table['mouse'].isin(unknown)).sum()} of {len(table)} recordings" in caplog.text


def test_a_bundle_without_hashes_is_read_and_a_damaged_list_is_refused(tuned, recordings, tmp_path):
    bundle = disk.copy(tuned[0] / "bundle", tmp_path / "old")
    (bundle / "learned.json").unlink()
    assert disk.load(bundle).learned == frozenset()
    assert predict.predict([recordings / "0.mp4"], tmp_path / "out", bundle).learned == 0
    assert disk.load("default").learned == frozenset()
    for content in ("{", '{"format": 2, "recordings": []}', '{"format": 1}', "[]"):
        (bundle / "learned.json").write_text(content)
        with pytest.raises(BundleError, match=r"learned\.json"):
            _ = disk.load(bundle).learned
