"""SlateQ: the long-term value of a slate, decomposed into the values of its items.

Source: Ie et al. 2019, arXiv 1905.12767. Q(s, slate) = Σ P(i | s, slate) Q(s, i), the sum over the items of the
slate **and no click**, which has a value like any other item: without it the future is discounted by the click
rate. Learned from parallel users with λ-returns; with `replay` also from a memory of what they did before. A target
network (Mnih et al. 2015) and its double form (van Hasselt et al. 2016, arXiv 1509.06461) are settings.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from slatewise.agents.base import Preset, check_single_clicks
from slatewise.agents.long_term import LongTermAgent, LongTermSettings
from slatewise.choice import Cascade, FirstPosition, Multinomial, check_features
from slatewise.constraints import Limits
from slatewise.errors import InputError
from slatewise.interactions import Decision, Interactions, Observation, Response
from slatewise.networks import Regression, TowerRegression
from slatewise.online_fitting import OnlineFit
from slatewise.slates import best_slate, greedy_slate, slate_value, top_k_slate

Slates = Literal["exact", "greedy", "top-k"]


class Settings(LongTermSettings):
    """Settings of SlateQ."""

    target: Literal["exact", "greedy", "top-k", "sarsa"] = Field(
        "exact", description="slate whose value comes next in training: exact, greedy, top-k, or sarsa, the one shown"
    )
    serve: Slates = Field("exact", description="how slates are made: exact, greedy or top-k")
    fit_choice: Literal["none", "logit", "exponential-cascade"] = Field(
        "none", description="choice model that is learned from the clicks of its own rollouts; none: the one given"
    )
    null_value: bool = Field(
        True, description="no click has a value; false, with trace 0, is the published recipe, for comparison"
    )

    @field_validator("fit_choice", mode="before")
    @classmethod
    def _scores_of_any_sign(cls, name: Any) -> Any:
        other = {"proportional": "logit", "proportional-cascade": "exponential-cascade"}.get(name)
        if other is not None:
            raise ValueError(f"{name} needs scores above −shift, which a learned affinity does not keep: take {other}")
        return name

    @model_validator(mode="after")
    def _double_needs_a_best_slate(self) -> "Settings":
        if self.double and self.target == "sarsa":
            raise ValueError(
                f"double=true with target_every={self.target_every} and target=sarsa: one network chooses the best "
                "slate and an older copy values it, so give target_every above 1 and a target that is not sarsa"
            )
        return self

    @model_validator(mode="after")
    def _without_a_null_value(self) -> "Settings":
        if not self.null_value and self.trace > 0:
            raise ValueError(
                f"null_value=false with trace={self.trace:g}: returns over several steps hold what comes after a "
                "no-click, so the published recipe needs trace=0"
            )
        if not self.null_value and self.step_values:
            raise ValueError(
                "null_value=false with step_values=true: what a step is worth is part of the value of no click too; "
                "leave one of them"
            )
        return self


class SlateQ(LongTermAgent):
    """Long-term value of slates under a choice model."""

    name = "slateq"
    summary_text = "long-term value of slates under a choice model, no click valued like an item"
    Settings = Settings
    presets: ClassVar[Mapping[str, Preset]] = {
        "fast": Preset("a good policy within seconds", 300_000, {"learning_rate": 3e-3, "rollout_steps": 8}),
        "best": Preset(
            "the best policy within minutes: values of what is shown, which hold with many candidates too",
            2_500_000,
            {"target": "sarsa"},
        ),
        "noisy": Preset(
            "rewards whose noise, and a hidden end, hide what an item is worth: longer returns, values of steps apart",
            1_000_000,
            {
                "target": "sarsa",
                "step_values": True,
                "rollout_steps": 64,
                "minibatches": 16,
                "epsilon_end": 0.2,
            },
        ),
        "robust": Preset(
            "a choice model that may be wrong: values of what is shown, and slates that it decides less of",
            1_000_000,
            {"target": "sarsa", "serve": "top-k"},
        ),
    }

    def build(self, settings: Any) -> None:
        """Take the settings and make the network.

        Raises InputError for a choice model without slates, or of other features than the spec has.
        """
        self.clicks: OnlineFit | None = None
        if settings.fit_choice != "none":
            self.clicks = OnlineFit(settings.fit_choice, self.spec, self.device, self.choice)
            self.choice = self.clicks.choice
        if self.choice is None:
            raise InputError(
                "slateq needs a choice model: pass choice=env.choice; where there is none (env.choice is None, because "
                "users choose by what is hidden), set fit_choice=logit, and it learns one from clicks"
            )
        if not isinstance(self.choice, Multinomial | Cascade | FirstPosition):
            raise InputError(
                f"slateq plans for users who take at most one item of a slate, and the choice model "
                f"{self.choice.name!r} is not one it has slates for: pass logit, proportional, exponential-cascade, "
                "proportional-cascade or first-position (slatewise.fitting.fit fits one to a log, and fit_choice=logit "
                "learns one), or take a bandit such as linucb, which needs no choice model"
            )
        check_features(self.choice, self.spec)
        super().build(settings)

    @property
    def settings(self) -> Settings:
        """The settings this agent was made with."""
        return cast(Settings, self._settings)

    def values(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Return Q of every candidate [B, C] and of no click [B], in units of reward.

        With `step_values` less what the step of the session is worth, the same for all of them.
        """
        return self._values(self.regression, observation)

    def _values(self, regression: Regression[Any], observation: Observation) -> tuple[Tensor, Tensor]:
        items, no_click = cast(TowerRegression, regression).predict(observation)
        return items, no_click if self.settings.null_value else torch.zeros_like(no_click)

    def explain(self, observation: Observation) -> dict[str, Tensor]:
        """Return the long-term `value` of every candidate if taken, and that `over nothing` taken, [B, C] each."""
        items, no_click = self.values(observation)
        return {"value": items, "over nothing": items - no_click.unsqueeze(1)}

    def greedy(self, observation: Observation, explore: bool) -> Tensor:  # noqa: ARG002 - ε is all the exploration
        """Return the slate of highest long-term value, as `serve` makes it."""
        return self._slate(observation, self.settings.serve)[0]

    def greedy_within(self, observation: Observation, limits: Limits) -> Tensor:
        """Return the same among the slates that limits allow: what `Constrained` shows."""
        return self._slate(observation, self.settings.serve, limits)[0]

    def _slate(
        self,
        observation: Observation,
        how: Slates,
        limits: Limits | None = None,
        regression: Regression[Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return a slate of high long-term value [B, K], and that value [B], by a network (or the newest one)."""
        assert self.choice is not None  # `build` refused it
        items, no_click = self._values(regression or self.regression, observation)  # says it if features do not fit
        scores = self.choice.scores(observation)
        problem = self.choice, scores, items, no_click, observation.mask, self.slate_size, limits
        if how == "exact":
            return best_slate(*problem)
        slate = (greedy_slate if how == "greedy" else top_k_slate)(*problem)
        return slate, slate_value(self.choice, scores, items, no_click, slate)

    def observe(self, interactions: Interactions) -> None:
        """Remember one vector step. Raises InputError where something that SlateQ needs is missing."""
        check_single_clicks(self.name, interactions)
        super().observe(interactions)

    def update(self) -> dict[str, float] | None:
        """Learn from a full rollout, as every agent with a network; with `fit_choice` first how users choose.

        Then `log_likelihood` is among the metrics: of a user-step, by the choice model before it saw the rollout.
        """
        learned: dict[str, float] = {}
        if self.clicks is not None and self.memory.full():
            learned = {"log_likelihood": self.clicks.learn(self.memory.newest())}
            self.choice = self.clicks.choice
        metrics = super().update()
        return metrics | learned if metrics is not None else None

    def best(self, observation: Observation, network: Regression[Any]) -> tuple[Tensor, Tensor]:
        """Return the slate that comes next in training, as `target` makes it, [B, K], and its value [B]."""
        return self._slate(observation, cast(Slates, self.settings.target), regression=network)

    def value_of(self, observation: Observation, slate: Tensor, network: Regression[Any]) -> Tensor:
        """Return the value of slates [B], as a network has it."""
        assert self.choice is not None  # `build` refused it
        items, no_click = self._values(network, observation)
        return slate_value(self.choice, self.choice.scores(observation), items, no_click, slate)

    def lessons(self, rollout: Interactions) -> tuple[Tensor, Tensor, Tensor]:
        """Return what was consumed, no click included, with its return."""
        self.renew_target()
        positions = consumed(rollout.decision, rollout.response).unsqueeze(1)
        counts = (positions >= 0) | self.settings.null_value
        targets = self.returns(rollout).unsqueeze(1)
        return positions, targets, self.weighed(rollout.observation, positions, targets, counts.float())

    def following(self, rollout: Interactions) -> tuple[Tensor, Tensor]:
        """Return the slates whose values come next: the best ones, or with SARSA those that were shown."""
        if self.settings.target != "sarsa":
            return super().following(rollout)
        assert rollout.next_observation is not None  # `observe` refused it
        shown = rollout.decision.slate.view(self.memory.steps, -1, self.slate_size)
        return self._shown_next(rollout.next_observation, shown, rollout.truncated)

    def _shown_next(self, following: Observation, shown: Tensor, truncated: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slates shown next [T · B, K] and their values.

        At the end of the rollout and of a truncated session, what the agent would show: drawn here.
        """
        slate = self.act(following).slate.view(shown.shape)
        known = ~truncated.view(len(shown), -1, 1)[:-1]
        slate[:-1] = torch.where(known, shown[1:], slate[:-1])
        slate = slate.flatten(0, 1)
        return slate, self.value_of(following, slate, self.target)

    def tensors(self) -> dict[str, Tensor]:
        """Return everything learned, by name, a learned choice model included."""
        learned = self.clicks.tensors() if self.clicks is not None else {}
        return super().tensors() | {f"choice.{key}": value for key, value in learned.items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        super().load_tensors(tensors)
        if self.clicks is not None:
            learned = {key.removeprefix("choice."): v for key, v in tensors.items() if key.startswith("choice.")}
            self.clicks.load_tensors(learned)
            self.choice = self.clicks.choice


def consumed(decision: Decision, response: Response) -> Tensor:
    """Return the candidate that was consumed, int64 [B]; −1 where nothing was clicked."""
    slot = response.clicked.int().argmax(1, keepdim=True)
    return torch.where(response.clicked.any(1), decision.slate.gather(1, slot).squeeze(1), -1)
