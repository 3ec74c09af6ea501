"""Options that several commands have, and what they do."""

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


def set_threads(threads: int) -> None:
    """Let numerical kernels use so many threads, and keep freed memory."""
    import torch

    from slatewise.allocation import keep_freed_memory

    torch.set_num_threads(threads)
    keep_freed_memory()
