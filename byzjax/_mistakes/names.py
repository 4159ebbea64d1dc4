"""Names that a module does not have."""

import importlib
import importlib.util

from byzjax._mistakes.words import nearest, plain

# Names of the literature and of other libraries, in the form of `plain`.
SYNONYMS = {
    "adaptivegradientclipping": "adaptive_clipping",
    "alie": "little_is_enough",
    "arc": "adaptive_clipping",
    "average": "mean",
    "averaging": "mean",
    "brute": "minimum_diameter",
    "caf": "covariance_filter",
    "cc": "centered_clip",
    "cge": "comparative_elimination",
    "clip": "clip_norms",
    "cm": "median",
    "coordinatewisemedian": "median",
    "cwmed": "median",
    "cwmedian": "median",
    "cwtm": "trimmed_mean",
    "divideandconquer": "spectral_filter",
    "dnc": "spectral_filter",
    "fallofempires": "inner_product_manipulation",
    "fedavg": "mean",
    "fltrust": "fl_trust",
    "foe": "inner_product_manipulation",
    "gas": "gradient_splitting",
    "geomed": "geometric_median",
    "gm": "geometric_median",
    "hsa": "hybrid_sparse",
    "innerproduct": "inner_product_manipulation",
    "ipm": "inner_product_manipulation",
    "labelflip": "flip_labels",
    "labelflipping": "flip_labels",
    "lf": "flip_labels",
    "lie": "little_is_enough",
    "marginalmedian": "median",
    "mda": "minimum_diameter",
    "meamed": "mean_around_median",
    "medianofmeans": "geometric_median_of_means",
    "mom": "geometric_median_of_means",
    "monna": "nearest_to_pivot",
    "nan": "non_finite",
    "nn": "nearest_neighbors",
    "nnm": "nearest_neighbors",
    "noise": "gaussian",
    "rfa": "geometric_median",
    "rlr": "robust_learning_rate",
    "robustlr": "robust_learning_rate",
    "sf": "sign_flip",
    "signsgd": "majority_sign",
    "smea": "minimum_eigenvalue",
    "staticclipping": "clip_norms",
    "tm": "trimmed_mean",
    "trmean": "trimmed_mean",
    "vectormedian": "medoid",
}
_PLACES = ("", ".attacks", ".protocols", ".protocols.graphs", ".stacked", ".order", ".scores")


def no_attribute(module: str, name: str) -> AttributeError:
    """The error for a name that a module does not have."""
    wrong = f"module {module!r} has no attribute {name!r}"
    if name.startswith("_"):
        return AttributeError(wrong)
    package = hasattr(importlib.import_module(module), "__path__")
    if package and importlib.util.find_spec(f"{module}.{name}"):
        return AttributeError(f"{wrong}: write import {module}.{name} first.")
    place = whereabouts(module, name)
    return AttributeError(f"{wrong}; did you mean {place}?" if place else f"{wrong}.")


def whereabouts(module: str, name: str) -> str | None:
    """The full name of the public function that was probably meant, looked for in all modules."""
    meant = SYNONYMS.get(plain(name), name)
    homes = dict.fromkeys([module, *(f"byzjax{place}" for place in _PLACES)])
    public = {home: _public(home) for home in homes}
    for home, names in public.items():
        if meant in names:
            return f"{home}.{meant}"
    for home, names in public.items():
        if close := nearest(meant, names, cutoff=0.75):
            return f"{home}.{close}"
    return None


def _public(module: str) -> list[str]:
    whole = importlib.import_module(module)
    names = getattr(whole, "__all__", None) or vars(whole)
    return [name for name in names if not name.startswith("_") and callable(getattr(whole, name))]
