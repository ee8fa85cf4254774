"""What is shipped, on 200 fresh simulated recordings that played no part in making it."""

import json

import numpy as np
import pytest

from stallscan import simulate
from stallscan.calls import predict
from stallscan.clips import clip
from stallscan.clips.clip import ClipSettings
from stallscan.evaluation import evaluate
from stallscan.recordings import video
from stallscan.vessels import outline
from stallscan.vessels.outline import OutlineSettings
from tests import third_place

# In one process: the recordings take longer to make than either test.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500), pytest.mark.xdist_group("shipped")]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    simulate.simulate(folder, simulate.SimulateSettings(count=200, stalled=0.3, seed=777))
    return folder


def test_boxes_and_clips_equal_the_published_ones(corpus):
    for path in sorted((corpus / "train").glob("*.mp4")):
        recording = video.read_recording(path)
        found = outline.find_outline(recording, OutlineSettings(rule="third-place"))
        assert found.box == third_place.box(recording.frames[0]), path
        made = clip.make_clip(recording, found, ClipSettings())
        assert np.array_equal(made.pixels, third_place.clip(recording.frames)), path
        ours = outline.find_outline(recording).box
        # Later frames show pixels of the blurred edge (chroma has half the resolution) that the
        # first one does not.
        assert np.abs(np.subtract(ours, found.box)).max() <= 4, path


def test_the_default_bundle_tells_stalled_from_flowing(corpus, tmp_path):
    summary = predict.predict([corpus / "train"], tmp_path)
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["statuses"] == {"ok": 200}
    evaluation = evaluate.evaluate(summary.table, corpus / "train_labels.csv")
    # The shipped figure is higher (its model card); 200 recordings scatter by about 0.04.
    assert evaluation.metrics.mcc > 0.55
