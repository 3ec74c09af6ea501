"""What an agent promises of its decisions: propensities, exploration, masks, and no notice of order or batch."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from slatewise.agents.base import Agent
from slatewise.checks import check_slate
from slatewise.errors import InputError
from slatewise.interactions import Decision, Observation
from slatewise.policies import knows_all
from slatewise.returns import Mean
from slatewise.testing.base import Broken, copies_of, difference, generators_watched, tensors_of, too_far
from slatewise.testing.problems import Problem, repeated

DRAWS = 4000  # slates drawn to count them
LOGGED = 2000  # random slates of a log
ROUNDING = 1e-6
TIES = 0.05  # share of rows in which an agent may be indifferent between candidates


def process_generators(problem: Problem) -> None:
    """Ask that making an agent, deciding and learning draw nothing from, and seed nothing of, the process."""
    with generators_watched("making, asking or training the agent", "Draw from self.generator alone."):
        problem.fresh().act(problem.env.observation)
        problem.agent.propensity(problem.env.observation, problem.slates[:1].expand(problem.env.users, -1))


def untouched(problem: Problem) -> None:
    """Ask that nobody writes on an observation."""
    observation = problem.world().observation
    for name, agent in problem.agents():
        copies = copies_of(observation)
        for explore in (True, False):
            decision = agent.act(observation, explore)
            agent.propensity(observation, decision.slate, explore)
        if found := difference(copies, tensors_of(observation)):
            raise Broken(f"{name} writes on the observation: {found} before and after", "Work on a copy.")


def valid(problem: Problem) -> None:
    """Ask a new agent for valid decisions: full slates of distinct candidates with propensities in (0, 1]."""
    agent = problem.fresh()
    for explore in (True, False):
        _valid("a new agent", agent.act(problem.env.observation, explore), problem.env.observation)


def _valid(name: str, decision: Decision, observation: Observation) -> None:
    remedy = "Show distinct candidates of observation.mask, −1 where too few."
    try:
        check_slate(decision.slate, observation.item_ids, "decision.slate")
    except InputError as error:
        raise Broken(f"{name}: {error}", remedy) from None
    fill = observation.mask.sum(1).clamp(max=decision.slate.shape[1])
    short = (decision.slate >= 0).sum(1) != fill
    if bool(short.any()):
        row = int(short.nonzero()[0])
        raise Broken(
            f"{name} shows {decision.slate[row].tolist()} to a user with {int(observation.mask[row].sum())} candidates",
            "Fill the slate as far as there are candidates; −1 is for a slot that nobody can fill.",
        )
    try:
        decision.validate(observation)
    except InputError as error:
        raise Broken(f"{name}: {error}", remedy) from None


def propensities(problem: Problem) -> None:
    """Ask for propensities of all slates that are probabilities, and conditionals on the slots before."""
    for name, agent in problem.agents():
        for explore in (True, False):
            for row in range(3):
                _distribution(f"{name}, explore={explore}", agent, problem, row, explore)


def _distribution(name: str, agent: Agent, problem: Problem, row: int, explore: bool) -> None:
    slates = problem.slates
    each = agent.propensity(repeated(problem.env.observation, row, len(slates)), slates, explore)
    if each.dtype != torch.float64 or each.shape != slates.shape:
        raise Broken(f"{name}: propensities are {each.dtype} {list(each.shape)}", "Return float64 [B, K].")
    if not bool(((each >= 0) & (each <= 1 + ROUNDING)).all()):
        at = int((~((each >= 0) & (each <= 1 + ROUNDING))).any(1).nonzero()[0])
        raise Broken(f"{name}: slate {slates[at].tolist()} has {each[at].tolist()}", "A probability lies in [0, 1].")
    total = float(each.prod(1).sum())
    if not abs(total - 1) <= ROUNDING:
        raise Broken(
            f"{name}: propensities over all {len(slates)} slates of user {row} sum to {total:.6g}",
            "Return for each slot the probability of its item given the slots before it, exploration included.",
        )
    reached = torch.cat([torch.ones_like(each[:, :1]), each.cumprod(1)[:, :-1]], 1) > 0
    for slot in range(slates.shape[1]):
        same = (slates.unsqueeze(1) == slates.unsqueeze(0))[:, :, : slot + 1].all(2)
        apart = (each[:, slot].unsqueeze(1) - each[:, slot]).abs() * same * reached[:, slot]
        if float(apart.max()) > ROUNDING:
            one, other = (int(i) for i in (apart == apart.max()).nonzero()[0])
            raise Broken(
                f"{name}: the propensity of slot {slot} is {float(each[one, slot]):.6g} in {slates[one].tolist()}, "
                f"{float(each[other, slot]):.6g} in {slates[other].tolist()}",
                "Let the propensity of a slot depend on the slots before it alone.",
            )


def all_candidates(problem: Problem) -> None:
    """Ask that `probabilities`, where it speaks for the agent, gives every candidate its propensity in the first slot.

    An agent with a `propensity` of its own and no such method is asked candidate by candidate: nothing to compare.
    """
    observation, slates = problem.env.observation, problem.slates
    some = observation.item_ids.clone()
    some[:, 0] = -1
    for name, agent in problem.agents():
        for explore in (True, False) if knows_all(agent) else ():
            for shown in (observation, replace(observation, item_ids=some)):
                every = agent.probabilities(shown, explore)
                for first in range(observation.item_ids.shape[1]):
                    slate = slates[slates[:, 0] == first][:1].expand(len(shown), -1)
                    _first(f"{name}, explore={explore}", every[:, first], agent.propensity(shown, slate, explore)[:, 0])


def _first(name: str, every: Tensor, one: Tensor) -> None:
    apart = (every - one).abs()
    if every.dtype != torch.float64 or not float(apart.max()) <= ROUNDING:
        row = int(apart.argmax())
        raise Broken(
            f"{name}: in probabilities() user {row}'s candidate has {float(every[row]):.6g} ({every.dtype}), its "
            f"propensity in the first slot is {float(one[row]):.6g}",
            "Change both methods together, exploration included, or leave probabilities() out: a subclass with a "
            "propensity of its own is asked candidate by candidate. Return float64 [B, C].",
        )


def frequencies(problem: Problem) -> None:
    """Ask that slates are shown as often as their propensities say, and that decisions carry the same ones."""
    for name, agent in problem.agents():
        for row in range(2):
            _frequencies(name, agent, problem, row)


def _frequencies(name: str, agent: Agent, problem: Problem, row: int) -> None:
    slates, observation = problem.slates, problem.env.observation
    probability = agent.propensity(repeated(observation, row, len(slates)), slates).prod(1)
    decision = agent.act(repeated(observation, row, DRAWS))
    index = (decision.slate.unsqueeze(1) == slates).all(2).int().argmax(1)
    shown = torch.bincount(index, minlength=len(slates)).double() / DRAWS
    error = (probability * (1 - probability) / DRAWS).clamp(min=0).sqrt()
    for k in range(len(slates)):
        if too_far(float(shown[k] - probability[k]), float(error[k])):
            raise Broken(
                f"{name} shows user {row} the slate {slates[k].tolist()} in {float(shown[k]):.2%} of {DRAWS:,} draws, "
                f"its propensity is {float(probability[k]):.2%} ± {float(error[k]):.2%}",
                "Let propensity return the probabilities of what act samples.",
            )
    apart = (decision.propensity.prod(1) - probability[index]).abs()
    if not float(apart.max()) <= ROUNDING:
        at = int(apart.argmax())
        raise Broken(
            f"{name}: act gives the slate {decision.slate[at].tolist()} {decision.propensity[at].tolist()}, "
            f"propensity() says {float(probability[index[at]]):.6g} for the whole slate",
            "Let act and propensity compute it by the same code, exploration included.",
        )


def greedy(problem: Problem) -> None:
    """Ask that without exploration there is one slate, shown with certainty."""
    observation = problem.env.observation
    for name, agent in problem.agents():
        first, second = agent.act(observation, explore=False), agent.act(observation, explore=False)
        if found := difference(first, second):
            raise Broken(f"{name} decides one thing and then another: {found}", "Draw nothing where explore=False.")
        own = agent.propensity(observation, first.slate, explore=False)
        for given in (first.propensity, own):
            if bool((given != 1).any()):
                row = int((given != 1).any(1).nonzero()[0])
                raise Broken(
                    f"{name} has propensities {given[row].tolist()} for its only slate",
                    "Without exploration they are 1.",
                )
        for slate in problem.slates:
            shown = agent.propensity(observation, slate.expand(len(observation), -1), explore=False).prod(1)
            if bool(((shown != 0) & (shown != 1)).any()):
                row = int(((shown != 0) & (shown != 1)).nonzero()[0])
                raise Broken(
                    f"{name} has propensity {float(shown[row]):.6g} for {slate.tolist()} without exploration",
                    "Without exploration a slate has 0 or 1.",
                )


def batches(problem: Problem) -> None:
    """Ask that a batch is decided as its rows are one by one."""
    agent, observation = problem.agent, problem.distinct
    slate = problem.slates[torch.arange(len(observation)) % len(problem.slates)]
    whole = agent.act(observation, explore=False).slate, agent.propensity(observation, slate)
    for row in range(min(len(observation), 40)):
        one = observation[row : row + 1]
        alone = agent.act(one, explore=False).slate, agent.propensity(one, slate[row : row + 1])
        if not torch.equal(alone[0][0], whole[0][row]):
            raise Broken(
                f"user {row} is shown {alone[0][0].tolist()} alone and {whole[0][row].tolist()} in a batch of "
                f"{len(observation)}",
                "Decide for every row by itself: no statistics over the batch.",
            )
        if not float((alone[1][0] - whole[1][row]).abs().max()) <= 1e-4:
            raise Broken(
                f"slate {slate[row].tolist()} of user {row} has propensities {alone[1][0].tolist()} alone and "
                f"{whole[1][row].tolist()} in a batch of {len(observation)}",
                "Decide for every row by itself: no statistics over the batch.",
            )


def order(problem: Problem) -> None:
    """Ask that candidates in another order get the same answer, up to ties."""
    agent, observation = problem.agent, problem.distinct
    count = observation.item_ids.shape[1]
    shift = torch.arange(count, device=observation.item_ids.device).roll(1)  # new position j holds candidate shift[j]
    turned = replace(observation, item_ids=observation.item_ids[:, shift], items=observation.items[:, shift])
    mine, theirs = agent.act(observation, explore=False).slate, agent.act(turned, explore=False).slate
    other = (mine != shift[theirs.clamp(min=0)]).any(1)
    if float(other.float().mean()) > TIES:
        row = int(other.nonzero()[0])
        raise Broken(
            f"user {row} is shown candidates {mine[row].tolist()}, and with the candidates in another order "
            f"{shift[theirs[row]].tolist()} of the same; {int(other.sum())} of {len(observation)} users are",
            "Score candidates by their features and ids, never by their position.",
        )


def masks(problem: Problem) -> None:
    """Ask that masked candidates are never shown and do not matter, and that missing ones leave holes."""
    observation, size = problem.env.observation, problem.env.spec.slate_size
    first = int(problem.env.spec.candidates > size)
    some, few = observation.item_ids.clone(), observation.item_ids.clone()
    some[:, :first] = -1
    few[:, 1:] = -1
    for name, agent in problem.agents():
        for ids in (some, few):
            shown = replace(observation, item_ids=ids)
            for explore in (True, False):
                _valid(f"{name}, candidates masked", agent.act(_many(shown), explore), _many(shown))
        _masked_probability(name, agent, problem, replace(observation, item_ids=some))
        other = replace(observation, item_ids=some, items=observation.items + 3 * (some < 0).unsqueeze(2))
        mine = agent.act(replace(observation, item_ids=some), explore=False)
        if found := difference(mine, agent.act(other, explore=False)):
            raise Broken(
                f"{name}: other features of a masked candidate change the decision: {found}",
                "Leave candidates outside observation.mask out of everything.",
            )


def _many(observation: Observation) -> Observation:
    return observation[torch.arange(len(observation), device=observation.user.device).repeat(20)]


def _masked_probability(name: str, agent: Agent, problem: Problem, observation: Observation) -> None:
    slates = problem.slates
    total = float(agent.propensity(repeated(observation, 0, len(slates)), slates).prod(1).sum())
    if not abs(total - 1) <= ROUNDING:
        raise Broken(
            f"{name}: propensities over all {len(slates)} slates sum to {total:.6g}",
            "Give masked candidates no probability, and those that are left all of it.",
        )


FLOOR = 0.3


def floor(problem: Problem) -> None:
    """Ask that explore_floor, as a setting and as an attribute, leaves every slate its share of the uniform."""
    agent = problem.fresh()
    settings: dict[str, Any] = agent.settings.model_dump() | {"explore_floor": FLOOR}
    made = type(agent)(agent.spec, agent.choice, agent.seed, agent.device, **settings)
    _floor("the setting", made, problem)
    kept = problem.agent.explore_floor
    problem.agent.explore_floor = FLOOR
    try:
        _floor("agent", problem.agent, problem)
    finally:
        problem.agent.explore_floor = kept


def _floor(where: str, agent: Agent, problem: Problem) -> None:
    slates = problem.slates
    probability = agent.propensity(repeated(problem.env.observation, 0, len(slates)), slates).prod(1)
    least = FLOOR / len(slates)
    if float(probability.min()) < least - ROUNDING:
        at = int(probability.argmin())
        raise Broken(
            f"with explore_floor={FLOOR} ({where}) the slate {slates[at].tolist()} has probability "
            f"{float(probability[at]):.6g}, less than {FLOOR} / {len(slates)} slates = {least:.6g}",
            "With that probability show a uniform slate whatever else explores: epsilon() must include explore_floor.",
        )


def weights(problem: Problem) -> None:
    """Ask that importance weights of a random log average 1, within 4.5 standard errors."""
    env = problem.world(LOGGED, 12)
    logged = env.rule("random", seed=5).act(env.observation)
    for name, agent in problem.agents():
        for explore in (True, False):
            chosen = agent.propensity(env.observation, logged.slate, explore)
            mean = Mean.of(_prod(chosen) / _prod(logged.propensity))
            if too_far(mean.mean - 1, mean.standard_error):
                raise Broken(
                    f"{name}, explore={explore}: importance weights of {LOGGED:,} random slates average "
                    f"{mean.mean:.4f} ± {mean.standard_error:.4f}, not 1",
                    "Let propensity return probabilities given the observation, whatever slate it is asked about.",
                )


def _prod(propensity: Tensor) -> Tensor:
    return propensity.prod(1)
