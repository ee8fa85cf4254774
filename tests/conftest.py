"""What several test modules share."""

from pathlib import Path

import pytest

REAL = Path(__file__).resolve().parents[2] / "shared" / "real"


@pytest.fixture(scope="session")
def real_dir() -> Path:
    """Folder with the real tables and recordings; they are not ours to ship."""
    if not REAL.is_dir():
        pytest.skip(f"real files are not at {REAL}")
    return REAL


@pytest.fixture(scope="session")
def bundle_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the small net with random weights: quick, and deterministic."""
    import torch

    from stallscan import bundle, nets
    from stallscan.bundle import BundleSpec
    from stallscan.clip import ClipSettings
    from stallscan.decide import Calibration
    from stallscan.outline import OutlineSettings
    from stallscan.recipe import NetSettings

    net = NetSettings(mean=(0.2, 0.0), std=(0.2, 1.0))
    torch.manual_seed(3)
    spec = BundleSpec(
        name="random",
        outline=OutlineSettings(),
        clip=ClipSettings(size=32, shape="pad", channels="grey+mask"),
        net=net,
        calibration=Calibration(),
        threshold=0.5,
        prevalence=0.3,
        frames=(4, 100),
        simulated=True,
    )
    folder = tmp_path_factory.mktemp("bundles") / "random"
    bundle.save(folder, spec, nets.build(net).state_dict(), "# random weights, for tests only\n")
    return folder
