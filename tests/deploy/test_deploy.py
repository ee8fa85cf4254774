"""The templates for schedulers: each is run, or checked against its scheduler's own model."""

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.chaos import kills

DEPLOY = Path(__file__).parents[2] / "deploy"
needs_slurm = pytest.mark.skipif(
    not shutil.which("slurmctld") or not hasattr(os, "geteuid") or os.geteuid() != 0,
    reason="needs root, and slurm-wlm and munge",
)


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Stand-ins for programs: a function that makes one, from the lines of its shell script."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(name, *lines):
        path = folder / name
        path.write_text("\n".join(["#!/bin/bash", *lines, ""]))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    return make


@pytest.fixture
def stallscan(programs):
    """The command, by the name that the templates call."""
    source = kills.ROOT / "src"
    programs("stallscan", f'PYTHONPATH={source} exec {sys.executable} -m stallscan "$@"')


@pytest.fixture
def plan(tmp_path):
    recordings = kills.make_recordings(tmp_path / "recordings", 2 * kills.SHARD_SIZE)
    kills.make_plan(recordings, tmp_path / "plan")
    return tmp_path / "plan"


def test_slurm_gets_the_missing_shards_in_arrays_that_it_takes(programs, tmp_path):
    log = tmp_path / "log"
    programs("stallscan", "printf '%s\\n' 3 998 1001 2503")
    programs("scontrol", "echo 'MaxArraySize = 1001'")
    programs("sbatch", f'echo "$@" >> {log}')
    subprocess.run([DEPLOY / "slurm.sh", "/data/plan", "7", "--time=5"], check=True)
    lines = log.read_text().splitlines()
    asked = [[word for word in line.split() if word.startswith("--")] for line in lines]
    assert asked == [
        ["--array=3,998%7", "--export=ALL,PLAN=/data/plan,FIRST=0", "--time=5"],
        ["--array=0%7", "--export=ALL,PLAN=/data/plan,FIRST=1001", "--time=5"],
        ["--array=501%7", "--export=ALL,PLAN=/data/plan,FIRST=2002", "--time=5"],
    ]
    log.unlink()
    programs("stallscan", "echo")
    subprocess.run([DEPLOY / "slurm.sh", "/data/plan"], check=True)
    assert not log.exists()


def test_a_task_of_slurm_does_its_shard(programs, tmp_path, monkeypatch):
    programs("stallscan", f'echo "$@" > {tmp_path / "log"}')
    for name, value in (("PLAN", "/data/plan"), ("FIRST", "1001")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "7")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    subprocess.run(["bash", DEPLOY / "slurm.sbatch"], check=True)
    assert (tmp_path / "log").read_text() == "run /data/plan --shard 1008 --cores 4\n"


def test_aws_takes_the_job_definition_and_an_array_of_it(monkeypatch):
    moto = pytest.importorskip("moto")
    boto3 = pytest.importorskip("boto3")
    from botocore.validate import validate_parameters

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    definition = json.loads((DEPLOY / "aws-batch.json").read_text())
    with moto.mock_aws():
        client = boto3.client("batch")
        arn = client.register_job_definition(**definition)["jobDefinitionArn"]
        (found,) = client.describe_job_definitions(jobDefinitions=[arn])["jobDefinitions"]
        model = client.meta.service_model.operation_model("SubmitJob").input_shape
    assert found["containerProperties"]["command"] == definition["containerProperties"]["command"]
    submitted = {
        "jobName": "stallscan",
        "jobQueue": "queue",
        "jobDefinition": arn,
        "arrayProperties": {"size": 1120},
        "parameters": {"plan": "s3://bucket/plan"},
    }
    validate_parameters(submitted, model)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("groovy"), reason="needs groovy")
def test_nextflow_does_what_is_missing_and_tries_again(programs, tmp_path):
    log = tmp_path / "log"
    programs(
        "stallscan",
        f'echo "$@" >> {log}',
        "[ $1 != status ] || printf '%s\\n' 0 3",
        f'[ "$*" != "run /data/plan --shard 3 --cores 2" ] || [ $(grep -c "shard 3" {log}) = 3 ]',
    )
    java = Path(shutil.which("java") or "/").resolve().parents[1]
    words = [Path(__file__).parent / "nextflow.groovy", DEPLOY / "main.nf"]
    words += ["plan=/data/plan", "out=/data/out", "cores=2"]
    env = os.environ | {"JAVA_HOME": str(java)}
    subprocess.run(["groovy", *words], check=True, env=env)
    shard = "run /data/plan --shard {} --cores 2"
    assert log.read_text().splitlines() == [
        "status /data/plan --missing",
        shard.format(0),
        *3 * [shard.format(3)],
        "merge /data/plan -o /data/out",
    ]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("snakemake"), reason="needs snakemake")
@pytest.mark.usefixtures("stallscan")
def test_snakemake_does_a_plan(plan, tmp_path):
    out = tmp_path / "out"
    words = ["snakemake", "-s", DEPLOY / "Snakefile", "--cores", "1"]
    words += ["--config", f"plan={plan}", f"out={out}", "cores=1"]
    subprocess.run(words, check=True, cwd=tmp_path)
    assert (out / "predictions.csv").read_text().count("\n") == 1 + 2 * kills.SHARD_SIZE
    # What is merged is not done again.
    again = subprocess.run(words, check=True, cwd=tmp_path, capture_output=True, text=True)
    assert "Nothing to be done" in again.stdout + again.stderr


@pytest.fixture
def slurm(monkeypatch):
    """A SLURM of this machine alone."""
    script = DEPLOY / "test" / "slurm.sh"
    # Not in tmp_path, which is too long for sockets.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        monkeypatch.setenv("SLURM_CONF", f"{folder}/slurm.conf")
        subprocess.run([script, "start", folder], check=True)
        yield
        subprocess.run([script, "stop", folder], check=True)


@pytest.mark.slow
@needs_slurm
@pytest.mark.usefixtures("stallscan", "slurm")
def test_slurm_does_a_plan(plan, tmp_path):
    words = ["--cpus-per-task=1", f"--output={tmp_path}/%a.log", "--wait"]
    subprocess.run([DEPLOY / "slurm.sh", plan, "10", *words], check=True)
    assert kills.stallscan("status", plan, "--missing").stdout.split() == []
    assert (tmp_path / "1.log").read_text().count("shard-0001: ") == 1


@pytest.mark.slow
@needs_slurm
@pytest.mark.usefixtures("slurm")
def test_slurm_trains_in_two_processes(programs, tmp_path):
    pytest.importorskip("torch")
    programs("torchrun", f'exec {sys.executable} -m torch.distributed.run "$@"')
    data = tmp_path / "data"
    simulated = kills.stallscan("simulate", data, "--clips", "--count", "12", "--stalled", "0.5")
    assert simulated.returncode == 0, simulated.stderr
    words = ["--wait", "--nodes=1", "--cpus-per-task=2"]
    words += [f"--output={tmp_path}/log", str(DEPLOY / "train.sbatch"), "default"]
    words += ["--data", str(data), "-o", str(tmp_path / "run"), "--epochs", "1"]
    env = os.environ | {"PROCESSES": "2", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(["sbatch", *words], check=False, env=env)
    assert done.returncode == 0, (tmp_path / "log").read_text()
    assert (tmp_path / "run" / "bundle" / "bundle.json").is_file()
    assert (tmp_path / "log").read_text().count("bundle ->") == 1
