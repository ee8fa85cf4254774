"""Build the net of a bundle in torch, importing the user's own code only for trusted bundles."""

from torch import nn

from stallscan.bundle.bundle import Bundle, Ensemble
from stallscan.bundle.spec import SPEC_NAME
from stallscan.errors import BundleError, SettingsError
from stallscan.nets import build


def trust(model: Bundle | Ensemble) -> None:
    """Import the user's own nets that a bundle, or the members of an ensemble, name.

    Importing a module runs its code, so call this only for bundles that the user trusts. From then
    on, this process opens any bundle that names one of these nets.

    Raises
    ------
    BundleError
        If a net cannot be imported.
    """
    for member in model.members:
        try:
            build.import_net(member.spec.net.name)
        except SettingsError as error:
            raise BundleError(f"{member.path}: {error}") from error


def load_net(bundle: Bundle) -> nn.Module:
    """Build the net of a bundle, with its weights, on the CPU.

    Raises
    ------
    BundleError
        If the net is neither built in nor imported by `trust`, or the weights do not match it.
    """
    settings = bundle.spec.net
    if settings.name not in build.NETS:
        raise BundleError(
            f"{bundle.path}: its net {settings.name} is not part of stallscan, and code named in a "
            "bundle is not imported without permission. If you trust this code, add --trust to the "
            "command, or open the bundle with stallscan.load_bundle(PATH, trust=True)"
        )
    net = build.build(settings)
    try:
        net.load_state_dict(bundle.weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise BundleError(
            f"{bundle.path}: the weights do not match the net ({reason}). Restore "
            f"{SPEC_NAME} and the code of the net as they were in training"
        ) from None
    return net
