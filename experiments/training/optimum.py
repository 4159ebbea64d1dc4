"""The minimiser of a logistic regression, to measure how far from it training stops."""

from collections.abc import Sequence

import numpy as np

from experiments.data.datasets import Dataset


def logistic(
    dataset: Dataset, weight_decay: float, workers: Sequence[np.ndarray]
) -> dict[str, dict[str, np.ndarray]]:
    r"""The parameters of the model `logistic` that minimise the mean of the workers' losses.

    $$ \min_{w, b} \frac{1}{h} \sum_{k=1}^h \frac{1}{|P_k|} \sum_{i \in P_k}
       \log(1 + e^{-t_i (\langle w, x_i \rangle + b)})
       + \frac{\lambda}{2} (\|w\|^2 + b^2), \qquad t_i = \pm 1 $$

    Workers have equal weight, however many samples they hold: this is the objective of training by
    the mean of their gradients. Solved by scikit-learn, with C = 1 / lambda, samples weighted by
    1 / (h |P_k|), and a column of ones for b, since weight decay applies to b as well.

    Args:
      dataset: a data set with two classes.
      weight_decay: lambda.
      workers: indices of the samples of each honest worker.

    Raises:
      ValueError: weight decay is 0 (the minimiser may lie at infinity), or there are not two
        classes.
    """
    from sklearn.linear_model import LogisticRegression

    if weight_decay <= 0 or dataset.num_classes != 2:
        raise ValueError(
            "the optimum of a logistic regression needs two classes and weight_decay > 0; got "
            f"{dataset.num_classes} classes, weight_decay={weight_decay}."
        )
    chosen = np.concatenate(workers)
    weights = np.concatenate([np.full(len(p), 1 / (len(workers) * len(p))) for p in workers])
    x = dataset.train_x.reshape(len(dataset.train_x), -1)[chosen].astype(np.float64)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    solver = LogisticRegression(C=1 / weight_decay, fit_intercept=False, tol=1e-10, max_iter=10_000)
    coefficients = solver.fit(x, dataset.train_y[chosen], sample_weight=weights).coef_[0]
    coefficients = coefficients.astype(np.float32)
    return {"linear": {"kernel": coefficients[:-1, None], "bias": coefficients[-1:]}}
