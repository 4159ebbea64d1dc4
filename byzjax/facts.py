"""Properties of each rule and mixing, as data that errors, tests and documentation use.

`FACTS["krum"]` has the requirement that krum's error states, the laws and the promise that its
tests check, and its row in the tables of `docs/rules.md`. `python -m byzjax.facts` prints that
page, and with `names` the README's lists of names. Proved constants are in `byzjax.theory`.
"""

from typing import NamedTuple

from byzjax._program import prints

PROMISES = {
    "range": "every coordinate stays within the honest range",
    "bounded": "the distance to the honest mean is at most a constant times the honest diameter",
    "finite": "f rows cannot make it NaN or infinite",
    "none": "one row can make it NaN or infinite",
}


class Facts(NamedTuple):
    """Properties of one rule or mixing, in its default form.

    Attributes:
      kind: `"rule"`, `"memory"` (an optax transformation with memory) or `"mixing"`.
      needs: (a, b) of the requirement n >= a f + b.
      cost: order of the time, in n workers, d coordinates and symbols that the note explains.
      breakdown: the faults that it withstands.
      full: whether it returns a combination of whole updates, not one coordinate at a time.
      promise: a key of `PROMISES`, against any f rows.
      reference: authors and year.
      takes_f: whether f is a hyperparameter; if not, `needs` gives the f that it withstands.
      permutes: permuting the workers changes nothing (a mixing: permutes the rows).
      shifts: adding a vector to all updates adds it to the result.
      scales: multiplying all updates, and hyperparameters in their unit, multiplies the result.
      repeats: n equal updates give that update.
      deterministic: it takes no key.
      memory: size of the state that it keeps between steps.
      workspace: temporary memory that it may allocate, in multiples of its input.
      layers: whether each leaf of a tree is a layer, with a selection of its own: a tree then does
        not give what its flat vector gives.
      weights: the part of the weight that it withstands, if it takes weights (docs/weights.md).
      note: further remarks for users.
    """

    kind: str
    needs: tuple[int, int]
    cost: str
    breakdown: str
    full: bool
    promise: str
    reference: str
    takes_f: bool = True
    permutes: bool = True
    shifts: bool = True
    scales: bool = True
    repeats: bool = True
    deterministic: bool = True
    memory: str = "none"
    workspace: float = 2.0
    layers: bool = False
    weights: str = ""
    note: str = ""


def inequality(needs: tuple[int, int]) -> str:
    """The requirement as text.

    Args:
      needs: (a, b).

    Returns:
      `n >= a f + b`, as written in errors.

    Example:
      >>> inequality((2, 3))
      'n >= 2f + 3'
    """
    a, b = needs
    if a == 0:
        return f"n >= {b}"
    return f"n >= {'' if a == 1 else a}f + {b}"


BLANCHARD = "Blanchard, El-Mhamdi, Guerraoui, Stainer 2017"
YIN = "Yin, Chen, Ramchandran, Bartlett 2018"

FACTS: dict[str, Facts] = {
    "mean": Facts(
        "rule",
        (0, 1),
        cost="nd",
        breakdown="f = 0",
        full=True,
        promise="none",
        reference="",
        takes_f=False,
        weights="0",
    ),
    "mean_of_finite": Facts(
        "rule",
        (0, 1),
        cost="nd",
        breakdown="f = 0 for finite values",
        full=False,
        promise="finite",
        reference="Damaskinos et al. 2019",
        takes_f=False,
        note="for links that lose coordinates, not for attacks",
    ),
    "median": Facts(
        "rule",
        (2, 1),
        cost="nd",
        breakdown="n > 2f",
        full=False,
        promise="range",
        reference=YIN,
        takes_f=False,
        weights="less than 1/2",
    ),
    "trimmed_mean": Facts(
        "rule",
        (2, 1),
        cost="nd",
        breakdown="n > 2f",
        full=False,
        promise="range",
        reference=YIN,
        weights="f/n",
    ),
    "mean_around_median": Facts(
        "rule",
        (2, 1),
        cost="nd",
        breakdown="n > 2f",
        full=False,
        promise="bounded",
        reference="Xie, Koyejo, Gupta 2018 (MeaMed)",
        weights="f/n",
    ),
    "phocas": Facts(
        "rule",
        (2, 1),
        cost="nd",
        breakdown="n > 2f",
        full=False,
        promise="bounded",
        reference="Xie, Koyejo, Gupta 2018",
        weights="f/n",
    ),
    "biweight_mean": Facts(
        "rule",
        (2, 1),
        cost="nd",
        breakdown="n > 2f",
        full=False,
        promise="bounded",
        reference="Mosteller, Tukey 1977",
        takes_f=False,
    ),
    "aksel": Facts(
        "rule",
        (2, 1),
        cost="nd",
        breakdown="n > 2f",
        full=True,
        promise="bounded",
        reference="Boussetta, El-Mhamdi, Guerraoui, Maurer, Rouault 2020",
        weights="f/n",
    ),
    "krum": Facts(
        "rule",
        (2, 3),
        cost="n²d",
        breakdown="n > 2f + 2",
        full=True,
        promise="bounded",
        reference=BLANCHARD,
    ),
    "multi_krum": Facts(
        "rule",
        (2, 3),
        cost="n²d",
        breakdown="n > 2f + 2",
        full=True,
        promise="bounded",
        reference=BLANCHARD,
        note="m rows, by default n - f - 2",
    ),
    "bulyan": Facts(
        "rule",
        (4, 3),
        cost="n²d",
        breakdown="n > 4f + 2",
        full=False,
        promise="bounded",
        reference="El-Mhamdi, Guerraoui, Rouault 2018",
        note="over Krum, or over any rule",
    ),
    "minimum_diameter": Facts(
        "rule",
        (2, 1),
        cost="n²d, and exponential in f at worst",
        breakdown="n > 2f",
        full=True,
        promise="bounded",
        reference="El-Mhamdi, Guerraoui, Rouault 2018 (Brute, MDA)",
        permutes=False,
        note="f <= 32; many subsets tie, so the order of the workers matters",
    ),
    "minimum_eigenvalue": Facts(
        "rule",
        (2, 1),
        cost="n²d + C(n, f) n³",
        breakdown="n > 2f",
        full=True,
        promise="bounded",
        reference="Allouah, Guerraoui, Gupta, Pinot, Stephan 2023 (SMEA)",
        note="at most 100,000 subsets",
    ),
    "covariance_filter": Facts(
        "rule",
        (2, 1),
        cost="n²d + f n³",
        breakdown="n > 2f",
        full=True,
        promise="finite",
        reference="Allouah, Guerraoui, Stephan 2025 (CAF)",
    ),
    "spectral_filter": Facts(
        "rule",
        (2, 1),
        cost="nd + n²b, b coordinates sampled",
        breakdown="none proved",
        full=True,
        promise="finite",
        reference="Shejwalkar, Houmansadr 2021 (DnC)",
        deterministic=False,
        note="two distant attackers in two directions, at different distances, break it",
    ),
    "geometric_median": Facts(
        "rule",
        (2, 1),
        cost="n²d, and n² an iteration",
        breakdown="n > 2f",
        full=True,
        promise="bounded",
        reference="Pillutla, Kakade, Harchaoui 2019 (RFA)",
        takes_f=False,
        weights="less than 1/2",
    ),
    "geometric_median_of_means": Facts(
        "rule",
        (2, 1),
        cost="nd + k²d",
        breakdown="k > 2f",
        full=True,
        promise="finite",
        reference="Chen, Su, Xu 2017",
        takes_f=False,
        permutes=False,
        note="k groups of consecutive workers",
    ),
    "huber": Facts(
        "rule",
        (2, 1),
        cost="n²d, and n² an iteration",
        breakdown="n > 2f",
        full=True,
        promise="finite",
        reference="Zhao, Yu, Wan 2024",
        takes_f=False,
        weights="less than 1/2",
    ),
    "centered_clip": Facts(
        "rule",
        (0, 1),
        cost="nd",
        breakdown="moves by at most its radius",
        full=True,
        promise="finite",
        reference="Karimireddy, He, Jaggi 2021",
        takes_f=False,
        shifts=False,
        repeats=False,
        weights="moves by at most its radius",
        note="takes its centre as data and shifts with it",
    ),
    "comparative_elimination": Facts(
        "rule",
        (2, 1),
        cost="nd",
        breakdown="n > 2f",
        full=True,
        promise="finite",
        reference="Gupta, Liu, Vaidya 2020 (CGE)",
        shifts=False,
        weights="f/n",
    ),
    "nearest_to_pivot": Facts(
        "rule",
        (2, 1),
        cost="nd",
        breakdown="n > 2f, if the pivot is honest",
        full=True,
        promise="bounded",
        reference="Farhadkhani, Guerraoui, Gupta, Hoang, Pinot, Stephan 2023 (MoNNA)",
        permutes=False,
        note="the pivot is a trusted worker",
    ),
    "medoid": Facts(
        "rule",
        (2, 1),
        cost="n²d",
        breakdown="n > 2f",
        full=True,
        promise="bounded",
        reference="Xie, Koyejo, Gupta 2018",
        takes_f=False,
    ),
    "majority_sign": Facts(
        "rule",
        (2, 1),
        cost="nd",
        breakdown="n > 2f, coordinate by coordinate",
        full=False,
        promise="finite",
        reference="Bernstein, Zhao, Azizzadenesheli, Anandkumar 2019 (signSGD)",
        takes_f=False,
        shifts=False,
        scales=False,
        repeats=False,
        note="the result has entries -1, 0 and 1",
    ),
    "robust_learning_rate": Facts(
        "rule",
        (0, 1),
        cost="nd",
        breakdown="none proved",
        full=False,
        promise="none",
        reference="Ozdayi, Kantarcioglu, Gel 2021 (RLR)",
        takes_f=False,
        shifts=False,
        note="against backdoors; of the mean, or of any rule, whose promise it keeps in size",
    ),
    "gradient_splitting": Facts(
        "rule",
        (2, 1),
        cost="n²d",
        breakdown="n > 2f, and that of its inner rule",
        full=True,
        promise="finite",
        reference="Liu, Chen, Lyu, Wu, Wu, Chen 2023 (GAS)",
        deterministic=False,
        workspace=6.0,
        note="over Multi-Krum, or over any rule",
    ),
    "flame": Facts(
        "rule",
        (2, 1),
        cost="n²d + n³",
        breakdown="none proved",
        full=True,
        promise="finite",
        reference="Nguyen et al. 2022",
        takes_f=False,
        shifts=False,
        repeats=False,
        deterministic=False,
        note="against backdoors; adds noise",
    ),
    "lasa": Facts(
        "rule",
        (2, 1),
        cost="nd",
        breakdown="none proved",
        full=False,
        promise="finite",
        reference="Xu, Zhang, Hu 2025",
        takes_f=False,
        shifts=False,
        repeats=False,
        layers=True,
        note="each leaf is a layer, with a selection of its own",
    ),
    "sign_guard": Facts(
        "rule",
        (2, 1),
        cost="nd + n³",
        breakdown="none proved",
        full=True,
        promise="finite",
        reference="Xu, Huang, Song, Lan 2022",
        takes_f=False,
        shifts=False,
        deterministic=False,
    ),
    "flag": Facts(
        "rule",
        (2, 1),
        cost="n²d + n³",
        breakdown="none proved",
        full=True,
        promise="finite",
        reference="Almasi, Mishra, Vamanan, Ravi 2024",
        takes_f=False,
        shifts=False,
        scales=False,
        repeats=False,
    ),
    "fl_trust": Facts(
        "rule",
        (0, 1),
        cost="nd",
        breakdown="any f, with a trusted update",
        full=True,
        promise="finite",
        reference="Cao, Fang, Liu, Gong 2021",
        takes_f=False,
        shifts=False,
        repeats=False,
        note="needs a trusted update as data",
    ),
    "zeno": Facts(
        "rule",
        (1, 1),
        cost="nd, and n evaluations of the loss",
        breakdown="n > f, with a trusted loss",
        full=True,
        promise="finite",
        reference="Xie, Koyejo, Gupta 2019",
        shifts=False,
        scales=False,
        note="needs parameters and a trusted loss as data",
    ),
    "centered_clipping": Facts(
        "memory",
        (0, 1),
        cost="nd",
        breakdown="moves by at most its radius",
        full=True,
        promise="finite",
        reference="Karimireddy, He, Jaggi 2021",
        takes_f=False,
        shifts=False,
        repeats=False,
        memory="d",
        weights="moves by at most its radius",
        note="the centre is its previous result",
    ),
    "foolsgold": Facts(
        "memory",
        (0, 1),
        cost="n²d",
        breakdown="sybils that send similar updates",
        full=True,
        promise="finite",
        reference="Fung, Yoon, Beschastnikh 2018",
        takes_f=False,
        shifts=False,
        repeats=False,
        memory="nd",
    ),
    "concentration_filter": Facts(
        "memory",
        (2, 1),
        cost="n²d",
        breakdown="n > 2f",
        full=True,
        promise="finite",
        reference="Alistarh, Allen-Zhu, Li 2018 (ByzantineSGD)",
        takes_f=False,
        memory="nd",
    ),
    "safeguard": Facts(
        "memory",
        (2, 1),
        cost="n²d",
        breakdown="n > 2f",
        full=True,
        promise="finite",
        reference="Allen-Zhu, Ebrahimian, Li, Alistarh 2021 (SafeguardSGD)",
        takes_f=False,
        memory="2nd",
    ),
    "nearest_neighbors": Facts(
        "mixing",
        (2, 1),
        cost="n²d",
        breakdown="that of the rule after it",
        full=True,
        promise="bounded",
        reference="Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan 2023 (NNM)",
    ),
    "bucketing": Facts(
        "mixing",
        (0, 1),
        cost="nd",
        breakdown="f s < that of the rule after it",
        full=True,
        promise="none",
        reference="Karimireddy, He, Jaggi 2022",
        takes_f=False,
        permutes=False,
        deterministic=False,
        note="leaves ceil(n/s) rows",
    ),
    "clip_norms": Facts(
        "mixing",
        (0, 1),
        cost="nd",
        breakdown="none of its own",
        full=True,
        promise="finite",
        reference="",
        takes_f=False,
        shifts=False,
        repeats=False,
    ),
    "weak_dp": Facts(
        "mixing",
        (0, 1),
        cost="nd",
        breakdown="none of its own",
        full=True,
        promise="finite",
        reference="Sun, Kairouz, Suresh, McMahan 2019",
        takes_f=False,
        shifts=False,
        repeats=False,
        deterministic=False,
        note="one noise for all rows",
    ),
    "adaptive_clipping": Facts(
        "mixing",
        (2, 1),
        cost="nd",
        breakdown="that of the rule after it",
        full=True,
        promise="finite",
        reference="Allouah, Guerraoui, Gupta, Jellouli, Rizk, Stephan 2025 (ARC)",
        shifts=False,
    ),
}


def table(kind: str = "rule") -> str:
    """The facts of all rules, or mixings, as a Markdown table.

    Args:
      kind: `"rule"`, `"memory"` or `"mixing"`.

    Returns:
      The table's lines, joined. Each name is an anchor.

    Example:
      >>> print(table("mixing").splitlines()[2])  # doctest: +ELLIPSIS
      | <a id="nearest_neighbors"></a>`nearest_neighbors` | n >= 2f + 1 | n²d | ...
    """
    rows = [_cells(name, facts) for name, facts in FACTS.items() if facts.kind == kind]
    head = list(rows[0])
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row.values())} |" for row in rows)])


def _cells(name: str, facts: Facts) -> dict[str, str]:
    laws = ("permutes", "shifts", "scales", "repeats")
    return {
        "": f'<a id="{name}"></a>`{name}`',
        "needs": inequality(facts.needs) if facts.takes_f else f"n >= {min(1, facts.needs[1])}",
        "time": facts.cost,
        "withstands": facts.breakdown + (f"; {facts.note}" if facts.note else ""),
        "by weight": facts.weights or "no",
        "promise": facts.promise,
        "source": facts.reference,
        "whole updates": "yes" if facts.full else "no",
        "laws": ", ".join(law for law in laws if getattr(facts, law)),
        "key": "no" if facts.deterministic else "yes",
        "remembers": facts.memory,
        "temporaries / input": f"<= {facts.workspace:g}",
    }


def names(kind: str = "rule") -> str:
    """The names of all rules, or mixings, with links, as the README lists them.

    Args:
      kind: `"rule"`, `"memory"` or `"mixing"`.

    Returns:
      One line of Markdown, with links to the rows of `docs/rules.md`.

    Example:
      >>> print(names("mixing").partition(", ")[0])
      [`nearest_neighbors`](docs/rules.md#nearest_neighbors)
    """
    of_kind = (name for name, facts in FACTS.items() if facts.kind == kind)
    return ", ".join(f"[`{name}`](docs/rules.md#{name})" for name in of_kind)


def page() -> str:
    """All facts as a Markdown page, `docs/rules.md`.

    Returns:
      The page.

    Example:
      >>> page().splitlines()[0]
      '# Rules and mixings'
    """
    promises = "\n".join(f"* `{name}`: {text}." for name, text in PROMISES.items())
    return f"""# Rules and mixings

Generated from `byzjax.facts`, which errors and tests also use: `python -m byzjax.facts`. Every
function's docstring has its equation, requirement, an example and the paper that it comes from.
`byzjax.influence(rule, updates, f=f)` returns each worker's share of a rule's result.

n workers, f faults to tolerate, d coordinates. *By weight*: what a rule with `weights=` withstands,
as a share of the weight; *no* where it takes none ([weights](weights.md)). Promises against any f
rows, where NaN and infinity are ordinary input:

{promises}

The constants of `bounded` are the λ of [comparison.md](comparison.md), where `range` has one, too.

Laws: *permutes*, the order of the workers does not matter; *shifts*, a vector added to all updates
is added to the result; *scales*, a factor of all updates (and of hyperparameters in their unit)
multiplies the result; *repeats*, equal updates give that update. Proved constants side by side:
[comparison.md](comparison.md).

## Rules

Functions from stacked updates to one update, such as `byzjax.krum(updates, f=4)`.

{table("rule")}

## Aggregations with memory

Optax transformations that replace `byzjax.aggregate`.

{table("memory")}

## Mixings

They preprocess the rows for any rule, as in `byzjax.mix(byzjax.nearest_neighbors, f=f)`.

{table("mixing")}

## Other defences

Some defences of papers are several of these stages, or need what no stage has.

* **SLSGD** (Xie, Koyejo, Gupta 2019), a trimmed mean of the workers' models and a server that moves
  a part alpha of the way, is `protocols.parameter_server` with `local_steps=H`,
  `local=optax.sgd(rate)`, `rule=aggregate(trimmed_mean, f=f)` and `server=optax.sgd(alpha)`. The
  trimmed mean shifts with its rows, so that of the differences is that of the models.
* **Norm bounding, weak differential privacy** (Sun et al. 2019): `weak_dp` before the mean.
* **FLDetector** (Zhang, Cao, Jia, Gong 2022) would be an aggregation with memory. It is not here:
  its number of clusters comes from gap statistics, k-means on random references for several
  numbers of clusters, and once it has detected an attack, training starts anew.
* **DeepSight** (Rieger, Nguyen, Miettinen, Sadeghi 2022) reads the last layer and what the models
  predict for random inputs; **SkyMask** (Yan et al. 2024) trains masks on data of the server,
  through the models. A rule sees neither the model nor which leaf is the last layer. `fl_trust` and
  `zeno` are the rules that use data of the server.
* **FedSECA** (Benjamin, Asokan, Yaqub, Nandakumar 2025), votes on signs weighted by agreement,
  would be a rule. Only its abstract was read.
"""


if __name__ == "__main__":
    prints(
        "Prints docs/rules.md; with names, the README's lists of rules and mixings.",
        {"page": page, "names": lambda: "\n".join(map(names, ("rule", "memory", "mixing")))},
    )
