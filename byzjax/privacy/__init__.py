"""Differential privacy of the workers' data: private gradients, and what they cost.

    loss_fn = privacy.private(loss_fn, clip_norm=1.0, noise_multiplier=2.0)
    privacy.epsilon(noise_multiplier=2.0, sampling_probability=0.01, steps=1000, delta=1e-5)

A private loss has the value of the loss and the gradient of DP-SGD, so it fits wherever a gradient
is taken. The accountant is that of `dp_accounting`: pip install "byzjax[privacy]".
"""

from byzjax.privacy.accountant import epsilon, noise_multiplier
from byzjax.privacy.gradients import private

__all__ = ["epsilon", "noise_multiplier", "private"]
