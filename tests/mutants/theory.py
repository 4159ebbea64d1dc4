"""Mistakes in the constants, in what measures rules, and in what holds them to their contracts."""

from tests.mutants.mutant import Mutant

MUTANTS = [
    # --- constants ---------------------------------------------------------------------------
    Mutant(
        "constants: the least number of workers is not enough",
        "byzjax/theory/constants.py",
        "and n >= c.needs[0] * f + c.needs[1]",
        "and n > c.needs[0] * f + c.needs[1]",
        'tests/test_theory.py -k "of_one_form"',
    ),
    Mutant(
        "constants: the weakest of several bounds is given",
        "byzjax/theory/constants.py",
        'best = max if kind == "threshold" else min',
        "best = max",
        'tests/test_theory.py -k "known_values and median"',
    ),
    Mutant(
        "constants: eta counts the liars among those that are averaged",
        "byzjax/theory/constants.py",
        "return math.sqrt(kappa) + 1 / math.sqrt(n - f)",
        "return math.sqrt(kappa) + 1 / math.sqrt(n)",
        'tests/test_theory.py -k "from_one_kind"',
    ),
    Mutant(
        "constants: nearest neighbours in front of a rule lose the 1 in kappa + 1",
        "byzjax/theory/constants.py",
        "return 4 * f / (n - f) * (kappa + 1)",
        "return 4 * f / (n - f) * kappa",
        'tests/test_theory.py -k "published_values"',
    ),
    Mutant(
        "table: the median's kappa for even n is off by one",
        "byzjax/theory/table.py",
        "if n % 2 else (n - 2) / (n + 2 - 2 * f)",
        "if n % 2 else (n - 1) / (n + 2 - 2 * f)",
        'tests/test_theory.py -k "known_values and median"',
    ),
    Mutant(
        "table: the lower bound of kappa is that of lambda",
        "byzjax/theory/table.py",
        '{"kappa": _least, "lambda"',
        '{"kappa": _epsilon_n_minus_f, "lambda"',
        'tests/test_theory.py -k "page_is_what"',
    ),
    Mutant(
        "table: the median's epsilon for even n counts a value too many",
        "byzjax/theory/table.py",
        "below = (n - 1) // 2",
        "below = n // 2",
        'tests/test_theory.py -k "epsilon_is_attained"',
    ),
    # --- what is measured --------------------------------------------------------------------
    Mutant(
        "kappa: the variance is a sum over all rows",
        "byzjax/theory/kappa.py",
        "variances = jnp.sum(weights[..., None] * away**2, axis=(1, 2))",
        "variances = jnp.sum(away**2, axis=(1, 2))",
        'tests/test_theory.py -k "ratios_are"',
    ),
    Mutant(
        "breakdown: the number of liars is one too high",
        "byzjax/theory/breakdown.py",
        "for s, value in enumerate(damage) if",
        "for s, value in enumerate(damage, start=1) if",
        'tests/test_theory.py -k "test_breakdown"',
    ),
    Mutant(
        "errors: the interval has a degree of freedom too many",
        "byzjax/theory/errors.py",
        "half = _quantile(count - 1)",
        "half = _quantile(count)",
        'tests/test_theory.py -k "intervals_are"',
    ),
    Mutant(
        "distributions: sparse values are skewed the other way",
        "byzjax/theory/distributions.py",
        "return (touched - density)",
        "return (density - touched)",
        'tests/test_theory.py -k "moments and sparse"',
    ),
    Mutant(
        "comparison: bounds that are attained everywhere are said to be so for odd n",
        "byzjax/theory/comparison.py",
        '("" if even else " for odd n")',
        '(" for odd n" if even else "")',
        'tests/test_theory.py -k "page_is_what"',
    ),
    # --- contracts ---------------------------------------------------------------------------
    Mutant(
        "testing: a value above the honest range or below it is within",
        "byzjax/testing/rows.py",
        "slack) & (out <= good.max(axis=0)",
        "slack) | (out <= good.max(axis=0)",
        'tests/test_testing.py -k "broken_rule and doubled"',
    ),
    Mutant(
        "testing: an aggregate with one finite coordinate is finite",
        "byzjax/testing/rows.py",
        "if not np.isfinite(out).all():",
        "if not np.isfinite(out).any():",
        'tests/test_testing.py -k "one_bad_coordinate"',
    ),
    Mutant(
        "testing: a kappa without a bound is not looked at",
        "byzjax/testing/rows.py",
        "if kappa is not None and distance",
        "if bound is not None and kappa is not None and distance",
        'tests/test_testing.py -k "bound_that_does_not_hold"',
    ),
    Mutant(
        "testing: liars never stand last",
        "byzjax/testing/rows.py",
        "range(n - f, n), scattered",
        "range(trusted, trusted + f), scattered",
        'tests/test_testing.py -k "liars_stand"',
    ),
    Mutant(
        "testing: no leaf is empty",
        "byzjax/testing/_corners.py",
        '{"e": x[:, :0], "s": x[:, 0], "w": x[:, 1:, None]}',
        '{"s": x[:, 0], "w": x[:, 1:, None]}',
        'tests/test_testing.py -k "broken_rule and by_the_largest"',
    ),
    Mutant(
        "testing: in the corners any finite value will do",
        "byzjax/testing/_corners.py",
        "expected = sent[0] if facts.repeats else leaf",
        "expected = leaf",
        'tests/test_testing.py -k "without_a_fault_alone"',
    ),
    Mutant(
        "testing: no slope needs to be that of the differences",
        "byzjax/testing/rules.py",
        "axis=1))) < 2:",
        "axis=1))) < 0:",
        'tests/test_testing.py -k "broken_rule and without_a_slope"',
    ),
    Mutant(
        "testing: an attack's honest rows are compared with themselves",
        "byzjax/testing/attacks.py",
        "same(sent, tree, ~byzantine)",
        "same(sent, sent, ~byzantine)",
        'tests/test_testing.py -k "broken_attack and moves_everybody"',
    ),
]
