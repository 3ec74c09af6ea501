"""Why candidates are shown or not: what an agent thinks of each, as a table."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why candidates are shown or not.

    score: expected reward, float64 [B, C].  uncertainty: its standard deviation as the agent sees it, or None.
    propensity: probability of the first slot, [B, C].  item_ids: int64 [B, C], −1 where not to be shown.
    contributions: what each of the features `names` adds to the score, [B, C, features], or None.
    """

    item_ids: Tensor
    score: Tensor
    uncertainty: Tensor | None
    propensity: Tensor
    contributions: Tensor | None = None
    names: tuple[str, ...] = ()

    def rows(self, user: int = 0, strongest: int = 5) -> list[dict[str, Any]]:
        """Return a row for every candidate of one user, best first; the `strongest` contributions by feature."""
        shown = (self.item_ids[user] >= 0).nonzero().squeeze(1)
        order = shown[self.score[user, shown].argsort(descending=True)]
        return [self._row(user, int(candidate), strongest) for candidate in order]

    def _row(self, user: int, candidate: int, strongest: int) -> dict[str, Any]:
        row: dict[str, Any] = {"candidate": candidate, "item": int(self.item_ids[user, candidate])}
        row["score"] = float(self.score[user, candidate])
        if self.uncertainty is not None:
            row["uncertainty"] = float(self.uncertainty[user, candidate])
        row["propensity"] = float(self.propensity[user, candidate])
        if self.contributions is not None:
            parts = self.contributions[user, candidate]
            top = parts.abs().topk(min(strongest, len(parts))).indices.tolist()
            row["because"] = {self.names[at]: float(parts[at]) for at in top if float(parts[at]) != 0}
        return row

    def table(self, user: int = 0, strongest: int = 3) -> str:
        """Return the rows as text."""
        lines = [f"{'item':>6} {'score':>9} {'±':>8} {'shown':>6}  because"]
        for row in self.rows(user, strongest):
            spread = f"{row['uncertainty']:8.4f}" if "uncertainty" in row else f"{'':8}"
            because = ", ".join(f"{name} {value:+.3f}" for name, value in row.get("because", {}).items())
            lines.append(f"{row['item']:>6} {row['score']:9.4f} {spread} {row['propensity']:6.1%}  {because}".rstrip())
        return "\n".join(lines)
