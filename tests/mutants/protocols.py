"""Mistakes in memories, verbs, protocols, and in what passes between devices."""

from tests.mutants.mutant import Mutant

MUTANTS = [
    # --- aggregations that remember ----------------------------------------------------------
    Mutant(
        "centered_clipping: the last result is forgotten",
        "byzjax/memory.py",
        "lambda o, c: o.astype(c.dtype), out, state.center)",
        "lambda o, c: c, out, state.center)",
        'tests/test_memory.py -k "papers_loop and centered_clipping-none"',
    ),
    Mutant(
        "foolsgold: who is not finite keeps a weight",
        "byzjax/memory.py",
        "weights = jnp.where(finite, weights, 0)",
        "weights = jnp.where(finite, weights, weights)",
        'tests/test_memory.py -k "papers_loop and foolsgold-nan"',
    ),
    Mutant(
        "foolsgold: the weights are not divided by their sum",
        "byzjax/memory.py",
        "total = jnp.sum(weights)",
        "total = jnp.max(weights)",
        'tests/test_memory.py -k "papers_loop and foolsgold-far"',
    ),
    Mutant(
        "memory: sums of bfloat16 are kept in bfloat16",
        "byzjax/memory.py",
        "jnp.zeros((n, *leaf.shape), stacked.sum_dtype(leaf.dtype))",
        "jnp.zeros((n, *leaf.shape), leaf.dtype)",
        'tests/test_memory.py -k "kept_in_the_dtype_of_sums"',
    ),
    Mutant(
        "concentration_filter: a liar that was dropped comes back",
        "byzjax/memory.py",
        "good = state.good & finite & (jnp.abs(",
        "good = finite & (jnp.abs(",
        'tests/test_memory.py -k "never_takes_a_liar_back"',
    ),
    # suspected gap: T_A and T_B are so wide that in all tests the distance of 4 V drops liars first
    Mutant(
        "concentration_filter: nobody is judged by the products A_i",
        "byzjax/memory.py",
        "finite & (jnp.abs(products - middle) <= diameter * deviation * spread)",
        "finite & (jnp.abs(products - middle) < jnp.inf)",
        'tests/test_memory.py -k "papers_loop and concentration_filter or never_takes"',
    ),
    # suspected gap: honest rows are within 2 V, and the lies are far beyond 4 V
    Mutant(
        "concentration_filter: 2 V from the median is too far, instead of 4 V",
        "byzjax/memory.py",
        "(updates, 2 * deviation, 4 * deviation)",
        "(updates, 2 * deviation, 2 * deviation)",
        'tests/test_memory.py -k "papers_loop and concentration_filter or never_takes"',
    ),
    # suspected gap: lies stay far in every window, and honest sums never come near the thresholds
    Mutant(
        "safeguard: windows begin one step early",
        "byzjax/memory.py",
        "begins = state.count % window == 0",
        "begins = (state.count + 1) % window == 0",
        'tests/test_memory.py -k "papers_loop and safeguard or forgives"',
    ),
    Mutant(
        "safeguard: its steps are counted twice",
        "byzjax/memory.py",
        "SafeguardState(state.count + 1, ",
        "SafeguardState(state.count + 2, ",
        'tests/test_memory.py -k "safeguard_forgives"',
    ),
    Mutant(
        "safeguard: all steps draw the same noise",
        "byzjax/memory.py",
        "following, now = jax.random.split(state.key)",
        "following, now = state.key, state.key",
        'tests/test_memory.py -k "noise_of_safeguard"',
    ),
    # suspected gap: no test has noise and slices
    Mutant(
        "safeguard: all devices draw the same noise for their slices",
        "byzjax/memory.py",
        "key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))",
        "key = jax.random.fold_in(key, 0)",
        'tests/test_memory.py -k "noise_of_safeguard or sliced_over_devices and safeguard"',
    ),
    # --- verbs -------------------------------------------------------------------------------
    Mutant(
        "per_worker: all workers draw the same numbers",
        "byzjax/transforms.py",
        "return fold(leaf, worker)",
        "return fold(leaf, 0 * worker)",
        'tests/test_transforms.py -k "simulated_workers_draw"',
    ),
    Mutant(
        "verbs: the next update draws with the same key",
        "byzjax/transforms.py",
        "KeyState(following)",
        "KeyState(state.key)",
        'tests/test_transforms.py -k "keys_are_split"',
    ),
    Mutant(
        "verbs: updates are not checked to be stacked",
        "byzjax/transforms.py",
        "            stacked.num_workers(updates)\n            kwargs",
        "            kwargs",
        'tests/test_transforms.py -k "unstacked_updates and mix"',
    ),
    Mutant(
        "attack: of those who take part the first are taken for the liars",
        "byzjax/transforms.py",
        'jnp.asarray(who)[extra_args["senders"]]',
        'jnp.asarray(who)[: len(extra_args["senders"])]',
        'tests/test_protocols_rounds.py -k "liars_are_those"',
    ),
    Mutant(
        "aggregate: no wall behind the rule",
        "byzjax/transforms.py",
        "_kernels.wall(rule(updates, **kwargs))",
        "rule(updates, **kwargs)",
        'tests/test_transforms.py -k "computed_once"',
    ),
    # --- signatures --------------------------------------------------------------------------
    Mutant(
        "signature: an extra argument sets a hyperparameter",
        "byzjax/_signature.py",
        "data = tuple(key for key, p in rest.items() if p.kind is not kinds.KEYWORD_ONLY)",
        "data = tuple(rest)",
        'tests/test_transforms.py -k "never_sets_a_hyperparameter"',
    ),
    # --- between devices ---------------------------------------------------------------------
    Mutant(
        "all_aggregate: distances are not summed over devices",
        "byzjax/collective.py",
        "out = rule(slices, **(arguments | found | cut), axis_name=axis_name)",
        "out = rule(slices, **(arguments | found | cut), axis_name=None)",
        'tests/test_collective.py -k "sends_as_much and krum"',
    ),
    Mutant(
        "all_aggregate: summed gradients are not noticed",
        "byzjax/collective.py",
        "if not axes <= _varying(leaf):",
        "if axes < _varying(leaf):",
        'tests/test_collective.py -k "shard_map_has_summed"',
    ),
    Mutant(
        "sharded: distances are summed over the workers' axis alone",
        "byzjax/sharded.py",
        "out = rule(slices, *cut, **given.kwargs, axis_name=axis_name)",
        "out = rule(slices, *cut, **given.kwargs, axis_name=workers)",
        'tests/test_sharded.py -k "on_shards_equal and names0"',
    ),
    Mutant(
        "slices: zeros are padded in front",
        "byzjax/_slices.py",
        "jnp.pad(flat, ((0, 0), (0, p * m - flat.shape[1])))",
        "jnp.pad(flat, ((0, 0), (p * m - flat.shape[1], 0)))",
        'tests/test_collective.py -k "dtypes_are_kept"',
    ),
    Mutant(
        "slices: blocks are taken along the wrong dimension",
        "byzjax/_slices.py",
        "jnp.moveaxis(cut, dim, 0)",
        "jnp.moveaxis(cut, dim + 1, 0)",
        'tests/test_sharded.py -k "empty_scalar"',
    ),
    # suspected gap: rows go back to one worker a device only; k > 1 is tested with rules alone
    Mutant(
        "slices: rows that go back to several workers of a device are mixed up",
        "byzjax/_slices.py",
        "return blocks.swapaxes(0, 1).reshape(k, -1)",
        "return blocks.reshape(k, -1)",
        'tests/test_collective.py -k "mixings_before or several_workers"',
    ),
    # --- what protocols share ----------------------------------------------------------------
    Mutant(
        "Info: what is sent and what is honest change places",
        "byzjax/protocols/_protocol.py",
        "    honest: PyTree\n    sent: PyTree\n",
        "    sent: PyTree\n    honest: PyTree\n",
        'tests/test_protocols.py -k "test_info"',
    ),
    Mutant(
        "servers: numbers may be 0",
        "byzjax/protocols/_servers.py",
        'at_least=0 if name.startswith("f_") else 1',
        "at_least=0",
        'tests/test_protocols_replicated.py -k "cannot_be and every"',
    ),
    Mutant(
        "servers: the models of the liars are among the honest ones",
        "byzjax/protocols/_servers.py",
        "mask, num_servers - f_servers)",
        "mask, num_servers)",
        'tests/test_protocols_replicated.py -k "machines_in_a_sweep"',
    ),
    Mutant(
        "workers: all losses draw with the same key",
        "byzjax/protocols/_workers.py",
        "jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)",
        "jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, 0 * numbers)",
        'tests/test_protocols.py -k "workers_draw_different"',
    ),
    Mutant(
        "workers: devices compute too few rows where they do not divide n",
        "byzjax/protocols/_workers.py",
        "k = -(-n // devices)",
        "k = n // devices",
        'tests/test_protocols_devices.py -k "eight_devices and parameter_server"',
    ),
    Mutant(
        "workers: all receivers hear the same first messages",
        "byzjax/protocols/_workers.py",
        "(jax.random.split(key, receivers))",
        "(jnp.stack([key] * receivers))",
        'tests/test_protocols_replicated.py -k "equals_the_loop and aksel"',
    ),
    # --- agreement ---------------------------------------------------------------------------
    Mutant(
        "mid_extremes: a pair with one that is not finite counts",
        "byzjax/protocols/agreement.py",
        "heard[:, None] & heard[None]",
        "heard[:, None] | heard[None]",
        'tests/test_agreement.py -k "mid_extremes_equals and 1-7-3"',
    ),
    Mutant(
        "trimmed_agreement: n = 3 f is enough",
        "byzjax/protocols/agreement.py",
        "needs=(3, 1)",
        "needs=(3, 0)",
        'tests/test_agreement.py -k "test_errors"',
    ),
    # --- asynchronous ------------------------------------------------------------------------
    Mutant(
        "asynchronous: an accepted gradient ages its own worker",
        "byzjax/protocols/asynchronous.py",
        "versions=state.versions.at[p].set(version)",
        "versions=state.versions.at[p].set(state.version)",
        'tests/test_protocols_asynchronous.py -k "event_loop and limit"',
    ),
    Mutant(
        "asynchronous: the time of computing is drawn with the key of the trusted loss",
        "byzjax/protocols/asynchronous.py",
        "jax.random.fold_in(key, n + 1)",
        "jax.random.fold_in(key, n)",
        'tests/test_protocols_asynchronous.py -k "event_loop and limit"',
    ),
    Mutant(
        "lipschitz: the quantile is one worker too high",
        "byzjax/protocols/filters.py",
        "jnp.sort(values)[len(values) - 1 - f]",
        "jnp.sort(values)[len(values) - f]",
        'tests/test_protocols_asynchronous.py -k "event_loop and otherwise"',
    ),
    # suspected gap: n = 7 and f = 3 are one worker too few even for n >= 3 f
    Mutant(
        "kardam: n = 3 f is enough",
        "byzjax/protocols/filters.py",
        "if num_workers < 3 * f + 1:",
        "if num_workers < 3 * f:",
        'tests/test_protocols_asynchronous.py -k "impossible_options"',
    ),
    # --- gossip ------------------------------------------------------------------------------
    Mutant(
        "gossip: a liar hears its own lie",
        "byzjax/protocols/gossip.py",
        "(senders + n).at[0].add(-n)",
        "senders + n",
        'tests/test_protocols_gossip.py -k "not_lie_to_itself"',
    ),
    Mutant(
        "gossip: the aggregate is the mean of the liars",
        "byzjax/protocols/gossip.py",
        "stacked.mean_of(new, ~byzantine)",
        "stacked.mean_of(new, byzantine)",
        'tests/test_protocols_gossip.py -k "loop_over_nodes and trimmed"',
    ),
    Mutant(
        "clipped_gossip: what is not finite counts with its factor",
        "byzjax/protocols/gossip.py",
        "jnp.where(jnp.isfinite(squares), factors, 0)",
        "jnp.where(jnp.isfinite(squares), factors, 1)",
        'tests/test_protocols_gossip.py -k "gossip_and_what_is_not_finite"',
    ),
    Mutant(
        "torus: it is not closed around in one direction",
        "byzjax/protocols/graphs.py",
        "(r + 1) % rows * columns + c",
        "min(r + 1, rows - 1) * columns + c",
        'tests/test_graphs.py -k "known_spectra"',
    ),
    Mutant(
        "graphs: an edge is known from one of its ends only",
        "byzjax/protocols/graphs.py",
        "tuple(_edge(i, j) in joined for j in range(n))",
        "tuple((i, j) in joined for j in range(n))",
        'tests/test_graphs.py -k "known_graphs"',
    ),
    # --- one server --------------------------------------------------------------------------
    Mutant(
        "parameter_server: all local steps draw with the same key",
        "byzjax/protocols/parameter_server.py",
        "own = jax.random.fold_in(key, j)",
        "own = jax.random.fold_in(key, 0 * j)",
        'tests/test_protocols_rounds.py -k "draw_other_keys"',
    ),
    Mutant(
        "parameter_server: who does not take part gets a new state",
        "byzjax/protocols/parameter_server.py",
        "old.at[senders].set(new[senders])",
        "new",
        'tests/test_protocols_rounds.py -k "keeps_its_key"',
    ),
    # suspected gap: no test has a trusted batch and some of the workers
    Mutant(
        "parameter_server: who takes part is drawn with the key of the trusted loss",
        "byzjax/protocols/parameter_server.py",
        "jax.random.fold_in(key, n + 1)",
        "jax.random.fold_in(key, n)",
        'tests/test_protocols_rounds.py -k "some_workers_in_each_round and None"',
    ),
    # suspected gap: no test of the protocol looks at what is compiled; the values stay the same
    Mutant(
        "parameter_server: no wall behind the attack",
        "byzjax/protocols/parameter_server.py",
        "_kernels.wall(updates) if len(seen) == 1 and attack else updates",
        "updates",
        'tests/test_protocols.py -k "test_info or chain"',
    ),
    # --- redundant nodes ---------------------------------------------------------------------
    Mutant(
        "vote: devices vote each on their own slice",
        "byzjax/protocols/redundant.py",
        "lax.psum(differ.astype(jnp.int32), axis_name) > 0",
        "differ.astype(jnp.int32) > 0",
        'tests/test_protocols_redundant.py -k "vote_over_sliced"',
    ),
    # suspected gap: r = 3 and s = 2 are refused by either; r = 2 s is not tried
    Mutant(
        "redundant: r = 2 s is enough",
        "byzjax/protocols/redundant.py",
        "elif r < 2 * s + 1:",
        "elif r < 2 * s:",
        'tests/test_protocols_redundant.py -k "cannot_be_stops"',
    ),
    # suspected gap: the product of matrices in front of it is a wall as well, on CPU
    Mutant(
        "redundant: no barrier behind the means of groups",
        "byzjax/protocols/redundant.py",
        "lax.optimization_barrier(stacked.group_means(updates, group, n // r))",
        "stacked.group_means(updates, group, n // r)",
        'tests/test_protocols_redundant.py -k "no_lie_changes_a_bit"',
    ),
    Mutant(
        "cyclic code: what is not finite is summed",
        "byzjax/protocols/codes.py",
        "weights = jnp.where(finite, sums[found], 0)",
        "weights = sums[found]",
        'tests/test_protocols_redundant.py -k "leave_nothing_to_find"',
    ),
    # --- several servers ---------------------------------------------------------------------
    Mutant(
        "replicated_servers: models are exchanged one step late",
        "byzjax/protocols/replicated_servers.py",
        "(state.step + 1) % every == 0",
        "state.step % every == 0",
        'tests/test_protocols_replicated.py -k "equals_the_loop and aksel"',
    ),
    Mutant(
        "replicated_servers: servers send their models to themselves",
        "byzjax/protocols/replicated_servers.py",
        "n * (n - 1) / every",
        "n * n / every",
        'tests/test_protocols_replicated.py -k "test_traffic"',
    ),
    Mutant(
        "replicated_state_machine: the votes of f servers are enough",
        "byzjax/protocols/replicated_state_machine.py",
        "agreed(models, votes=f + 1)",
        "agreed(models, votes=max(f, 1))",
        'tests/test_protocols_replicated.py -k "changes_no_bit and collusion"',
    ),
    # suspected gap: replicas computed once are the same bit for bit as well
    Mutant(
        "replicated_state_machine: no barrier between the replicas",
        "byzjax/protocols/replicated_state_machine.py",
        "lax.optimization_barrier((params, sent))",
        "(params, sent)",
        'tests/test_protocols_replicated.py -k "bit_for_bit and krum"',
    ),
    Mutant(
        "spread: distances are squared",
        "byzjax/protocols/spread.py",
        "jnp.sqrt(jnp.max(stacked.pairwise_squared_distances(models)))",
        "jnp.max(stacked.pairwise_squared_distances(models))",
        'tests/test_protocols_replicated.py -k "test_spread"',
    ),
]
