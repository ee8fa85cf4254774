"""stallscan tells which brain capillaries have stopped flowing in two-photon recordings."""

from importlib.metadata import version

__version__ = version("stallscan")
