"""stallscan tells which brain capillaries have stopped flowing in two-photon recordings."""

__version__ = "0.1.0"
