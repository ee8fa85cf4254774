"""Valid files of every kind that stallscan reads, made on the spot and small: where fuzzing starts.

Each function writes what its reader needs into a folder, and returns files to mutate.
"""

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import tifffile
from roifile import ROI_TYPE, ImagejRoi

from stallscan.bundle import disk
from stallscan.bundle.spec import BundleSpec, EnsembleSpec
from stallscan.clips import fill
from stallscan.clips.clip import ClipSettings
from stallscan.nets.settings import NetSettings
from stallscan.recipes.recipe import SHIPPED
from stallscan.recordings.encode import write_video
from stallscan.recordings.find import Source
from stallscan.recordings.recording import Frames
from stallscan.review.answers import Answers, New
from stallscan.scale import plan as plans
from stallscan.scale import run
from stallscan.scale.place import FolderPlace
from stallscan.scores.calibration import Calibration
from stallscan.simulate import look
from stallscan.vessels.outline import OutlineSettings
from tests import drawing
from tests.predicted import ROWS, prediction, write_tables

CLIP = ClipSettings(size=16, channels="grey+mask")


def _frames(count: int = 8) -> Frames:
    return drawing.frames(count=count, height=64, width=64)


def _encoded(path: Path, codec: str, pixels: str, count: int = 8, **options: str) -> bytes:
    with av.open(str(path), "w", options=options) as container:
        stream: Any = container.add_stream(codec, rate=15)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = 64, 64, pixels, 4
        for index, array in enumerate(_frames(count)):
            picture = av.VideoFrame.from_ndarray(array, format="rgb24")
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path.read_bytes()


def mp4(folder: Path) -> Iterator[bytes]:
    """Of the competition's form, with the header first, in fragments, and with another codec."""
    write_video(folder / "seed.mp4", _frames())
    yield (folder / "seed.mp4").read_bytes()
    yield _encoded(folder / "seed.mp4", "libx264", "yuv420p", movflags="faststart")
    fragments = "frag_keyframe+empty_moov+default_base_moof"
    yield _encoded(folder / "seed.mp4", "libx264", "yuv420p", movflags=fragments)
    yield _encoded(folder / "seed.mov", "mjpeg", "yuvj420p")
    yield _encoded(folder / "seed.mp4", "mpeg4", "yuv420p")


def avi(folder: Path) -> Iterator[bytes]:
    """Of three codecs."""
    yield _encoded(folder / "seed.avi", "mjpeg", "yuvj420p")
    yield _encoded(folder / "seed.avi", "mpeg4", "yuv420p")
    yield _encoded(folder / "seed.avi", "rawvideo", "bgr24", count=6)


def mkv(folder: Path) -> Iterator[bytes]:
    """Matroska and WebM."""
    yield _encoded(folder / "seed.mkv", "libx264", "yuv420p")
    yield _encoded(folder / "seed.mkv", "ffv1", "bgr0", count=6)
    yield _encoded(folder / "seed.webm", "libvpx", "yuv420p")


def gif(folder: Path) -> Iterator[bytes]:
    """With one palette for all frames, and with differences between frames only."""
    yield _encoded(folder / "seed.gif", "gif", "rgb8")
    yield _encoded(folder / "seed.gif", "gif", "gray", count=6)


def tiff(folder: Path) -> Iterator[bytes]:
    """In the dialects of tifffile, ImageJ and OME, in all layouts and common compressions."""
    rgb, path = _frames(6), folder / "seed.tif"
    grey = np.ascontiguousarray(rgb[..., 0])
    styles: list[tuple[Any, dict[str, Any]]] = [
        (rgb, {"photometric": "rgb"}),
        (rgb, {"photometric": "rgb", "compression": "zlib", "predictor": True}),
        (rgb, {"photometric": "rgb", "compression": "lzw", "rowsperstrip": 16}),
        (rgb, {"photometric": "rgb", "compression": "packbits", "byteorder": ">"}),
        (rgb, {"photometric": "rgb", "compression": "jpeg"}),
        (rgb, {"photometric": "rgb", "tile": (32, 32), "bigtiff": True}),
        (rgb, {"photometric": "rgb", "planarconfig": "separate"}),
        (rgb, {"imagej": True, "metadata": {"axes": "TYXS"}}),
        (grey, {"imagej": True, "truncate": True, "metadata": {"axes": "TYX"}}),
        (grey.astype(np.uint16) * 200, {"photometric": "minisblack", "compression": "zstd"}),
        (rgb, {"ome": True, "photometric": "rgb", "metadata": {"axes": "TYXS"}}),
        (grey.astype(np.float32), {"photometric": "minisblack"}),
    ]
    for array, options in styles:
        tifffile.imwrite(path, array, **options)
        yield path.read_bytes()
    palette = np.random.default_rng(0).integers(0, 65535, (3, 256), np.uint16)
    tifffile.imwrite(path, grey, photometric="palette", colormap=palette)
    yield path.read_bytes()


def npy(folder: Path) -> Iterator[bytes]:
    """Colour and grey, of several number types."""
    rgb, path = _frames(6), folder / "seed.npy"
    for array in (
        *(rgb, rgb[..., 0], rgb.astype(np.uint16) * 257, rgb.astype(">f4") / 255),
        *(np.asfortranarray(rgb[..., 0]), np.insert(rgb, 3, 255, axis=-1)),
    ):
        np.save(path, array)
        yield path.read_bytes()


def _spec() -> BundleSpec:
    return BundleSpec(
        name="fuzzed",
        outline=OutlineSettings(),
        clip=CLIP,
        net=NetSettings(mean=(0.2, 0.0), std=(0.2, 1.0)),
        calibration=Calibration(),
        threshold=0.5,
        prevalence=0.3,
        frames=(4, 100),
        simulated=True,
        metrics={"mcc": 0.5, "of": {"a": [1, 2.5, None]}},
    )


def bundle(folder: Path) -> Iterator[bytes]:
    """The ``bundle.json`` of a single bundle and of an ensemble; their weights are beside them."""
    import torch

    from stallscan.nets import build

    torch.manual_seed(0)
    spec = _spec()
    weights = build.build(spec.net).state_dict()
    saved = disk.save(folder / "bundle", spec, weights, "# fuzzed\n")
    yield (folder / "bundle" / "bundle.json").read_bytes()
    (folder / "bundle" / "members").mkdir()
    disk.save(folder / "bundle" / "members" / "1-fuzzed", spec, weights, "# fuzzed\n")
    ensemble = EnsembleSpec(
        name="both",
        members=("1-fuzzed",),
        members_sha256=(saved.weights_sha256,),
        weights=(1.0,),
        threshold=0.5,
        prevalence=0.3,
        frames=(4, 100),
        simulated=True,
    )
    yield ensemble.model_dump_json().encode()


def weights(folder: Path) -> Iterator[bytes]:
    """Weights in safetensors."""
    next(bundle(folder))
    yield (folder / "bundle" / "weights.safetensors").read_bytes()


def exports(folder: Path) -> Iterator[bytes]:
    """The record of a bundle's exports."""
    next(bundle(folder))
    (folder / "bundle" / disk.EXPORTS).mkdir()
    export = {
        **dict.fromkeys(("weights_sha256", "xml_sha256", "bin_sha256"), "0" * 64),
        **{"openvino": "2025.4", "logit_difference": 1e-6, "clips": 4, "limit": 1e-3},
    }
    yield json.dumps({"format": 1, "f32": export}).encode()


def store(folder: Path) -> Iterator[bytes]:
    """The manifest of a store of two clips and a failure."""
    recordings = [
        Source("0.mp4", drawing.write(folder / "0.mp4", count=6)),
        Source("b/1.mp4", drawing.write(folder / "1.mp4", count=7)),
        Source("x.mp4", drawing.write(folder / "x.mp4", contours=0)),
    ]
    fill.build(folder / "store", recordings, OutlineSettings(), CLIP, processes=0)
    yield (folder / "store" / "manifest.json").read_bytes()


def shard(folder: Path) -> Iterator[bytes]:
    """A shard of that store."""
    next(store(folder))
    yield next((folder / "store").glob("shard-*")).read_bytes()


def table(folder: Path) -> Iterator[bytes]:
    """Every kind of table."""
    rows = [prediction(name, status, score, call) for name, status, score, call, _ in ROWS]
    labels = [(name, label) for name, *_, label in ROWS if label is not None]
    for path in write_tables(folder, rows, labels):
        yield path.read_bytes()
    yield (
        b"filename,stalled,score,call,threshold\na.mp4,1,0.9,stalled,0.5\nb.mp4,0,0.1,flowing,0.5\n"
    )
    yield (
        b"filename,url,project_id,num_frames,crowd_score,tier1,micro,nano\n"
        b"100.mp4,s3://a/100.mp4,M1,50,0.25,True,False,True\n"
        b"101.mp4,s3://a/101.mp4,M2,60,1.0,False,False,False\n"
    )
    yield b"filename;mouse;group;field\n1.mp4;m1;AD;f1\n2.mp4;m2;WT;f2\n"
    yield b"filename,bytes,mtime_ns,ctime_ns,sha256\na.mp4,1,2,3,\n"


def note(folder: Path) -> Iterator[bytes]:
    """The settings of a run, and the metrics of an evaluation."""
    yield json.dumps(
        {"paths": ["/data/a"], "bundle": "default@01234567", "prevalence": 0.3, "of": [{"a": 1}]}
    ).encode()
    cells = {**{"true_stalled": 9, "false_stalled": 5, "true_flowing": 95, "missed_stalled": 1}}
    yield json.dumps(
        {"metrics": {"confusion": cells}, "bundles": ["default@01234567"], "thresholds": [0.5]}
    ).encode()


def recipe(folder: Path) -> Iterator[bytes]:
    """The shipped recipes, and a look."""
    for path in sorted(SHIPPED.glob("*.yaml")):
        yield path.read_bytes()
    for path in sorted(look.SHIPPED.glob("*.yaml"))[:1]:
        yield path.read_bytes()


def answers(folder: Path) -> Iterator[bytes]:
    """A reviewer's answers, one of them taken back."""
    ledger = Answers(folder)
    given = [New(f"t{index}", f"{index}.mp4", "one", "stalled") for index in range(8)]
    ledger.give_all(given, sheet="s")
    ledger.give("t9", "1.mp4", "two", "flowing", 2.5)
    ledger.undo("u", "two")
    yield (folder / "review.sqlite").read_bytes()


def stack(folder: Path) -> Iterator[bytes]:
    """Raw stacks: of ImageJ with two channels, and of floats without anything said."""
    values = np.random.default_rng(0).integers(0, 4000, (5, 2, 40, 50)).astype(np.uint16)
    about = {"axes": "ZCYX", "spacing": 2.0, "unit": "um"}
    tifffile.imwrite(folder / "s.tif", values, imagej=True, resolution=(1, 1), metadata=about)
    yield (folder / "s.tif").read_bytes()
    tifffile.imwrite(folder / "s.tif", values[:, 0].astype(np.float32), photometric="minisblack")
    yield (folder / "s.tif").read_bytes()


CORNERS = [(5, 5), (40, 5), (40, 30), (5, 30)]  # x, y


def roi(folder: Path) -> Iterator[bytes]:
    """An ImageJ polygon and a line."""
    polygon = ImagejRoi.frompoints(np.array(CORNERS), name="one", position=2)
    yield polygon.tobytes()
    polygon.roitype = ROI_TYPE.POLYLINE
    yield polygon.tobytes()


def rois(folder: Path) -> Iterator[bytes]:
    """Both in an archive, stored and packed."""
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", method) as archive:
            for number, data in enumerate(roi(folder)):
                archive.writestr(f"{number}.roi", data)
        yield content.getvalue()


def regions(folder: Path) -> Iterator[bytes]:
    """Tables of boxes and centre lines."""
    yield b"region,row0,row1,col0,col1,first,stop\na,5,30,5,40,0,4\nb,8,38,2,44,,\n"
    yield b"segment,z,y,x\n1,0,5,5\n1,2,20,30\n2,3,30,8\n2,3,30,44\n"


def swc(folder: Path) -> Iterator[bytes]:
    """Centre lines of a tree."""
    yield b"# um\n1 2 5 5 0 2 -1\n2 2 20 20 2 2 1\n3 2 40 20 3 2 2\n4 2 20 35 3 2 2\n"


def plan(folder: Path) -> Iterator[bytes]:
    """A plan of two shards, one of which is done."""
    for number in range(3):
        drawing.write(folder / "recordings" / f"{number}.mp4", seed=number)
    place = FolderPlace(folder / "plan")
    plans.make([folder / "recordings"], place, shard_size=2)
    run.one(str(folder / "plan"), 0, run.Options(cores=1))
    yield (folder / "plan" / plans.PLAN_NAME).read_bytes()


def listed(folder: Path) -> Iterator[bytes]:
    """The list of the first shard."""
    next(plan(folder))
    yield (folder / "plan" / plans.list_name(0)).read_bytes()


def result(folder: Path) -> Iterator[bytes]:
    """Its result."""
    next(plan(folder))
    yield (folder / "plan" / plans.result_name(0)).read_bytes()


def plot(folder: Path) -> Iterator[bytes]:
    """A plot as Matplotlib saves it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([1, 3, 2])
    figure.savefig(folder / "seed.svg")
    yield (folder / "seed.svg").read_bytes()
