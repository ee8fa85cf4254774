"""The net of a bundle, built in torch; one of the user's own only if the user trusts it."""

from torch import nn

from stallscan.bundle.bundle import Bundle, Ensemble
from stallscan.errors import BundleError, SettingsError
from stallscan.nets import build


def trust(model: Bundle | Ensemble) -> None:
    """Import the nets that a bundle or the members of an ensemble name, where they are not ours.

    Importing a module runs it, so this is only for bundles that the user said to trust. From then
    on every bundle with one of these nets opens in this process.

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
    """Build a bundle's net with its weights, on the CPU.

    Raises
    ------
    BundleError
        If the net is not one of ours and was not trusted, or the weights do not fit it.
    """
    settings = bundle.spec.net
    if settings.name not in build.NETS:
        raise BundleError(
            f"{bundle.path}: its net {settings.name} is code that is not part of stallscan, and "
            "nothing that a bundle names is imported unasked. If you know that code, open the "
            "bundle with stallscan.load_bundle(PATH, trust=True), or add --trust to the command"
        )
    net = build.build(settings)
    try:
        net.load_state_dict(bundle.weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise BundleError(f"{bundle.path}: the weights do not fit the net: {reason}") from None
    return net
