"""The minimiser of a logistic regression, to measure how far from it training ends."""

import numpy as np

from experiments.data import Dataset


def logistic(dataset: Dataset, weight_decay: float) -> dict[str, dict[str, np.ndarray]]:
    r"""The parameters of the model `logistic` that minimise its loss on all training samples.

    $$ \min_{w, b} \frac{1}{N} \sum_i \log(1 + e^{-t_i (\langle w, x_i \rangle + b)})
       + \frac{\lambda}{2} (\|w\|^2 + b^2), \qquad t_i = \pm 1 $$

    solved by scikit-learn, whose objective is N C times this one for C = 1 / (N lambda), with a
    column of ones for b, since weight decay shrinks b as well.

    Raises:
      ValueError: there is no weight decay (the minimiser may lie at infinity), or not two classes.
    """
    from sklearn.linear_model import LogisticRegression

    if weight_decay <= 0 or dataset.num_classes != 2:
        raise ValueError(
            "the optimum of a logistic regression needs two classes and weight_decay > 0; got "
            f"{dataset.num_classes} classes, weight_decay={weight_decay}."
        )
    x = dataset.train_x.reshape(len(dataset.train_x), -1).astype(np.float64)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    solver = LogisticRegression(
        C=1 / (len(x) * weight_decay), fit_intercept=False, tol=1e-10, max_iter=10_000
    )
    found = solver.fit(x, dataset.train_y).coef_[0]
    found = found.astype(np.float32)
    return {"linear": {"kernel": found[:-1, None], "bias": found[-1:]}}
