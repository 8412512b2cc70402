from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from launching import Launcher

# the suite runs a short form; `--hypothesis-profile=long` is the campaign
settings.register_profile("short", max_examples=50, deadline=None)
settings.register_profile(
    "long", max_examples=50_000, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile("short")


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Launcher]:
    """Nodes of one test."""
    launcher = Launcher(tmp_path)
    yield launcher
    launcher.kill_all()
