"""Prints docs/comparison.md; with `kappa`, docs/kappa.md."""

from byzjax._program import prints
from byzjax.theory import comparison, exact

if __name__ == "__main__":
    prints(
        "Prints docs/comparison.md; with kappa, docs/kappa.md.",
        {"page": comparison.page, "kappa": exact.page},
    )
