"""Which branches of the library the contract tests take, found in a separate process.

    python -m tests.branches

A branch is a side of a comparison with a constant (`BLOCKED`, `NETWORK_MAX`), of a `lax.cond` or a
`lax.switch`, or a form of a `lax.platform_dependent`. The process imports `byzjax` with these
instrumented, runs cases of the contract, and prints the sides that no case takes. The forms for
other platforms run on this one; those of rules are also compared with the rules' loops.
"""

import ast
import builtins
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from tests.flags import QUICKLY

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")
os.environ.setdefault("XLA_FLAGS", QUICKLY)

import jax
import numpy as np
from jax import lax

# Sides that no case takes, and why.
BEYOND = {
    ("_numerics/barrier.py", "lax.cond(never)", True): "only there for the compiler",
    ("solvers/weiszfeld.py", "count < _MOST_ITERATIONS", False): "no input is known that needs 500",
    ("rules/sign_guard.py", "state[2] < _MOST_SHIFTS", False): "no input is known that needs 300",
}

TEXTS = ("byzjax._mistakes", "byzjax._program")

Site = tuple[str, int, str]  # file, line, text
sides: dict[Site, set] = {}
taken: set[tuple[Site, Any]] = set()
others = False  # whether `lax.platform_dependent` takes the form for other platforms


# --- marking -------------------------------------------------------------------------------------


class Marked(ast.NodeTransformer):
    """Wraps each branch of a module in a call of `_marked_...`."""

    def __init__(self, file: str) -> None:
        self.file = file

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        names = {
            part.id if isinstance(part, ast.Name) else part.attr
            for part in ast.walk(node)
            if isinstance(part, ast.Name | ast.Attribute)
        }
        in_order = isinstance(node.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE)
        if not in_order or not any(name.isupper() and len(name) > 2 for name in names):
            return self.generic_visit(node)
        return self.call("_marked_value", node, {True, False}, [node])

    def visit_Call(self, node: ast.Call) -> ast.AST:
        node = self.generic_visit(node)
        function = ast.unparse(node.func)
        if function == "any" and "PRODUCTS" in ast.unparse(node):
            each = node.args[0]
            each.elt = self.call("_marked_value", node, {True, False}, [each.elt])
        elif function == "lax.cond":
            text = f"lax.cond({ast.unparse(node.args[0])})"
            node.args[0] = self.call("_marked_value", node, {True, False}, node.args[:1], text)
        elif function == "lax.switch":
            node.args[0] = self.call("_marked_value", node, {0, 1}, node.args[:1], function)
        elif function == "lax.platform_dependent":
            forms = {word.arg for word in node.keywords if word.arg} or {"cuda", "rocm"}
            node.func = self.call("_marked_platforms", node, forms, [], function)
        return node

    def call(self, name: str, node: ast.AST, possible: set, args: list, text: str = "") -> ast.Call:
        site = (self.file, node.lineno, text or ast.unparse(node))
        sides[site] = possible
        made = ast.Call(ast.Name(name, ast.Load()), [ast.Constant(site), *args], [])
        return ast.copy_location(made, node)


def _take(site: Site, values: Any) -> None:
    for value in np.ravel(values).tolist():
        taken.add((site, value))


def _marked_value(site: Site, value: Any) -> Any:
    if isinstance(value, jax.Array):
        jax.debug.callback(functools.partial(_take, site), value)
    else:
        _take(site, value)
    return value


def _marked_platforms(site: Site) -> Callable:
    def chosen(*args: Any, default: Callable | None = None, **forms: Callable) -> Any:
        name = "default" if others or "cpu" not in forms else "cpu"
        taken.add((site, name))
        if name == "default":
            forms = {"default": default}
        return lax.platform_dependent(*args, **forms)

    return chosen


class Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> Any:
        file = self.path.split(os.sep + "byzjax" + os.sep)[-1]
        tree = Marked(file).visit(ast.parse(self.get_data(self.path)))
        return compile(ast.fix_missing_locations(tree), self.path, "exec")


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        # The words of errors and command lines hold no number of a rule.
        if fullname.split(".")[0] != "byzjax" or fullname.startswith(TEXTS):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or not str(spec.origin).endswith(".py"):
            return spec
        places = spec.submodule_search_locations
        loader = Loader(fullname, spec.origin)
        return importlib.util.spec_from_file_location(
            fullname, spec.origin, loader=loader, submodule_search_locations=places
        )


# --- the contract --------------------------------------------------------------------------------

# Prefixes of the paths in tests/test_paths.py, and the rules that are run on them.
TABLE = {
    "by_products": ("krum", "medoid", "geometric_median"),
    "rows": ("mean", "covariance_filter", "trimmed_mean-weights"),
    "network": ("median", "phocas", "mean_around_median", "aksel-mid"),
    "in_order": ("mean_around_median", "phocas", "geometric_median"),
    "columns": ("median", "aksel-mid", "krum", "mean", "trimmed_mean", "sign_guard"),
    "squaring": ("flag", "covariance_filter", "spectral_filter"),
}
# The same for the forms of other platforms, which are slow on the CPU.
OTHERS = {
    "by_products-8-": ("krum", "geometric_median"),
    f"columns-{2**16 + 1}": ("aksel-mid", "krum", "mean", "trimmed_mean", "sign_guard"),
}


def with_lies(x: np.ndarray, f: int) -> list[np.ndarray]:
    """Byzantine rows of several kinds, at the end or scattered; two rows that nearly coincide."""
    n, out = len(x), []
    for lie in (1e3, np.nan, 1e25):
        for places in (slice(n - f, n), [0, n // 2, n - 1][: min(f, 3)]):
            attacked = x.copy()
            attacked[places] = lie
            out.append(attacked)
    pair = x.copy()  # close to each other and far from the centre
    pair[:2] = 1e3
    pair[1, 0] += 1
    return [*out, pair]


def rules() -> Iterator[None]:
    """The rules in the table equal their loops on its paths; then they run on Byzantine rows."""
    from tests.rule_cases import CASES
    from tests.test_paths import PATHS, check, example, honest

    def tried(case: Any, f: int, x: np.ndarray, expected: np.ndarray) -> None:
        run = jax.jit(functools.partial(case, f=f))
        check(case, f, x, expected, run(x))
        for attacked in () if others else with_lies(x, f):
            run(attacked)

    for case in CASES if not others else ():
        f = max(1, case.most(12) // 2)
        x = honest(12, 6)
        tried(case, f, x, case.expected(x, f))
        yield
    by_name = {case.id: case for case in CASES}
    for beginning, names in (OTHERS if others else TABLE).items():
        for path in PATHS:
            for name in names if path.startswith(beginning) else ():
                tried(by_name[name], *example(by_name[name], path))
                yield


def functions() -> Iterator[None]:
    """Functions that rules share, and functions that are not rules."""
    import jax.numpy as jnp

    import byzjax
    from byzjax import attacks, stacked, theory
    from byzjax._numerics import order, pairs, thresholds
    from byzjax.solvers import groups
    from byzjax.theory import kappa
    from tests.helpers import close
    from tests.test_paths import PATHS, honest

    run = jax.jit(stacked.pairwise_squared_distances)
    for path, (n, d) in PATHS.items():
        if path.startswith("slabs"):
            x = honest(n, d)
            x[:, 64:] = 0
            nonzero = x[:, :64].astype(np.float64)
            expected = ((nonzero[:, None] - nonzero[None]) ** 2).sum(axis=2)
            close(run(x), expected, expected.max(), 1e-4)
            for attacked in () if others else with_lies(x, 3):
                run(attacked)
            yield
    nine = honest(9, 6)
    run = jax.jit(jax.vmap(functools.partial(byzjax.geometric_median, smoothing=1e-6)))
    close(*run(np.stack([nine, nine[::-1]])), 1)
    yield
    run = jax.jit(functools.partial(byzjax.trimmed_mean, f=2))
    close(run(nine, weights=np.full(9, 0.3, np.float32)), run(nine), 1)
    yield
    if others:
        return

    for x in (nine, *with_lies(nine, 3)):
        jax.jit(functools.partial(byzjax.nearest_neighbors, f=3))(x)
    yield
    for n in (9, 97, 129):  # the window of the values nearest to a centre
        x = honest(n, 6)
        center = np.zeros(6, np.float32)
        nearest = np.take_along_axis(x, np.argsort(np.abs(x), axis=0)[:3], axis=0)
        close(order.mean_of_nearest(jnp.asarray(x), center, 3), nearest.mean(axis=0), 3)
    yield
    copied = honest(129, thresholds.COPIED_FROM)
    close(order.median(jnp.asarray(copied)), np.median(copied, axis=0), 1)
    yield
    for n in (thresholds.GRAM_ROWS - 1, thresholds.GRAM_ROWS):
        x = honest(n, thresholds.BLOCKED)
        wide = x.astype(np.float64)
        close(pairs.gram(jnp.asarray(x), jnp.zeros(x.shape[1])), wide @ wide.T, 1e5, 1e-6)
    yield
    line = honest(129, 1) * np.arange(1, 7, dtype=np.float32)  # a mean of signs: never short
    for x in (honest(129, 6), line):
        jax.jit(functools.partial(byzjax.geometric_median, smoothing=1e-6))(x)
    yield
    for columns in (6, groups.HELD_COLUMNS):
        x = honest(4, columns)
        means = groups.Means([jnp.asarray(x)], "model", lambda x: (x[:2] + x[2:]) / 2)
        (median,) = jax.jit(means.median)()
        close(median, x.mean(axis=0), 1)
    yield
    for size in (thresholds.OWN_LEAF, thresholds.ALWAYS_OWN_LEAF):
        many = [np.zeros((2, size), np.float32)] * (thresholds.MAX_OWN_LEAVES + 2)
        assert len(jax.jit(stacked.columns)(many)) > thresholds.MAX_OWN_LEAVES
    yield
    # Two axes of equal variance, and rows on one line, whose median is not unique.
    cross = np.zeros((28, 6), np.float32)
    cross[np.arange(28), np.arange(28) % 2] = np.where(np.arange(28) % 4 < 2, 1.0, -1.0)
    jax.jit(functools.partial(byzjax.covariance_filter, f=3))(cross)
    line = np.arange(4, dtype=np.float32)[:, None] * np.ones(3, np.float32)
    jax.jit(jax.grad(lambda x: jnp.sum(byzjax.geometric_median(x, smoothing=1e-6))))(line)
    yield
    byzjax.bulyan(honest(12, 6), f=2, rule=byzjax.aksel)
    yield
    byzantine = jnp.arange(9) < 2
    attack = functools.partial(attacks.gradient_attack, rule=byzjax.median, steps=8)
    jax.jit(attack)(nine, byzantine)
    both = attacks.alternating(attacks.sign_flip, attacks.zero)
    for step in range(2):
        jax.jit(both)(nine, byzantine, step)
    yield
    theory.breakdown_search(byzjax.median, n=3, restarts=2)
    for n, f in ((5, 1), (20, 8)):
        theory.kappa_search(byzjax.median, n=n, f=f, restarts=1, steps=2)
    equal = jnp.ones((5, 2))
    assert not kappa._ratios(jnp.ones(2), jnp.full((1, 5), 0.2), equal).any()
    yield


def devices() -> Iterator[None]:
    """Long and short messages between devices."""
    import byzjax
    from byzjax._numerics import thresholds
    from tests.helpers import close, mesh_of
    from tests.test_paths import honest

    for d in (6, 4 * thresholds.OWN_MESSAGE):
        x, workers = honest(4, d), jax.sharding.PartitionSpec("workers")
        run = jax.shard_map(
            lambda row: byzjax.all_aggregate(byzjax.median, row[0], "workers"),
            mesh=mesh_of(workers=4),
            in_specs=workers,
            out_specs=jax.sharding.PartitionSpec(),
        )
        close(jax.jit(run)(x), np.median(x, axis=0), 5)
        yield


def trained() -> Iterator[None]:
    """Conditionals of protocols: servers that exchange every second step, coins of both sides."""
    import jax.numpy as jnp
    import optax

    import byzjax
    from byzjax import protocols
    from byzjax.protocols import graphs
    from tests.helpers import regression_batch, regression_loss

    key, params = jax.random.key(0), {"w": jnp.zeros(3), "b": jnp.zeros(())}
    batch = regression_batch(0, 6)
    median, sgd = byzjax.aggregate(byzjax.median), optax.sgd(0.1)
    for protocol in (
        protocols.asynchronous(
            regression_loss, num_workers=6, server=sgd, buffers=3, rule=median
        ),
        protocols.replicated_servers(
            regression_loss, num_servers=5, num_workers=6, f_servers=1, f_workers=1, pull=median,
            rule=median, server=sgd, every=2,
        ),
        protocols.gossip(
            regression_loss, graph=graphs.complete(6), rule=median, optimizer=sgd
        ),
        protocols.variance_reduced(
            regression_loss, estimator=protocols.marina(0.5), num_workers=6, rule=median,
            server=sgd,
        ),
    ):  # fmt: skip
        state, step = protocol.init(params, key), jax.jit(protocol.step)
        for k in range(20):
            state, _ = step(state, batch, jax.random.fold_in(key, k))
        yield


def refusals() -> Iterator[None]:
    """Inputs that are rejected, such as too many workers."""
    import jax.numpy as jnp
    import pytest

    import byzjax
    from byzjax.protocols import agreement, codes

    rows = np.zeros((70, 2), np.float32)
    for call in (
        lambda: byzjax.minimum_diameter(rows, f=33),
        lambda: byzjax.minimum_eigenvalue(rows, f=20),
        lambda: byzjax.bulyan(rows, f=2, rule=byzjax.median),
        lambda: agreement.safe_area_average(rows, f=5),
        lambda: agreement.safe_area_average(rows[:26], f=5),
        lambda: codes.enough_nodes(40, 15),
        lambda: byzjax.median(rows[:3].astype(bool)),
    ):
        with pytest.raises((ValueError, TypeError)):
            call()
        yield
    agreement.safe_area_average(jnp.zeros((5, 2)), f=1)
    codes.enough_nodes(7, 2)
    yield


def contract() -> Iterator[None]:
    yield from rules()
    yield from functions()
    yield from trained()
    if not others:
        yield from devices()
        yield from refusals()


def missing() -> list[tuple[Site, Any]]:
    """Branches that were not taken, except those in `BEYOND`."""
    jax.effects_barrier()
    return [
        (site, side)
        for site, possible in sorted(sides.items())
        for side in sorted(possible, key=str)
        if (site, side) not in taken and (site[0], site[2], side) not in BEYOND
    ]


def main() -> int:
    global others
    for name, function in list(globals().items()):
        if name.startswith("_marked_"):
            setattr(builtins, name, function)
    sys.meta_path.insert(0, Finder())
    count = 0
    for others_now in (False, True):
        others = others_now
        jax.clear_caches()
        count += sum(1 for _ in contract())
    left = missing()
    for (file, line, text), side in left:
        print(f"byzjax/{file}:{line}: {text} was never {side}")
    total = sum(map(len, sides.values()))
    print(
        f"{len(sides)} places with {total} branches: {total - len(left) - len(BEYOND)} taken by "
        f"{count} cases, {len(left)} not, {len(BEYOND)} beyond them"
    )
    return bool(left)


if __name__ == "__main__":
    sys.exit(main())
