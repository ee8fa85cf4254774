"""Explain calls of the baseline in words."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from stallscan.bundle import disk
from stallscan.bundle.net import load_net
from stallscan.clips import clip, prepare
from stallscan.errors import BundleError
from stallscan.nets import features, measures
from stallscan.recordings import find
from stallscan.scores import thresholds


class Explanation(NamedTuple):
    """The call of one recording and its reasons in a sentence, or why there is no call."""

    filename: str
    words: str


def explain(
    paths: Sequence[str | Path], bundle: str | Path, processes: int | None = None
) -> Iterator[Explanation]:
    """Explain in words how a bundle of the baseline calls each recording.

    Parameters
    ----------
    paths : sequence of str or Path
        Files and folders, as `find.list_recordings` takes them.
    bundle : str or Path
        A bundle whose net is ``features``.
    processes : int, optional
        Decoding processes. By default one per core; 0 decodes in this process.

    Yields
    ------
    Explanation
        For every recording, in order.

    Raises
    ------
    InputError
        If there are no recordings.
    BundleError
        If the bundle cannot be used, or its net has no named features.
    """
    model = disk.load(bundle)
    net = load_net(model)
    if not isinstance(net, features.FeatureNet):
        raise BundleError(
            f"{model.path}: its net is {model.spec.net.name}, whose calls cannot be explained. "
            "Give a bundle that 'stallscan train baseline' made"
        )
    spec = model.spec
    for prepared in prepare.many(find.list_recordings(paths), [spec.view], processes):
        # As in prediction, a recording with a clip may still get no call.
        if prepared.clip is None or prepared.status != "ok":
            words = f"no call: {prepared.reason or prepared.status}"
        else:
            array = clip.to_input(prepared.clip.pixels, spec.net.mean, spec.net.std)
            with torch.inference_mode():
                row = measures.compute(torch.from_numpy(array)[None])  # (1, features)
                score = float(thresholds.rounded(spec.calibration.score(float(net.score(row)[0]))))
            stalled = thresholds.call(score, spec.threshold) == "stalled"
            words = features.explain(net, row[0].numpy(), stalled)
        yield Explanation(prepared.source.filename, words)
