"""Pages: results as one self-contained HTML file, nothing loaded from outside."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, values: dict[str, Any]) -> str:
    """Fill a template of this package. Values are escaped, except pictures that the template marks as safe."""
    environment = Environment(
        loader=PackageLoader("slatewise"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(values)


def write(page: str, path: Path) -> None:
    """Write a page, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(page, encoding="utf-8")
    unfinished.replace(path)


def compare(name: str, mean: float, error: float, other: str, other_mean: float, other_error: float) -> str:
    """Say in a sentence which of two means is larger, or that two standard errors cannot tell."""
    gap, spread = mean - other_mean, 2 * (error**2 + other_error**2) ** 0.5
    if abs(gap) <= spread:
        return f"{name} and {other} cannot be told apart ({mean:.1f} and {other_mean:.1f})"
    return f"{name} {'beats' if gap > 0 else 'loses to'} {other} ({mean:.1f} against {other_mean:.1f})"
