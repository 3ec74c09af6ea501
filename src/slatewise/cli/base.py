"""What several commands have: options, and what these mean."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from slatewise.errors import InputError, unknown_name

Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="fixes every bit of the result on one machine")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else on standard output")]
Threads = Annotated[int, typer.Option(min=1, help="threads for numerical kernels")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="a setting of the world, or of a new agent (a run keeps its own); env.KEY or agent.KEY if both",
    ),
]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="where users and networks are: cpu, cuda, cuda:1, mps")]
Users = Annotated[int, typer.Option(min=1, help="users simulated side by side")]
Overwrite = Annotated[bool, typer.Option(help="replace what is in the folder")]


def use_threads(threads: int) -> None:
    """Compute with so many threads, as a process that is the command line's own."""
    import torch

    from slatewise.allocation import keep_freed_memory

    torch.set_num_threads(threads)
    keep_freed_memory()


def world_of(
    name: str,
    users: int,
    seed: int,
    given: Sequence[str] | None,
    policy: str,
    device: str,
    begun: Mapping[str, Any] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Make a world with its part of the settings; return it and the agent's part.

    begun: settings of the world that were given before, as when a run goes on.
    """
    from slatewise.agents import agent_class, is_agent
    from slatewise.environments import world
    from slatewise.naming import is_trained

    cls = world(name)
    untrained = is_agent(policy) and not is_trained(policy)
    of_agent = set(agent_class(policy).Settings.model_fields) if untrained else set[str]()
    mine: dict[str, Any] = {}
    agents: dict[str, Any] = {}
    for key, value in pairs(given).items():
        owner, _, bare = key.rpartition(".")
        if owner == "agent" or bare not in cls.Settings.model_fields:
            refuse_of_run(policy, key)
        in_env, in_agent = bare in cls.Settings.model_fields, bare in of_agent
        if owner == "env" or (not owner and in_env and not in_agent):
            mine[bare] = value
        elif owner == "agent" or (not owner and in_agent and not in_env):
            agents[bare] = value
        elif in_env and in_agent:
            raise InputError(f"--set {key}: both {name} and {policy} have it, say env.{key} or agent.{key}")
        else:
            raise unknown_name(f"setting of {name} or {policy}", key, [*cls.Settings.model_fields, *of_agent])
    return cls(users=users, seed=seed, device=device, **{**(begun or {}), **mine}), agents


def refuse_of_run(policy: str, key: str) -> None:
    """Raise InputError for a setting of a run's agent, which keeps those that it was trained with."""
    from slatewise.agents import load
    from slatewise.naming import is_trained

    bare = key.removeprefix("agent.")
    if is_trained(policy) and bare in type(load(policy).settings).model_fields:
        raise InputError(
            f"--set {key}: the agent of {policy} keeps the settings it was trained with, and only those of the world "
            "can be given: leave it out, or train another run with it"
        )


def pairs(given: Sequence[str] | None) -> dict[str, str]:
    """Return the settings that `--set` gave, as text. Raises InputError for what is no pair, or given twice."""
    found: dict[str, str] = {}
    for text in given or ():
        key, separator, value = text.partition("=")
        if key.strip() in found:
            raise InputError(f"--set {key.strip()} is given twice: say it once, a list as {key.strip()}=a,b")
        if not separator or not key:
            raise InputError(f"--set {text!r} is not KEY=VALUE: for instance --set slate_size=3")
        found[key.strip()] = value.strip()
    return found
