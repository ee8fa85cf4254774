"""Training from data folder to bundle: run folders, batches, folds, and refused inputs."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from stallscan import runs
from stallscan.bundle import disk
from stallscan.clips import fill, prepare, store
from stallscan.clips.clip import ClipSettings
from stallscan.engines import exports
from stallscan.errors import InputError, SettingsError, StoreError
from stallscan.nets import build
from stallscan.nets.settings import NetSettings
from stallscan.nets.stallnet import StallNet
from stallscan.recipes import recipe
from stallscan.recipes.settings import AugmentSettings, DataSettings, StageSettings
from stallscan.recordings.find import Source
from stallscan.training import folder as run_folder
from stallscan.training import train
from stallscan.training.data import Data, prepare_data
from stallscan.training.dataset import ClipDataset, Collate, LengthSampler, Pick
from stallscan.vessels.outline import OutlineSettings
from tests import drawing

RECIPE = {
    "name": "tiny",
    "data": {"validation": 0.25},
    "clip": {"size": 24, "shape": "pad", "channels": "grey+mask"},
    "net": {"mean": [0.2, 0.0], "std": [0.2, 1.0]},
    "augment": {"rotate": 0.5, "flip": 0.5, "reverse": 0.5, "gamma": 0.3, "noise": 0.02},
    "training": {
        "stages": [{"epochs": 3, "learning_rate": 1e-3}],
        "batch_size": 4,
        "monitor": "val_pr_auc",
    },
    "seed": 1,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a data folder of 16 recordings of different lengths; the last has no outline."""
    folder = tmp_path_factory.mktemp("data")
    rows, labels = [], []
    for index in range(16):
        name = f"{index}.mp4"
        drawing.write(
            folder / "train" / name,
            seed=index,
            count=6 + index % 5,
            contours=0 if index == 15 else 1,
            height=64,
            width=64,
        )
        url = f"s3://made-up/train/{name}"
        rows.append((name, url, "A", 6 + index % 5, 0.0, True, False, False))
        labels.append((name, index % 2))
    columns = [
        *("filename", "url", "project_id", "num_frames"),
        *("crowd_score", "tier1", "micro", "nano"),
    ]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "train_metadata.csv", index=False)
    pd.DataFrame(labels, columns=["filename", "stalled"]).to_csv(
        folder / "train_labels.csv", index=False
    )
    return folder


def _recipe(**changes):
    return recipe.Recipe.parse(RECIPE | changes, "test")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train.train(_recipe(), data, folder)
    return folder


def test_a_run_folder_is_complete(run, data):
    model = disk.load(run / "bundle")
    assert not model.spec.simulated
    assert model.spec.frames == (6, 10)
    assert model.spec.provenance["trained_on"] + model.spec.provenance["validated_on"] == 15
    reference = model.spec.reference
    assert reference.trained == model.spec.provenance["trained_on"]
    assert reference.validated == model.spec.provenance["validated_on"]
    assert (reference.traits["frames"][0], reference.traits["frames"][-1]) == model.spec.frames
    history = pd.read_csv(run / "history.csv")
    assert tuple(history.columns) == runs.HISTORY_COLUMNS
    assert list(history["epoch"]) == [0, 1, 2]
    validation = pd.read_csv(run / "validation.csv")
    assert len(validation) == model.spec.provenance["validated_on"]
    assert recipe.Recipe.parse(yaml.safe_load((run / "recipe.yaml").read_text()), "x") == _recipe()
    assert "simulated" not in (run / "bundle" / "README.md").read_text().lower()


def test_the_clip_of_training_is_the_clip_of_prediction_to_the_bit(run, data):
    settings = _recipe()
    clips = store.Store(run / "store")
    dataset = ClipDataset(clips, [f"{i}.mp4" for i in range(15)], [0] * 15)
    model = disk.load(run / "bundle")
    for row in range(15):
        source = Source(f"{row}.mp4", data / "train" / f"{row}.mp4")
        predicted = prepare.one(source, [model.spec.view]).clip.pixels
        assert np.array_equal(dataset[row].pixels.numpy(), predicted)
    assert model.spec.clip == settings.clip
    assert model.spec.outline == settings.outline


def test_the_scores_of_validation_are_those_of_prediction(run, data, tmp_path):
    from stallscan.calls import predict

    predict.predict([data / "train"], tmp_path, run / "bundle", processes=0)
    predicted = pd.read_csv(tmp_path / "predictions.csv").set_index("filename")
    for row in pd.read_csv(run / "validation.csv").itertuples():
        assert predicted.loc[row.filename, "score"] == pytest.approx(row.score, abs=2e-6)
        assert predicted.loc[row.filename, "call"] == row.call


def test_the_same_seed_gives_the_same_weights_and_a_warning(run, data, tmp_path, caplog):
    again = train.train(_recipe(), data, tmp_path).bundles[0]
    assert again.weights_sha256 == disk.load(run / "bundle").spec.weights_sha256
    # There are few validation recordings.
    assert len(re.findall(r"validation split has \d+ stalled and \d+ flowing", caplog.text)) == 1


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_weights(run, data, tmp_path):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    out = tmp_path / "run"
    command = [sys.executable, "-m", "stallscan", "train", str(tmp_path / "tiny.yaml")]
    command += ["--data", str(data), "-o", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (out / "checkpoints" / "stage-1" / "last.ckpt").is_file():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "bundle").exists()
    subprocess.run(command, check=True, capture_output=True)
    assert exports.find(disk.load(out / "bundle"), "f32").is_file()
    assert (out / "history.csv").read_text() == (run / "history.csv").read_text()
    assert list(pd.read_csv(out / "history.csv")["epoch"]) == [0, 1, 2]
    weights = [disk.load(folder / "bundle").weights for folder in (out, run)]
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name])
    assert not (out / "checkpoints").exists()


class SureNet(StallNet):
    """A net without dropout, because each process draws its own dropout."""

    def __init__(self, channels):
        super().__init__(channels)
        self.dropout = torch.nn.Identity()


@pytest.mark.slow
def test_two_processes_train_the_same_net_as_one(data, tmp_path):
    settings = RECIPE | {
        "net": RECIPE["net"] | {"name": f"{__name__}:{SureNet.__name__}"},
        "training": RECIPE["training"]
        | {"precision": "64-true", "stages": [{"epochs": 2, "learning_rate": 1e-3}]},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings))
    losses, scores = [], []
    for count in (1, 2):
        command = [sys.executable]
        if count > 1:
            command += ["-m", "torch.distributed.run", "--standalone"]
            command += ["--nproc-per-node", str(count)]
        command += ["-m", "stallscan", "train"]
        out = tmp_path / str(count)
        command += [str(tmp_path / "tiny.yaml"), "--data", str(data), "-o", str(out)]
        env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, check=True, env=env, timeout=300, capture_output=True)
        assert done.stdout.count(b"bundle ->") == 1
        losses.append(pd.read_csv(out / "history.csv")["train_loss"].tolist())
        scores.append(pd.read_csv(out / "validation.csv").set_index("filename")["score"])
        assert disk.load(out / "bundle").spec.provenance["trained_on"] == 11
        assert (out / "plots" / "history.png").is_file()
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    pd.testing.assert_series_equal(scores[1], scores[0], rtol=1e-5)


def test_unscorable_recordings_are_left_out_and_named(tmp_path, caplog):
    drawing.write_dark(tmp_path / "dark.mp4")
    drawing.write(tmp_path / "good.mp4", count=12)
    sources = [Source(name, tmp_path / name) for name in ("dark.mp4", "good.mp4")]
    settings = _recipe()
    clips = fill.build(tmp_path / "s", sources, settings.outline, settings.clip, processes=0)
    table = pd.DataFrame({"filename": ["dark.mp4", "good.mp4"], "stalled": [1, 0]})
    data = Data.of(clips, table, {"all": {"dark.mp4", "good.mp4"}}, False)
    assert data.table["filename"].tolist() == ["good.mp4"]
    assert "dark.mp4 (too_dark)" in caplog.text


def test_another_recipe_in_the_same_folder_is_refused(run, data):
    with pytest.raises(InputError, match=r"seed .*\b1\b.*\b2\b.* -o"):
        train.train(_recipe(seed=2), data, run)


def test_a_loss_that_is_not_finite_names_the_recordings(data, tmp_path):
    training = RECIPE["training"] | {"stages": [{"epochs": 3, "learning_rate": 1e30}]}
    with pytest.raises(InputError, match=r"nan .*\d\.mp4, \d+\.mp4.*learning_rate"):
        train.train(_recipe(training=training), data, tmp_path)


def test_missing_tables_are_named(tmp_path):
    with pytest.raises(InputError, match=r"train_metadata\.csv.*--store"):
        train.train(_recipe(), tmp_path, tmp_path / "run")


@pytest.fixture
def clips_only(data, run, tmp_path):
    """A data folder with tables and clips, but no recordings."""
    for name in ("train_metadata.csv", "train_labels.csv"):
        shutil.copy(data / name, tmp_path / name)
    shutil.copytree(run / "store", tmp_path / "store")
    return tmp_path


def test_a_folder_with_clips_needs_no_recordings(clips_only, data, run, tmp_path):
    seen = []
    ours = prepare_data(_recipe(), clips_only, tmp_path / "made", lambda *done: seen.append(done))
    theirs = prepare_data(_recipe(), data, run / "store", lambda _done, _of: None)
    assert ours.sha256 == theirs.sha256
    assert ours.table.equals(theirs.table)
    assert np.array_equal(ours.store.read("3.mp4"), theirs.store.read("3.mp4"))
    assert seen == [(16, 16)]
    assert not (tmp_path / "made").exists()


def test_clips_may_be_in_another_folder(clips_only, data, run, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (clips_only / "store").rename(elsewhere)
    ours = prepare_data(
        _recipe(), clips_only, tmp_path / "made", lambda _done, _of: None, elsewhere
    )
    theirs = prepare_data(_recipe(), data, run / "store", lambda _done, _of: None)
    assert ours.sha256 == theirs.sha256
    assert ours.store.folder == elsewhere
    assert not (tmp_path / "made").exists()


def test_clips_of_another_recipe_are_refused(clips_only, tmp_path):
    clip = RECIPE["clip"] | {"size": 32}
    with pytest.raises(
        StoreError,
        match=r"clip\.size .*24.*32.*--recipe \S+other/recipe\.yaml",
    ):
        train.train(_recipe(clip=clip), clips_only, tmp_path / "other")


def test_a_typo_in_a_recipe_names_the_nearest(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("name: a\ntraining: {stages: [{epoch: 3}]}\n")
    with pytest.raises(SettingsError, match=r"a\.yaml: .*training\.stages\.0\.epoch .*\bepochs\b"):
        recipe.read_recipe(path)


def test_an_unknown_recipe_names_the_shipped_ones():
    with pytest.raises(
        SettingsError, match=r"thrid-place: .*accurate, baseline, default, first-place"
    ):
        recipe.read_recipe("thrid-place")


def test_a_missing_recipe_file_says_how_to_write_one():
    with pytest.raises(
        SettingsError, match=r"^mine\.yaml: no such file.*recipe show default > mine\.yaml$"
    ):
        recipe.read_recipe("mine.yaml")


@pytest.mark.parametrize("name", sorted(path.stem for path in recipe.SHIPPED.glob("*.yaml")))
def test_shipped_recipes_are_valid(name):
    assert recipe.read_recipe(name).name == name


def test_the_third_place_recipe_has_the_published_figures():
    published = recipe.read_recipe("third-place")
    assert published.data == DataSettings(rule="third-place", validation=0.1)
    assert published.outline.rule == "third-place"
    assert published.clip == ClipSettings(size=112, margin=5, shape="stretch", channels="bgr")
    assert published.net.mean == (0.43216, 0.394666, 0.37645)
    assert published.net.std == (0.22803, 0.22145, 0.216989)
    assert published.augment == AugmentSettings(rotate=0.25, flip=0.25)
    training = published.training
    assert training.stages == (StageSettings(epochs=30, learning_rate=1e-4),)
    assert (training.batch_size, training.weight_decay, training.class_weight) == (1, 0, "ratio")
    assert (training.schedule, training.warm_up) == ("one-cycle", 0.0001)


@pytest.fixture(scope="module")
def clips(data, tmp_path_factory):
    sources = [Source(f"{i}.mp4", data / "train" / f"{i}.mp4") for i in range(15)]
    clip = ClipSettings(size=24, channels="grey+mask")
    return fill.build(
        tmp_path_factory.mktemp("store"), sources, OutlineSettings(), clip, processes=0
    )


def test_samples_depend_on_seed_epoch_and_row_only(clips):
    names = [f"{i}.mp4" for i in range(15)]
    settings = AugmentSettings(rotate=1, flip=1, reverse=1, gamma=0.5, noise=0.1)

    def sample(seed, epoch, row):
        return ClipDataset(clips, names, [0] * 15, settings, seed)[Pick(row, epoch)].pixels

    assert torch.equal(sample(1, 2, 3), sample(1, 2, 3))
    for other in [(0, 2, 3), (1, 1, 3)]:
        assert not torch.equal(sample(1, 2, 3), sample(*other))


def test_masks_are_not_augmented_in_level(clips):
    settings = AugmentSettings(rotate=0, flip=0, gamma=1, noise=0.3)
    dataset = ClipDataset(clips, ["0.mp4"], [0], settings)
    plain = ClipDataset(clips, ["0.mp4"], [0])
    assert torch.equal(dataset[0].pixels[..., 1], plain[0].pixels[..., 1])
    assert not torch.equal(dataset[0].pixels[..., 0], plain[0].pixels[..., 0])


def test_batches_hold_every_row_once_and_clips_of_similar_length():
    frames = np.random.default_rng(0).integers(17, 434, 1001)
    sampler = LengthSampler(frames, 8, seed=0)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 126
    rows = [pick.row for batch in batches for pick in batch]
    assert sorted(rows) == list(range(1001))
    assert max(np.ptp(frames[[pick.row for pick in batch]]) for batch in batches) < 20
    sampler.set_epoch(1)
    assert [pick.row for batch in sampler for pick in batch] != rows
    sampler.set_epoch(0)
    assert list(sampler) == batches


def test_a_batch_is_trimmed_to_its_shortest_clip(clips):
    dataset = ClipDataset(clips, [f"{i}.mp4" for i in range(5)], [0, 1, 0, 1, 0])
    batch = Collate(NetSettings(mean=(0.2, 0.0), std=(0.2, 1.0)))([dataset[i] for i in range(5)])
    assert batch.inputs.shape == (5, 2, 6, 24, 24)
    assert batch.labels.tolist() == [0, 1, 0, 1, 0]
    middle = dataset[4].pixels[2:8, ..., 0].float() / 255
    assert torch.allclose(batch.inputs[4, 0], (middle - 0.2) / 0.2, atol=1e-5)


def test_a_batch_is_cut_to_the_shortest_in_all_processes():
    frames = [20, 21, 22, 23, 30]
    processes = [list(LengthSampler(frames, 4, seed=0, rank=rank, world=2)) for rank in (0, 1)]
    for ours, theirs in zip(*processes, strict=True):
        picks = [*ours, *theirs]
        assert {pick.frames for pick in picks} == {min(frames[pick.row] for pick in picks)}
    rows = [pick.row for batches in processes for batch in batches for pick in batch if pick.weight]
    assert sorted(rows) == [0, 1, 2, 3, 4]


def test_weights_of_all_processes_add_up_to_one_per_step():
    for world in (1, 2, 3):
        processes = [
            list(LengthSampler([9] * 10, 4, seed=0, rank=rank, world=world))
            for rank in range(world)
        ]
        for batches in zip(*processes, strict=True):
            total = sum(pick.weight for batch in batches for pick in batch)
            assert total / world == pytest.approx(1)


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_batches_have_their_share_of_stalled(share):
    labels = np.arange(1000) < 40
    frames = np.random.default_rng(0).integers(17, 200, 1000)
    sampler = LengthSampler(frames, 8, seed=0, labels=labels, stalled_share=share)
    counts = [sum(labels[pick.row] for pick in batch) for batch in sampler]
    assert sum(counts) == 1000 * share
    assert max(abs(count - 8 * share) for count in counts) <= 1
    drawn = [pick.row for batch in sampler for pick in batch if labels[pick.row]]
    times = np.bincount(drawn, minlength=40)[:40]
    assert times.max() - times.min() <= 1


@pytest.mark.parametrize(("share", "stalled"), [(0.05, 1), (0.95, 7)])
def test_a_small_epoch_has_clips_of_both_classes(share, stalled):
    labels = [1, 1, 0, 0, 0, 0, 0, 0]
    sampler = LengthSampler([9] * 8, 4, seed=0, labels=labels, stalled_share=share)
    assert sum(labels[pick.row] for batch in sampler for pick in batch) == stalled


def test_shorter_clips_of_a_batch_are_padded_with_zeros_at_the_end(clips):
    dataset = ClipDataset(clips, [f"{i}.mp4" for i in range(3)], [0, 1, 0])
    settings = NetSettings(mean=(0.2, 0.0), std=(0.2, 1.0))
    batch = Collate(settings, pad=True)([dataset[i] for i in range(3)])
    assert batch.inputs.shape == (3, 2, 8, 24, 24)
    for index, frames in enumerate((6, 7, 8)):
        alone = Collate(settings)([dataset[index]]).inputs[0]
        assert torch.equal(batch.inputs[index, :, :frames], alone)
        assert not batch.inputs[index, :, frames:].any()


def test_stages_start_from_the_best_weights_and_use_their_own_rule(data, tmp_path):
    stages = [
        {"epochs": 2, "learning_rate": 1e-3},
        {"epochs": 1, "learning_rate": 1e-5, "rule": "tier1"},
    ]
    training = RECIPE["training"] | {"stages": stages, "snapshots": 1}
    train.train(_recipe(training=training), data, tmp_path)
    history = pd.read_csv(tmp_path / "history.csv")
    assert list(history["epoch"]) == [0, 1, 2]
    assert history["lr"].iloc[-1] < 1e-5
    assert disk.load(tmp_path / "snapshots" / "snapshot-1" / "bundle").spec.name == "tiny"


def test_with_ema_the_bundle_has_the_averaged_weights(data, tmp_path):
    stages = [{"epochs": 1, "learning_rate": 1e-3}]
    weights = {}
    for decay in (0.0, 0.999):
        training = RECIPE["training"] | {"stages": stages, "ema": decay}
        run = tmp_path / str(decay)
        train.train(_recipe(training=training), data, run)
        weights[decay] = disk.load(run / "bundle").weights["fc.weight"]
    torch.manual_seed(0)
    train.lightning.seed_everything(1, verbose=False)
    start = build.build(_recipe().net).state_dict()["fc.weight"]
    moved = {decay: float((each - start).abs().mean()) for decay, each in weights.items()}
    # The average starts at the weights after the first step and hardly moves from there.
    assert 0 < moved[0.999] < 0.95 * moved[0.0]


def test_folds_hold_back_each_recording_once(data, tmp_path):
    settings = RECIPE["data"] | {"folds": 3}
    training = RECIPE["training"] | {"stages": [{"epochs": 1, "learning_rate": 1e-3}]}
    summary = train.train(_recipe(data=settings, training=training), data, tmp_path)
    assert len(summary.bundles) == 3
    table = pd.read_csv(tmp_path / "out_of_fold.csv")
    assert sorted(table["filename"]) == sorted(f"{i}.mp4" for i in range(15))
    assert set(table["fold"]) == {0, 1, 2}
    joined = disk.load_any(tmp_path / "bundle")
    assert len(joined.members) == 3
    assert joined.spec.metrics["validation"]["count"] == len(table)
    for fold in range(3):
        held_out = pd.read_csv(tmp_path / f"fold-{fold}" / "validation.csv")
        assert set(held_out["filename"]) == set(table["filename"][table["fold"] == fold])
    assert "3 folds" in str(summary)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("weights.safetensors")}
    train.train(_recipe(data=settings, training=training), data, tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_limit_keeps_the_share_of_stalled(data, run, tmp_path):
    settings = RECIPE["data"] | {"limit": 8}
    prepared = prepare_data(_recipe(data=settings), data, run / "store", lambda _d, _o: None)
    assert len(prepared.table) in (7, 8)  # one recording has no outline
    assert prepared.table["stalled"].sum() >= 3


def test_the_data_seed_draws_selection_limit_and_split(data, run, tmp_path):
    drawn = {}
    for name, seed, of_data in (("a", 1, None), ("b", 2, None), ("c", 2, 1)):
        settings = _recipe(
            seed=seed,
            data=RECIPE["data"] | {"limit": 12, "seed": of_data},
            training=RECIPE["training"] | {"stages": [{"epochs": 1, "learning_rate": 1e-3}]},
        )
        prepared = prepare_data(settings, data, run / "store", lambda _d, _o: None)
        train.train_prepared(settings, prepared, tmp_path / name)
        held_out = pd.read_csv(tmp_path / name / "validation.csv")
        weights = disk.load(tmp_path / name / "bundle").spec.weights_sha256
        drawn[name] = (prepared.table["filename"].tolist(), held_out["filename"].tolist(), weights)
    assert drawn["c"][:2] == drawn["a"][:2]
    assert drawn["b"][0] != drawn["a"][0]
    assert drawn["b"][1] != drawn["a"][1]
    assert drawn["c"][2] != drawn["a"][2]


def test_one_class_is_refused(data, tmp_path):
    shutil.copy(data / "train_metadata.csv", tmp_path)
    shutil.copytree(data / "train", tmp_path / "train")
    labels = pd.read_csv(data / "train_labels.csv").assign(stalled=0)
    labels.to_csv(tmp_path / "train_labels.csv", index=False)
    with pytest.raises(InputError, match=r"at least 2 .*each class"):
        train.train(_recipe(), tmp_path, tmp_path / "run")


def test_settings_on_the_command_line_replace_those_of_the_recipe():
    changed = recipe.read_recipe(
        "third-place", ["net.name=r3d_18", "training.stages.0.epochs=2", "data.limit=50"]
    )
    assert changed.net.name == "r3d_18"
    assert changed.training.stages[0] == StageSettings(epochs=2, learning_rate=1e-4)
    assert changed.data.limit == 50
    assert recipe.shorten(recipe.read_recipe("first-place"), 1).training.stages[1].epochs == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("net.name", r"net\.name: .*name=value"),
        ("training.stages.4.epochs=1", r"stages\.4\.epochs=1: .*\b4 .*\b2\b"),
        ("name.x=1", r"name\.x=1: "),
        ("net.nam=r3d_18", r"^net\.nam=r3d_18: .*net\.nam .*\bname\b"),
        ("training.batch_size=abc", r"^training\.batch_size=abc: .*'abc'"),
        ("training.stages=[{epochs:3}]", r"epochs:3\. .*blank.*epochs: 3$"),
    ],
)
def test_a_wrong_setting_on_the_command_line_is_named(change, named):
    with pytest.raises(SettingsError, match=named):
        recipe.read_recipe("default", [change])


def test_the_wrong_one_of_several_settings_is_named():
    changes = ["training.batch_size=4", "net.nam=r3d_18"]
    with pytest.raises(SettingsError, match=r"^net\.nam=r3d_18: "):
        recipe.read_recipe("default", changes)


def test_a_fault_of_the_recipe_itself_names_the_file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("name: a\ntraining: {batchsize: 3}\n")
    with pytest.raises(SettingsError, match=r"a\.yaml: .*batchsize"):
        recipe.read_recipe(path, ["training.batch_size=4"])


def test_other_labels_in_the_same_folder_are_refused(run, data, tmp_path):
    shutil.copy(data / "train_metadata.csv", tmp_path)
    (tmp_path / "train").symlink_to(data / "train")
    labels = pd.read_csv(data / "train_labels.csv")
    labels.loc[0, "stalled"] = 1 - labels.loc[0, "stalled"]
    labels.to_csv(tmp_path / "train_labels.csv", index=False)
    with pytest.raises(InputError, match=r"labels.* -o"):
        train.train(_recipe(), tmp_path, run)


@pytest.mark.parametrize("change", ["stalled", "group", "crowd_score", "rule", "seen"])
def test_a_resumed_run_refuses_what_changes_splits_or_targets(clips, tmp_path, change):
    names = [f"{index}.mp4" for index in range(4)]
    table = pd.DataFrame(
        {"filename": names, "stalled": [0, 1, 0, 1], "group": list("aabb"), "crowd_score": 0.5}
    )
    settings = _recipe(data={"group": "group"}, training=RECIPE["training"] | {"targets": "crowd"})

    def claim(**fields):
        fields = {"table": table, "rules": {"all": set(names)}, "seen": frozenset()} | fields
        used = Data.of(clips, fields["table"], fields["rules"], False, fields["seen"])
        run_folder.claim_data(tmp_path, used, settings)

    claim()
    (tmp_path / "history.csv").touch()
    claim(table=table.assign(url="elsewhere"))
    changed = {
        "rule": {"rules": {"all": set(names[:3])}},
        "seen": {"seen": frozenset(names[:1])},
        "group": {"table": table.assign(group=list("aaab"))},
    }.get(change) or {"table": table.assign(**{change: [0, 1, 1, 0]})}
    with pytest.raises(InputError, match=r"other recordings, labels or groups.* -o"):
        claim(**changed)


@pytest.mark.parametrize("source", ["file", "bundle"])
def test_a_resumed_run_refuses_other_weights_to_start_from(clips, bundle_dir, tmp_path, source):
    table = pd.DataFrame({"filename": ["0.mp4", "1.mp4"], "stalled": [0, 1]})
    used = Data.of(clips, table, {"all": set(table["filename"])}, False)
    weights = shutil.copytree(bundle_dir, tmp_path / "start") / "weights.safetensors"
    file = weights.parent if source == "bundle" else weights
    settings = _recipe(pretrained={"source": source, "file": file})
    run = tmp_path / "run"
    run.mkdir()
    (run / "history.csv").touch()
    run_folder.claim_data(run, used, settings)
    run_folder.claim_data(run, used, settings)
    if source == "bundle":
        model = disk.load(file)
        doubled = {name: tensor * 2 for name, tensor in model.weights.items()}
        disk.save(file, model.spec, doubled, "")
    else:
        weights.write_bytes(b"")
    with pytest.raises(InputError, match=r"run: .*other weights than .*start.* -o"):
        run_folder.claim_data(run, used, settings)


def test_a_recipe_of_the_user_is_not_replaced(tmp_path):
    own = tmp_path / "recipe.yaml"
    own.write_text(text := "# mine\n" + yaml.safe_dump(RECIPE))
    settings = recipe.read_recipe(own)
    with pytest.raises(InputError, match=r"recipe\.yaml: .* -o"):
        run_folder.check(tmp_path, settings)
    with (
        pytest.raises(InputError, match=r"recipe\.yaml: .* -o"),
        run_folder.claim(tmp_path, settings),
    ):
        pass
    assert own.read_text() == text


def test_a_run_that_an_older_version_began_resumes(clips, tmp_path):
    table = pd.DataFrame({"filename": ["0.mp4", "1.mp4"], "stalled": [0, 1]})
    used = Data.of(clips, table, {"all": set(table["filename"])}, False)
    (tmp_path / "data.sha256").write_text(f"{used.sha256}\n")
    (tmp_path / "history.csv").touch()
    run_folder.claim_data(tmp_path, used, _recipe())


def test_a_stage_that_lacks_a_class_is_refused_before_training_starts(data, tmp_path):
    stages = [
        {"epochs": 1, "learning_rate": 1e-3},
        {"epochs": 1, "learning_rate": 1e-3, "rule": "micro"},
    ]
    training = RECIPE["training"] | {"stages": stages}
    with pytest.raises(InputError, match=r"stage 2 \(rule micro\) .*\b0 stalled.*\b0 flowing"):
        train.train(_recipe(training=training), data, tmp_path)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"training": {"snapshots": 2, "ema": 0.9}}, "snapshots .*ema"),
        ({"net": {"name": "features"}, "training": {"targets": "crowd"}}, "features.*targets"),
        ({"net": {"name": "features", "views": "flips"}}, "features.*views"),
        ({"net": {"name": "features"}, "pretrained": {"source": "kinetics"}}, "pretrained"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(changes, named):
    with pytest.raises(SettingsError, match=named):
        recipe.Recipe.parse({"name": "a"} | changes, "test")


def test_no_epochs_are_refused():
    with pytest.raises(SettingsError, match=r"training\.stages\.0\.epochs"):
        recipe.shorten(_recipe(), 0)
