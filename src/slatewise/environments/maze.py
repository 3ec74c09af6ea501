"""The maze: the classroom problem of reinforcement learning, as a world like any other.

Four moves are four candidates and the slate holds one of them. A mouse looks for the centre; on its way are cheese,
eaten once, and poison. Every step costs 1, so dawdling costs too. Nothing is hidden and nothing but the start is
random, so every figure is exact.
"""

from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import Field, field_validator
from torch import Tensor

from slatewise.choice import FirstPosition
from slatewise.environments.base import (
    Environment,
    Reference,
    References,
    SlateRule,
    State,
    WorldSettings,
    response_of,
)
from slatewise.errors import InputError, unknown_name
from slatewise.interactions import Catalogue, Observation, Response, Spec
from slatewise.mazes import LAYOUTS, MOVES, expected_return, parse, shortest_ways, value_iteration
from slatewise.noise import Noise
from slatewise.slates import top_k


class Settings(WorldSettings):
    """Settings of the maze."""

    candidates: int = Field(len(MOVES), ge=len(MOVES), le=len(MOVES), description="the four moves")
    slate_size: int = Field(1, ge=1, le=1, description="one move at a time")
    layout: str = Field(
        "classroom", description=f"one of {', '.join(LAYOUTS)}, or a text file, or lines of text: a character a cell"
    )
    horizon: int = Field(100, ge=1, le=100_000, description="truncate sessions after so many steps")

    @field_validator("layout", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        """Put the text of a file in the place of its name, so that the settings say all there is to know."""
        if not isinstance(value, str) or value in LAYOUTS or "\n" in value:
            return value
        if not Path(value).is_file():
            raise unknown_name("layout or file", value, LAYOUTS)
        text = Path(value).read_text(encoding="utf-8", errors="replace")
        return text if "\n" in text else text + "\n"


class MazeWorld(Environment):
    """A mouse, four moves, cheese, poison, and a centre that ends the session."""

    name = "maze"
    version = 1
    summary_text = "the classroom: a mouse, four moves, cheese, poison, and a centre to find"
    Settings = Settings

    def build(self, settings: Any) -> None:
        """Take the settings. Raises InputError for a layout that is no maze."""
        self._settings = s = cast(Settings, settings)
        self.maze = parse(LAYOUTS.get(s.layout, s.layout))
        self.choice = self.users_choice = FirstPosition()
        self.horizon = s.horizon
        self.catalogue = Catalogue.of(torch.eye(len(MOVES)), list(MOVES)).to(self.device)
        self._features = self.maze.features.to(self.device)
        self._following = self.maze.following.to(self.device)
        self._reward = self.maze.reward.to(self.device)
        self._found = self.maze.found.to(self.device)
        self._starts = self.maze.state(self.maze.starts).to(self.device)
        self.spec = Spec(
            user=self.maze.feature_names(),
            catalogue=self.catalogue.ids or (),
            items=(),
            signals=("cheese", "poison", "centre"),
            candidates=s.candidates,
            slate_size=s.slate_size,
            history=s.history,
        )

    @property
    def settings(self) -> Settings:
        """The settings this world was made with."""
        return self._settings

    def begin(self, noise: Noise) -> State:
        """Put the mouse where it may start, all cheese there."""
        return {"place": self._starts[noise.integers(len(self._starts), 1).squeeze(1)]}

    def sample_candidates(self, noise: Noise) -> State:  # noqa: ARG002 - the moves are always the same
        """Return nothing: the candidates are the four moves."""
        return {}

    def observe(self) -> Observation:
        """Show the cell and the cheese that is left: all there is to know."""
        return self.observation_of(self.state["place"])

    def observation_of(self, states: Tensor) -> Observation:
        """Return what is seen in states of `env.maze`, int64 [B]; for whoever draws what an agent thinks of all."""
        moves = torch.arange(len(MOVES), device=self.device).expand(len(states), -1)
        no_features = torch.zeros(len(states), len(MOVES), 0, device=self.device)
        return Observation(self._features[states], moves, no_features, self.catalogue)

    def advance(self, slate: Tensor, noise: Noise) -> tuple[Response, Tensor]:  # noqa: ARG002 - nothing is random
        """Move the mouse."""
        before, move = self.state["place"], slate[:, 0]
        self.state["place"] = self._following[before, move]
        found = self._found[before, move]
        response = response_of(
            torch.ones_like(slate, dtype=torch.bool), found.unsqueeze(1), self._reward[before, move].unsqueeze(1)
        )
        return response, found[:, -1] > 0

    def chances(self, slate: Tensor) -> Tensor:
        """Return 1 for the move, float64 [B, 2]: the mouse always goes."""
        scores = torch.zeros(slate.shape, dtype=torch.float64, device=slate.device)
        return self.users_choice.probabilities(scores, torch.ones_like(slate, dtype=torch.bool))

    def expectation(self, slate: Tensor) -> Tensor:
        """Return the reward of the move, float64 [B]."""
        return self._reward[self.state["place"], slate[:, 0]]

    @cached_property
    def optimal_values(self) -> Tensor:
        """What every move in every state is worth under the best moves after it, by value iteration, [S, 4]."""
        return value_iteration(self.maze)

    @property
    def rules(self) -> dict[str, SlateRule]:
        """`shortest` goes straight to the centre, whatever lies on the way; `optimal` knows the maze's values."""
        return {
            "shortest": lambda o, k: self._best(o, k, self._ways),
            "optimal": lambda o, k: self._best(o, k, self.optimal_values),
        }

    @cached_property
    def _ways(self) -> Tensor:
        return shortest_ways(self.maze)

    def _best(self, observation: Observation, k: int, values: Tensor) -> Tensor:
        if observation.user.shape[1] != self._features.shape[1]:
            raise InputError("these observations are of another maze: use the layout they come from")
        worth = values.to(observation.user.device)[self.maze.seen(observation.user)]
        return top_k(worth.gather(1, observation.item_ids.clamp(min=0)), observation.mask, k)

    @cached_property
    def _references(self) -> References:
        random = torch.full_like(self.maze.reward, 1 / len(MOVES))
        shortest = torch.nn.functional.one_hot(self._ways.argmax(1), len(MOVES)).double()
        steps = self._settings.horizon
        rules = {
            name: Reference(expected_return(self.maze, steps, policy), 0.0)
            for name, policy in (("random", random), ("shortest", shortest))
        }
        return References(rules, Reference(expected_return(self.maze, steps), 0.0, "exact"))

    @property
    def references(self) -> References:
        """Exact mean returns in this maze; the ceiling is the optimum that knows the steps left."""
        return self._references
