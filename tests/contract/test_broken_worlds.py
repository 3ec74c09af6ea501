"""The contract of worlds can fail: one break each, and the words that say which and what to do."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from whole import MyWorld

from slatewise.environments.base import Environment, Reference, References, State, response_of
from slatewise.errors import InputError
from slatewise.interactions import Decision, Interactions, Observation, Response
from slatewise.noise import Noise
from slatewise.testing import ContractError, check_environment


def breaks(promise: str, words: str) -> Callable[[type[Environment]], type[Environment]]:
    def remember(cls: type[Environment]) -> type[Environment]:
        BROKEN.append(pytest.param(cls, promise, words, id=cls.__name__))
        return cls

    return remember


BROKEN: list[Any] = []


@breaks("the process-wide generators are left alone", "changed the process-wide generator of torch.*Draw only from")
class DrawsFromTheProcess(MyWorld):
    def sample_candidates(self, noise: Noise) -> State:
        return {"topic": torch.randint(5, (self.users, self.settings.candidates))}


@breaks("the process-wide generators are left alone", "changed the process-wide generator of torch")
class SeedsTheProcess(MyWorld):
    def begin(self, noise: Noise) -> State:
        torch.manual_seed(0)
        return super().begin(noise)


@breaks("a seed fixes every bit", r"at step 0 of two worlds of seed 0, next_observation\.user\[0, 0\] is .* and ")
class SharesAGenerator(MyWorld):
    generator = torch.Generator()

    def advance(self, slate: Tensor, noise: Noise) -> tuple[Response, Tensor]:
        result = super().advance(slate, noise)
        self.state["taste"] = self.state["taste"] + torch.rand(self.users, 5, generator=self.generator)
        return result


@breaks("the spec says what is observed", r"next_observation\.user has \[40, 6\] at step 0, env\.spec says \[40, 5\]")
class ShowsMoreThanItSays(MyWorld):
    def observe(self) -> Observation:
        shown = super().observe()
        return replace(shown, user=torch.cat([shown.user, self.state["skips"].unsqueeze(1)], 1))


@breaks("the spec says what is observed", r"env\.spec\.signals names 'read' twice")
class NamesTwice(MyWorld):
    def build(self, settings: Any) -> None:
        super().build(settings)
        self.spec = replace(self.spec, signals=("read", "read"))

    def advance(self, slate: Tensor, noise: Noise) -> tuple[Response, Tensor]:
        response, ended = super().advance(slate, noise)
        return replace(response, signals=response.signals.expand(-1, -1, 2).clone()), ended


class Changed(MyWorld):
    """Returns other interactions than it made."""

    def step(self, decision: Decision | Tensor) -> Interactions:
        return self.change(super().step(decision))

    def change(self, made: Interactions) -> Interactions:
        raise NotImplementedError


@breaks("terminated or truncated, never both", "user .* is both terminated and truncated at step .* truncated is for")
class EndsTwice(Changed):
    def change(self, made: Interactions) -> Interactions:
        return replace(made, truncated=made.done, terminated=made.done)


@breaks("terminated or truncated, never both", r"all \d+ sessions that reached env\.horizon = 4 are terminated, none")
class ATimeLimitEndsTheFuture(Changed):
    horizon = 4

    def change(self, made: Interactions) -> Interactions:
        return replace(made, terminated=made.done, truncated=torch.zeros_like(made.done))


@breaks("terminated or truncated, never both", r"user 0 is truncated before 1 steps, env\.horizon is 30 \(step 0\)")
class TruncatesAtOnce(Changed):
    def change(self, made: Interactions) -> Interactions:
        return replace(made, truncated=~made.terminated)


@breaks("every step is a valid record", r"step 0: response\.reward\[0, 0\] is nan")
class EarnsNothingKnown(MyWorld):
    def advance(self, slate: Tensor, noise: Noise) -> tuple[Response, Tensor]:
        response, ended = super().advance(slate, noise)
        return replace(response, reward=response.reward / 0), ended


@breaks("every step is a valid record", r"response\.reward is float32 \[40, 2\]: expected float64 \[40, 2\]")
class EarnsInSinglePrecision(MyWorld):
    def advance(self, slate: Tensor, noise: Noise) -> tuple[Response, Tensor]:
        response, ended = super().advance(slate, noise)
        return replace(response, reward=response.reward.float()), ended


@breaks("episodes are unique", r"user \d+ begins another session as episode \d+ .* an id of its own")
class NamesSessionsAfterUsers(Changed):
    def change(self, made: Interactions) -> Interactions:
        return replace(made, episode=made.episode % self.users)


@breaks("episodes are unique", "user 0 is at step 1, 0 steps after the session began.*from 0")
class CountsFromOne(Changed):
    horizon = None

    def change(self, made: Interactions) -> Interactions:
        return replace(made, step=made.step + 1)


@breaks("finished users restart alone", r"nobody but the \d+ finished users may restart .* for a user who goes on")
class RestartsEverybody(MyWorld):
    def _restart(self, rows: Tensor) -> None:
        super()._restart(rows)
        self.state = self.begin(self._noise)


@breaks("finished users restart alone", "next_observation is the first observation of the next session for every")
class ForgetsTheLastObservation(Changed):
    def change(self, made: Interactions) -> Interactions:
        return replace(made, next_observation=self.observation)


@breaks("totals and history are those", r"after step 0, history\[0, 0, \d\] is .* and .* leave the history to the base")
class RemembersBackwards(MyWorld):
    def build(self, settings: Any) -> None:
        super().build(settings.model_copy(update={"history": 2}))

    def _observe(self) -> Observation:
        shown = super()._observe()
        return replace(shown, history=shown.history.flip(1))


@breaks("records stay what they were", r"observation\.user is the memory of state\['taste'\]\. Give out a copy")
class ShowsItsOwnMemory(MyWorld):
    def observe(self) -> Observation:
        return replace(super().observe(), user=self.state["taste"])


@breaks("records stay what they were", r"an older record changes at step 0: item_ids\[0, 0\] is \d and \d now and then")
class DrawsCandidatesInPlace(MyWorld):
    def sample_candidates(self, noise: Noise) -> State:
        drawn = super().sample_candidates(noise)
        if not hasattr(self, "candidates"):
            return drawn
        return {"topic": self.candidates["topic"].copy_(drawn["topic"])}

    def reset(self, seed: int | None = None) -> Observation:
        vars(self).pop("candidates", None)
        return super().reset(seed)


@breaks("a bad slate raises InputError", "a slate that is out of range raises RuntimeError")
class ChecksNothing(MyWorld):
    def _checked(self, decision: Decision | Tensor) -> Decision:
        if isinstance(decision, Tensor):
            return Decision(decision, torch.ones(decision.shape, dtype=torch.float64))
        return decision


@breaks("a bad slate raises InputError", r"a refused slate \(out of range\) changes the world: .*Check slates before")
class ChecksTooLate(MyWorld):
    def _checked(self, decision: Decision | Tensor) -> Decision:
        self._noise.uniform(1)
        return super()._checked(decision)


@breaks("a bad slate raises InputError", "a slate that is repeating a candidate is accepted")
class AllowsRepeats(MyWorld):
    def _checked(self, decision: Decision | Tensor) -> Decision:
        try:
            return super()._checked(decision)
        except InputError as error:
            if "repeated" not in str(error) or decision.shape[1] != self.spec.slate_size:
                raise
            return Decision(decision, torch.ones(decision.shape, dtype=torch.float64))


@breaks(
    "a snapshot continues to the bit", "steps after restore, .*Keep everything that the future depends on in self.st"
)
class HidesState(MyWorld):
    def reset(self, seed: int | None = None) -> Observation:
        self.mood = torch.zeros(self.users)
        return super().reset(seed)

    def advance(self, slate: Tensor, noise: Noise) -> tuple[Response, Tensor]:
        response, ended = super().advance(slate, noise)
        self.mood = self.mood + response.clicked.any(1)
        self.state["taste"] = self.state["taste"] - 0.01 * self.mood.unsqueeze(1)
        return response, ended


@breaks("the noise depends on no policy", r"others are shown other slates, and at step \d+ .* for a user who is not")
class UsersShareTheirFate(MyWorld):
    def advance(self, slate: Tensor, noise: Noise) -> tuple[Response, Tensor]:
        response, ended = super().advance(slate, noise)
        self.state["boredom"] = self.state["boredom"] + response.clicked.float().mean()
        return response, ended


@breaks("the noise depends on no policy", "at step .*the same number of random numbers for every user at every step")
class DrawsForWhoClicks(MyWorld):
    def advance(self, slate: Tensor, noise: Noise) -> tuple[Response, Tensor]:
        response, ended = super().advance(slate, noise)
        if bool(response.clicked[1].any()):
            noise.uniform(1)
        return response, ended


@breaks("the noise depends on no policy", r"session \d+ of user \d+ begins differently under two policies")
class InheritsTheBoredom(MyWorld):
    def _restart(self, rows: Tensor) -> None:
        before = self.state["boredom"][rows]
        super()._restart(rows)
        self.state["boredom"] = self.state["boredom"].index_copy(0, rows, before)


@breaks("one user alone behaves as one of many", r"(reward|clicks) over 6 steps averages .* for users alone.*no shared")
class LonelyUsersReadLess(MyWorld):
    def begin(self, noise: Noise) -> State:
        new = super().begin(noise)
        return new | {"taste": new["taste"] - (2.0 if self.users == 1 else 0.0)}


@breaks(
    "clicks follow the choice model", r"is clicked in .*% of .* slates where env\.choice says .*leave out what says"
)
class ChoosesOtherwise(MyWorld):
    def advance(self, slate: Tensor, noise: Noise) -> tuple[Response, Tensor]:
        kept = self.choice
        self.choice = replace(kept, no_click=kept.no_click + 0.4)
        try:
            return super().advance(slate, noise)
        finally:
            self.choice = kept


@breaks("clicks follow the choice model", r"user \d+ clicks twice, \[True, True\], where env\.choice knows one click")
class ClicksTwice(MyWorld):
    def advance(self, slate: Tensor, noise: Noise) -> tuple[Response, Tensor]:
        response, ended = super().advance(slate, noise)
        clicked = response.clicked | response.clicked.any(1, keepdim=True)
        return response_of(clicked, clicked.float().unsqueeze(2), clicked.double()), ended


@breaks("what it says of its users is what they do", r"users earn .* more than env\.expected_reward says")
class ExpectsTooLittle(MyWorld):
    def expectation(self, slate: Tensor) -> Tensor:
        return torch.zeros(self.users, dtype=torch.float64)


@breaks("rules show valid slates", r"rule 'first': .*decision\.slate\[0, 0\] shows candidate 0, which is padded")
class ShowsWhatIsMasked(MyWorld):
    @property
    def rules(self) -> dict[str, Any]:
        return {"first": lambda o, k: torch.arange(k).expand(len(o), k)}


@breaks("rules show valid slates", r"rule 'dice' shows one slate and then another")
class RulesDraw(MyWorld):
    dice = torch.Generator()

    @property
    def rules(self) -> dict[str, Any]:
        return {"dice": lambda o, k: torch.rand(o.mask.shape, generator=self.dice).masked_fill(~o.mask, -1).topk(k)[1]}


@breaks(
    "references have random and a ceiling", r"'random' is not in env\.references\.rules\. Give the return of random"
)
class NoRandomReference(MyWorld):
    references = References({"favourite": Reference(6.0, 0.1)}, Reference(9.0, 0.1, "planner"))


@breaks("references have random and a ceiling", "the ceiling is 5.0, random 4.5, the rule 'favourite' 6.0")
class ALowCeiling(MyWorld):
    references = References({"random": Reference(4.5, 0.1), "favourite": Reference(6.0, 0.1)}, Reference(5.0, 0.1))


@breaks("its settings make the same world again", r"the full name is 'My World-v1'\. Name it in lower case")
class AnUnwritableName(MyWorld):
    name = "My World"


@breaks("its settings make the same world again", r"make another world\. Return the settings that build was given")
class ChangesItsSettings(MyWorld):
    def build(self, settings: Any) -> None:
        super().build(settings.model_copy(update={"candidates": settings.candidates + 1}))


@pytest.mark.parametrize(("world", "promise", "words"), BROKEN)
def test_a_broken_world_is_told_what_is_wrong(world: type[Environment], promise: str, words: str) -> None:
    with pytest.raises(ContractError, match=rf"^{world.__name__}: .*{promise}.*Not so: .*{words}"):
        check_environment(world)


def test_the_world_that_they_break_is_whole() -> None:
    check_environment(MyWorld)
    check_environment(partial(MyWorld, history=3, resample="session", slate_size=3))


class ListsOfManyLengths(MyWorld):
    """Offers some users a single article."""

    def sample_candidates(self, noise: Noise) -> State:
        topic = super().sample_candidates(noise)["topic"]
        hidden = noise.uniform(self.settings.candidates) < 0.6
        hidden[:, 0] = False
        return {"topic": torch.where(hidden, -1, topic)}


def test_lists_may_be_of_different_lengths_but_hold_enough_for_a_slate() -> None:
    check_environment(partial(ListsOfManyLengths, candidates=4, slate_size=1))
    env = ListsOfManyLengths(users=40, seed=0, candidates=4, slate_size=2)
    with pytest.raises(InputError, match=r"this user has 1 candidates that may be shown, and a world must offer"):
        env.step(env.rules["favourite"](env.observation, 2))
