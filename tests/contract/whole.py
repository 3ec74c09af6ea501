"""The whole classes, of `examples/`, which the tests of the contracts break in one place each."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from examples.own_agent import MyAgent
from examples.own_world import MyWorld

__all__ = ["MyAgent", "MyWorld"]
