"""The trainer: against a plain loop, in two processes, on a full disk, interrupted and resumed."""

import json
import math
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from stallscan import runs
from stallscan.clips import fill
from stallscan.clips.clip import ClipSettings
from stallscan.errors import InputError
from stallscan.nets import build, norm
from stallscan.nets.settings import NetSettings
from stallscan.recipes import recipe
from stallscan.recipes.settings import AugmentSettings, StageSettings
from stallscan.recordings.find import Source
from stallscan.training import data, fit
from stallscan.vessels.outline import OutlineSettings
from tests import bomb, drawing

STEPS = 20


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Return a store of twelve small clips of different lengths.

    The clips have at least 9 frames, so that the last layers of r2plus1d_18 see two frames.
    """
    folder = tmp_path_factory.mktemp("clips")
    sources = []
    for index in range(12):
        path = folder / f"{index}.mp4"
        drawing.write(path, seed=index, count=9 + index % 3, height=64, width=64)
        sources.append(Source(path.name, path))
    settings = ClipSettings(size=32, channels="bgr")
    return fill.build(folder / "store", sources, OutlineSettings(), settings, processes=0)


def _rows(first, last):
    return pd.DataFrame(
        {
            "filename": [f"{index}.mp4" for index in range(first, last)],
            "stalled": [int(index % 4 == 0) for index in range(first, last)],
        }
    )


def _third_place(**training):
    settings = recipe.read_recipe("third-place", ["pretrained.source=none", "augment.rotate=0"])
    settings = settings.model_copy(
        update={
            "augment": AugmentSettings(rotate=0, flip=0),
            "training": settings.training.model_copy(update=training),
        }
    )
    return settings


class SmallNet(torch.nn.Module):
    """A net that costs almost nothing, for tests of the trainer that do not depend on the net."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = torch.nn.Conv3d(3, 8, (3, 5, 5), stride=(1, 2, 2))
        self.norm = norm.VideoNorm3d(8)
        self.fc = torch.nn.Linear(8, 1)

    def forward(self, clips):
        return self.fc(F.relu(self.norm(self.stem(clips))).amax(dim=(2, 3, 4)))[:, 0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mc3_18", "r2plus1d_18"])
def test_the_third_place_step_equals_a_plain_loop(clips, tmp_path, monkeypatch, name):
    # In double precision. In single precision, Adam turns rounding errors in zero gradients into
    # whole steps, and the two runs diverge by about 1e-3 within 20 steps.
    stage = StageSettings(epochs=2, learning_rate=1e-4)
    settings = _third_place(stages=(stage,), precision="64-true")
    settings = settings.model_copy(update={"net": NetSettings(name=name)})
    parts = data.TrainValidation.of(clips, _rows(0, 10), _rows(8, 12))
    torch.manual_seed(0)
    net = build.build(settings.net).double()
    start = {key: value.clone() for key, value in net.state_dict().items()}
    seen = []
    step = fit._Module.training_step

    def record(module, batch, index):
        loss = step(module, batch, index)
        seen.append((int(batch.rows[0]), float(loss.detach()), batch.inputs.clone()))
        return loss

    monkeypatch.setattr(fit._Module, "training_step", record)
    last = {}

    def keep(module):
        last.update({key: value.clone() for key, value in module.net.state_dict().items()})

    monkeypatch.setattr(fit._Module, "on_train_end", keep)
    fit.fit_stage(net, settings, stage, parts, tmp_path / "history.csv", tmp_path, 0)
    net.load_state_dict(last)
    assert len(seen) == STEPS

    plain = _plain_loop(name, start, clips, seen)
    with torch.inference_mode():
        for row in range(10):
            ours = float(net.eval()(_plain_input(clips, row))[0])
            theirs = float(plain(_plain_input(clips, row))[0, 0])
            assert theirs == pytest.approx(ours, abs=1e-3)


def _plain_input(clips, row):
    """Normalise a clip as docs/facts.md 2 says, in plain PyTorch: float64 (1, C, T, S, S)."""
    mean = torch.tensor([0.43216, 0.394666, 0.37645]).double().view(1, 3, 1, 1, 1)
    std = torch.tensor([0.22803, 0.22145, 0.216989]).double().view(1, 3, 1, 1, 1)
    pixels = torch.from_numpy(clips.read(f"{row}.mp4")).double() / 255  # (T, S, S, C)
    return (pixels.permute(3, 0, 1, 2)[None] - mean) / std


def _plain_loop(name, start, clips, seen):
    """Train torchvision's net by docs/facts.md 2 in plain PyTorch, and compare each loss."""
    from torchvision.models import video

    plain = getattr(video, name)(weights=None)
    plain.fc = torch.nn.Linear(512, 1)
    plain.double()
    plain.load_state_dict(start)
    plain.train()  # batches of one video: BatchNorm uses the statistics of that video
    labels = [int(index % 4 == 0) for index in range(10)]
    weight = labels.count(0) / labels.count(1)
    adam = torch.optim.Adam(plain.parameters(), lr=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        adam, max_lr=1e-4, total_steps=STEPS, pct_start=0.0001
    )
    for row, ours, inputs in seen:
        # The trainer's inputs are rounded to single precision. Within 20 steps on such small clips
        # that grows to 1e-3 of the loss, so the plain net gets the rounded inputs, too.
        torch.testing.assert_close(inputs, _plain_input(clips, row), atol=1e-6, rtol=0)
        logit = plain(inputs)[0, 0]
        loss = F.binary_cross_entropy_with_logits(logit, torch.tensor(float(labels[row])).double())
        loss = loss * (weight if labels[row] else 1)
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
        assert float(loss.detach()) == pytest.approx(ours, abs=1e-4)
    return plain


def test_the_learning_rate_is_the_published_cosine(clips, tmp_path, monkeypatch):
    stage = StageSettings(epochs=3, learning_rate=1e-4)
    settings = _third_place(stages=(stage,), batch_size=2)
    seen = []
    step = torch.optim.AdamW.step

    def record(optimiser, *args, **more):
        group = optimiser.param_groups[0]
        seen.append((group["lr"], group["betas"][0], group["weight_decay"]))
        return step(optimiser, *args, **more)

    monkeypatch.setattr(torch.optim.AdamW, "step", record)
    parts = data.TrainValidation.of(clips, _rows(0, 8), _rows(8, 12))
    fit.fit_stage(SmallNet(), settings, stage, parts, tmp_path / "h.csv", tmp_path, 0)
    rates, betas, decays = (np.array(column) for column in zip(*seen, strict=True))
    # The warm-up ends before the first step, so only the cosine from the peak down remains.
    ahead = 1 - 0.0001 * 12
    wave = (1 + np.cos(math.pi * (np.arange(12) + ahead) / (11 + ahead))) / 2
    assert rates == pytest.approx(4e-10 + (1e-4 - 4e-10) * wave, rel=2e-3, abs=1e-12)
    assert betas == pytest.approx(0.95 - 0.10 * wave, abs=1e-3)
    assert not decays.any()


def test_a_rise_of_exactly_one_step_is_no_error(clips, tmp_path):
    stage = StageSettings(epochs=1, learning_rate=1e-4)
    settings = _third_place(stages=(stage,), batch_size=4, warm_up=0.5)  # of 2 steps
    parts = data.TrainValidation.of(clips, _rows(0, 8), _rows(8, 12))
    history = tmp_path / "h.csv"
    fit.fit_stage(SmallNet(), settings, stage, parts, history, tmp_path, 0)
    assert len(history.read_text().splitlines()) == 2


def test_a_gradient_that_is_not_finite_stops_before_the_weights_are_lost(
    clips, tmp_path, monkeypatch
):
    stage = StageSettings(epochs=1, learning_rate=1e-4)
    settings = _third_place(stages=(stage,), batch_size=4)
    parts = data.TrainValidation.of(clips, _rows(0, 8), _rows(8, 12))
    net = SmallNet()
    net.fc.weight.register_hook(lambda gradient: gradient * np.nan)
    with pytest.raises(
        InputError, match=r"gradient.* nan .*epoch 1,.*training\.precision.*32-true"
    ):
        fit.fit_stage(net, settings, stage, parts, tmp_path / "h.csv", tmp_path, 0)
    assert all(torch.isfinite(weights).all() for weights in net.parameters())


@pytest.mark.parametrize("workers", [0, 2])
def test_every_epoch_draws_other_batches_and_a_resumed_run_the_same_ones(
    clips, tmp_path, monkeypatch, workers
):
    stage = StageSettings(epochs=3, learning_rate=1e-4)
    settings = _third_place(stages=(stage,), batch_size=2, workers=workers)
    settings = settings.model_copy(update={"augment": AugmentSettings(rotate=0.5, flip=0.5)})
    parts = data.TrainValidation.of(clips, _rows(0, 8), _rows(8, 12))
    step = fit._Module.training_step

    def run(folder, stop_at=None):
        """Return rows and pixel sums of each step."""
        seen = []

        def record(module, batch, index):
            if len(seen) == stop_at:
                raise KeyboardInterrupt
            seen.append((batch.rows.tolist(), batch.inputs.sum((1, 2, 4)).tolist()))
            return step(module, batch, index)

        with monkeypatch.context() as patched:
            patched.setattr(fit._Module, "training_step", record)
            fit.fit_stage(SmallNet(), settings, stage, parts, folder / "h.csv", folder, 0)
        return seen

    whole = run(tmp_path / "whole")
    assert len(whole) == 12
    epochs = whole[:4], whole[4:8], whole[8:]
    drawn = [[rows for rows, _ in epoch] for epoch in epochs]
    assert [sorted(np.ravel(batches)) for batches in drawn] == [list(range(8))] * 3
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]
    pixels = [
        {row: sums for rows, clips in epoch for row, sums in zip(rows, clips, strict=True)}
        for epoch in epochs
    ]
    # By chance, some clips are neither rotated nor flipped in both epochs.
    assert sum(pixels[0][row] == pixels[1][row] for row in range(8)) < 6
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", stop_at=6)
    assert run(tmp_path / "stopped") == whole[4:]


TWO = textwrap.dedent(
    """
    import json, sys
    from pathlib import Path
    import torch
    from stallscan.clips import store
    from stallscan.recipes.settings import StageSettings
    from stallscan.training import fit, ranks
    from stallscan.training.data import TrainValidation
    from tests.training.test_fit import SmallNet, _rows, _third_place

    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    stage = StageSettings(epochs=1, learning_rate=1e-4)
    settings = _third_place(stages=(stage,), batch_size=4, precision="64-true")
    net = SmallNet().double()
    kept = []

    def keep(module, optimiser):
        kept.append([p.grad.clone() for p in module.net.parameters()])

    fit._Module.on_before_optimizer_step = keep
    rows = []
    end = fit._Module.on_validation_epoch_end

    def count(module):
        rows.extend(row for row, _, _ in ranks.gather(module.logits))
        end(module)

    fit._Module.on_validation_epoch_end = count
    parts = TrainValidation.of(store.Store(folder), _rows(0, 9), _rows(9, 12))
    with ranks.process_group():
        fit.fit_stage(net, settings, stage, parts, out / "history.csv", out / "run", 0)
        if ranks.rank() == 0:
            torch.save(kept, out / "gradients.pt")
            (out / "rows.json").write_text(json.dumps(rows))
    """
)


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(clips, tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO)
    gradients = {}
    for count in (1, 2):
        out = tmp_path / str(count)
        (out / "run").mkdir(parents=True)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(count)] if count > 1 else []
        command = command if count > 1 else [sys.executable]
        subprocess.run(
            [*command, str(script), str(clips.folder), str(out)],
            check=True,
            env=os.environ | {"PYTHONPATH": str(Path.cwd()), "CUDA_VISIBLE_DEVICES": ""},
            timeout=300,
        )
        gradients[count] = torch.load(out / "gradients.pt")
        assert sorted(json.loads((out / "rows.json").read_text())) == [0, 1, 2]
    # Nine clips in batches of four: the last step has one clip, so one process has none.
    assert len(gradients[1]) == len(gradients[2]) == 3
    for step in range(3):
        for one, two in zip(gradients[1][step], gradients[2][step], strict=True):
            torch.testing.assert_close(one, two, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_good_checkpoint(clips, tmp_path):
    """A limit on the size of files stands in for a full disk."""
    script = tmp_path / "full.py"
    script.write_text(
        textwrap.dedent(
            """
            import resource, sys
            from pathlib import Path
            import torch
            from stallscan import errors
            from stallscan.clips import store
            from stallscan.recipes.settings import StageSettings
            from stallscan.training import checkpoints, fit
            from stallscan.training.data import TrainValidation
            from tests.training.test_fit import SmallNet, _rows, _third_place

            folder, out = Path(sys.argv[1]), Path(sys.argv[2])
            stage = StageSettings(epochs=3, learning_rate=1e-4)
            settings = _third_place(stages=(stage,), batch_size=4)
            end = checkpoints.HistoryWriter.on_train_epoch_end

            def fill(callback, trainer, module):
                end(callback, trainer, module)
                if trainer.current_epoch == 1:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, 1 << 12))

            checkpoints.HistoryWriter.on_train_epoch_end = fill
            parts = TrainValidation.of(store.Store(folder), _rows(0, 8), _rows(8, 12))
            try:
                fit.fit_stage(
                    SmallNet(), settings, stage, parts, out / "h.csv", out / "run", 0
                )
            except errors.InputError as error:
                print(error)
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(script), str(clips.folder), str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )
    assert "last.ckpt: " in done.stdout
    for name in ("last.ckpt", "best.ckpt"):
        kept = torch.load(tmp_path / "run" / name, weights_only=False)
        assert kept["epoch"] == 0
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_plateau_lowers_the_rate_in_the_epoch_of_the_checkpoint(clips, tmp_path, monkeypatch):
    stage = StageSettings(epochs=6, learning_rate=1e-4)
    settings = _third_place(stages=(stage,), schedule="plateau", batch_size=8)
    monkeypatch.setattr(
        fit, "measure", lambda *_: [(name, 0.5) for name in runs.HISTORY_COLUMNS[2:-1]]
    )
    step = fit._Module.training_step

    def stop_at_last(module, batch, index):
        if module.current_epoch == 5:
            raise KeyboardInterrupt
        return step(module, batch, index)

    monkeypatch.setattr(fit._Module, "training_step", stop_at_last)
    parts = data.TrainValidation.of(clips, _rows(0, 8), _rows(8, 12))
    with pytest.raises(KeyboardInterrupt):
        fit.fit_stage(SmallNet(), settings, stage, parts, tmp_path / "h.csv", tmp_path, 0)
    # The first epoch is the best; three epochs without gain follow.
    rates = pd.read_csv(tmp_path / "h.csv")["lr"].tolist()
    assert rates == pytest.approx([1e-4, 1e-4, 1e-4, 1e-4, 0.95e-4])
    kept = torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert kept["lr_schedulers"][0]["_last_lr"] == pytest.approx([0.95e-4])


def test_a_run_folder_may_be_moved_before_it_resumes(clips, tmp_path, monkeypatch):
    stage = StageSettings(epochs=3, learning_rate=1e-4)
    settings = _third_place(stages=(stage,), batch_size=8)
    parts = data.TrainValidation.of(clips, _rows(0, 8), _rows(8, 12))
    figures = iter([0.9, 0.2, 0.3])  # the first epoch is the best
    monkeypatch.setattr(
        fit, "measure", lambda *_: dict.fromkeys(runs.HISTORY_COLUMNS[2:-1], next(figures)).items()
    )
    step = fit._Module.training_step

    def stop_once(module, batch, index):
        if module.current_epoch == 1 and not (tmp_path / "moved").exists():
            raise KeyboardInterrupt
        return step(module, batch, index)

    monkeypatch.setattr(fit._Module, "training_step", stop_once)
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit.fit_stage(SmallNet(), settings, stage, parts, run / "h.csv", run, 0)
    run = run.rename(tmp_path / "moved")
    assert fit.fit_stage(SmallNet(), settings, stage, parts, run / "h.csv", run, 0) == 0
    assert len(pd.read_csv(run / "h.csv")) == 3


def test_a_stage_that_ended_early_is_not_resumed(clips, tmp_path):
    stage = StageSettings(epochs=9, learning_rate=1e-9)
    settings = _third_place(stages=(stage,), patience=1, batch_size=8, monitor="val_mcc")
    parts = data.TrainValidation.of(clips, _rows(0, 8), _rows(8, 12))

    def run():
        net = SmallNet()
        best = fit.fit_stage(net, settings, stage, parts, tmp_path / "h.csv", tmp_path, 0)
        assert best == 0
        return net.state_dict()["stem.weight"].clone()

    trained = run()
    assert len(pd.read_csv(tmp_path / "h.csv")) == 2
    assert not (tmp_path / "last.ckpt").exists()
    # A run killed right after the stage was finished leaves this file behind.
    (tmp_path / "last.ckpt").write_bytes(b"")
    assert torch.equal(run(), trained)
    assert len(pd.read_csv(tmp_path / "h.csv")) == 2


def test_checkpoints_take_no_more_disk_space_than_needed(clips, tmp_path):
    stages = tuple(StageSettings(epochs=count, learning_rate=1e-4) for count in (1, 3))
    settings = _third_place(stages=stages, snapshots=2, batch_size=8)
    parts = data.TrainValidation.of(clips, _rows(0, 8), _rows(8, 12))
    left = []
    for number, stage in enumerate(stages):
        folder = tmp_path / str(number)
        fit.fit_stage(SmallNet(), settings, stage, parts, tmp_path / "h.csv", folder, 0)
        left.append({path.name for path in folder.iterdir()})
        assert set(torch.load(folder / "best.ckpt")) == {"epoch", "state_dict"}
    snapshots = {"snapshot-1.safetensors", "snapshot-2.safetensors"}
    assert left == [{"best.ckpt", "done"}, {"best.ckpt", "done"} | snapshots]


def test_ctrl_c_raises_keyboard_interrupt(clips, tmp_path, monkeypatch):
    stage = StageSettings(epochs=2, learning_rate=1e-4)
    settings = _third_place(stages=(stage,), batch_size=8)
    parts = data.TrainValidation.of(clips, _rows(0, 8), _rows(8, 12))

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(fit._Module, "training_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fit.fit_stage(SmallNet(), settings, stage, parts, tmp_path / "h.csv", tmp_path, 0)


@pytest.mark.parametrize("hook", ["training_step", "on_validation_epoch_end"])
def test_a_training_that_is_told_to_end_is_not_done(clips, tmp_path, monkeypatch, hook):
    """Also in the last epoch, of which Lightning finishes the validation."""
    stage = StageSettings(epochs=1, learning_rate=1e-4)
    settings = _third_place(stages=(stage,), batch_size=4)
    parts = data.TrainValidation.of(clips, _rows(0, 8), _rows(8, 12))
    act = getattr(fit._Module, hook)

    def told_to_end(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return act(*arguments)

    monkeypatch.setattr(fit._Module, hook, told_to_end)
    with pytest.raises(SystemExit) as ended:
        fit.fit_stage(SmallNet(), settings, stage, parts, tmp_path / "h.csv", tmp_path, 0)
    assert ended.value.code == 143
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize("form", ["pickle", "torch, in a state dict"])
@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_a_checkpoint_is_not_executed(clips, tmp_path, name, form):
    stage = StageSettings(epochs=2, learning_rate=1e-4)
    settings = _third_place(stages=(stage,), batch_size=8)
    parts = data.TrainValidation.of(clips, _rows(0, 8), _rows(8, 12))
    bomb.write(tmp_path / "run" / name, form, tmp_path / "mark")
    if name == "best.ckpt":
        (tmp_path / "run" / "done").touch()
    with pytest.raises(InputError, match=rf"{name}: .*{tmp_path.name}.run"):
        fit.fit_stage(SmallNet(), settings, stage, parts, tmp_path / "h.csv", tmp_path / "run", 0)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "training",
    [{}, {"schedule": "plateau"}, {"schedule": "cosine", "ema": 0.9}, {"patience": 2}],
)
def test_a_checkpoint_contains_nothing_executable(clips, tmp_path, monkeypatch, training):
    stage = StageSettings(epochs=3, learning_rate=1e-4)
    settings = _third_place(stages=(stage,), batch_size=8, **training)
    parts = data.TrainValidation.of(clips, _rows(0, 8), _rows(8, 12))
    step = fit._Module.training_step

    def stop_at_last(module, batch, index):
        if module.current_epoch == 1:
            raise KeyboardInterrupt
        return step(module, batch, index)

    arguments = (settings, stage, parts, tmp_path / "h.csv", tmp_path, 0)
    with monkeypatch.context() as patched:
        patched.setattr(fit._Module, "training_step", stop_at_last)
        with pytest.raises(KeyboardInterrupt):
            fit.fit_stage(SmallNet(), *arguments)
    assert torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "last.ckpt") == []
    fit.fit_stage(SmallNet(), *arguments)
    assert len(pd.read_csv(tmp_path / "h.csv")) == 3
