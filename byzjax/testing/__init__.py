"""Contract tests for rules and attacks that are defined elsewhere.

    from byzjax.testing import check_attack, check_rule

    check_rule(my_rule, facts, bound=lambda n, f: 3.0)
    check_attack(my_attack)

`check_rule` checks the laws and the promise that a rule's `byzjax.facts.Facts` state, and what all
rules must keep: trees, dtypes, `jit`, `vmap`, derivatives, platforms, errors. A violation raises an
`AssertionError` that names the clause and shows the numbers. It needs only JAX and the packages
that JAX requires, and runs in any test:

    def test_my_rule():
        check_rule(my_rule, facts, bound=lambda n, f: 3.0)

Values are multiples of 1/1024, so that shifting and scaling them is exact in float32: only the
rule's own sums are rounded.
"""

from byzjax.testing.attacks import check_attack
from byzjax.testing.rows import attacked, broken_promise, grid, lies
from byzjax.testing.rules import check_rule

__all__ = ["attacked", "broken_promise", "check_attack", "check_rule", "grid", "lies"]
