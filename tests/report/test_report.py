"""The report: its cards, their order and content, and the self-contained page."""

import base64
import json
import math
import re
import shutil
from html.parser import HTMLParser

import cv2
import numpy as np
import pandas as pd
import pytest

from stallscan import words
from stallscan.bundle import disk
from stallscan.calls import decide, predict
from stallscan.calls.predictions import SIMULATED
from stallscan.calls.settings import CallSettings
from stallscan.clips import fill, store
from stallscan.clips.clip import ClipSettings
from stallscan.clips.prepare import Preprocessing
from stallscan.errors import InputError, SettingsError, TableError
from stallscan.evaluation import evaluate
from stallscan.recordings import encode, find, video
from stallscan.report import cards, report
from stallscan.report.report import ReportSettings
from stallscan.report.stored import Stored
from stallscan.review import clips as review_clips
from stallscan.review import run as review_run
from stallscan.runs import PREDICTION_COLUMNS
from stallscan.vessels import outline
from stallscan.vessels.outline import OutlineSettings
from tests import crashing

THRESHOLD = 0.6
# filename, status, score, call, label
ROWS = (
    ("flowing_far.mp4", "ok", 0.05, "flowing", 0),
    ("flowing_near.mp4", "ok", 0.55, "flowing", 0),
    ("stalled_low.mp4", "ok", 0.7, "stalled", 1),
    ("missed.mp4", "ok", 0.1, "flowing", 1),
    ("stalled_high.mp4", "ok", 0.95, "stalled", 1),
    ("alarm.mp4", "ok", 0.8, "stalled", 0),
    ("bare.mp4", "no_outline", "", "unscorable", 0),
    ("sub/<b>&\"'.mp4", "unreadable", "", "unscorable", None),
)


def write(*arguments, **options):
    """Write a report in this process, because starting others takes a second."""
    return report.write_report(*arguments, **{"processes": 0, **options})


def draw_recording(outlined=True, frames=6, size=(96, 128)):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 120, (frames, *size, 1), dtype=np.uint8)
    recording = np.repeat(grey, 3, axis=3)
    for frame in recording if outlined else ():
        cv2.ellipse(frame, (64, 48), (30, 20), 30.0, 0.0, 360.0, (255, 102, 0), 2)
    return recording


def write_predictions(path, rows):
    pd.DataFrame(
        [
            {
                "filename": name,
                "status": status,
                "reason": "" if status == "ok" else f"/data/{name}: it failed for a reason",
                "frames": 6 if status == "ok" else "",
                "frames_declared": "",
                "score": score,
                "call": call,
                "threshold": THRESHOLD,
                "bundle": "default <1>",
            }
            for name, status, score, call, _ in rows
        ],
        columns=list(PREDICTION_COLUMNS),
    ).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of a finished run over `ROWS`, with its recordings and labels."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "films" / "sub").mkdir(parents=True)
    for name, status, *_ in ROWS:
        path = folder / "films" / name
        if status == "unreadable":
            path.write_text("no video")
        else:
            encode.write_video(path, draw_recording(outlined=status == "ok"))
    write_predictions(folder / "predictions.csv", ROWS)
    labels = [(name, label) for name, *_, label in ROWS if label is not None]
    pd.DataFrame(labels, columns=["filename", "stalled"]).to_csv(folder / "labels.csv", index=False)
    notes = {
        "paths": [str(folder / "films")],
        "recordings": len(ROWS),
        "started": "2026-01-02T03:04:05+00:00",
        "finished": "2026-01-02T03:06:00+00:00",
    }
    (folder / "run.json").write_text(json.dumps(notes))
    return folder


class Page(HTMLParser):
    """A parsed page: its cards, its addresses, the files of its clips, its plots and its text."""

    def __init__(self, path):
        super().__init__()
        self.cards, self.addresses, self.text = [], [], ""
        self.media, self.plots, self.identifiers = {}, [], []
        self._skip, self._media = False, None
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self._skip = tag in ("style", "script")
        self._media = values.get("id") if values.get("type") == "text/plain" else None
        self.addresses += [values[key] for key in ("src", "href", "poster") if key in values]
        self.identifiers += [values["id"]] if "id" in values else []
        if tag == "svg":
            self.plots.append(values)
        if "card" in (values.get("class") or "").split():
            self.cards.append(values)

    def handle_endtag(self, tag):
        self._skip, self._media = False, None

    def handle_data(self, data):
        if self._media:
            # poster, evidence picture, where the net looked, video
            self.media[self._media] = [base64.b64decode(word) for word in data.split(" ")]
        if not self._skip:
            self.text += data + " "

    @property
    def videos(self):
        return sum(bool(self.media[card["data-media"]][3]) for card in self.with_clip)

    @property
    def with_clip(self):
        return [card for card in self.cards if "data-media" in card]

    @property
    def names(self):
        return [card["data-name"] for card in self.cards]


@pytest.fixture(scope="module")
def plain(run):
    written = write(run / "predictions.csv", run / "plain.html")
    return written, Page(written.path)


@pytest.fixture(scope="module")
def labelled(run):
    written = write(
        run / "predictions.csv",
        run / "labelled.html",
        evaluation=evaluate.evaluate(run / "predictions.csv", run / "labels.csv", partial=True),
        note="Mind <this>.",
    )
    return written, Page(written.path)


def test_order_of_the_cards(plain):
    written, page = plain
    assert written == (written.path, 8, 8, 1, 0, "")
    assert page.names == [
        "stalled_high.mp4",
        "alarm.mp4",
        "stalled_low.mp4",
        "bare.mp4",
        "sub/<b>&\"'.mp4",
        "flowing_near.mp4",
        "missed.mp4",
        "flowing_far.mp4",
    ]


def test_wrong_calls_come_first_if_there_are_labels(labelled):
    _, page = labelled
    assert page.names[:3] == ["missed.mp4", "alarm.mp4", "stalled_high.mp4"]
    assert [card["data-outcome"] for card in page.cards[:3]] == ["wrong", "wrong", "right"]
    assert "missed stall" in page.text
    assert "false alarm" in page.text
    assert "labelled stalled" in page.text


def test_answers_of_a_review_replace_calls(run, tmp_path):
    answers = {
        "alarm.mp4": "flowing",
        "stalled_low.mp4": "stalled",
        "bare.mp4": "stalled",
        "flowing_far.mp4": "unscorable",
    }
    evaluation = evaluate.evaluate(run / "predictions.csv", run / "labels.csv", partial=True)
    written = write(
        run / "predictions.csv", tmp_path / "r.html", evaluation=evaluation, answers=answers
    )
    page = Page(written.path)
    calls = {card["data-name"]: card["data-call"] for card in page.cards}
    assert calls["alarm.mp4"] == "flowing"
    assert calls["bare.mp4"] == "stalled"
    assert "4 of 8 recordings were answered" in page.text
    assert "2 calls overturned, 1 confirmed, 1 decided" in page.text
    assert str(written).startswith("4 of 8 recordings")
    assert "the model said stalled" in page.text
    assert "decided in the review; the model said unscorable" in page.text
    assert "confirmed in the review" in page.text
    # Figures, and what is called wrong, are those of the model's own calls.
    assert "without the answers of the review. MCC" in page.text
    outcomes = {card["data-name"]: card["data-outcome"] for card in page.cards}
    assert outcomes["alarm.mp4"] == "wrong"
    assert outcomes["flowing_far.mp4"] == "right"
    assert outcomes["bare.mp4"] == "unlabelled"


def test_page_is_self_contained(labelled):
    written, page = labelled
    # Only references within the plots.
    assert page.addresses
    assert {address[0] for address in page.addresses} == {"#"}
    assert {address[1:] for address in page.addresses} <= set(page.identifiers)
    source = written.path.read_text(encoding="utf-8")
    text = re.sub(r'<script type="text/plain".*?</script>', "", source)
    assert not re.search(r"(https?:)?//[a-z]", text)
    assert "default-src 'none'" in source


def test_header_counts_and_evaluation(labelled):
    _, page = labelled
    assert "Mind <this>." in page.text
    assert "8 recordings" in page.text
    assert "3 stalled (37.5 %)" in page.text
    assert "2 unscorable (25 %)" in page.text
    assert "6 ok, 1 no_outline, 1 unreadable" in page.text
    assert "default <1>" in page.text
    assert "Threshold 0.6" in page.text
    assert "2026-01-02 03:04 UTC" in page.text
    assert "MCC re-weighted to 0.3 %" in page.text
    assert "1 (bare.mp4)" in page.text
    assert len(page.plots) == len({plot["aria-label"] for plot in page.plots}) == 7
    assert len(page.identifiers) == len(set(page.identifiers))


def test_plain_page_has_the_histogram_only(plain):
    _, page = plain
    assert len(page.plots) == 1
    assert "MCC" not in page.text


def test_filenames_are_escaped(plain):
    written, page = plain
    source = written.path.read_text(encoding="utf-8")
    assert "/<b>" not in source
    assert "sub/<b>&\"'.mp4" in page.text


def test_cards_of_failed_recordings_show_the_reason(plain):
    _, page = plain
    assert page.videos == 7
    assert "It failed for a reason" in page.text
    assert "/data/" not in page.text
    assert page.text.count("whole field") == 1


def test_max_cards(run, tmp_path):
    written = write(
        run / "predictions.csv", tmp_path / "few.html", settings=ReportSettings(max_cards=2)
    )
    page = Page(written.path)
    assert (written.recordings, written.cards) == (8, 2)
    assert page.names == ["stalled_high.mp4", "alarm.mp4"]
    assert "2 of 8" in page.text
    assert "--max-cards 8" in page.text


def test_where_the_net_looked_is_shown_for_what_can_be_read(run, tmp_path):
    seen = []

    def look(path):
        seen.append(path.name)
        return b"" if path.name == "missed.mp4" else b"picture"

    written = write(run / "predictions.csv", tmp_path / "looked.html", look=look)
    page = Page(written.path)
    assert "what the net looked at" in page.text
    assert sorted(seen) == sorted(card["data-name"] for card in page.with_clip)
    looked = {card["data-name"]: page.media[card["data-media"]][2] for card in page.with_clip}
    assert looked["missed.mp4"] == b""
    assert looked["alarm.mp4"] == b"picture"
    # Each picture has a row of its own.
    rows = re.findall(r'class="evidence( two)?"', written.path.read_text(encoding="utf-8"))
    both = [all(page.media[card["data-media"]][1:3]) for card in page.with_clip]
    assert rows.count(" two") == sum(both) > 0


def test_moved_recordings(run, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"paths": [str(tmp_path / "gone")]}))
    predictions = tmp_path / "predictions.csv"
    predictions.write_bytes((run / "predictions.csv").read_bytes())
    written = write(predictions, tmp_path / "moved.html")
    assert (written.without_clip, written.moved) == (8, 8)
    assert "--recordings FOLDER" in Page(written.path).text

    # In the parent folder, the same recordings are named films/... and are matched by their ends.
    for folder in (run / "films", run):
        written = write(predictions, tmp_path / "found.html", recordings=[folder])
        assert (written.without_clip, written.moved) == (1, 0)
    with pytest.raises(InputError, match="gone"):
        write(predictions, tmp_path / "x.html", recordings=[tmp_path / "gone"])


@pytest.mark.parametrize("notes", [None, '{"paths": 3, "recordings": "x"}'])
def test_run_json_may_be_missing_or_useless(run, tmp_path, notes):
    (tmp_path / "predictions.csv").write_bytes((run / "predictions.csv").read_bytes())
    if notes is not None:
        (tmp_path / "run.json").write_text(notes)
    assert write(tmp_path / "predictions.csv", tmp_path / "x.html").without_clip == 8


def test_broken_run_json_is_refused(run, tmp_path):
    (tmp_path / "predictions.csv").write_bytes((run / "predictions.csv").read_bytes())
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json"):
        write(tmp_path / "predictions.csv", tmp_path / "x.html")


def test_page_shows_that_a_run_is_unfinished(tmp_path):
    write_predictions(tmp_path / "predictions.csv", ROWS)
    (tmp_path / "run.json").write_text(json.dumps({"recordings": 1200, "finished": None}))
    written = write(tmp_path / "predictions.csv", tmp_path / "x.html")
    assert "8 of 1,200" in Page(written.path).text


@pytest.mark.parametrize("is_simulated", [False, True])
def test_page_warns_of_a_model_that_saw_only_simulated_recordings(tmp_path, is_simulated):
    write_predictions(tmp_path / "predictions.csv", ROWS)
    (tmp_path / "run.json").write_text(json.dumps({"simulated_training": is_simulated}))
    written = write(tmp_path / "predictions.csv", tmp_path / "x.html")
    assert (SIMULATED in Page(written.path).text) == is_simulated
    assert ('role="note"' in written.path.read_text(encoding="utf-8")) == is_simulated


def test_run_without_scores(tmp_path):
    write_predictions(tmp_path / "predictions.csv", ROWS[6:])
    page = Page(write(tmp_path / "predictions.csv", tmp_path / "x.html").path)
    assert not page.addresses
    assert "0 stalled (0 %)" in page.text


def test_progress_counts_the_clips(run, tmp_path):
    seen = []
    write(
        run / "predictions.csv", tmp_path / "x.html", progress=lambda *counts: seen.append(counts)
    )
    assert seen == [(done, 8) for done in range(9)]


def test_bad_input(run, tmp_path):
    with pytest.raises(InputError, match=r"predictions\.csv"):
        write(tmp_path / "predictions.csv", tmp_path / "x.html")
    (tmp_path / "predictions.csv").write_text("filename,call\n1.mp4,flowing\n")
    with pytest.raises(TableError, match=r"predictions\.csv.*bundle"):
        write(tmp_path / "predictions.csv", tmp_path / "x.html")
    with pytest.raises(SettingsError, match="max_cards"):
        ReportSettings.parse({"max_cards": -1}, "command line")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        write(run / "predictions.csv", tmp_path / "file" / "x.html")


def decode(clip, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip.video)
    return video.read_recording(path)


def test_clip_shows_the_outlined_region_with_the_margin(tmp_path):
    path = tmp_path / "film.mp4"
    encode.write_video(path, draw_recording())
    box = outline.find_outline(video.read_recording(path)).box
    clip = cards.make_clip(path, margin_px=5)
    height = box.row1 - box.row0 + 10
    width = box.col1 - box.col0 + 10
    shape = decode(clip, tmp_path).shape
    assert shape == (6, height + height % 2, width + width % 2, 3)
    assert clip.note == ""
    assert clip.poster[:4] == clip.evidence[:4] == b"RIFF"


@pytest.mark.parametrize(
    ("frames", "size", "expected"),
    [
        (4, (500, 900), (4, 178, 320, 3)),  # too large: scaled down to even sides
        (4, (1, 5), (4, 2, 6, 3)),
        (900, (16, 16), (300, 16, 16, 3)),  # too long: one frame in three
    ],
)
def test_clip_of_unusual_recordings(tmp_path, frames, size, expected):
    path = tmp_path / "film.npy"
    np.save(path, np.zeros((frames, *size), np.uint8))
    clip = cards.make_clip(path, margin_px=20)
    assert decode(clip, tmp_path).shape == expected
    assert ("frame in 3" in clip.note) == (frames == 900)


def test_thinning_is_the_same_for_recordings_too_large_for_memory(tmp_path, monkeypatch):
    path = tmp_path / "film.mp4"
    encode.write_video(path, draw_recording(frames=100))
    shown = []
    monkeypatch.setattr(cards, "CLIP_FRAMES", 15)
    monkeypatch.setattr(cards, "_as_video", lambda frames: shown.append(frames) or b"film")
    held = cards.make_clip(path, 20)
    monkeypatch.setattr(cards, "HOLD_BYTES", 1)
    assert cards.make_clip(path, 20) == held
    assert len(shown[0]) == math.ceil(100 / 7)
    assert np.array_equal(*shown)


def test_real_recordings(real_dir, tmp_path):
    rows = [
        (source.filename, "ok", 0.5, "flowing", None)
        for source in find.list_recordings([real_dir / "clips"])
    ]
    predictions = write_predictions(tmp_path / "predictions.csv", rows)
    written = write(predictions, tmp_path / "x.html", recordings=[real_dir / "clips"])
    assert written.without_clip == 0
    assert "whole field" not in Page(written.path).text
    assert written.path.stat().st_size < 2_000_000


def test_a_file_that_crashes_the_decoder_gets_a_card_without_a_clip(run, tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "make_clip", crashing.make_clip)
    rows = [(f"{number}.mp4", "ok", 0.5, "flowing", None) for number in range(6)]
    predictions = write_predictions(tmp_path / "predictions.csv", rows)
    for name, *_ in rows:
        shutil.copy(run / "films" / "flowing_far.mp4", tmp_path / name)
    written = write(predictions, tmp_path / "x.html", recordings=[tmp_path], processes=2)
    page = Page(written.path)
    assert page.names == [f"{number}.mp4" for number in range(6)]
    assert (written.without_clip, written.moved, page.videos) == (1, 0, 5)
    assert page.text.count("crashed") == 1


def test_a_store_shows_its_source_recordings(run, bundle_dir, tmp_path):
    films = tmp_path / "films"
    films.mkdir()
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(run / "films" / "flowing_far.mp4", films / name)
    view = disk.load(bundle_dir).spec.view
    fill.build(tmp_path / "store", find.list_recordings([films]), *view, processes=0)
    predict.predict([tmp_path / "store"], tmp_path / "out", bundle_dir, processes=0)
    predictions = tmp_path / "out" / "predictions.csv"
    assert write(predictions, tmp_path / "x.html").without_clip == 0
    assert "prepared clip" not in Page(tmp_path / "x.html").text
    (films / "b.mp4").rename(tmp_path / "b.mp4")
    # The prepared clip takes its place, also if the folder with the rest is named.
    for recordings in (None, [films], [tmp_path / "store"]):
        written = write(predictions, tmp_path / "x.html", recordings=recordings)
        page = Page(written.path)
        assert (written.without_clip, written.moved, page.videos) == (0, 0, 2)
        assert page.text.count("prepared clip") == 1
        assert all(evidence for _, evidence, *_ in page.media.values())
    written = write(predictions, tmp_path / "x.html", recordings=[tmp_path / "b.mp4", films])
    assert written.without_clip == 0
    assert "prepared clip" not in Page(written.path).text


@pytest.mark.parametrize("channels", ["rgb", "bgr", "grey", "grey+mask"])
def test_prepared_clips_are_shown_without_what_fills_them_up(tmp_path, channels):
    path = tmp_path / "film.mp4"
    encode.write_video(path, draw_recording())
    settings = ClipSettings(size=64, shape="pad", channels=channels, frames=20)
    view = Preprocessing(OutlineSettings(), settings)
    fill.build(tmp_path / "store", find.list_recordings([path]), *view, processes=0)
    opened = store.Store(tmp_path / "store")
    clip = cards.make_clip(Stored(opened.place("film.mp4"), settings), 20)
    frames, height, width, _ = decode(clip, tmp_path).shape
    assert (frames, width) == (6, 64)
    assert 40 < height < 60
    assert bool(clip.evidence) == (channels == "grey+mask")


def test_a_damaged_store_gives_a_card_without_a_clip(tmp_path):
    encode.write_video(tmp_path / "film.mp4", draw_recording())
    settings = ClipSettings(size=32)
    view = Preprocessing(OutlineSettings(), settings)
    sources = find.list_recordings([tmp_path / "film.mp4"])
    fill.build(tmp_path / "store", sources, *view, processes=0)
    place = store.Store(tmp_path / "store").place("film.mp4")
    content = bytearray(place.path.read_bytes())
    content[-1] ^= 1
    place.path.write_bytes(content)
    clip = cards.make_clip(Stored(place, settings), 20)
    assert not clip.video
    assert place.path.name in clip.note


def test_names_in_a_table_are_not_opened(run, tmp_path):
    """A table may come from a stranger, so only recordings that the user lists are opened."""
    shutil.copy(run / "films" / "flowing_far.mp4", tmp_path / "private.mp4")
    (tmp_path / "films").mkdir()
    shutil.copy(run / "films" / "flowing_far.mp4", tmp_path / "films" / "mine.mp4")
    names = ["../private.mp4", str(tmp_path / "private.mp4"), "mine.mp4"]
    rows = [(name, "ok", 0.5, "flowing", None) for name in names]
    predictions = write_predictions(tmp_path / "predictions.csv", rows)
    written = write(predictions, tmp_path / "x.html", recordings=[tmp_path / "films"])
    assert (written.cards, written.moved) == (3, 2)


def test_output_that_is_a_folder_is_refused(run, tmp_path):
    with pytest.raises(InputError, match=r"report\.html"):
        write(run / "predictions.csv", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["</script><script>alert(1)</script>.mp4", "a: b%20 \u2028.mp4", "-x.mp4", "a\nb.mp4"]
)
def test_names_and_reasons_are_escaped(tmp_path, name):
    rows = [(name, "unreadable", "", "unscorable", None)]
    predictions = write_predictions(tmp_path / "predictions.csv", rows)
    page = write(predictions, tmp_path / "x.html").path.read_text(encoding="utf-8")
    assert page.count("<script>") == 1
    assert "alert" not in page or "&lt;script&gt;alert" in page
    assert "/data/" not in page


@pytest.mark.parametrize(
    ("reason", "name", "expected"),
    [
        ("/a/b.mp4: no outline", "b.mp4", "No outline"),
        ("/a: b/c.mp4: too short", "b/c.mp4", "Too short"),
        ("b.mp4: bad", "x/b.mp4", "Bad"),
        ("/a/b.mp4: 9 frames; dark; /a/b.mp4: learned", "b.mp4", "9 frames; dark; learned"),
        ("/a/xb.mp4: bad", "b.mp4", "/a/xb.mp4: bad"),
        ("bad: worse", "b.mp4", "bad: worse"),
        ("", "b.mp4", ""),
    ],
)
def test_path_is_removed_from_a_reason(reason, name, expected):
    assert words.without_path(reason, name) == expected


def test_the_picture_of_another_recording_does_not_stand_beside_a_call(tmp_path):
    for folder, frames in (("films", 6), ("others", 8)):
        (tmp_path / folder).mkdir()
        for name in ("same.mp4", "other.mp4"):
            encode.write_video(tmp_path / folder / name, draw_recording(frames=frames))
    film, other = (tmp_path / folder / "other.mp4" for folder in ("films", "others"))
    shutil.copy(film.with_name("same.mp4"), other.with_name("same.mp4"))  # moved: another time
    predict.predict([film.parent], tmp_path / "results")
    calls = decide.decide(tmp_path / "results" / "predictions.csv", CallSettings(threshold=0.3))
    decide.write_calls(calls, tmp_path / "decided")

    def shown(out, recordings=None):
        """Return the recordings with a clip, in the report and in the review."""
        written = write(out / "predictions.csv", out / "report.html", recordings=recordings)
        page = Page(written.path)
        assert written.moved == 0
        items = review_run.read(out, recordings).items
        reviewed = {item.filename for item in items if review_clips.make(item.shown).sheet}
        assert {card["data-name"] for card in page.with_clip} == reviewed
        assert len(reviewed) == 2 or "another file than the one that was predicted" in page.text
        return reviewed

    assert shown(tmp_path / "results") == shown(tmp_path / "decided") == {"same.mp4", "other.mp4"}
    assert shown(tmp_path / "results", [other.parent]) == {"same.mp4"}
    shutil.copy(other, film)
    assert shown(tmp_path / "results") == shown(tmp_path / "decided") == {"same.mp4"}
    predict.predict([film.parent], tmp_path / "results")
    assert shown(tmp_path / "results") == {"same.mp4", "other.mp4"}
    assert shown(tmp_path / "decided") == {"same.mp4"}  # its calls are still those of before


def test_a_report_without_readable_stamps_says_so(tmp_path, caplog):
    table = write_predictions(tmp_path / "predictions.csv", [("a.mp4", "ok", 0.1, "flowing", 0)])
    (tmp_path / "sources.csv").write_text("filename;size\n", "utf-8")
    write(table, tmp_path / "r.html")
    assert "sources.csv: cannot be read" in caplog.text


def test_scores_that_gave_no_call_are_not_in_the_histogram(tmp_path):
    rows = [
        ("a.mp4", "ok", 0.1, "flowing", 0),
        ("b.mp4", "ok", 0.7, "stalled", 1),
        ("c.mp4", "damaged", 0.9, "unscorable", 1),
    ]
    table = write_predictions(tmp_path / "predictions.csv", rows)
    assert "all (n = 2)" in Page(write(table, tmp_path / "r.html").path).text
