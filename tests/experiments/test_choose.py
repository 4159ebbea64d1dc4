"""The choice of settings, on made-up blocks."""

import dataclasses

import numpy as np
import pytest

from experiments.analysis import choose
from experiments.data import batches, datasets
from experiments.grid.config import Config


def block(rule, rate, attack, held, test=0.5, **more):
    settings = dataclasses.asdict(Config(learning_rate=rate, validation=100))
    runs = [{"s": 2, "validation": [0.0, h], "accuracy": [0.0, test]} for h in held]
    return settings | {"rule": rule, "mixing": "none", "attack": attack, "runs": runs} | more


def test_the_best_of_the_worst():
    blocks = [
        block("median", 0.1, "sign_flip", [0.9, 0.7]),
        block("median", 0.1, "zero", [0.5, 0.7], test=0.61),
        block("median", 0.5, "sign_flip", [1.0, 1.0]),
        block("median", 0.5, "zero", [0.5, 0.5]),
        block("krum", 0.1, "sign_flip", [0.2, None]),
        block("krum", 0.5, "sign_flip", [0.3, 0.3], test=0.25),
    ]
    best = choose.best_settings(blocks).set_index("rule")
    assert best.loc["median", "learning_rate"] == 0.1
    assert best.loc["median", "worst attack"] == "zero"
    assert best.loc["median", "worst held out"] == pytest.approx(0.6)
    assert best.loc["median", "test there"] == pytest.approx(0.61)
    assert best.loc["krum", "learning_rate"] == 0.5
    assert "momentum" not in best
    assert "dataset" not in best


def test_each_f_has_a_choice_of_its_own():
    blocks = [
        block("median", rate, "zero", [held], f=f)
        for f, rate, held in ((2, 0.1, 0.5), (2, 0.5, 0.6), (4, 0.1, 0.4), (4, 0.5, 0.3))
    ]
    best = choose.best_settings(blocks)
    assert list(zip(best["f"], best["learning_rate"])) == [(2, 0.5), (4, 0.1)]


def test_nothing_to_choose_by():
    with pytest.raises(ValueError, match=r"^no validation samples: run the study with --valid"):
        choose.best_settings([block("median", 0.1, "zero", [0.5], validation=0)])


def test_what_is_held_out_is_not_trained_on():
    digits = datasets.load("digits")
    rest, x, y = batches.hold_out(digits, 137)
    assert len(y) == 137
    assert len(rest.train_y) == 1300
    # Images with their labels, in an order that does not depend on their split.
    images, labels = np.concatenate([rest.train_x, x]), np.concatenate([rest.train_y, y])
    together = np.column_stack([images.reshape(1437, -1), labels])
    whole = np.column_stack([digits.train_x.reshape(1437, -1), digits.train_y])
    np.testing.assert_array_equal(together[np.lexsort(together.T)], whole[np.lexsort(whole.T)])
    with pytest.raises(ValueError, match=r"^validation must be below the 1437 training samples"):
        batches.hold_out(digits, 1437)
