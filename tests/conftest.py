"""One torch thread and repeatable Hypothesis runs: a test gives the same answer on every machine and run."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# Helpers beside the tests of a room (`reference_users`) are importable whatever pytest's import mode.
sys.path.insert(0, str(Path(__file__).parent / "environments"))

torch.set_num_threads(1)

settings.register_profile("slatewise", deadline=None, derandomize=True)
settings.load_profile("slatewise")


@pytest.fixture(autouse=True, scope="session")
def own_cache_of_numbers(pytestconfig: pytest.Config) -> Iterator[None]:
    """Keep the numbers that tests compute for good beside pytest's own cache, not in the user's."""
    kept = Path(pytestconfig.cache.mkdir("slatewise"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slatewise.cache.folder", lambda: kept)
        yield
