"""Rules, mixings and memories for updates that are PyTorch tensors; needs the extra `torch`.

    aggregator = byzjax.torch.Aggregator("krum", f=2, pre=["nearest_neighbors"])
    gradient = aggregator(gradients)  # a tensor [n, d], or one vector or state dict for each worker

Tensors are passed to JAX and back by DLPack, without a copy, on their own device. The module is not
imported by `import byzjax`: write `import byzjax.torch`.
"""

from byzjax.torch.aggregator import Aggregator

__all__ = ["Aggregator"]
