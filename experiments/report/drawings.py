"""Communication patterns: one figure per protocol.

    python -m experiments.report.drawings docs/protocols

Squares are servers, circles are workers or peers, red ones are Byzantine.
"""

import math
import pathlib
from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from byzjax._program import Parser
from byzjax.protocols import graphs

HONEST, LIAR, MODEL, GRADIENT = "#3b6ea5", "#c0392b", "#7a7a7a", "#2e8b57"
Place = tuple[float, float]


def _row(count: int, y: float, width: float = 8.0) -> list[Place]:
    step = width / count
    return [(step * (i + 0.5), y) for i in range(count)]


def _nodes(ax: Axes, places: list[Place], liars: int, names: str, server: bool = False) -> None:
    """Nodes with their names, `w` as w1, w2, ...; the last ones are Byzantine."""
    for i, (x, y) in enumerate(places):
        lies = i >= len(places) - liars
        ax.plot(
            x,
            y,
            marker="s" if server else "o",
            markersize=23,
            color=LIAR if lies else HONEST,
            linestyle="none",
            zorder=3,
        )
        name = rf"${names}_{{{i + 1}}}$"
        ax.text(x, y, name, color="white", ha="center", va="center", fontsize=10, zorder=4)


def _arrow(ax: Axes, a: Place, b: Place, color: str, bend: float = 0.0, alpha: float = 0.9) -> None:
    style = {"arrowstyle": "-|>", "color": color, "alpha": alpha, "lw": 1.1}
    style |= {"shrinkA": 13, "shrinkB": 14, "connectionstyle": f"arc3,rad={bend}"}
    ax.annotate("", xy=b, xytext=a, arrowprops=style, zorder=2)


def _say(ax: Axes, x: float, y: float, text: str, color: str = "black") -> None:
    ax.text(x, y, text, ha="center", va="center", fontsize=10.5, color=color, zorder=5)


def _canvas(title: str, height: float = 3.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8.4, height), layout="constrained")
    ax = figure.subplots()
    ax.set_xlim(-0.2, 8.2)
    ax.axis("off")
    ax.set_title(title, fontsize=12)
    return figure, ax


def parameter_server() -> Figure:
    """One trusted server."""
    figure, ax = _canvas("parameter_server: one trusted server")
    workers, server = _row(6, 0.0), (4.0, 2.2)
    for worker in workers:
        _arrow(ax, server, worker, MODEL, 0.08)
        _arrow(ax, worker, server, GRADIENT, 0.08)
    _nodes(ax, workers, 2, "w")
    _nodes(ax, [server], 0, "s", server=True)
    _say(ax, 6.9, 1.9, "model down", MODEL)
    _say(ax, 6.9, 1.6, "update up, then the rule", GRADIENT)
    ax.set_ylim(-0.4, 2.6)
    return figure


def replicated_servers() -> Figure:
    """Several servers, some Byzantine."""
    figure, ax = _canvas("replicated_servers: workers pull from several, servers contract", 4.4)
    workers, servers = _row(7, 0.0), _row(5, 2.2)
    for server in servers:
        for worker in workers:
            _arrow(ax, server, worker, MODEL, alpha=0.35)
    for worker in workers:
        _arrow(ax, worker, servers[1], GRADIENT, 0.06, alpha=0.8)
    for i in range(len(servers) - 1):
        _arrow(ax, servers[i], servers[i + 1], "#b8860b", -0.55)
        _arrow(ax, servers[i + 1], servers[i], "#b8860b", 0.75)
    _nodes(ax, workers, 2, "w")
    _nodes(ax, servers, 1, "s", server=True)
    _say(ax, 4.0, 3.35, "every T steps: models to all servers, each contracts", "#b8860b")
    _say(ax, 4.0, -0.65, "each worker: rule of the first q models (grey), gradient there", MODEL)
    _say(ax, 4.0, -0.95, "each server: rule of the first q gradients (green, one shown)", GRADIENT)
    ax.set_ylim(-1.2, 3.6)
    return figure


def replicated_state_machine() -> Figure:
    """Identical replicas."""
    figure, ax = _canvas(
        "replicated_state_machine: identical replicas, f + 1 equal models count", 4.0
    )
    workers, servers = _row(6, 0.0), _row(4, 2.2)
    for server in servers:
        for worker in workers:
            _arrow(ax, worker, server, GRADIENT, alpha=0.3)
    for server in servers:
        _arrow(ax, server, workers[2], MODEL, 0.1)
    _nodes(ax, workers, 2, "w")
    _nodes(ax, servers, 1, "s", server=True)
    for x, y in servers[:-1]:
        _say(ax, x, y + 0.45, r"$\theta$")
    _say(ax, servers[-1][0], 2.65, r"$\theta'$", LIAR)
    _say(ax, 4.0, -0.6, "all replicas get the same gradients, in one order (green)", GRADIENT)
    _say(
        ax,
        4.0,
        -0.9,
        r"a worker takes $\theta$, which f + 1 sent bit for bit (grey, one shown)",
        MODEL,
    )
    ax.set_ylim(-1.1, 2.9)
    return figure


def gossip() -> Figure:
    """Peers on a graph."""
    figure = Figure(figsize=(8.4, 5.2), layout="constrained")
    shown = {
        "complete": graphs.complete(8),
        "ring": graphs.ring(8),
        "torus": graphs.torus(3, 4),
        "star": graphs.star(8),
        "random_regular": graphs.random_regular(10, 4, 0),
        "erdos_renyi": graphs.erdos_renyi(10, 0.35, 1),
        "small_world": graphs.small_world(10, 4, 0.2, 0),
        "two_cliques": graphs.two_cliques(10),
        "dumbbell": graphs.dumbbell(4, 2),
    }
    for ax, (name, graph) in zip(figure.subplots(2, 5).flat, shown.items()):
        n = len(graph)
        turn = [2 * math.pi * i / n for i in range(n)]
        places = [(math.sin(t), math.cos(t)) for t in turn]
        if name == "torus":
            places = [(0.6 * (i % 4) - 0.9, 0.7 - 0.7 * (i // 4)) for i in range(n)]
        if name == "star":
            places[0] = (0.0, 0.0)
        for i in range(n):
            for j in range(i):
                if graph[i][j]:
                    # Edges that wrap around a torus are bent, or they would overlap others.
                    round_it = name == "torus" and math.dist(places[i], places[j]) > 1
                    bend = f"arc3,rad={0.35 if round_it else 0}"
                    look = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.9}
                    arrow = FancyArrowPatch(
                        places[i], places[j], connectionstyle=bend, shrinkA=0, shrinkB=0, **look
                    )
                    ax.add_patch(arrow)
        for i, (x, y) in enumerate(places):
            color = LIAR if i == n - 1 else HONEST
            ax.plot(x, y, "o", markersize=9, color=color, zorder=2)
        ax.set_title(name, fontsize=10)
        ax.set(aspect="equal", xlim=(-1.2, 1.2), ylim=(-1.2, 1.2))
        ax.axis("off")
    last = figure.axes[-1]
    last.axis("off")
    last.text(
        0.5,
        0.5,
        "each node:\nown half step,\nthen the rule of it\nand its neighbours'",
        ha="center",
        va="center",
        fontsize=10,
        transform=last.transAxes,
    )
    figure.suptitle("gossip: peers on a graph, no server", fontsize=12)
    return figure


def asynchronous() -> Figure:
    """One gradient at a time."""
    figure, ax = _canvas("asynchronous: a step with each gradient that arrives", 3.9)
    ax.plot([0.2, 8.0], [2.6, 2.6], color="0.2", lw=1.2)
    versions = [0.5 + 1.05 * i for i in range(8)]
    for v, x in enumerate(versions):
        ax.plot(x, 2.6, "s", color=HONEST, markersize=9)
        _say(ax, x, 2.95, rf"$\theta_{v}$")
    spans_of = {
        "w_1": ((0, 3), (3, 7)),
        "w_2": ((0, 2), (2, 6)),
        "w_3": ((0, 4),),
        "w_4": ((0, 1), (1, 5)),
    }
    for row, (name, spans) in enumerate(spans_of.items()):
        y, color = 1.9 - 0.55 * row, LIAR if name == "w_4" else HONEST
        _say(ax, 0.0, y, f"${name}$", color)
        for begin, end in spans:
            a, b = versions[begin], versions[end]
            ax.plot([a + 0.05, b - 0.12], [y, y], color=color, lw=5, alpha=0.5)
            _arrow(ax, (b - 0.1, y - 0.05), (b, 2.62), GRADIENT, alpha=0.8)
            _say(ax, a + 0.45, y + 0.2, rf"at $\theta_{begin}$")
    _say(
        ax,
        4.0,
        -0.2,
        "judges accept or reject; a damping weighs by staleness, such as 1 / (1 + staleness)",
    )
    ax.set_ylim(-0.5, 3.2)
    return figure


def redundant() -> Figure:
    """Groups that compute the same gradients."""
    figure, ax = _canvas("redundant: groups of r compute the same, their vote counts", 4.0)
    nodes, server = _row(9, 0.0), (4.0, 2.6)
    for group in range(3):
        members = nodes[3 * group : 3 * group + 3]
        middle = (members[1][0], 1.35)
        for member in members:
            _arrow(ax, member, middle, GRADIENT)
        _arrow(ax, middle, server, GRADIENT)
        _say(ax, *middle, "vote")
        batches = ", ".join(str(3 * group + i + 1) for i in range(3))
        _say(ax, middle[0], -0.5, f"batches {batches}", MODEL)
    for i, place in enumerate(nodes):
        ax.plot(*place, "o", markersize=23, color=LIAR if i in (2, 3, 7) else HONEST, zorder=3)
        _say(ax, *place, rf"$\mathbf{{{i + 1}}}$", "white")
    _nodes(ax, [server], 0, "s", server=True)
    _say(ax, 6.6, 2.6, "mean of the votes (DRACO)\nor a robust rule (DETOX)")
    ax.set_ylim(-0.8, 3.0)
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    f.__name__: f
    for f in (
        parameter_server,
        replicated_servers,
        replicated_state_machine,
        gossip,
        asynchronous,
        redundant,
    )
}


def write(folder: pathlib.Path) -> None:
    """Writes all figures as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        draw().savefig(folder / f"{name}.png", dpi=110)


if __name__ == "__main__":
    parser = Parser(description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", type=pathlib.Path, help="for the PNG files")
    write(parser.parse_args().folder)
