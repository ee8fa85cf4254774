import numpy as np
import pytest

from stallscan import prepare, store
from stallscan.clip import ClipSettings
from stallscan.errors import StoreError
from stallscan.outline import OutlineSettings
from stallscan.prepare import View
from stallscan.store import Store
from stallscan.video import Source
from tests import drawing

CLIP = ClipSettings(size=24, channels="grey+mask")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    made = [
        Source(f"{i}.mp4", drawing.write(folder / f"{i}.mp4", seed=i, count=4 + i))
        for i in range(5)
    ]
    made.insert(2, Source("x.mp4", drawing.write(folder / "x.mp4", contours=0)))
    return made


def _build(folder, sources, **options):
    return store.build(folder, sources, OutlineSettings(), CLIP, processes=0, **options)


def test_clips_come_back_as_prediction_makes_them(tmp_path, sources):
    made = _build(tmp_path, sources)
    for source in sources:
        prepared = prepare.one(source, [View(OutlineSettings(), CLIP)])
        assert (source.filename in made) == (prepared.clip is not None)
        if prepared.clip is not None:
            assert np.array_equal(made.read(source.filename), prepared.clip.pixels)
            assert made.frames(source.filename) == prepared.frames


def test_traits_are_kept_with_the_clips(tmp_path, sources, monkeypatch):
    monkeypatch.setattr(store, "CLIPS_PER_SHARD", 2)
    made = _build(tmp_path, sources)
    table = made.traits(["3.mp4", "0.mp4", "x.mp4"])
    for row, number in ((0, 3), (1, 0)):
        whole = prepare.one(sources[number + (number > 1)], [View(OutlineSettings(), CLIP)])
        assert tuple(table.iloc[row]) == pytest.approx(tuple(whole.clip.traits))
    assert len(table) == 2
    (tmp_path / made.manifest.shards[0].file).write_bytes(b"other")
    store._check_hash.cache_clear()
    with pytest.raises(StoreError, match="damaged"):
        made.traits(["0.mp4"])


def test_failures_are_kept_with_their_reason(tmp_path, sources):
    (failure,) = _build(tmp_path, sources).manifest.failures
    assert (failure.filename, failure.status) == ("x.mp4", "no_outline")


def test_a_file_that_was_not_readable_is_tried_again(tmp_path, sources):
    late = Source("late.mp4", tmp_path / "late.mp4")
    made = _build(tmp_path / "store", [*sources, late])
    assert [one.filename for one in made.manifest.failures] == ["x.mp4", "late.mp4"]
    drawing.write(late.path, count=6)
    made = _build(tmp_path / "store", [*sources, late])
    assert "late.mp4" in made
    assert [one.filename for one in made.manifest.failures] == ["x.mp4"]


def test_recordings_that_prediction_would_not_call_are_known(tmp_path):
    drawing.write_dark(tmp_path / "dark.mp4")
    drawing.write(tmp_path / "good.mp4", count=12)
    both = [Source(name, tmp_path / name) for name in ("dark.mp4", "good.mp4")]
    made = _build(tmp_path / "store", both)
    assert "dark.mp4" in made
    assert made.not_ok() == {"dark.mp4": "too_dark"}


def test_an_interrupted_build_goes_on(tmp_path, sources, monkeypatch):
    monkeypatch.setattr(store, "CLIPS_PER_SHARD", 2)

    def stop(done, _of):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _build(tmp_path / "a", sources, progress=stop)
    seen = []
    resumed = _build(tmp_path / "a", sources, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(4, 6), (5, 6), (6, 6)]
    assert resumed.manifest == _build(tmp_path / "b", sources).manifest


def test_a_store_is_filled_from_anywhere(tmp_path, sources, monkeypatch):
    monkeypatch.setattr(store, "CLIPS_PER_SHARD", 2)
    asked = []

    def make(todo):
        asked.append([source.filename for source in todo])
        for source in todo:
            yield prepare.one(source, [View(OutlineSettings(), CLIP)])

    store.fill(tmp_path, sources[:4], make, OutlineSettings(), CLIP)
    store.fill(tmp_path, sources, make, OutlineSettings(), CLIP)
    assert asked == [["0.mp4", "1.mp4", "x.mp4", "2.mp4"], ["3.mp4", "4.mp4"]]
    made = Store(tmp_path)
    assert all(source.filename in made for source in sources if source.filename != "x.mp4")


def test_differences_name_each_setting(tmp_path, sources):
    manifest = _build(tmp_path, sources[:1]).manifest
    assert manifest.differences(OutlineSettings(), CLIP) == []
    other = CLIP.model_copy(update={"size": 48, "margin": 9})
    assert manifest.differences(OutlineSettings(rule="third-place"), other) == [
        "outline.rule is contour, not third-place",
        "clip.size is 24, not 48",
        "clip.margin is 5, not 9",
    ]


def test_other_settings_are_refused_and_both_shown(tmp_path, sources):
    _build(tmp_path, sources)
    other = CLIP.model_copy(update={"size": 48})
    with pytest.raises(StoreError, match=r'"size": 24.*"size": 48'):
        store.build(tmp_path, sources, OutlineSettings(), other, processes=0)


def test_a_flipped_byte_and_a_missing_shard_are_found(tmp_path, sources):
    _build(tmp_path, sources)
    (shard,) = tmp_path.glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StoreError, match=r"shard-00000\.safetensors: .*damaged"):
        Store(tmp_path).read("0.mp4")
    shard.unlink()
    with pytest.raises(StoreError, match=r"shard-00000\.safetensors: .*missing"):
        Store(tmp_path).read("0.mp4")


def test_a_broken_manifest_is_said(tmp_path):
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(StoreError, match="not readable as the manifest"):
        Store(tmp_path)
