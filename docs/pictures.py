"""The README's pictures, drawn from the runs that `slatewise demo` left: python docs/pictures.py [demo]."""

import sys
from pathlib import Path

import slatewise as sw
from slatewise import plots
from slatewise.demo.acts import EVALUATION_SEED, TITLES
from slatewise.sessions import play

IMAGES = Path(__file__).parent / "images"


def main() -> None:
    """Draw both."""
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "demo") / "runs" / "long-term-satisfaction"
    env = sw.make("long-term-satisfaction", users=1, seed=EVALUATION_SEED, variant="sweetness")
    sessions = {name: play(sw.load(runs / name), env) for name in ("supervised", "slateq")}
    top = plots.largest([reward for session in sessions.values() for reward in session.reward])
    IMAGES.mkdir(exist_ok=True)
    for name, session in sessions.items():
        figure = plots.satisfaction_session(session, TITLES[name], (top, len(session)))
        figure.savefig(IMAGES / f"{name}.png", dpi=170, facecolor="white")


if __name__ == "__main__":
    main()
