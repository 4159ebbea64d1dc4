"""Client sampling: how many of the drawn workers are Byzantine."""

import math

from byzjax._checks import static_int


def faults_among(n: int, f: int, drawn: int, failure: float = 1e-6, *, rounds: int = 1) -> int:
    r"""The number of Byzantine workers to defend against among those drawn for a round.

    $$ k = \min \Bigl\{ j : T \, P(X > j) \le p \Bigr\}, \qquad
       P(X > j) = \sum_{i > j} \binom fi \binom{n - f}{q - i} \Big/ \binom nq $$

    for q of n workers drawn without replacement, all sets equally likely: of the $\binom nq$ sets,
    those with i of the f Byzantine workers choose i of f and q - i of the n - f others, so that
    their number X is hypergeometric. Its mean is q f / n, and the sum is at most the bound
    $P(X \ge q f / n + q t) \le e^{-2 q t^2}$ of Hoeffding and Chvátal, which is not used here.

    By the union bound, more than k are drawn in any of T rounds with probability at most p, also
    where the draws of different rounds depend on each other. If they do not, that probability is
    $1 - (1 - P(X > k))^T$, at least 1 - p / 2 times the bound.

    The f workers must be fixed before the draw. Who can corrupt workers afterwards, or choose who
    is drawn, is not bounded by k: then all of min(f, q) count.

    Give k to the rule as its f. The result may exceed what any rule tolerates: q > 2k is needed for
    an honest majority, and each rule has its own requirement. Draw more workers then, or accept a
    larger p.

    Requirement: 0 <= f <= n, 1 <= q <= n. Cost: at most min(f, q) products of integers of
    $\log_2 \binom nq$ bits, without rounding.

    Args:
      n: number of workers that may be drawn, a Python int.
      f: how many of them are Byzantine, a Python int.
      drawn: q, how many are drawn for a round, a Python int.
      failure: p, the accepted probability that more than k are drawn in any of the rounds.
      rounds: T, number of rounds, a Python int.

    Returns:
      k, a Python int, between max(0, f + q - n) and min(f, q).

    Raises:
      ValueError: f > n, drawn > n, a number is too small, or failure is not between 0 and 1.
      TypeError: one of the numbers is not a Python int.

    Example:
      >>> import byzjax
      >>> byzjax.faults_among(1000, 100, 50)
      17
      >>> byzjax.faults_among(1000, 100, 50, rounds=10_000)
      21
      >>> byzjax.faults_among(1000, 100, 10)  # not below 10 / 2: draw more workers
      7

    Reference: Chvátal, The tail of the hypergeometric distribution, Discrete Mathematics 25, 1979;
    Hoeffding, Probability Inequalities for Sums of Bounded Random Variables, JASA 58, 1963,
    section 6.
    """
    n, f = static_int("n", n, at_least=1), static_int("f", f)
    drawn, rounds = static_int("drawn", drawn, at_least=1), static_int("rounds", rounds, at_least=1)
    for name, value in (("f", f), ("drawn", drawn)):
        if value > n:
            raise ValueError(f"{name} must be at most n; got {name}={value}, n={n}.")
    if not 0 < failure < 1:
        raise ValueError(f"failure is a probability between 0 and 1; got failure={failure}.")
    numerator, denominator = float(failure).as_integer_ratio()
    accepted = numerator * math.comb(n, drawn) // (denominator * rounds)  # sets of workers
    least, k = max(0, f + drawn - n), min(f, drawn)
    above, sets = 0, math.comb(f, k) * math.comb(n - f, drawn - k)  # with more than k, with k
    while k > least and above + sets <= accepted:
        above += sets
        sets = sets * k * (n - f - drawn + k) // ((f - k + 1) * (drawn - k + 1))
        k -= 1
    return k
