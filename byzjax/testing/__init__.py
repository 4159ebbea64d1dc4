"""The contract of rules and attacks, for those that live elsewhere.

    from byzjax.testing import check_attack, check_rule

    check_rule(my_rule, facts, bound=lambda n, f: 3.0)
    check_attack(my_attack)

`check_rule` holds a rule to the laws and to the promise that its `byzjax.facts.Facts` state, and to
what every rule keeps: trees, dtypes, `jit`, `vmap`, derivatives, platforms, errors. Who breaks a
clause gets an `AssertionError` that says which, with the numbers. It needs nothing but what JAX
brings, and stands in any test:

    def test_my_rule():
        check_rule(my_rule, facts, bound=lambda n, f: 3.0)

Values lie on a grid of 1/1024, so that shifting and scaling them is exact in float32: what is left
is the rounding of the rule's own sums.
"""

from byzjax.testing.attacks import check_attack
from byzjax.testing.rows import attacked, broken_promise, grid, lies
from byzjax.testing.rules import check_rule

__all__ = ["attacked", "broken_promise", "check_attack", "check_rule", "grid", "lies"]
