"""One torch thread and repeatable Hypothesis runs: a test gives the same answer on every machine and run."""

import sys
from pathlib import Path

import torch
from hypothesis import settings

# Helpers beside the tests of a room (`reference_users`) are importable whatever pytest's import mode.
sys.path.insert(0, str(Path(__file__).parent / "environments"))

torch.set_num_threads(1)

settings.register_profile("slatewise", deadline=None, derandomize=True)
settings.load_profile("slatewise")
