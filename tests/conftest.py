"""Fixtures that several packages' tests share."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from bench.data import PreparedDataset, find_recipe, prepare
from bench.workspace import Workspace

torch.set_num_threads(1)

# A busy machine fails no test, and a change is judged by the same examples every time; `--hypothesis-profile=explore`
# draws others.
settings.register_profile("repeatable", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, max_examples=1000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """The generated dataset `toy`, prepared once."""
    space = Workspace(tmp_path_factory.mktemp("toy") / "datasets")
    return prepare(find_recipe("toy", space), space, report=lambda line: None)


@pytest.fixture
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, as a new user does."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
