"""The command line as a user types it: outputs, exit codes, messages."""

import errno
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tifffile
from rich.table import Table

from stallscan.calls.predictions import SIMULATED
from stallscan.cli import doctor, terminal
from stallscan.cli.main import EXIT_CLOSED_PIPE
from stallscan.cli.main import main as run_main
from stallscan.errors import InputError
from stallscan.evaluation import evaluate
from stallscan.review.answers import Answers
from stallscan.simulate import SimulateSettings, simulate
from tests import drawing
from tests.predicted import prediction, write_tables


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus") / "made"
    settings = SimulateSettings(count=4, stalled=0.5, seed=9, height=192, width=256)
    simulate(out, settings, processes=0)
    return out


def test_help_lists_every_command():
    command = [sys.executable, "-m", "stallscan", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    commands = ("simulate", "select", "train", "reproduce", "predict", "evaluate", "report")
    commands += ("demo", "doctor", "prepare")
    assert all(re.search(rf"^\W+{command} ", shown.stdout, re.M) for command in commands)


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from stallscan.cli.commands import app;"
        "app(['--help'], result_action='return_value');"
        "print(sorted({'torch', 'numpy', 'pandas', 'cv2', 'av'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


@pytest.mark.slow
def test_the_whole_way(run, corpus, bundle_dir, tmp_path):
    code, out, _ = run("predict", corpus / "train", "-o", tmp_path, "--bundle", bundle_dir)
    assert code == 0
    assert str(tmp_path / "predictions.csv") in out
    labels = corpus / "train_labels.csv"
    code, out, _ = run("evaluate", tmp_path, "--labels", labels, "-o", tmp_path / "e")
    assert code == 0
    assert "MCC" in out
    assert json.loads((tmp_path / "e" / "metrics.json").read_text())
    code, out, _ = run("report", tmp_path, "-o", tmp_path / "r.html", "--labels", labels)
    assert code == 0
    assert (tmp_path / "r.html").read_text().count("data-media=") == 4


def test_from_scores_to_a_stall_rate(run, tmp_path):
    rng = np.random.default_rng(0)
    stalled = np.arange(400) % 4 == 0
    names = [f"{index}.mp4" for index in range(400)]
    for model in ("a", "b"):
        score = np.clip(rng.normal(np.where(stalled, 0.8, 0.2), 0.2), 0.01, 0.99)
        call = np.where(score >= 0.5, "stalled", "flowing")
        table = pd.DataFrame({"filename": names, "status": "ok", "reason": "", "frames": 40})
        table = table.assign(
            frames_declared=40, score=score, call=call, threshold=0.5, bundle=f"{model}@1"
        )
        (tmp_path / model).mkdir()
        table.to_csv(tmp_path / model / "predictions.csv", index=False)
    known = pd.DataFrame({"filename": names, "stalled": stalled.astype(int)})
    known.to_csv(tmp_path / "labels.csv", index=False)
    known.head(200).to_csv(tmp_path / "half.csv", index=False)
    given, out = tmp_path / "a", tmp_path / "out"
    code, shown, _ = run("decide", given, "-o", out, "--labels", tmp_path / "half.csv")
    assert code == 0
    assert "400 recordings" in shown
    code, shown, _ = run("evaluate", out, "--labels", tmp_path / "labels.csv", "-o", out / "e")
    assert code == 0
    assert re.search(r"\b200 recordings", shown)
    mice = known.assign(mouse=[f"m{i % 8}" for i in range(400)], group=["wt", "ad"] * 200)
    mice.to_csv(tmp_path / "mice.csv", index=False)
    command = ("rate", out, "--groups", tmp_path / "mice.csv", "-o", out / "r")
    code, shown, _ = run(*command, "--accuracy", out / "e" / "metrics.json")
    assert code == 0
    assert len(pd.read_csv(out / "r" / "rates_mice.csv")) == 8
    code, _, said = run(*command)
    assert code == 2
    assert "--accuracy" in said
    code, _, said = run("decide", given, tmp_path / "b", "-o", out / "v")
    assert code == 2
    assert "stallscan ensemble" in said
    code, _, said = run("decide", given, "-o", out / "x", "--prevalence", "1.5")
    assert code == 2
    assert "prevalence" in said


@pytest.fixture
def reviewed(tmp_path):
    """Return a folder with 40 predictions of 4 mice, of which two reviewers answered some."""
    names = [f"{number}.mp4" for number in range(40)]
    rows = [
        prediction(name, call=("flowing", "stalled")[i % 4 == 0]) for i, name in enumerate(names)
    ]
    labels = [(name, int(i % 4 == 0)) for i, name in enumerate(names)]
    write_tables(tmp_path, rows, labels)
    mice = pd.DataFrame({"filename": names, "mouse": [f"m{i % 5}" for i in range(40)]})
    mice.to_csv(tmp_path / "mice.csv", index=False)
    answers = Answers(tmp_path)
    given = [
        ("0.mp4", "flowing"),
        ("4.mp4", "stalled"),
        ("1.mp4", "unscorable"),
        ("2.mp4", "unsure"),
    ]
    for number, (name, answer) in enumerate(given):
        answers.give(f"token-a{number}", name, "ann", answer)
        answers.give(f"token-b{number}", name, "[b]bob", answer)
    return tmp_path


def test_answers_of_a_review_are_used_and_counted(run, reviewed, caplog):
    rate = ("rate", reviewed, "--groups", reviewed / "mice.csv", "-o", reviewed / "r")
    rate += ("--sensitivity", "0.9", "--specificity", "0.95")
    code, shown, _ = run(*rate)
    assert code == 0
    assert "3 of 40 recordings were answered" in " ".join(shown.split())
    groups = pd.read_csv(reviewed / "r" / "rates_groups.csv")
    assert groups[["stalled", "scored", "known"]].to_numpy().tolist() == [[9, 39, 2]]
    code, shown, _ = run(*rate, "--no-corrections")
    assert code == 0
    assert "answered" not in shown
    groups = pd.read_csv(reviewed / "r" / "rates_groups.csv")
    assert groups[["stalled", "scored", "known"]].to_numpy().tolist() == [[10, 40, 0]]
    report = ("report", reviewed, "-o", reviewed / "report.html", "--max-cards", "0")
    code, shown, _ = run(*report)
    assert code == 0
    assert "3 of 40 recordings were answered" in shown
    assert f"stallscan review {reviewed}" in caplog.messages[-1]
    code, shown, _ = run(*report, "--no-corrections")
    assert "answered" not in shown


@pytest.mark.parametrize("option", [("--vessels", "0"), ("--spread", "8", "--all")])
def test_options_of_the_next_study_are_refused_before_anything_is_written(run, reviewed, option):
    rate = ("rate", reviewed, "--groups", reviewed / "mice.csv", "-o", reviewed / "r")
    code, _, said = run(*rate, "--sensitivity", "0.9", "--specificity", "0.95", *option)
    assert code == 2
    assert "vessels" in said or "spread" in said
    assert not (reviewed / "r").exists()


def test_answers_are_found_where_the_study_was_moved_to(run, reviewed, tmp_path_factory, caplog):
    place = tmp_path_factory.mktemp("place")
    study = place / "study"
    shutil.copytree(reviewed, study / "results")
    assert run("decide", study / "results", "-o", study / "rare", "--threshold", "0.5")[0] == 0
    assert run("decide", study / "rare", "-o", study / "rarer", "--threshold", "0.6")[0] == 0
    given = {"0.mp4": "flowing", "4.mp4": "stalled", "1.mp4": "unscorable"}

    def answers(folder):
        return terminal.read_answers(folder / "predictions.csv")

    # Answers in the folder of the scores count along a chain of decisions.
    assert answers(study / "rare") == answers(study / "rarer") == given
    copy = place / "copy"
    shutil.copytree(study, copy)
    Answers(copy / "results").give("token", "7.mp4", "ann", "stalled")
    assert answers(copy / "rarer") == given | {"7.mp4": "stalled"}
    assert answers(study / "rarer") == given
    moved = study.rename(place / "moved")
    assert answers(moved / "rarer") == given
    again = ("decide", moved / "rarer", "-o", moved / "rarest", "--threshold", "0.7")
    assert run(*again)[0] == 0
    assert answers(moved / "rarest") == given
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    # Without the folder of the scores, nobody knows whether there was a review.
    shutil.rmtree(moved / "results")
    assert answers(moved / "rarer") == {}
    assert str(moved / "rarer") in caplog.messages[-1]
    assert "is gone" in caplog.messages[-1]
    # The table that a chain began with is not written over, either.
    code, _, said = run("decide", moved / "rarer", "-o", moved / "rare", "--threshold", "0.5")
    assert code == 2
    assert "holds the predictions themselves" in said


def test_evaluate_measures_the_calls_of_the_model(reviewed):
    # The answers are beside the table, and one of them contradicts its label.
    measured = evaluate.evaluate(reviewed / "predictions.csv", reviewed / "labels.csv").metrics
    assert measured.confusion == (10, 0, 30, 0)


def test_labels_shows_the_agreement_and_writes_other_forms(run, reviewed):
    code, shown, _ = run("labels", reviewed, "-o", reviewed / "out.csv")
    assert code == 0
    assert "[b]bob and ann" in shown
    assert "Cohen's kappa" in shown
    for form, suffix in (("label-studio", "json"), ("panoptes", "csv")):
        out = reviewed / f"{form}.{suffix}"
        code, _, said = run("labels", reviewed, "-o", out, "--format", form)
        # The recordings do not exist here.
        assert code == 2
        assert "was found" in said
    out = reviewed / "tasks.json"
    command = ("labels", reviewed, "-o", out, "--address", "https://host/")
    assert run(*command)[0] == 2
    code, shown, _ = run(*command, "--format", "label-studio")
    assert code == 0
    assert "40 recordings, 8 answers" in shown
    assert len(json.loads(out.read_text())) == 40


@pytest.mark.slow
def test_select_prints_count_share_and_weight(run, real_dir, tmp_path):
    tables = real_dir / "metadata"
    code, out, _ = run(
        *("select", tables / "train_metadata.csv.gz"),
        *("--labels", tables / "train_labels.csv.gz"),
        *("--rule", "third-place", "--seed", "0", "-o", tmp_path / "selected.csv"),
    )
    assert code == 0
    assert "7,931 recordings, 706 stalled, 91.1 % flowing, class weight 10.23" in out
    assert len(pd.read_csv(tmp_path / "selected.csv")) == 7931


@pytest.mark.parametrize(
    ("column", "row", "named"),
    [
        (None, None, "stalled"),
        ("stalled", 2, "b.mp4"),
        ("filename", "a.mp4", "a.mp4"),
    ],
    ids=["missing column", "label of 2", "duplicate"],
)
def test_a_wrong_table_names_the_row_and_exits_with_2(run, tmp_path, column, row, named):
    predictions = tmp_path / "predictions.csv"
    predictions.write_text(
        "filename,status,reason,frames,frames_declared,score,call,threshold,bundle\n"
        "a.mp4,ok,,9,9,0.9,stalled,0.5,x@1\nb.mp4,ok,,9,9,0.1,flowing,0.5,x@1\n"
    )
    labels = pd.DataFrame({"filename": ["a.mp4", "b.mp4"], "stalled": [1, 0]})
    if column is None:
        labels = labels.drop(columns="stalled")
    else:
        labels.loc[1, column] = row
    labels.to_csv(tmp_path / "labels.csv", index=False)
    code, _, err = run(
        "evaluate", predictions, "--labels", tmp_path / "labels.csv", "-o", tmp_path / "e"
    )
    assert code == 2
    assert "labels.csv" in err
    assert named in err
    assert "Traceback" not in err


def test_a_folder_without_recordings_exits_with_2(run, tmp_path):
    (tmp_path / "nothing").mkdir()
    code, _, err = run("predict", tmp_path / "nothing", "-o", tmp_path / "o")
    assert code == 2
    assert str(tmp_path / "nothing") in err


def test_an_exported_bundle_calls_a_recording_and_prints_the_call(run, tmp_path, bundle_dir):
    mine = shutil.copytree(bundle_dir, tmp_path / "mine")
    code, out, _ = run("export", mine)
    assert code == 0
    assert re.search("f32.* 8 clips", out)
    code, _, err = run("export", mine, "--precision", "int8")
    assert code == 2
    assert "--data" in err
    drawing.write(tmp_path / "a.mp4")
    words = ("predict", tmp_path / "a.mp4", "-o", tmp_path / "o", "--bundle", mine)
    code, out, _ = run(*words, "--engine", "openvino")
    assert code == 0
    row = pd.read_csv(tmp_path / "o" / "predictions.csv").iloc[0]
    assert f"a.mp4: {row['call']} (score {row['score']:.6f})\n" in out
    code, _, err = run(*words, "--engine", "openvino-bf16")
    assert code == 3
    assert "bf16" in err


def test_a_bad_bundle_exits_with_3(run, tmp_path):
    drawing.write(tmp_path / "a.mp4")
    code, _, err = run("predict", tmp_path / "a.mp4", "-o", tmp_path / "o", "--bundle", tmp_path)
    assert code == 3
    assert str(tmp_path) in err


def test_strict_exits_with_1_when_a_recording_failed(run, tmp_path, bundle_dir):
    (tmp_path / "empty.mp4").touch()
    words = ["predict", tmp_path / "empty.mp4", "-o", tmp_path / "o", "--bundle", bundle_dir]
    # Not one recording has a call.
    assert run(*words)[0] == 1
    drawing.write(tmp_path / "a.mp4")
    words = ["predict", tmp_path / "empty.mp4", tmp_path / "a.mp4", "-o", tmp_path / "p"]
    words += ["--bundle", bundle_dir]
    assert run(*words)[0] == 0
    code, out, _ = run(*words, "--strict")
    assert code == 1
    assert "1 recording without a call" in out


def test_predict_shows_remarks_and_where_the_model_comes_from(run, tmp_path, bundle_dir):
    drawing.write(tmp_path / "a.mp4")
    drawing.write(tmp_path / "b.mp4", count=120)
    _, out, said = run("predict", tmp_path, "-o", tmp_path / "o", "--bundle", bundle_dir)
    table = pd.read_csv(tmp_path / "o" / "predictions.csv", keep_default_na=False)
    for row in table.itertuples():
        line = next(line for line in out.splitlines() if line.startswith(f"{row.filename}: "))
        assert line.endswith(row.reason.partition(f"{row.filename}: ")[2][1:])
    assert "120 frames" in out
    assert SIMULATED in said
    mine = shutil.copytree(bundle_dir, tmp_path / "mine")
    spec = mine / "bundle.json"
    spec.write_text(spec.read_text().replace('"simulated": true', '"simulated": false'))
    _, _, said = run("predict", tmp_path / "a.mp4", "-o", tmp_path / "q", "--bundle", mine)
    assert SIMULATED not in said


def test_a_wrong_option_exits_with_2(run, tmp_path):
    code, _, err = run("simulate", tmp_path, "--stalled", "1.5")
    assert code == 2
    assert "stalled" in err
    assert run("predict", "--nonsense")[0] != 0


def test_simulate_makes_clips_and_a_sheet(run, tmp_path):
    out, sheet = tmp_path / "made", tmp_path / "sheet.png"
    words = ["simulate", out, "--clips", "--count", 2, "--stalled", 0.5, "--processes", 1]
    code, said, _ = run(*words, "--sheet", sheet)
    assert code == 0
    assert f"2 recordings, 1 stalled, 2 new -> {out}" in said
    assert f"2 segments shown -> {sheet}" in said
    assert sheet.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    names = {path.name for path in out.glob("[!.]*")}
    assert names == {
        *("simulation.json", "store"),
        *("train_metadata.csv", "train_labels.csv", "truth.csv"),
    }
    code, _, err = run(*words, "--recipe", "third-place")
    assert code == 2
    assert str(out) in err
    assert "clip.size" in err


def test_simulate_makes_a_sheet_alone(run, tmp_path):
    code, said, _ = run("simulate", "--count", 1, "--stalled", 1, "--sheet", tmp_path / "s.png")
    assert code == 0
    assert said == f"1 segments shown -> {tmp_path / 's.png'}\n"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "--sheet"),
        (["--clips", "--sheet", "s.png"], "stallscan simulate OUT --clips"),
        (["made", "--recipe", "default"], "--clips"),
        (["made", "--clips", "--recipe", "nonsense"], "nonsense"),
        (["made", "--label-stack", "s.npy", "--label-um", "1", "0", "1"], "label_um"),
        (["made", "--clips", "--test", "2"], "test"),
    ],
)
def test_simulate_says_what_is_missing(run, tmp_path, monkeypatch, words, named):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("simulate", *words)
    assert code == 2
    assert named in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_prepare_makes_a_store_and_looks_after_it(run, corpus, bundle_dir, tmp_path):
    made, out = tmp_path / "clips", tmp_path / "out"
    (tmp_path / "bad.mp4").touch()
    words = ("prepare", corpus / "train", tmp_path / "bad.mp4", "-o", made, "--processes", 0)
    code, said, _ = run(*words, "--bundle", bundle_dir)
    assert code == 0
    assert f"4 ok, 1 unreadable -> {made}" in said
    assert re.search(rf"^1 recordings.*{re.escape(str(made / 'recordings.csv'))}", said, re.M)
    code, said, _ = run("predict", made, "-o", out, "--bundle", bundle_dir)
    assert code == 0
    assert list(pd.read_csv(out / "predictions.csv")["status"]) == ["ok"] * 4 + ["unreadable"]
    code, said, _ = run("prepare", "--verify", made)
    assert code == 0
    assert said.startswith(str(made))
    path = made / "shard-00000.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    code, _, said = run("prepare", "--verify", made)
    assert code == 2
    assert str(path) in said
    assert "shard-00000.safetensors: 1 recordings" in said
    assert "100003.mp4" in said
    path.unlink()
    code, said, _ = run(*words, "--bundle", bundle_dir)
    assert code == 0
    assert path.read_bytes() == content
    code, _, said = run(*words, "--recipe", "third-place")
    assert code == 2
    assert "clip.channels" in said


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "-o STORE"),
        (["."], "-o STORE"),
        ([".", "-o", "made", "--bundle", "a", "--recipe", "b"], "--recipe"),
        ([".", "--verify", "made"], "--verify STORE"),
        (["--verify", "made"], "made: no such folder"),
        ([".", "-o", "made"], "error: .: "),
    ],
)
def test_prepare_says_what_is_missing(run, tmp_path, monkeypatch, words, named):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("prepare", *words)
    assert code == 2
    assert named in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [("train", "default"), ("reproduce", "third-place")])
def test_training_looks_for_clips_where_it_is_told(run, corpus, tmp_path, words):
    nowhere = tmp_path / "nowhere"
    code, _, err = run(*words, "--data", corpus, "--store", nowhere, "-o", tmp_path / "out")
    assert code == 2
    assert f"{nowhere}: no such folder" in err


def test_doctor_finds_everything(run):
    code, out, _ = run("doctor")
    assert code == 0
    assert "torch" in out
    assert "missing" not in out.lower()


def test_reproduce_says_what_is_wrong(run, tmp_path):
    words = ("--data", tmp_path, "-o", tmp_path / "out")
    code, _, err = run("reproduce", "first-palce", *words)
    assert code == 2
    assert "did you mean first-place?" in err
    code, _, err = run("reproduce", "third-place", *words, "--size", 8)
    assert code == 2
    assert "clip.size" in err
    code, _, err = run("reproduce", "third-place", *words, "--set", "net.name=nomodule:MyNet")
    assert code == 2
    assert "nomodule:MyNet cannot be imported" in err
    code, _, err = run("reproduce", "third-place", *words)
    assert code == 2
    assert "train_metadata.csv" in err


@pytest.fixture
def main(monkeypatch, capfd):
    """Run `main.main` with a fake command; return (exit code, stderr)."""

    def call(command, stdout=None):
        monkeypatch.setattr("stallscan.cli.commands.app", lambda *_, **__: command())
        if stdout is not None:
            monkeypatch.setattr(sys, "stdout", stdout)
        try:
            run_main()
            code = 0
        except SystemExit as end:
            code = end.code
        return code, capfd.readouterr().err

    return call


@pytest.mark.parametrize("quiet", [True, False])
def test_quiet_leaves_warnings_and_errors(main, monkeypatch, caplog, quiet):
    log = logging.getLogger("stallscan")
    monkeypatch.setattr(sys, "argv", ["stallscan", *(["-q"] if quiet else []), "doctor"])

    def act():
        with terminal.show_progress("predicting") as progress:
            log.info("good to know")
            progress(1, 1)
        log.warning("doubtful")
        raise InputError("wrong")

    code, said = main(act)
    log.setLevel(logging.NOTSET)
    assert code == 2
    assert "wrong" in said
    assert ("predicting" in said) is not quiet
    assert caplog.messages == [*([] if quiet else ["good to know"]), "doubtful"]


def test_progress_is_shown_only_once_there_is_some(capfd, caplog):
    caplog.set_level(logging.INFO, "stallscan")
    with pytest.raises(InputError), terminal.show_progress("predicting"):
        raise InputError("a table is wrong")
    assert capfd.readouterr().err == ""
    with terminal.show_progress("predicting") as progress:
        progress(1, 2)
    assert "1/2" in capfd.readouterr().err


def test_a_message_is_said_once(caplog):
    log = logging.getLogger("stallscan")

    @terminal.say_once()
    def act():
        for name in ("a.csv", "a.csv", "b.csv"):
            log.warning("%s: odd", name)

    act()
    act()
    assert caplog.messages == ["a.csv: odd", "b.csv: odd"] * 2


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_name_that_the_console_cannot_print_is_escaped(main, encoding):
    written = io.BytesIO()
    stdout = io.TextIOWrapper(written, encoding=encoding)
    table = Table("\u30de")
    code, _ = main(
        lambda: (terminal.print_line("\u30de\udcfc\x1b[31m"), terminal.show(table)), stdout
    )
    assert code == 0
    assert written.getvalue().startswith(rb"\u30de\xfc\x1b[31m")


@pytest.mark.parametrize(
    "show", [lambda: terminal.print_line("x"), lambda: terminal.show(Table("x"))]
)
def test_a_closed_pipe_ends_quietly(main, show):
    reader, writer = os.pipe()
    os.close(reader)
    with io.TextIOWrapper(io.FileIO(writer, "w")) as stdout:
        assert main(show, stdout) == (EXIT_CLOSED_PIPE, "")


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "full"),
        (errno.EACCES, "permission"),
        (errno.ENOENT, "no such file"),
        (errno.EROFS, "-o"),
        (errno.ENAMETOOLONG, "-o"),
        (errno.EIO, "-o"),
    ],
)
def test_an_error_of_the_system_is_one_line(main, number, advice):
    def fail():
        raise OSError(number, os.strerror(number), "a: b.csv")

    code, said = main(fail)
    assert code == 2
    assert "a: b.csv: " in said
    assert advice in said
    assert said.count("\n") == 1


def test_a_console_that_cannot_show_a_name_ends_no_run(monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, console)
    monkeypatch.setattr(
        sys, "argv", ["stallscan", "evaluate", "マウス.csv", "--labels", "マウス.csv", "-o", "a"]
    )
    with pytest.raises(SystemExit) as ended:
        run_main()
    assert ended.value.code == 2
    console.seek(0)
    assert r"\u30de\u30a6\u30b9.csv" in console.read()


def test_fine_tune_is_found_under_its_former_name(run, tmp_path):
    words = (tmp_path, "--labels", tmp_path / "labels.csv", "-o", tmp_path / "out")
    code, _, now = run("fine-tune", *words)
    assert code == 2
    assert "labels.csv" in now
    code, _, before = run("train", "fine-tune", *words)
    assert code == 2
    first, _, rest = before.partition("\n")
    assert "'stallscan fine-tune'" in first
    assert rest == now


@pytest.mark.parametrize(
    ("words", "before"),
    [(("predict", "", "-o", "out"), "predict"), (("predict", ".", "-o", ""), "-o")],
)
def test_an_empty_argument_is_not_the_current_folder(run, tmp_path, monkeypatch, words, before):
    monkeypatch.chdir(tmp_path)
    drawing.write(tmp_path / "a.mp4")
    code, _, err = run(*words)
    assert code == 2
    assert f"empty argument after {before}" in err
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_an_empty_group_means_none(run, tmp_path):
    code, _, err = run("evaluate", tmp_path / "x", "--group", "", "-o", tmp_path / "out")
    assert code == 2
    assert "--group" not in err


def test_an_error_of_ours_keeps_its_traceback(main):
    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        main(fail)


@pytest.mark.parametrize(("command", "promised"), [("predict", True), ("report", False)])
def test_only_what_resumes_is_said_to_resume(main, monkeypatch, command, promised):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["stallscan", command])
    # It would end the process of the tests.
    monkeypatch.setattr("stallscan.cli.main._end_now", sys.exit)
    code, said = main(interrupt)
    assert code == 130
    assert ("resume" in said) == promised


def test_names_are_no_markup(capsys):
    table = Table("[red]head")
    table.add_row("[/x]cell :cat:")
    terminal.show(table)
    out = capsys.readouterr().out
    assert "[red]head" in out
    assert "[/x]cell :cat:" in out


def test_doctor_prints_whole_commands(run, monkeypatch):
    finding = doctor.Finding("x [red]", "pip install 'stallscan[lab]' :cat:", "optional")
    monkeypatch.setattr(doctor, "examine", lambda: [finding])
    code, out, _ = run("doctor")
    assert code == 0
    assert finding.what in out
    assert finding.found in out
    assert "stallscan predict" in out.splitlines()[-1]


def test_doctor_ends_with_what_to_do_about_what_is_missing(run, monkeypatch):
    findings = [doctor.Finding("av", "Run: pip install av", "missing"), doctor.Finding("x", "1")]
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    code, out, _ = run("doctor")
    assert code == 1
    assert out.splitlines()[-1].startswith("Missing: av. ")


def test_doctor_tries_the_compressions(monkeypatch):
    assert "zstd" in doctor._compressed_tiff().found
    write = tifffile.imwrite

    def without_zstd(*words, compression, **more):
        if compression == "zstd":
            raise ValueError("requires the 'imagecodecs' package")
        write(*words, **more)

    monkeypatch.setattr(tifffile, "imwrite", without_zstd)
    found = doctor._compressed_tiff()
    assert found.state == "optional"
    assert found.found.startswith("zstd: ")
    assert "pip install '.[lab]'" in found.found
