"""The contract of agents can fail: one break each, and the words that say which and what to do."""

import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from whole import MyAgent

from slatewise.agents.base import Agent
from slatewise.drawing import greedy_propensity, mix_propensity, uniform_propensity, uniform_slate
from slatewise.interactions import Decision, Interactions, Observation
from slatewise.slates import top_k
from slatewise.testing import ContractError, check_agent

BROKEN: list[Any] = []


def breaks(promise: str, words: str) -> Callable[[type[Agent]], type[Agent]]:
    def remember(cls: type[Agent]) -> type[Agent]:
        BROKEN.append(pytest.param(cls, promise, words, id=cls.__name__))
        return cls

    return remember


@breaks("observe counts steps", r"agent\.steps goes from \d+ to \d+ when it observes 64 interactions\. Count them")
class CountsTwice(MyAgent):
    def observe(self, interactions: Interactions) -> None:
        super().observe(interactions)
        if self.updates > 2:
            self.steps += len(interactions)


@breaks("observe counts steps", r"update\(\) has returned metrics 0 times in 301 steps of 64 users\. Return metrics")
class NeverReports(MyAgent):
    def update(self) -> dict[str, float] | None:
        super().update()
        return None


@breaks("observe counts steps", r"update\(\) returns loss = nan\. Keep what is learned finite")
class LosesItself(MyAgent):
    def update(self) -> dict[str, float] | None:
        return None if super().update() is None else {"loss": math.nan}


@breaks("observe counts steps", r"learning writes on the interactions: response\.reward\[0, 0\] is .* and .* Work on a")
class ScalesRewardsInPlace(MyAgent):
    def observe(self, interactions: Interactions) -> None:
        interactions.response.reward.add_(1)
        super().observe(interactions)


@breaks("the process-wide generators are left alone", "changed the process-wide generator of torch.*self.generator")
class SeedsTheProcess(MyAgent):
    def build(self, settings: Any) -> None:
        torch.manual_seed(self.seed)
        super().build(settings)


@breaks("the process-wide generators are left alone", "changed the process-wide generator of torch")
class FlipsTheProcessesCoin(MyAgent):
    def act(self, observation: Observation, explore: bool = True) -> Decision:
        torch.rand(1)
        return super().act(observation, explore)


@breaks(
    "nobody writes on an observation", r"a new agent writes on the observation: user\[0, 0\] is .* before and after"
)
class WritesOnTheObservation(MyAgent):
    def greedy(self, observation: Observation, explore: bool) -> Tensor:
        observation.user.mul_(0.5)
        return super().greedy(observation, explore)


@breaks("decisions are valid", r"a new agent: decision\.slate\[0\] is \[0, 0\]: a candidate is repeated")
class ShowsOneTwice(MyAgent):
    def greedy(self, observation: Observation, explore: bool) -> Tensor:
        return torch.zeros_like(super().greedy(observation, explore))


@breaks("decisions are valid", r"shows \[0, -1\] to a user with 4 candidates\. Fill the slate as far as there are")
class LeavesHoles(MyAgent):
    def greedy(self, observation: Observation, explore: bool) -> Tensor:
        return torch.tensor([[0, -1]]).expand(len(observation), 2)


@breaks(
    "masked candidates are never shown", r"candidates masked: decision\.slate\[.*\] shows candidate ., which is padded"
)
class ShowsWhatIsMasked(MyAgent):
    def greedy(self, observation: Observation, explore: bool) -> Tensor:
        return super().greedy(replace(observation, item_ids=observation.item_ids.clamp(min=0)), explore)


@breaks("masked candidates are never shown", "other features of a masked candidate change the decision")
class ComparesWithWhatIsMasked(MyAgent):
    def greedy(self, observation: Observation, explore: bool) -> Tensor:
        quality = observation.items[:, :, 0]
        return top_k(-(quality - quality.mean(1, keepdim=True)).abs(), observation.mask, self.slate_size)


@breaks("without exploration one slate is certain", "decides one thing and then another: slate.*Draw nothing where")
class DrawsAnyway(MyAgent):
    def greedy(self, observation: Observation, explore: bool) -> Tensor:
        return uniform_slate(observation.mask, self.slate_size, self.generator)


@breaks("without exploration one slate is certain", r"has propensities \[0\.9.*\] for its only slate\. Without")
class ExploresInItsPropensity(MyAgent):
    def propensity(self, observation: Observation, slate: Tensor, explore: bool = True) -> Tensor:
        return super().propensity(observation, slate, explore=True)


@breaks(
    "propensities over all slates sum to 1", r"propensities over all 12 slates of user 0 sum to 0\.9\d*\. Return for"
)
class ForgetsExplorationInItsPropensity(MyAgent):
    def propensity(self, observation: Observation, slate: Tensor, explore: bool = True) -> Tensor:
        share = (1 - self.epsilon()) if explore else 1.0
        return greedy_propensity(self.greedy(observation, explore), slate) * torch.tensor([share, 1.0]).double()


@breaks("propensities over all slates sum to 1", r"propensities over all 12 slates of user 0 sum to .*given the slots")
class MixesSlotsInsteadOfSlates(MyAgent):
    """A coin for every slot on paper, one a slate in truth, and uniform over all candidates at each."""

    def propensity(self, observation: Observation, slate: Tensor, explore: bool = True) -> Tensor:
        epsilon = self.epsilon() if explore else 0.0
        greedy = self.greedy(observation, explore)
        return (1 - epsilon) * (slate == greedy).double() + epsilon / observation.item_ids.shape[1]


@breaks(
    "propensities over all slates sum to 1", r"the propensity of slot 0 is .* in \[.*\], .* in \[.*\].*slots before it"
)
class PutsItAllInTheLastSlot(MyAgent):
    def propensity(self, observation: Observation, slate: Tensor, explore: bool = True) -> Tensor:
        whole = super().propensity(observation, slate, explore).prod(1)
        return whole.sqrt().unsqueeze(1).expand(-1, 2).clone()


@breaks(
    "probabilities of all candidates are",
    r"candidate has 0 \(torch\.float64\), its propensity in the first .* 0\.\d+\.",
)
class ForgetsExplorationInItsProbabilities(MyAgent):
    def probabilities(self, observation: Observation, explore: bool = True) -> Tensor:
        return super().probabilities(observation, explore=False)


@breaks("slates are shown as often", r"a new agent shows user 0 the slate .* in .*% of 4,000 draws, its propensity is")
class ExploresMoreThanItSays(MyAgent):
    def act(self, observation: Observation, explore: bool = True) -> Decision:
        decision = super().act(observation, explore)
        if not explore:
            return decision
        coin = torch.rand(len(observation), 1, generator=self.generator) < 0.1
        slate = torch.where(coin, uniform_slate(observation.mask, 2, self.generator), decision.slate)
        return Decision(slate, self.propensity(observation, slate))


@breaks("slates are shown as often", r"act gives the slate .* propensity\(\) says .* same code, exploration included")
class LogsAnotherPropensity(MyAgent):
    def act(self, observation: Observation, explore: bool = True) -> Decision:
        decision = super().act(observation, explore)
        return (
            replace(decision, propensity=uniform_propensity(observation.mask, decision.slate)) if explore else decision
        )


@breaks("slates are shown as often", r"shows user 0 the slate .* in .*% of 4,000 draws")
class OneCoinForTheWholeBatch(MyAgent):
    def act(self, observation: Observation, explore: bool = True) -> Decision:
        greedy = self.greedy(observation, explore)
        random = uniform_slate(observation.mask, self.slate_size, self.generator)
        coin = explore and float(torch.rand(1, generator=self.generator)) < self.epsilon()
        slate = random if coin else greedy
        return Decision(slate, self.propensity(observation, slate, explore))


@breaks(
    "every slate has the probability that explore_floor grants", r"with explore_floor=0\.3 \(the setting\) the slate"
)
class IgnoresTheFloor(MyAgent):
    def epsilon(self) -> float:
        return self.settings.epsilon


@breaks(
    "every slate has the probability that explore_floor grants", r"explore_floor=0\.3 \(agent\) the slate .* has prob"
)
class ReadsTheFloorOnce(MyAgent):
    def epsilon(self) -> float:
        return 1 - (1 - self.settings.epsilon) * (1 - self.settings.explore_floor)


@breaks(
    "a batch is decided as its rows one by one", r"user \d+ is shown .* alone and .* in a batch of .* no statistics"
)
class StandardisesTheBatch(MyAgent):
    def greedy(self, observation: Observation, explore: bool) -> Tensor:
        pull = (observation.user - observation.user.mean(0)).sum(1, keepdim=True)
        return top_k(pull * observation.items[:, :, 0], observation.mask, self.slate_size)


@breaks(
    "the order of candidates does not matter", r"is shown candidates \[0, 1\], and with the candidates in another ord"
)
class ShowsTheFirst(MyAgent):
    def greedy(self, observation: Observation, explore: bool) -> Tensor:
        return top_k(
            -torch.arange(observation.mask.shape[1]).float().expand(observation.mask.shape), observation.mask, 2
        )


@breaks("a seed fixes every bit", "two agents of seed 1, trained alike: sums.*self.generator alone")
class StartsAnywhere(MyAgent):
    made = torch.Generator()

    def build(self, settings: Any) -> None:
        super().build(settings)
        self.sums = torch.rand(20, generator=self.made).double()
        self.counts = torch.ones(20).double()


@breaks("saving and loading changes nothing", r"save writes weights\.pkl\. Write JSON and safetensors only")
class Pickles(MyAgent):
    def save(self, folder: str | Path) -> None:
        super().save(folder)
        (Path(folder) / "weights.pkl").write_bytes(pickle.dumps(1))


@breaks(
    "saving and loading changes nothing",
    r"load fails on what save wrote \(.*do not fit \('counts'\).*Let tensors and load_tensors",
)
class LosesItsCounts(MyAgent):
    def tensors(self) -> dict[str, Tensor]:
        return {"sums": self.sums}


@breaks(
    "saving and loading changes nothing",
    r"1 updates after loading, before and after loading: .*Save and load",
)
class LosesItsMomentum(MyAgent):
    """What it adds depends on the last addition, which is not saved."""

    last = 0.0

    def observe(self, interactions: Interactions) -> None:
        super().observe(interactions)
        self.sums += self.last
        self.last = float(interactions.response.reward.mean())


@breaks(
    "rewards that are not known are left out", r"sums is not finite after rewards that are not known .*torch\.where"
)
class LearnsFromWhatIsMissing(MyAgent):
    def observe(self, interactions: Interactions) -> None:
        everything = torch.ones_like(interactions.response.reward_known)
        super().observe(replace(interactions, response=replace(interactions.response, reward_known=everything)))


@pytest.mark.parametrize(("agent", "promise", "words"), BROKEN)
def test_a_broken_agent_is_told_what_is_wrong(agent: type[Agent], promise: str, words: str) -> None:
    with pytest.raises(ContractError, match=rf"^{agent.__name__}: .*{promise}.*Not so: .*{words}"):
        check_agent(agent)


def test_the_agent_that_they_break_is_whole() -> None:
    assert set(check_agent(MyAgent).values()) == {"kept"}


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_mixture_of_two_policies_is_whole(share: float) -> None:
    """An agent that shares no code with ε-greedy's: half of the users see a uniform slate, the others its best."""

    class Mixed(MyAgent):
        def act(self, observation: Observation, explore: bool = True) -> Decision:
            greedy, random = self.greedy(observation, explore), uniform_slate(observation.mask, 2, self.generator)
            coin = torch.rand(len(greedy), 1, generator=self.generator) < self.share(explore)
            slate = torch.where(coin, random, greedy)
            return Decision(slate, self.propensity(observation, slate, explore))

        def propensity(self, observation: Observation, slate: Tensor, explore: bool = True) -> Tensor:
            greedy = greedy_propensity(self.greedy(observation, explore), slate)
            return mix_propensity(self.share(explore), uniform_propensity(observation.mask, slate), greedy)

        def share(self, explore: bool) -> float:
            return 1 - (1 - share) * (1 - self.explore_floor) if explore else 0.0

    assert set(check_agent(Mixed).values()) == {"kept"}
