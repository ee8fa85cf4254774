"""Tables of predictions, as stallscan predict writes them."""

import pandas as pd

from stallscan.runs import PREDICTION_COLUMNS

# filename, status, score, call, label
ROWS = (
    ("a/1.mp4", "ok", 0.9, "stalled", 1),
    ("a/2.mp4", "ok", 0.2, "flowing", 1),
    ("a/3.mp4", "ok", 0.1, "flowing", 0),
    ("a/4.mp4", "ok", 0.8, "stalled", 0),
    ("a/5.mp4", "ok", 0.3, "flowing", 0),
    ("a/6.mp4", "damaged", 0.7, "unscorable", 1),
    ("a/7.mp4", "no_outline", "", "unscorable", 0),
    ("a/8.mp4", "ok", 0.55, "review", 0),
    ("a/9.mp4", "ok", 0.4, "flowing", None),
)


def prediction(filename, status="ok", score=0.9, call="stalled", **others):
    row = {
        "filename": filename,
        "status": status,
        "reason": "" if status == "ok" else f"/data/{filename}: why not",
        "frames": 56,
        "frames_declared": 57,
        "score": score,
        "call": call,
        "threshold": 0.6,
        "bundle": "default",
    }
    return row | others


def write_tables(folder, predictions, labels):
    paths = folder / "predictions.csv", folder / "labels.csv"
    pd.DataFrame(predictions, columns=list(PREDICTION_COLUMNS)).to_csv(paths[0], index=False)
    pd.DataFrame(labels, columns=["filename", "stalled"]).to_csv(paths[1], index=False)
    return paths
