"""A folder with small files under the names that the documents use."""

import json
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
import roifile
import tifffile

from stallscan.bundle import disk
from stallscan.calls import predict
from stallscan.review.answers import Answers
from tests import drawing
from tests.predicted import prediction, write_tables

COUNT = 24
TESTS = 8
TRUE = ("tier1", "micro", "nano")


@pytest.fixture(scope="module")
def world(tmp_path_factory, bundle_dir):
    """Recordings with labels of mice, their calls, answers of a review; a competition; a stack."""
    folder = tmp_path_factory.mktemp("world")
    names = [f"{index}.mp4" for index in range(COUNT)]
    for index, name in enumerate(names):
        drawing.write(folder / "my_recordings" / name, seed=index, count=8, height=64, width=96)
    for name in ("recordings", "archive"):
        shutil.copytree(folder / "my_recordings", folder / name)
    labels = _labels(folder, names)
    predict.predict([folder / "my_recordings"], folder / "results")
    answers = Answers(folder / "results")
    for index, name, stalled in labels[["filename", "stalled"]].itertuples():
        answers.give(f"token-{index:03}", name, "ann", "stalled" if stalled else "flowing")
    _competition(folder / "data", names)
    for path in (folder / "data").glob("*.csv"):
        shutil.copy(path, folder)
    _bundles(folder, bundle_dir)
    _stack(folder)
    frames = drawing.frames(12, contours=0)
    np.save(folder / "frames.npy", frames[..., 0])
    np.save(folder / "mask.npy", np.pad(np.ones((25, 35), bool), ((28, 43), (15, 78))))
    _study(folder / "study", folder / "results" / "run.json")
    return folder


def _labels(folder, names):
    """Write labels, a third of them stalled, and the mice of two groups; return the labels."""
    labels = pd.DataFrame({"filename": names, "stalled": np.arange(len(names)) % 3 // 2})
    labels["mouse"] = [f"m{index * 8 // len(names)}" for index in range(len(names))]
    labels.to_csv(folder / "labels.csv", index=False)
    mice = labels[["filename", "mouse"]]
    mice = mice.assign(genotype=np.where(mice["mouse"] < "m4", "wild type", "APP/PS1"))
    mice.to_csv(folder / "mice.csv", index=False)
    return labels


def _bundles(folder, bundle_dir):
    """Write bundles that differ in their weights, with the recordings that they held out."""
    shutil.copytree(bundle_dir, folder / "bundle")
    model = disk.load(bundle_dir)
    random = np.random.default_rng(0)
    held_out = pd.DataFrame({"filename": [f"{index}.mp4" for index in range(200)]})
    held_out["stalled"] = np.arange(200) % 3 // 2
    for index, name in enumerate("abc"):
        weights = {key: tensor + 0.01 * index for key, tensor in model.weights.items()}
        disk.save(folder / name / "bundle", model.spec, weights, "# for tests\n")
        logits = 4 * held_out["stalled"] - 2 + random.normal(0, 2, len(held_out))
        scores = 1 / (1 + np.exp(-logits))
        rows = held_out.assign(logit=logits, score=scores, call="flowing")
        rows.loc[scores >= 0.5, "call"] = "stalled"
        about = {"status": "ok", "reason": "", "threshold": 0.5, "bundle": name}
        rows = rows.assign(**about, frames=56, frames_declared=56)
        rows.to_csv(folder / name / "validation.csv", index=False)


def _competition(folder, names):
    """Write a data folder with a test split, as `stallscan fetch` does."""
    tests = [f"{COUNT + index}.mp4" for index in range(TESTS)]
    for split, each in (("train", names), ("test", tests)):
        for name in each:
            source = folder.parent / "my_recordings" / f"{int(name[:-4]) % COUNT}.mp4"
            (folder / split).mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder / split / name)
    table = pd.DataFrame({"filename": names, "project_id": ["A", "C"] * (len(names) // 2)})
    table["url"] = [f"s3://competition/train/{name}" for name in names]
    table = table.assign(num_frames=8, crowd_score=0.0, **dict.fromkeys(TRUE, True))
    table.to_csv(folder / "train_metadata.csv", index=False)
    truth = pd.DataFrame({"filename": names, "stalled": np.arange(len(names)) % 3 // 2})
    truth.to_csv(folder / "train_labels.csv", index=False)
    test = pd.DataFrame({"filename": tests, "url": [f"s3://competition/test/{n}" for n in tests]})
    test.assign(num_frames=8).to_csv(folder / "test_metadata.csv", index=False)
    test[["filename"]].assign(stalled=0).to_csv(folder / "submission_format.csv", index=False)


def _stack(folder):
    """Write a z-stack with two vessels, and the region of one for ImageJ."""
    stack = np.random.default_rng(0).integers(80, 140, (40, 96, 96), dtype=np.uint16)
    labels = np.zeros(stack.shape, np.uint8)
    for label, row in ((1, 30), (2, 66)):
        for plane, blur in zip(range(10, 30), [0.5, *[1.0] * 18, 0.5], strict=True):
            line = np.zeros(stack.shape[1:], np.uint8)
            cv2.line(line, (8, row), (88, row + 6), 255, 6)
            stack[plane] += (line * blur * 4).astype(np.uint16)
            labels[plane][line > 0] = label
    tifffile.imwrite(
        folder / "field3.tif",
        stack,
        imagej=True,
        resolution=(1.0, 1.0),
        metadata={"axes": "ZYX", "spacing": 1.0, "unit": "um"},
    )
    tifffile.imwrite(folder / "vessels.tif", labels)
    corners = np.array([[8, 16], [90, 22], [90, 48], [8, 42]], np.float32)
    region = roifile.ImagejRoi.frompoints(corners, name="1", position=20)
    roifile.roiwrite(folder / "RoiSet.zip", [region])


def _study(folder, run):
    """Write the calls of 600 recordings with labels: enough to choose a threshold on."""
    bundle = json.loads(run.read_text("utf-8"))["bundle"]
    random = np.random.default_rng(0)
    stalled = np.arange(600) % 5 == 0
    scores = 1 / (1 + np.exp(2.0 - 3.0 * stalled - random.normal(0, 0.7, 600)))
    rows = [
        prediction(
            f"{index}.mp4",
            score=round(score, 6),
            call="stalled" if score >= 0.5 else "flowing",
            threshold=0.5,
            bundle=bundle,
        )
        for index, score in enumerate(scores)
    ]
    folder.mkdir()
    shutil.copy(run, folder)
    names = [row["filename"] for row in rows]
    write_tables(folder, rows, [])
    labels = _labels(folder, names).assign(stalled=stalled.astype(int))
    labels.to_csv(folder / "labels.csv", index=False)
    labels.assign(kind="cells").to_csv(folder / "truth.csv", index=False)
    labels[["filename", "stalled"]].to_csv(folder / "submission_format.csv.gz", index=False)
