"""Five clients over TLS, known by their keys; two train with JAX, two with PyTorch, one lies.

    python examples/flower/run.py

Everything is written into `results/flower`: keys, logs, the server's checkpoint and its report. A
second run continues there.
"""

import argparse
import pathlib
import signal
import sys
import time

from federation import Federation

LIBRARIES = ("jax", "torch")


def main() -> None:
    """Starts everything, prints the server's log, ends everything."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="last round (default 5)")
    parser.add_argument("--nodes", type=int, default=5, help="one in five lies (default 5)")
    parser.add_argument("--timeout", type=float, default=120, help="of a round, in seconds")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("results/flower"))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends what was started, too
    liars = options.nodes // 5
    nodes = [
        {"library": LIBRARIES[i % 2], "lies": "reversed" if i < liars else ""}
        for i in range(options.nodes)
    ]
    with Federation(options.folder) as federation:
        federation.superlink()
        federation.supernodes(nodes)
        for i, node in enumerate(nodes):
            print(f"node {federation.ids[i]}: {node['library']}{', lies' * bool(node['lies'])}")
        settings = {
            "rounds": options.rounds,
            "nodes": options.nodes,
            "min-replies": 2 * liars + 1,
            "f": liars,
            "timeout": options.timeout,
            "folder": federation.folder,
        }
        begun = time.monotonic()
        for line in federation.lines(settings):
            print(f"{time.monotonic() - begun:5.0f} s {line}", end="", flush=True)


if __name__ == "__main__":
    main()
