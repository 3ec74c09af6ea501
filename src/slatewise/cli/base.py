"""Options that several commands have."""

from typing import Annotated

import typer

Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="fixes every bit of the result on one machine")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else on standard output")]
Threads = Annotated[int, typer.Option(min=1, help="threads for numerical kernels")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="a setting of the world or the agent; env.KEY or agent.KEY if both"
    ),
]
Users = Annotated[int, typer.Option(min=1, help="users simulated side by side")]
Overwrite = Annotated[bool, typer.Option(help="replace what is in the folder")]
