"""Mistakes in the attacks: in what they send, in whose rows they read, and in whose they change."""

from tests.mutants.mutant import Mutant

MUTANTS = [
    Mutant(
        "pushed: the radius is that of the last selected row, not of the next",
        "byzjax/attacks/around_median.py",
        "reach = (place <= jnp.minimum(kept, n - attackers - 1))",
        "reach = (place < jnp.minimum(kept, n - attackers - 1))",
        'tests/test_attacks_one_by_one.py -k "pushed_is_selected"',
    ),
    Mutant(
        "pushed: for even n the two middle values are the same",
        "byzjax/attacks/around_median.py",
        "for k in ((n + 1) // 2, n // 2 + 1, n)",
        "for k in ((n + 1) // 2, (n + 1) // 2, n)",
        'tests/test_attacks_one_by_one.py -k "pushed_is_selected"',
    ),
    # --- what attacks share ------------------------------------------------------------------
    Mutant(
        "honest_mean: the liars' rows are in the mean",
        "byzjax/attacks/_rows.py",
        "stacked.mean_selected(jax.tree.map(wide, updates), ~byzantine), jnp",
        "stacked.mean_selected(jax.tree.map(wide, updates), byzantine | True), jnp",
        'tests/test_attacks.py -k "liars_held and ipm-2"',
    ),
    Mutant(
        "honest_std: the slope of the root at 0 is NaN",
        "byzjax/attacks/_rows.py",
        "jnp.sqrt(jnp.where(spread, variance, 1))",
        "jnp.sqrt(variance)",
        'tests/test_attacks.py -k "slope_where_honest_rows_coincide"',
    ),
    Mutant(
        "attacks: all leaves draw with the same key",
        "byzjax/attacks/_rows.py",
        "list(jax.random.split(key, len(leaves)))",
        "[key] * len(leaves)",
        'tests/test_attacks.py -k "gaussian_noise"',
    ),
    Mutant(
        "replace: no wall in front of a lie that all send",
        "byzjax/attacks/_rows.py",
        "lie = fusion_barrier(lie) if lie.shape[0] == 1 and x.shape[0] > 1 else lie",
        "lie = lie if lie.shape[0] == 1 and x.shape[0] > 1 else lie",
        'tests/test_attacks.py -k "lie_that_all_send"',
    ),
    # --- constants and noise -----------------------------------------------------------------
    Mutant(
        "gambler: the first coordinate of the shard is left out",
        "byzjax/attacks/simple.py",
        "inside = (number >= start) & (number < stop)",
        "inside = (number > start) & (number < stop)",
        'tests/test_attacks_one_by_one.py -k "gambler"',
    ),
    # --- from the mean and the deviation -----------------------------------------------------
    Mutant(
        "little_is_enough: sign of z",
        "byzjax/attacks/statistical.py",
        'sign = -1 if direction == "minus" else 1',
        'sign = 1 if direction == "minus" else -1',
        'tests/test_attacks.py -k "papers_loop and 12-4-alie-plus"',
    ),
    Mutant(
        "little_is_enough: one supporter too few",
        "byzjax/attacks/statistical.py",
        "supporters = n // 2 + 1 - f",
        "supporters = n // 2 - f",
        'tests/test_attacks.py -k "strength_of_little_is_enough"',
    ),
    Mutant(
        "relocated: it moves along the momentum instead of across it",
        "byzjax/attacks/statistical.py",
        "p = _rows.unit(_rows.plus(ones, -along, r))",
        "p = _rows.unit(_rows.plus(ones, along, r))",
        'tests/test_attacks_one_by_one.py -k "relocated"',
    ),
    # --- as far as honest updates are --------------------------------------------------------
    Mutant(
        "min_max: it goes as far as one honest update allows, not all",
        "byzjax/attacks/bounded.py",
        "gamma = jnp.maximum(jnp.min(jnp.where(byzantine, jnp.inf, gamma)), 0)",
        "gamma = jnp.maximum(jnp.max(jnp.where(byzantine, 0, gamma)), 0)",
        'tests/test_attacks_one_by_one.py -k "that_min_max"',
    ),
    # --- against one rule --------------------------------------------------------------------
    Mutant(
        "fang_krum: one neighbour too many",
        "byzjax/attacks/targeted.py",
        "lowest(distances, max(1, n - f - 2))",
        "lowest(distances, max(1, n - f - 1))",
        'tests/test_attacks.py -k "papers_loop and 12-1-fang_krum"',
    ),
    Mutant(
        "fang_trimmed_mean: all liars draw the same numbers",
        "byzjax/attacks/targeted.py",
        "u = jax.random.uniform(k, x.shape, mu.dtype)",
        "u = jax.random.uniform(k, (1, *x.shape[1:]), mu.dtype)",
        'tests/test_attacks_one_by_one.py -k "fang_trimmed_mean"',
    ),
    # --- against one receiver ----------------------------------------------------------------
    Mutant(
        "dissensus: the lies are too weak, as all weights are taken for the liars'",
        "byzjax/attacks/dissensus.py",
        "jnp.sum(jnp.where(byzantine, weights, 0))",
        "jnp.sum(weights)",
        'tests/test_attacks.py -k "papers_loop and 12-4-dissensus"',
    ),
    # --- faults ------------------------------------------------------------------------------
    Mutant(
        "drop: honest rows are dropped",
        "byzjax/attacks/faults.py",
        "dropped = byzantine & jax.random",
        "dropped = byzantine | jax.random",
        'tests/test_attacks.py -k "rows_are_bitwise_unchanged and drop"',
    ),
    Mutant(
        "drop: one draw decides for all liars",
        "byzjax/attacks/faults.py",
        "jax.random.bernoulli(key, probability, byzantine.shape)",
        "jax.random.bernoulli(key, probability, ())",
        'tests/test_attacks_one_by_one.py -k "lost_coordinates_and_workers"',
    ),
    # --- over time ---------------------------------------------------------------------------
    Mutant(
        "sleeping: it wakes one step late",
        "byzjax/attacks/over_time.py",
        "& (step >= until)",
        "& (step > until)",
        'tests/test_attacks_one_by_one.py -k "who_lies_may"',
    ),
    Mutant(
        "mimic: it learns one step too long",
        "byzjax/attacks/over_time.py",
        "learning, there = step < warmup,",
        "learning, there = step <= warmup,",
        'tests/test_attacks_one_by_one.py -k "mimic_is_the_papers and 3"',
    ),
    Mutant(
        "stale: updates arrive one step too early",
        "byzjax/attacks/over_time.py",
        "lambda r: r[place, senders]",
        "lambda r: r[(place + 1) % delay, senders]",
        'tests/test_attacks_one_by_one.py -k "stale_updates and 3"',
    ),
    # --- with the attackers' own updates ------------------------------------------------------
    Mutant(
        "model_replacement: the boost is that of a single attacker",
        "byzjax/attacks/backdoors.py",
        "jnp.maximum(count, 1).astype(jnp.float32)",
        "1",
        'tests/test_attacks.py -k "papers_loop and 12-4-replace"',
    ),
    Mutant(
        "constrain_and_scale: the weights of both aims are exchanged",
        "byzjax/attacks/backdoors.py",
        "share * x + (1 - share) * center",
        "share * center + (1 - share) * x",
        'tests/test_attacks.py -k "papers_loop and 12-4-train-and-scale"',
    ),
    Mutant(
        "neurotoxin: it avoids what the honest change in this round",
        "byzjax/attacks/backdoors.py",
        "ravel_pytree(state.mean)",
        "ravel_pytree(jax.tree.map(lambda x: x[0], _rows.honest_mean(updates, mask)))",
        'tests/test_attacks_one_by_one.py -k "neurotoxin_is"',
    ),
    Mutant(
        "byz_mean: the rows of the first group are counted as honest ones",
        "byzjax/attacks/statistical.py",
        "known = _rows.honest_sum(sent,",
        "known = _rows.honest_sum(updates,",
        'tests/test_attacks.py -k "papers_loop and 12-4-byz_mean"',
    ),
    Mutant(
        "hybrid_sparse: the strengths inside and outside of the mask are exchanged",
        "byzjax/attacks/sparse.py",
        "jnp.where(inside, jnp.asarray(sparse_z, mu.dtype), jnp.asarray(z, mu.dtype))",
        "jnp.where(inside, jnp.asarray(z, mu.dtype), jnp.asarray(sparse_z, mu.dtype))",
        'tests/test_attacks.py -k "papers_loop and 12-4-hybrid"',
    ),
    Mutant(
        "pruning_mask: coordinates that were pruned cannot return",
        "byzjax/attacks/sparse.py",
        "lambda p, g: wide(p) * wide(g), params, gradient",
        "lambda p, g: wide(p) * wide(g), pruned, gradient",
        'tests/test_attacks_one_by_one.py -k "pruning_mask_is"',
    ),
    # --- data --------------------------------------------------------------------------------
    Mutant(
        "shift_tokens: the last token is not shifted to the first",
        "byzjax/attacks/data.py",
        "by.astype(wide) % size) % size",
        "by.astype(wide) % size)",
        'tests/test_attacks.py -k "test_shift_tokens"',
    ),
    Mutant(
        "distributed_trigger: parts go by worker, not by attacker",
        "byzjax/attacks/data.py",
        "turn = (jnp.cumsum(byzantine, dtype=jnp.int32) - 1) % len(parts)",
        "turn = jnp.arange(len(byzantine)) % len(parts)",
        'tests/test_attacks_one_by_one.py -k "distributed_trigger_is"',
    ),
    Mutant(
        "flip_labels: reversed labels are off by one",
        "byzjax/attacks/data.py",
        "wrong = c - 1 - y",
        "wrong = c - y",
        'tests/test_attacks.py -k "test_flip_labels"',
    ),
    # --- through the rule --------------------------------------------------------------------
    Mutant(
        "strongest: what is not finite does no damage",
        "byzjax/attacks/adaptive.py",
        "jnp.where(finite & ~jnp.isnan(value), value, jnp.inf)",
        "jnp.where(finite & ~jnp.isnan(value), value, 0)",
        'tests/test_attacks_adaptive.py -k "infinite_damage"',
    ),
    Mutant(
        "strongest: the search around the best strength is thrown away",
        "byzjax/attacks/adaptive.py",
        "jnp.where(jnp.max(values) > most, tried[jnp.argmax(values)], best)",
        "best",
        'tests/test_attacks_adaptive.py -k "search_refines"',
    ),
    Mutant(
        "gradient_attack: steps that lessen the damage are kept",
        "byzjax/attacks/adaptive.py",
        "better = reached > value",
        "better = reached < value",
        'tests/test_attacks_adaptive.py -k "ascent_goes_up"',
    ),
]
