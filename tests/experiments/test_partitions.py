import numpy as np
import pytest

from experiments.data import partitions

LABELS = np.repeat(np.arange(10), [30, 31, 32, 33, 34, 35, 36, 37, 38, 39])[::-1].copy()  # 345
# Each kind with a value at which every worker gets samples.
KINDS = [
    "iid",
    "contiguous",
    "sorted",
    "dirichlet(0.3)",
    "dirichlet(100)",
    "pathological(1)",
    "pathological(3)",
    "gamma_similarity(0)",
    "gamma_similarity(0.37)",
    "gamma_similarity(1)",
    "long_tail(0.7)",
    "long_tail(1)",
    "unequal(0.1)",
    "unequal(100)",
]
EVEN = ("iid", "contiguous", "sorted", "gamma_similarity", "long_tail")


def class_counts(parts, labels=LABELS):
    return np.array([np.bincount(labels[part], minlength=10) for part in parts])


def lists(*args, **kwargs):
    return [part.tolist() for part in partitions.partition(*args, **kwargs)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_workers", [1, 2, 7, 20])
def test_every_sample_is_dealt_out_once(kind, num_workers):
    parts = partitions.partition(LABELS, num_workers, kind, seed=3)
    assert len(parts) == num_workers
    dealt = np.concatenate(parts)
    assert len(set(dealt)) == len(dealt)
    if kind == "long_tail(0.7)":
        assert set(dealt) <= set(range(len(LABELS)))
    else:
        assert sorted(dealt) == list(range(len(LABELS)))
    assert all(np.issubdtype(part.dtype, np.integer) and part.size for part in parts)
    sizes = [len(part) for part in parts]
    if kind.startswith(EVEN):
        assert max(sizes) - min(sizes) <= 1
    if kind.startswith("pathological"):
        assert max(sizes) - min(sizes) <= partitions.parse_partition(kind).value


@pytest.mark.parametrize("kind", KINDS)
def test_partition_follows_the_seed(kind):
    def dealt(seed):
        return lists(LABELS, 5, kind, seed=seed)

    assert dealt(1) == dealt(1)
    # Nothing is random where all samples are kept and sorted.
    constant = kind in ("contiguous", "sorted", "gamma_similarity(0)", "long_tail(1)")
    assert (dealt(1) == dealt(2)) == constant


def test_the_laboratory_deals_by_the_same_function():
    assert partitions.partition is partitions.partition


@pytest.mark.parametrize(
    ("kind", "parsed"),
    [
        ("iid", ("iid", None)),
        ("sorted", ("sorted", None)),
        ("dirichlet(0.3)", ("dirichlet", 0.3)),
        ("dirichlet(2)", ("dirichlet", 2.0)),
        ("pathological(2)", ("pathological", 2)),
        ("gamma_similarity( 0 )", ("gamma_similarity", 0.0)),
        ("long_tail(0.5)", ("long_tail", 0.5)),
        ("unequal(1e-3)", ("unequal", 0.001)),
    ],
)
def test_parse_partition(kind, parsed):
    assert partitions.parse_partition(kind) == parsed
    assert parsed[0] in partitions.NAMES


@pytest.mark.parametrize("labels", [LABELS, np.zeros((345, 3), int)], ids=["classes", "text"])
def test_contiguous_keeps_the_order(labels):
    parts = partitions.partition(labels, 7, "contiguous", seed=0)
    assert np.concatenate(parts).tolist() == list(range(345))


def test_text_has_no_classes():
    text = np.zeros((345, 3), int)
    for kind in KINDS:
        if kind in ("iid", "contiguous") or kind.startswith("unequal"):
            dealt = np.concatenate(partitions.partition(text, 7, kind, seed=0))
            assert sorted(dealt) == list(range(345))
            partitions.check(kind, text=True)
        else:
            for fails in (
                lambda kind=kind: partitions.check(kind, text=True),
                lambda kind=kind: partitions.partition(text, 7, kind, seed=0),
            ):
                with pytest.raises(ValueError, match=r"classes, which text has not; expected one"):
                    fails()
        partitions.check(kind, text=False)


def test_sorted_gives_few_classes_to_each():
    labels = np.tile(np.arange(10), 6)
    parts = partitions.partition(labels, 5, "sorted", seed=0)
    expected = np.kron(np.eye(5, dtype=int), [6, 6])  # 60 samples: two whole classes each
    np.testing.assert_array_equal(class_counts(parts, labels), expected)


@pytest.mark.parametrize("n", [10, 17, 25])
def test_one_class_a_worker(n):
    """Workers of a class share its samples evenly; which class a worker has is random."""
    parts = partitions.partition(LABELS, n, "one_class", seed=4)
    assert sorted(np.concatenate(parts)) == list(range(len(LABELS)))
    counts = class_counts(parts)
    assert ((counts > 0).sum(axis=1) == 1).all()
    workers = (counts > 0).sum(axis=0)
    assert set(workers) <= {n // 10, -(-n // 10)}
    for c in range(10):
        sizes = [len(part) for part in parts if LABELS[part[0]] == c]
        assert max(sizes) - min(sizes) <= 1
    again, other = (lists(LABELS, n, "one_class", seed=seed) for seed in (4, 5))
    assert again == [part.tolist() for part in parts]
    assert [LABELS[part[0]] for part in other] != [LABELS[part[0]] for part in again]


@pytest.mark.parametrize(
    ("labels", "n", "message"),
    [
        (LABELS, 9, "needs workers >= classes; got 9 workers, 10 classes"),
        (np.array([0, 0, 0, 1]), 4, "for each of 4 workers; the smallest class has 1"),
    ],
)
def test_one_class_needs_enough_workers_and_samples(labels, n, message):
    with pytest.raises(ValueError, match=message):
        partitions.partition(labels, n, "one_class", seed=0)


def test_a_smaller_alpha_is_more_skewed():
    def largest_share(kind):
        counts = class_counts(partitions.partition(LABELS, 8, kind, seed=0))
        return (counts.max(axis=1) / counts.sum(axis=1)).mean()

    skew = [largest_share(f"dirichlet({alpha})") for alpha in (0.1, 1, 1000)]
    assert skew[0] > skew[1] + 0.1
    assert skew[1] > skew[2] + 0.1
    assert skew[2] < 0.2  # nearly even: a tenth each


def test_dirichlet_shares_have_the_moments_of_the_law():
    labels, n, alpha = np.repeat(np.arange(10), 1000), 4, 0.5
    shares = np.concatenate(
        [
            class_counts(partitions.partition(labels, n, f"dirichlet({alpha})", seed=s), labels).T
            / 1000
            for s in range(200)
        ]
    )
    np.testing.assert_allclose(shares.mean(0), 1 / n, atol=0.03)
    # Var = (1/n)(1 - 1/n) / (n alpha + 1) = 0.0625, over 2000 draws.
    np.testing.assert_allclose(shares.var(0), 0.0625, atol=0.008)


# The kinds, one by one


def test_pathological_gives_k_labels_where_shards_fit():
    labels = np.tile(np.arange(10), 40)  # 20 shards of 20: two per class
    for seed in range(5):
        counts = class_counts(
            partitions.partition(labels, 10, "pathological(2)", seed=seed), labels
        )
        assert ((counts > 0).sum(axis=1) <= 2).all()
        assert set(counts.ravel()) <= {0, 20, 40}
        assert (counts.sum(axis=0) == 40).all()


@pytest.mark.parametrize("num_workers", [3, 7, 20])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_pathological_borders_add_few_labels(num_workers, k):
    for seed in range(5):
        kind = f"pathological({k})"
        counts = class_counts(partitions.partition(LABELS, num_workers, kind, seed=seed))
        assert (counts > 0).sum() <= num_workers * k + 9


def test_pathological_shards_are_runs_of_the_sorted_samples():
    labels = np.array([1, 0, 1, 0, 1, 0])
    dealt = lists(labels, 3, "pathological(1)", seed=0)
    assert sorted(dealt) == [[1, 3], [2, 4], [5, 0]]


def test_pathological_needs_a_sample_in_each_shard():
    message = r"^pathological\(3\) needs workers \* k <= samples; got 4 workers, 11 samples\.$"
    with pytest.raises(ValueError, match=message):
        partitions.partition(LABELS[:11], 4, "pathological(3)", seed=0)
    parts = partitions.partition(LABELS[:12], 4, "pathological(3)", seed=0)
    assert [len(part) for part in parts] == [3] * 4


@pytest.mark.parametrize("num_workers", [1, 7, 20])
def test_gamma_similarity_goes_from_sorted_to_iid(num_workers):
    for gamma, kind in ((0, "sorted"), (1, "iid")):
        similar = lists(LABELS, num_workers, f"gamma_similarity({gamma})", seed=4)
        assert similar == lists(LABELS, num_workers, kind, seed=4)


def test_gamma_similarity_gives_each_worker_both_parts():
    labels = np.tile(np.arange(10), 100)
    parts = partitions.partition(labels, 10, "gamma_similarity(0.4)", seed=0)
    rank = np.empty(1000, int)
    rank[np.random.default_rng(0).permutation(1000)] = np.arange(1000)
    for part in parts:
        assert (rank[part[:40]] < 400).all()  # iid: from the first 40 % of a random order
        assert (rank[part[40:]] >= 400).all()
        assert len(part) == 100
        assert (np.diff(labels[part[40:]]) >= 0).all()
        assert len(set(labels[part[40:]])) <= 3


def test_long_tail_keeps_powers_of_beta():
    labels = np.tile(np.arange(10), 512)
    parts = partitions.partition(labels, 24, "long_tail(0.5)", seed=0)
    counts = class_counts(parts, labels)
    assert counts.sum(axis=0).tolist() == [512, 256, 128, 64, 32, 16, 8, 4, 2, 1]
    dealt = labels[np.concatenate(parts)]
    assert (np.diff(dealt) >= 0).all()  # sorted by label


def test_long_tail_rounds_down_but_keeps_every_class():
    counts = class_counts(partitions.partition(LABELS, 2, "long_tail(0.3)", seed=0))
    # Sizes 30 ... 39 times 1, 0.3, 0.09 ...: 30, 9.3, 2.88, 0.89, ...
    assert counts.sum(axis=0).tolist() == [30, 9, 2, 1, 1, 1, 1, 1, 1, 1]


def test_long_tail_keeps_random_samples():
    labels = np.repeat([0, 1], 100)
    kept = [set(np.concatenate(lists(labels, 2, "long_tail(0.5)", seed=s))) for s in range(40)]
    assert all(set(range(100)) < k for k in kept)
    counts = np.bincount(np.concatenate([list(k) for k in kept]))[100:]
    assert counts.sum() == 40 * 50
    assert counts.min() >= 5  # binomial(40, 1/2): 15 below its mean are 4.7 deviations
    assert counts.max() <= 35


def test_long_tail_needs_enough_that_is_kept():
    message = (
        r"^long_tail\(0\.01\) keeps 39 of 345 samples, too few for 40 workers; take a larger beta"
    )
    with pytest.raises(ValueError, match=message):
        partitions.partition(LABELS, 40, "long_tail(0.01)", seed=0)
    assert all(lists(LABELS, 39, "long_tail(0.01)", seed=0))


def test_unequal_sizes_are_those_of_the_law():
    n, alpha, samples = 4, 0.5, 10_004
    labels = np.zeros(samples, int)
    dealt = [partitions.partition(labels, n, f"unequal({alpha})", seed=s) for s in range(1000)]
    sizes = np.array([[len(part) for part in parts] for parts in dealt])
    assert (sizes.sum(axis=1) == samples).all()
    assert sizes.min() >= 1
    shares = (sizes - 1) / (samples - n)
    np.testing.assert_allclose(shares.mean(0), 1 / n, atol=0.04)
    # Var = (1/n)(1 - 1/n) / (n alpha + 1) = 0.0625.
    np.testing.assert_allclose(shares.var(0), 0.0625, atol=0.012)


def test_unequal_is_iid_by_label():
    labels = np.tile(np.arange(10), 1000)
    counts = class_counts(partitions.partition(labels, 5, "unequal(1)", seed=0), labels)
    assert counts.sum(axis=1).max() > 2 * counts.sum(axis=1).min()
    for row in counts:
        mean = row.sum() / 10
        assert np.abs(row - mean).max() <= 5 * np.sqrt(mean)


@pytest.mark.parametrize("alpha", [1e-3, 1e-300])
def test_unequal_gives_every_worker_samples_at_any_alpha(alpha):
    sizes = [len(p) for p in partitions.partition(LABELS, 345, f"unequal({alpha})", seed=0)]
    assert sizes == [1] * 345
    sizes = [len(p) for p in partitions.partition(LABELS, 300, f"unequal({alpha})", seed=0)]
    assert min(sizes) == 1
    assert sum(sizes) == 345


# Errors


@pytest.mark.parametrize(
    "kind",
    [
        "idd",
        "",
        "dirichlet",
        "dirichlet()",
        "dirichlet(0)",
        "dirichlet(-1)",
        "dirichlet(1e999)",
        "dirichlet(1" + "0" * 400 + ")",
        "dirichlet('a')",
        "dirichlet(1, 2)",
        "dirichlet(0.3, beta=2)",
        "dirichlet(True)",
        "sorted(2)",
        "iid()",
        "pathological",
        "pathological(0)",
        "pathological(-1)",
        "pathological(2.0)",
        "pathological(True)",
        "gamma_similarity",
        "gamma_similarity(1.01)",
        "gamma_similarity(-0.1)",
        "gamma_similarity('1')",
        "long_tail(0)",
        "long_tail(1.5)",
        "long_tail(0.5, 2)",
        "unequal",
        "unequal(0)",
        "unequal(1e999)",
        "partitions.partition(2)",
        "(" * 1000,
        "iid\0",
        "iid; iid",
        "__import__('os').getcwd()",
        None,
    ],
)
def test_unknown_kinds(kind):
    name = str(kind).partition("(")[0]
    if name in partitions.NAMES:
        message = rf"^cannot read kind of partition .*; expected {name}(\(\w+\) with .*)?\.$"
    elif kind == "idd":
        message = r"^unknown kind of partition 'idd'; did you mean iid\?$"
    else:
        known = ", ".join(partitions.NAMES)
        message = rf"^unknown kind of partition .*; (known: {known}\.|did you)"
    for fails in (
        lambda: partitions.parse_partition(kind),
        lambda: partitions.partition(LABELS, 5, kind, seed=0),
    ):
        with pytest.raises(ValueError, match=message) as error:
            fails()
        assert "\n" not in str(error.value)
        assert len(str(error.value)) <= 200


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_workers", [0, 4])
def test_too_few_samples(kind, num_workers):
    with pytest.raises(ValueError, match=rf"1 <= workers <= samples; got {num_workers} workers, 3"):
        partitions.partition(np.array([0, 1, 1]), num_workers, kind, seed=0)


def test_dirichlet_gives_up_with_the_numbers():
    message = r"^dirichlet\(0\.001\) left some of 300 workers without any of 345 samples"
    with pytest.raises(ValueError, match=message):
        partitions.partition(LABELS, 300, "dirichlet(0.001)", seed=0)
