"""What an agent promises of its learning: counted steps, seeds, saving and loading, rewards that are missing."""

import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from slatewise.agents.base import Agent
from slatewise.errors import InputError
from slatewise.interactions import Interactions
from slatewise.testing.base import Broken, copies_of, difference, disturb, tensors_of
from slatewise.testing.problems import Problem, learn, some_interactions

ALLOWED = (".json", ".safetensors")


def learns(problem: Problem) -> None:
    """Ask that observe counts user-steps and writes on nothing, and that update returns finite metrics."""
    agent, env = problem.trained()
    updates = 0
    while updates < 2:
        steps, interactions = agent.steps, some_interactions(env)
        copies = copies_of(interactions)
        agent.observe(interactions)
        if agent.steps != steps + len(interactions):
            raise Broken(
                f"agent.steps goes from {steps} to {agent.steps} when it observes {len(interactions)} interactions",
                "Count them, self.steps += len(interactions): sw.train ends by it.",
            )
        metrics = agent.update()
        if found := difference(copies, tensors_of(interactions)):
            raise Broken(f"learning writes on the interactions: {found} before and after", "Work on a copy.")
        updates += metrics is not None
        for key, value in (metrics or {}).items():
            if not math.isfinite(value):
                raise Broken(f"update() returns {key} = {value}", "Keep what is learned finite.")


def seed(problem: Problem) -> None:
    """Ask for the same bits from the same seed while other code seeds and draws."""
    if found := difference(problem.agent.tensors(), problem.trained(between=disturb)[0].tensors()):
        raise Broken(f"two agents of seed {problem.seed}, trained alike: {found}", "Draw from self.generator alone.")


def saving(problem: Problem) -> None:
    """Ask that an agent goes on from its files as if nothing had happened: deciding, and learning."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "agent"
        agent, env = problem.trained()
        agent.save(path)
        for file in path.rglob("*"):
            if file.is_file() and file.suffix not in ALLOWED:
                raise Broken(f"save writes {file.name}", "Write JSON and safetensors only: other files can run code.")
        try:
            again = type(agent).load(path, agent.device)
        except (InputError, KeyError, RuntimeError) as error:
            raise Broken(f"load fails on what save wrote ({error})", "Let tensors and load_tensors match.") from None
    again.load_memory_tensors(copies_of(agent.memory_tensors()))
    for key in ("settings", "spec", "choice", "seed", "steps", "updates"):
        if getattr(again, key) != getattr(agent, key):
            raise Broken(f"{key} is {getattr(again, key)} after loading, was {getattr(agent, key)}", "Save it.")
    _goes_on(agent, again, problem, env.snapshot())


def _goes_on(agent: Agent, again: Agent, problem: Problem, snapshot: dict[str, torch.Tensor]) -> None:
    """Compare two agents until both have learned twice more."""
    worlds = problem.world(), problem.world()
    for world in worlds:
        world.restore(snapshot)
    remedy = (
        "Save and load everything that decisions and updates depend on: tensors and load_tensors (for a memory that "
        "serving does not need, memory_tensors and load_memory_tensors), or settings."
    )
    updates = 0
    for step in range(300):
        shown, slate = worlds[0].observation, problem.slates[:1].expand(worlds[0].users, -1)
        found = difference(
            {"propensity": agent.propensity(shown, slate)}, {"propensity": again.propensity(shown, slate)}
        )
        if found := found or difference(agent.tensors(), again.tensors()):
            raise Broken(f"{updates} updates after loading, before and after loading: {found}", remedy)
        learned = [learn(each, world) for each, world in zip((agent, again), worlds, strict=True)]
        updates += learned[0]
        if found := difference(worlds[0].observation, worlds[1].observation):
            raise Broken(f"{step + 1} steps after loading, the decisions lead elsewhere: {found}", remedy)
        if updates == 2:
            break


def missing(problem: Problem) -> str | None:
    """Ask that rewards which are not known are left out, or refused before anything is learned from them."""
    agent, env = problem.trained()
    updates = 0
    while updates < 2:
        try:
            agent.observe(_without_rewards(some_interactions(env)))
            metrics = agent.update()
        except InputError:
            return None
        updates += metrics is not None
        bad = [key for key, value in agent.tensors().items() if not bool(value.isfinite().all())]
        bad += [key for key, value in (metrics or {}).items() if not math.isfinite(value)]
        if bad:
            raise Broken(
                f"{bad[0]} is not finite after rewards that are not known (reward_known is false, reward NaN)",
                "Leave those rows out of learning, with torch.where or an index and not by a weight of 0; or raise "
                "InputError.",
            )
    return None


def _without_rewards(interactions: Interactions) -> Interactions:
    """Return the interactions with every third reward missing."""
    response = interactions.response
    known = torch.arange(len(interactions), device=response.reward.device) % 3 != 0
    reward = torch.where(known.unsqueeze(1), response.reward, math.nan)
    decision_reward = torch.where(known, response.decision_reward, math.nan)
    changed = replace(response, reward=reward, decision_reward=decision_reward, reward_known=known)
    return replace(interactions, response=changed)
