"""Training from recordings and a table of labels; dry runs; and starts that fail."""

import logging
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import yaml
from pytorch_lightning.callbacks import RichProgressBar

import stallscan
from stallscan.bundle import disk
from stallscan.cli.commands import app
from stallscan.errors import InputError, SettingsError
from stallscan.recipes.recipe import Recipe
from stallscan.training import labelled, rehearsal, train
from stallscan.training.checkpoints import Bar, Place
from stallscan.training.data import Data, prepare
from stallscan.training.folder import RECIPE_NAME
from tests import drawing

RECIPE = {
    "name": "tiny",
    "data": {"validation": 0.25},
    "clip": {"size": 24, "shape": "pad", "channels": "grey+mask"},
    "net": {"mean": [0.2, 0.0], "std": [0.2, 1.0]},
    "training": {"stages": [{"epochs": 1, "learning_rate": 1e-3}], "batch_size": 4},
}
COUNT = 16


def _recipe(**changes):
    return Recipe.parse(RECIPE | changes, "test")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a data folder of recordings of four mice, with metadata that know little."""
    folder = tmp_path_factory.mktemp("data")
    names = [f"{index}.mp4" for index in range(COUNT)]
    for index, name in enumerate(names):
        drawing.write(folder / "train" / name, seed=index, count=8, height=64, width=64)
    stalled = [index % 2 for index in range(COUNT)]
    mice = [f"m{index // 4}" for index in range(COUNT)]
    labels = pd.DataFrame({"filename": names, "stalled": stalled, "mouse": mice})
    labels.to_csv(folder / "train_labels.csv", index=False)
    flags = dict.fromkeys(("tier1", "micro", "nano"), True)
    metadata = labels[["filename"]].assign(project_id="A", crowd_score=0.5, **flags)
    metadata.to_csv(folder / "train_metadata.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """Train from the recordings and the labels alone."""
    folder = tmp_path_factory.mktemp("run")
    found = labelled.from_table(_recipe(), [data / "train"], data / "train_labels.csv")
    train.train(_recipe(), found, folder)
    return folder


def test_recordings_with_labels_train_the_net_of_a_data_folder(data, run, tmp_path):
    assert not disk.load(run / "bundle").spec.simulated
    train.train(_recipe(), data, tmp_path)
    hashes = [disk.load(folder / "bundle").spec.weights_sha256 for folder in (run, tmp_path)]
    assert hashes[0] == hashes[1]


def test_python_takes_recordings_and_labels_too(data, run, tmp_path):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    with pytest.raises(InputError, match="labels"):
        stallscan.train(tmp_path / "tiny.yaml", [data / "train", data / "more"], tmp_path / "run")
    summary = stallscan.train(
        tmp_path / "tiny.yaml", run / "store", tmp_path / "run", labels=data / "train_labels.csv"
    )
    assert summary.bundles[0].weights_sha256 == disk.load(run / "bundle").spec.weights_sha256


def test_a_store_takes_the_place_of_recordings(data, run):
    labels = data / "train_labels.csv"
    found = labelled.from_table(_recipe(), [run / "store"], labels)
    assert found.clips is not None
    assert not found.sources
    assert found.table["filename"].tolist() == sorted(f"{index}.mp4" for index in range(COUNT))


def test_a_copy_of_a_recording_is_warned_of(data, tmp_path, caplog):
    for name in ("0.mp4", "1.mp4"):
        shutil.copyfile(data / "train" / name, tmp_path / name)
    shutil.copyfile(tmp_path / "0.mp4", tmp_path / "again.mp4")
    (tmp_path / "labels.csv").write_text("filename,stalled\n0.mp4,0\n1.mp4,1\nagain.mp4,0\n")
    found = labelled.from_table(_recipe(), [tmp_path], tmp_path / "labels.csv")
    prepared = prepare(found, _recipe(), tmp_path / "store", lambda _done, _of: None)
    assert len(prepared.table) == 3
    assert "the same recording under two names: 0.mp4 and again.mp4." in caplog.text
    Data.of(prepared.store, prepared.table, prepared.selected, simulated=False)  # as fine-tuning
    assert caplog.text.count("under two names") == 1


def test_only_labelled_recordings_are_used(data, tmp_path):
    (tmp_path / "few.csv").write_text("filename,stalled\n3.mp4,1\n2.mp4,0\n")
    found = labelled.from_table(_recipe(), [data / "train"], tmp_path / "few.csv")
    assert [source.filename for source in found.sources] == ["2.mp4", "3.mp4"]
    (tmp_path / "few.csv").write_text("filename,stalled\n3.mp4,1\nlost.mp4,0\n")
    with pytest.raises(InputError, match=r"1 of 2 .*lost\.mp4"):
        labelled.from_table(_recipe(), [data / "train"], tmp_path / "few.csv")


@pytest.mark.parametrize("form", ["table", "folder"])
def test_mice_stay_together(data, form):
    recipe = _recipe(data=RECIPE["data"] | {"group": "Mouse"})
    if form == "table":
        found = labelled.from_table(recipe, [data / "train"], data / "train_labels.csv")
    else:
        found = labelled.from_folder(recipe, data)
    learn, choose = train.splits(recipe, found)[0]
    assert len(learn) + len(choose) == COUNT
    assert not set(learn["Mouse"]) & set(choose["Mouse"])


def test_mice_that_are_split_are_warned_of(data, caplog):
    labelled.from_table(_recipe(), [data / "train"], data / "train_labels.csv")
    assert "mouse" in caplog.text


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"data": {"rule": "tier1"}}, InputError, r"rule tier1, .*--data.*data\.rule=all"),
        ({"data": {"rule": "teir1"}}, SettingsError, r"teir1 .*tier1"),
        ({"data": {"group": "litter"}}, InputError, r"train_labels\.csv: .*litter.*data\.group"),
        ({"data": {"group": "stalled"}}, InputError, r"stalled names no groups.*data\.group"),
        ({"training": {"targets": "crowd"}}, InputError, "crowd_score"),
    ],
)
def test_what_a_table_of_labels_does_not_serve_is_refused(data, changes, error, words):
    recipe = _recipe(**changes)
    with pytest.raises(error, match=words):
        labelled.from_table(recipe, [data / "train"], data / "train_labels.csv")


def test_a_wrong_table_is_refused_before_torch_is_imported(data, tmp_path):
    (tmp_path / "labels.csv").write_text("filename,stalled\n3.mp4,perhaps\n")
    words = ["train", "default", data / "train", "--labels", tmp_path / "labels.csv"]
    program = (
        "import sys\nfrom stallscan.cli.commands import app\n"
        "try:\n    app(sys.argv[1:], exit_on_error=False)\n"
        "except Exception as error:\n    print('torch' in sys.modules, error)\n"
    )
    command = [sys.executable, "-c", program, *words, "-o", tmp_path / "run"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    assert re.match(r"False .*labels\.csv: .*perhaps", done.stdout)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["recordings"], "--labels"),
        (["--labels", "labels.csv"], "PATH"),
        (["recordings", "--labels", "labels.csv", "--data", "data"], "--data"),
        (["recordings", "--labels", "labels.csv", "--store", "store"], "--store"),
    ],
)
def test_the_command_says_what_is_missing_or_too_much(words, named):
    with pytest.raises(InputError, match=named):
        app(["train", "default", *words, "-o", "run"], result_action="return_value")


def test_a_dry_run_leaves_nothing_and_finds_what_would_stop(data, tmp_path):
    out = tmp_path / "run"
    found = labelled.from_table(_recipe(), [data / "train"], data / "train_labels.csv")
    with rehearsal.rehearse(_recipe(), found, out) as rehearsed:
        assert disk.load(rehearsed.bundle).spec.name == "tiny"
    assert not rehearsed.bundle.exists()
    assert not out.exists()
    assert (rehearsed.learn.count, rehearsed.choose.count) == (12, 4)
    lost = _recipe(pretrained={"source": "file", "file": tmp_path / "lost.pth"})
    with pytest.raises(InputError, match=r"lost\.pth"), rehearsal.rehearse(lost, found, out):
        pass
    assert not out.exists()


@pytest.mark.slow
def test_the_command_trains_under_another_name_after_a_dry_run(data, tmp_path, capsys):
    words = ["train", "baseline", data / "train", "--labels", data / "train_labels.csv"]
    words += ["-o", tmp_path / "run", "--name", "mine", "--set", "data.validation=0.5"]
    app([*map(str, words), "--dry-run"], result_action="return_value")
    assert "dry run" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    app([*map(str, words)], result_action="return_value")
    assert disk.load(tmp_path / "run" / "bundle").spec.name == "mine"


def test_a_failed_start_does_not_block_the_corrected_command(data, tmp_path, caplog):
    caplog.set_level(logging.INFO, "stallscan")
    lost = {"pretrained": {"source": "file", "file": tmp_path / "lost.pth"}}
    with pytest.raises(InputError, match=r"lost\.pth"):
        train.train(_recipe(**lost, clip=RECIPE["clip"] | {"size": 16}), data, tmp_path / "run")
    diverging = RECIPE["training"] | {"stages": [{"epochs": 1, "learning_rate": 1e30}]}
    with pytest.raises(InputError, match="learning_rate"):
        train.train(_recipe(training=diverging), data, tmp_path / "run")
    train.train(_recipe(), data, tmp_path / "run")
    assert disk.load(tmp_path / "run" / "bundle").spec.clip.size == 24
    assert caplog.text.count("had no result yet") == 2


def test_a_training_with_results_is_not_replaced(data, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    for act in (
        lambda: train.train(_recipe(seed=5), data, tmp_path / "run"),
        lambda: rehearsal.rehearse(
            _recipe(seed=5), labelled.from_folder(_recipe(seed=5), data), tmp_path / "run"
        ).__enter__(),
    ):
        with pytest.raises(InputError, match=r"seed was 0, now 5.* -o"):
            act()
    written = (tmp_path / "run" / RECIPE_NAME).read_text()
    assert written == (run / RECIPE_NAME).read_text()


def test_each_epoch_has_a_line_with_fold_and_stage(data, tmp_path, caplog):
    caplog.set_level(logging.INFO, "stallscan")
    stages = [{"epochs": 1, "learning_rate": 1e-3}] * 2
    recipe = _recipe(data={"folds": 2}, training=RECIPE["training"] | {"stages": stages})
    train.train(recipe, data, tmp_path)
    lines = [text for text in caplog.messages if "epoch" in text and text.startswith("stallnet")]
    assert [text.partition(": loss ")[0] for text in lines] == [
        f"stallnet, fold {fold} of 2, stage {stage} of 2, epoch 1 of 1"
        for fold in (1, 2)
        for stage in (1, 2)
    ]
    assert ["left" in text for text in lines] == [True, True, True, False]


def test_labels_and_clips_of_another_simulated_corpus_are_refused(data, tmp_path):
    for name in ("own", "other"):
        shutil.copytree(data, tmp_path / name)
        content = f'{{"settings": {{"name": "{name}"}}}}'
        (tmp_path / name / "simulation.json").write_text(content)
    own, other = tmp_path / "own", tmp_path / "other"
    labels = other / "train_labels.csv"
    with pytest.raises(InputError, match=r"train_labels\.csv: .*simulated"):
        labelled.from_table(_recipe(), [own / "train"], labels)
    with pytest.raises(InputError, match=r"train_labels\.csv: .*simulated"):
        labelled.from_folder(_recipe(), own, other / "store")
    assert len(labelled.from_table(_recipe(), [other / "train"], labels).table) == COUNT


def test_the_time_to_cut_clips_is_said_once_some_are_cut(data, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "stallscan")
    monkeypatch.setattr("stallscan.training.data.TIMED", 4)
    found = labelled.from_table(_recipe(), [data / "train"], data / "train_labels.csv")
    for _ in range(2):  # the second time, nothing is left to cut
        prepare(found, _recipe(), tmp_path, lambda _done, _of: None)
    (said,) = [text for text in caplog.messages if "cutting" in text]
    assert re.match(rf"cutting the other {COUNT - 4} clips takes about \d+ s", said)


def test_the_bar_names_figures_in_words(monkeypatch):
    figures = {"v_num": 3, "val_loss": 0.5, "val_mcc": 0.25}
    monkeypatch.setattr(RichProgressBar, "get_metrics", lambda *_: figures)
    shown = Bar(Place("net")).get_metrics(None, None)
    assert shown == {"validation loss": 0.5, "validation MCC": 0.25}
