"""Load the weights that a training starts from: published ones, a file, or a bundle."""

from pathlib import Path

from torch import Tensor, nn

from stallscan import files
from stallscan.bundle import disk
from stallscan.errors import InputError
from stallscan.nets.weights import HEADS, channels_hint, differing, download, fitted, read_state
from stallscan.recipes.recipe import Recipe


def load(net: nn.Module, recipe: Recipe) -> None:
    """Load the weights that the recipe's ``pretrained`` section names into its net.

    A bundle's weights are loaded as they are. From all other sources the head is not loaded and
    keeps its random weights, and a 2-D net is inflated: its kernels are repeated over time and
    divided by their length, so that a still video gives the response of its frame.

    Raises
    ------
    InputError
        If there are no weights for this net, the download fails, or names or shapes differ.
    BundleError
        If a bundle cannot be read.
    """
    name, settings = recipe.net.name, recipe.pretrained
    if settings.source == "none":
        return
    if settings.source in ("file", "bundle") and settings.file is None:
        raise InputError(
            f"pretrained.source is {settings.source}, but pretrained.file is not set. Name the "
            f"{settings.source} with pretrained.file"
        )
    if settings.source == "bundle":
        net.load_state_dict(_read_bundle(str(settings.file), recipe, net.state_dict()))
        return
    if settings.file is not None and settings.source == "file":
        state, origin = read_state(Path(settings.file)), settings.file
    else:
        state, origin = download(name, settings.source)
    wanted = {key: value for key, value in net.state_dict().items() if not key.startswith(HEADS)}
    state = fitted(state, wanted)
    if wrong := differing(state, wanted):
        raise InputError(
            f"{origin} do not fit the net {name}: {wrong} missing, unknown or of another shape"
            f"{channels_hint(state, wanted)}. Use weights of this net, or set pretrained.source to "
            "none"
        )
    net.load_state_dict(state, strict=False)


def sha256(recipe: Recipe) -> str:
    """Return the hash of the weights to start from; empty for random and published ones.

    Raises
    ------
    BundleError
        If a bundle cannot be read.
    """
    settings = recipe.pretrained
    if settings.file is not None and settings.source == "bundle":
        return disk.load(settings.file).spec.weights_sha256
    if settings.file is not None and settings.source == "file":
        path = Path(settings.file)
        return files.sha256(path) if path.is_file() else ""  # `load` says what is wrong with it
    return ""


def _read_bundle(which: str, recipe: Recipe, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Read the weights of a bundle with the recipe's net and input channels."""
    start = disk.load(which)
    if start.spec.net.name != recipe.net.name:
        raise InputError(
            f"{start.path}: the bundle's net is {start.spec.net.name}, the recipe's is "
            f"{recipe.net.name}. Choose a bundle with the recipe's net"
        )
    channels = len(start.spec.net.mean), start.spec.clip.channels
    if channels != (len(recipe.net.mean), recipe.clip.channels):
        raise InputError(
            f"{start.path}: the bundle's net takes {start.spec.clip.channels}, the recipe's "
            f"{recipe.clip.channels}. Choose a bundle with the recipe's clip.channels"
        )
    if wrong := differing(start.weights, wanted):
        raise InputError(
            f"{start.path}: its weights do not fit the net {recipe.net.name} as it is now: {wrong} "
            "missing, unknown or of another shape. Restore the code of the net as it was when the "
            "bundle was trained, or choose another bundle"
        )
    return start.weights
