"""Compression of what workers send, as optax transformations.

    optax.chain(
        byzjax.per_worker(compress.error_feedback(compress.top_k(0.01)), n),
        byzjax.attack(...), byzjax.aggregate(...), optax.sgd(...),
    )

A compressor maps one update to the update that a receiver reads from the message: of the same shape
and dtype, with less information. `compressor.bits(params)` is the length of a message; `ledger`
counts messages.
"""

from byzjax.compress._compressor import Compressor, LedgerState, ledger, of_byzantine
from byzjax.compress.feedback import EstimateState, FeedbackState, ef21, error_feedback
from byzjax.compress.quantized import quantize, sign
from byzjax.compress.sparse import rand_k, top_k

__all__ = [
    "Compressor",
    "EstimateState",
    "FeedbackState",
    "LedgerState",
    "ef21",
    "error_feedback",
    "ledger",
    "of_byzantine",
    "quantize",
    "rand_k",
    "sign",
    "top_k",
]
