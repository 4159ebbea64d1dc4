"""The measurements, as tasks: each is one line of a table, stored on disk."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from byzjax import attacks, theory
from byzjax.theory import Estimate
from experiments.analysis.theory import reach as simulated
from experiments.analysis.theory.rules import (
    FEWER_STEPS,
    FORMS,
    SEARCHED,
    TRUSTED,
    Form,
    is_quick,
    under_attack,
    white_box,
)


class Task(NamedTuple):
    """One line of a table.

    Attributes:
      described: what determines its numbers, including `part`.
      measure: computes them.
    """

    described: dict[str, Any]
    measure: Callable[[], dict[str, Any]]


class Sizes(NamedTuple):
    """The sizes of the measurements."""

    workers: tuple[int, ...]  # of the acceptance experiment
    climbed: tuple[int, ...]  # of these, where the white-box attack is measured as well
    growth: tuple[tuple[int, tuple[int, ...]], ...]  # n, and numbers of coordinates
    d: int
    trials: int
    distributions: tuple[str, ...]
    rules: tuple[str, ...]
    rules_n: tuple[int, ...]
    rules_d: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]
    searched: tuple[str, ...]
    restarts: int


ODD = ((3, 1), (5, 1), (5, 2), (7, 2), (7, 3), (9, 2), (9, 3))
EVEN = ((4, 1), (6, 1), (6, 2), (8, 2), (8, 3), (10, 3))
EVERY = tuple((n, f) for n in range(3, 12) for f in range(1, (n - 1) // 2 + 1))
REST = tuple(pair for pair in EVERY if pair not in ODD + EVEN)  # only for exact constants
FULL = Sizes(
    workers=(5, 11, 25, 51, 101, 201, 401),
    climbed=(25, 51),
    growth=(
        (5, (100, 1000, 10_000, 100_000, 1_000_000)),
        (25, (100, 1000, 10_000, 100_000, 1_000_000)),
        (101, (100, 1000, 10_000, 100_000)),
        (401, (100, 1000, 10_000)),
    ),
    d=2000,
    trials=20,
    distributions=("gaussian", "exponential", "sparse", "heavy_tailed"),
    rules=tuple(FORMS),
    rules_n=(11, 25, 51, 101),
    rules_d=(100, 1000, 10_000, 100_000),
    pairs=ODD + EVEN + REST,
    searched=tuple(SEARCHED),
    restarts=100,
)
QUICK = Sizes(
    workers=(5, 25),
    climbed=(25,),
    growth=((5, (100, 1000, 10_000)),),
    d=500,
    trials=5,
    distributions=("exponential",),
    rules=("median", "aksel"),
    rules_n=(11,),
    rules_d=(100, 1000),
    pairs=((5, 2),),
    searched=("median", "aksel, n-f"),
    restarts=10,
)
DISTRIBUTIONS: dict[str, Callable] = {
    "gaussian": theory.gaussian,
    "exponential": theory.exponential,
    "sparse": theory.sparse,
    "heavy_tailed": theory.heavy_tailed,
}
MEAN = 0.3  # of every coordinate, in standard deviations: not all rules are shift-equivariant
FEW_CHOSEN = ("aksel", "aksel, n-f", "krum", "multi_krum", "minimum_diameter", "medoid")


def _spread(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, "low": estimate.low, "high": estimate.high}


def acceptance(sizes: Sizes) -> Iterator[Task]:
    """Aksel and the median under attacks of increasing strength: from an order statistic on."""
    settings = {"f = (n-1)/2": 0.5, "f = 0.4 n": 0.4, "f = 0.2 n": 0.2}
    for (setting, share), n in itertools.product(settings.items(), sizes.workers):
        f = min((n - 1) // 2, int(share * n))
        if share < 0.5 and n < 25:
            continue
        rank = None if share == 0.5 else (n + 1) // 2
        names = ("aksel", "aksel, n-f", "median")
        for name, kind in itertools.product(names, ("order_statistic", "pushed", "white box")):
            if share == 0.5 and name == "aksel, n-f":
                continue  # equal to aksel: n - f = (n + 1) / 2
            if kind != "order_statistic" and name == "median":
                continue
            if kind == "white box" and n not in sizes.climbed:
                continue
            form = FORMS[name]
            attack = {
                "order_statistic": partial(attacks.order_statistic, rank=rank),
                "pushed": partial(attacks.pushed, mode="n-f" if name == "aksel, n-f" else "mid"),
                "white box": white_box(form.rule(n, f, sizes.d)),
            }[kind]
            trials = sizes.trials if n < 200 else max(5, sizes.trials // 2)
            trials = min(trials, 5) if kind == "white box" else trials
            described = {
                "part": "acceptance",
                "setting": setting,
                "rule": name,
                "attack": kind,
                "n": n,
                "f": f,
                "d": sizes.d,
                "trials": trials,
            }
            yield Task(described, partial(_error, form, n, f, sizes.d, attack, trials))


def reach(sizes: Sizes) -> Iterator[Task]:
    """How far from the median attackers are still selected."""
    for (n, f), d in itertools.product(simulated.CASES, simulated.COORDINATES):
        if d <= sizes.d:
            size = {"n": n, "f": f, "d": d, "trials": 20 * sizes.trials}
            yield Task({"part": "reach"} | size, partial(simulated.simulate, **size))


def _error(
    form: Form,
    n: int,
    f: int,
    d: int,
    attack: Callable,
    trials: int,
    distribution: Callable = theory.gaussian,
) -> dict[str, Any]:
    rule = form.rule(n, f, d)
    measured = theory.angular_error(
        rule, n=n, d=d, s=f, attack=attack, distribution=distribution, trials=trials
    )
    return {**_spread("error", measured.error), "bias": measured.bias}


# Rules that do not depend on f are measured for one f.
WITHOUT_F = ("median", "geometric_median", "aksel")
EFFICIENT = (
    *("aksel", "aksel, n-f", "median", "trimmed_mean", "mean_around_median", "phocas"),
    *("geometric_median", "multi_krum", "krum", "comparative_elimination"),
)


def efficiency(sizes: Sizes) -> Iterator[Task]:
    """Squared errors without Byzantine workers, relative to the mean's."""
    for name, kind, f in itertools.product(EFFICIENT, sizes.distributions, (11, 5)):
        if name in sizes.rules and not (f == 5 and name in WITHOUT_F):
            yield _efficiency(sizes, name, kind, 25, f)
    for name in ("median", "mean_around_median", "aksel"):
        if name in sizes.rules:
            yield _efficiency(sizes, name, "exponential", 51, 24)


def _efficiency(sizes: Sizes, name: str, kind: str, n: int, f: int) -> Task:
    d, trials = 500, 4 * sizes.trials
    size = {"n": n, "f": f, "d": d, "trials": trials}
    described = {"part": "efficiency", "rule": name, "distribution": kind} | size

    def measure() -> dict[str, Any]:
        rule, distribution = FORMS[name].rule(n, f, d), DISTRIBUTIONS[kind]
        ratio = theory.efficiency(rule, n=n, d=d, distribution=distribution, trials=trials)
        return _spread("ratio", ratio)

    return Task(described, measure)


def growth(sizes: Sizes) -> Iterator[Task]:
    """Aksel's error against d and, for three kinds of updates, against n."""
    cases = [("gaussian", n, d) for n, several in sizes.growth for d in several]
    for kind in ("gaussian", "exponential", "sparse, 1/n"):
        cases += [(kind, n, sizes.d) for n in sizes.workers]
    for kind, n, d in cases:
        trials = sizes.trials if n * d <= 2_000_000 else 5
        described = {
            "part": "growth",
            "distribution": kind,
            "rule": "aksel",
            "n": n,
            "f": (n - 1) // 2,
            "d": d,
            "trials": trials,
        }
        distribution = DISTRIBUTIONS.get(kind) or partial(theory.sparse, density=1 / n)
        at = (FORMS["aksel"], n, (n - 1) // 2, d, attacks.order_statistic, trials)
        yield Task(described, partial(_error, *at, distribution=distribution))


def rules(sizes: Sizes) -> Iterator[Task]:
    """Every rule under the most damaging of the listed attacks, against n and against d."""
    d = 1000
    cases = [("n", "limit", n, d) for n in sizes.rules_n]
    cases += [("n", "n/5", n, d) for n in sizes.rules_n]
    cases += [("d", "n/5", min(sizes.rules_n), d) for d in sizes.rules_d]
    for (against, at, n, d), name in itertools.product(cases, sizes.rules):
        form = FORMS[name]
        f = form.most_faults(n) if at == "limit" else n // 5
        if n > form.most_n or not 1 <= f <= form.most_faults(n):
            continue
        trials = max(3, sizes.trials // 2) if d < 100_000 else 3
        described = {
            "part": "rules",
            "against": against,
            "at": at,
            "rule": name,
            "n": n,
            "f": f,
            "d": d,
            "mean": MEAN,
            "trials": trials,
        }

        def measure(form: Form = form, n: int = n, f: int = f, d: int = d, trials: int = trials):
            rule = under_attack(form.rule(n, f, d), n, f)
            measured = theory.angular_error(rule, n=n, d=d, mean=MEAN, trials=trials)
            return {**_spread("error", measured.error), "bias": measured.bias}

        yield Task(described, measure)


def selection(sizes: Sizes) -> Iterator[Task]:
    """The probabilities that Byzantine and honest workers are selected."""
    n, f, d = 25, 8, 1000
    kinds = {
        "order_statistic(rank=13)": partial(attacks.order_statistic, rank=13),
        "little_is_enough": attacks.little_is_enough,
        "inner_product_manipulation(0.5)": partial(attacks.inner_product_manipulation, epsilon=0.5),
        "sign_flip": attacks.sign_flip,
    }
    names = [name for name in FEW_CHOSEN if name in sizes.rules]
    for name, (kind, attack) in itertools.product(names, kinds.items()):
        described = {
            "part": "selection",
            "rule": name,
            "attack": kind,
            "n": n,
            "f": f,
            "d": d,
            "mean": MEAN,
            "trials": sizes.trials,
        }

        def measure(name: str = name, attack: Callable = attack) -> dict[str, Any]:
            liars, honest = theory.selection_probability(
                *(FORMS[name].rule(n, f, d),),
                n=n,
                d=d,
                s=f,
                attack=attack,
                mean=MEAN,
                trials=sizes.trials,
            )
            return {**_spread("liars", liars), "honest": honest.value}

        yield Task(described, measure)


def kappa(sizes: Sizes) -> Iterator[Task]:
    """The worst input that a search finds."""
    for (n, f), name in itertools.product(sizes.pairs, sizes.searched):
        form = SEARCHED[name]
        if f > form.most_faults(n) or ((n, f) in REST and not is_quick(name, n, f)):
            continue
        steps = FEWER_STEPS.get(name, 2000)
        described = {
            "part": "kappa",
            "rule": name,
            "n": n,
            "f": f,
            "d": 2,
            "restarts": sizes.restarts,
            "steps": steps,
        }

        def measure(form: Form = form, n: int = n, f: int = f, steps: int = steps):
            size = {"n": n, "f": f, "restarts": sizes.restarts, "trusted": TRUSTED.get(form.name)}
            search = theory.kappa_search(form.rule(n, f, 2), steps=steps, **size)
            near = float((search.found >= 0.99 * search.kappa).mean())
            return {"found": search.kappa, "restarts within 1 %": near}

        yield Task(described, measure)


def breakdown(sizes: Sizes) -> Iterator[Task]:
    """The damage of s Byzantine workers, for every s."""
    n = 11
    for name, at in itertools.product(sizes.rules, ("limit", "f = 2")):
        form = FORMS[name]
        f = form.most_faults(n) if at == "limit" else 2
        described = {
            "part": "breakdown",
            "rule": name,
            "at": at,
            "n": n,
            "f": f,
            "d": 10,
            "restarts": sizes.restarts // 5,
        }

        def measure(form: Form = form, f: int = f) -> dict[str, Any]:
            search = theory.breakdown_search(
                form.rule(n, f, 10), n=n, restarts=max(2, sizes.restarts // 5)
            )
            return {
                "liars": search.liars,
                **{f"s = {s}": damage for s, damage in enumerate(search.damage)},
            }

        yield Task(described, measure)


PARTS: dict[str, Callable[[Sizes], Iterator[Task]]] = {
    "acceptance": acceptance,
    "reach": reach,
    "efficiency": efficiency,
    "growth": growth,
    "rules": rules,
    "selection": selection,
    "kappa": kappa,
    "breakdown": breakdown,
}
