"""`slatewise watch`: one session, step by step."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from slatewise.cli.base import Json, Seed, Set, pairs, use_threads
from slatewise.errors import InputError
from slatewise.output import print_json, print_table


def watch(
    env_name: Annotated[str, typer.Argument(metavar="ENV", help="a world, see `slatewise envs`")],
    policy: Annotated[
        list[str], typer.Option(help="a rule of the world, random, an agent, or a run's folder; two to compare them")
    ],
    user: Annotated[int, typer.Option(min=0, max=9999, help="which user, counted from 0")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="stop after so many steps of the session")] = 1000,
    explore: Annotated[bool, typer.Option(help="let a run or an agent explore as in training")] = False,
    settings: Set = None,
    out: Annotated[Path | None, typer.Option(help="write a page here, for instance watch.html")] = None,
    seed: Seed = 1000,
    as_json: Json = False,
) -> None:
    """Tell one session step by step: what the user felt, what was shown and why, what was taken, what it earned.

    Two policies meet the same user with the same noise.

    Example: slatewise watch interest-evolution --policy myopic --policy quality --out watch.html
    """
    use_threads(1)
    from slatewise import reports
    from slatewise import watch as telling
    from slatewise.agents import is_agent
    from slatewise.environments import make

    if out is not None and out.is_dir():
        raise InputError(f"{out} is a folder: name a file in it, for instance {out / 'watch.html'}")
    given = {key.removeprefix("env."): value for key, value in pairs(settings).items()}
    env = make(env_name, user + 1, seed, **given)
    sessions = telling.watch(policy, env, explore, user, steps, seed)
    if out is not None:
        names = "".join(f" --policy {shlex.quote(name)}" for name in policy)
        changed = "".join(f" --set {shlex.quote(f'{key}={value}')}" for key, value in given.items())
        options = f"{names}{changed} --user {user} --steps {steps} --seed {seed}{' --explore' if explore else ''}"
        command = f"slatewise watch {shlex.quote(env_name)}{options}"
        reports.write(telling.page(sessions, env, user, command), out)
    if as_json:
        about = {"world": env.full_name, "settings": env.settings.model_dump(mode="json"), "seed": seed, "user": user}
        policies = {name: session.to_json() for name, session in sessions.items()}
        print_json(about | {"policies": policies} | ({"page": out} if out is not None else {}))
        return
    print_table(f"user {user} of {env.full_name}, seed {seed}", telling.table(sessions))
    for name, session in sessions.items():
        score = next(iter(session.steps[0].scores), None)
        typer.echo(f"{name}: {telling.number(sum(session.reward))} in all, {telling.ending(session)}"
                   + (f"; in brackets, by item: {score}" if score else ""))  # fmt: skip
        if is_agent(name):
            typer.echo(f"{name} has learned nothing yet: train it, and watch the run's folder")
    if out is not None:
        typer.echo(f"the page: {out}")
