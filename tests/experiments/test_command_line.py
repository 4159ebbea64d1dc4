"""What a person sees of `python -m experiments` and of the other programs; nothing is trained."""

import importlib
import itertools
import re
import runpy
import shlex
import sys

import pandas as pd
import pytest

from byzjax._program import nearest
from experiments.cli import commands, listing, options
from experiments.execution import hosts
from experiments.grid import catalogue
from experiments.grid.config import Config
from experiments.grid.config import options as options_of
from experiments.text import arguments, columns, names
from experiments.training import assemble
from tests.mutants import __main__ as mutants

COMMANDS = tuple(commands.COMMANDS)


@pytest.fixture
def told(capsys, monkeypatch):
    def run(line, width=80):
        monkeypatch.setenv("COLUMNS", str(width))
        status = commands.main(shlex.split(line))
        return status, *capsys.readouterr()

    return run


# --- help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["--help", "-h", "help"])
def test_the_help_lists_all_commands_in_one_line_each(told, line):
    status, out, err = told(line)
    assert (status, err) == (0, "")
    for name in COMMANDS:
        assert re.search(rf"^  {name} +[A-Z].*\.$", out, re.MULTILINE), name
    assert "--learning-rate NUMBER" in out  # then the options of run


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_help_fits(told, command, width):
    status, out, err = told(f"{command} --help", width)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= width
    assert f"usage: python -m experiments {command}".rstrip() in lines[0]
    # Nothing is broken early: the first word of a line would not have fitted into the one above.
    for line, after in itertools.pairwise(lines):
        indent = len(line) - len(line.lstrip())
        same = indent == 24 and after.startswith(" " * 24) and not after[24:25].isspace()
        if same and not line.lstrip().startswith("--"):
            word = re.match(r'"[^"]*"\S*|`[^`]*`\S*|\S+', after.strip())[0]
            assert len(line) + 1 + len(word) > width - 1, (line, after)


@pytest.mark.parametrize(
    ("command", "usage"),
    [("study", "NAME"), ("report", "FOLDER"), ("choose", "FOLDER"), ("list", "[KIND]")],
)
def test_positional_arguments_have_names(told, command, usage):
    _, out, _ = told(f"{command} --help")
    assert out.startswith(f"usage: python -m experiments {command} {usage} [OPTIONS]")
    assert not re.search(r"\bSTR\b|\(default: None\)|\(required\)", out)


def test_defaults_that_follow_are_explained(told):
    _, out, _ = told("run --help", 100)
    flat = " ".join(out.split())
    assert "(default: the most that Krum and all rules tolerate, 11 of 25)" in flat
    assert "(default: 0, 1, f // 2 and f, so 0 1 5 11)" in flat


# --- defaults that follow ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "f", "s"),
    [
        ("", 11, (0, 1, 5, 11)),
        ("--n 10 --f 3", 3, (0, 1, 3)),
        ("--n 10", 3, (0, 1, 3)),
        ("--f 4", 4, (0, 1, 2, 4)),
        ("--n 51 --f 11", 11, (0, 1, 5, 11)),
        ("--n 51", 24, (0, 1, 12, 24)),
        ("--n 7 --s 2", 2, (2,)),
        ("--f 1", 1, (0, 1)),
        ("--f 0", 0, (0,)),
        ("--n 3", 0, (0,)),
        ("--rule bulyan --n 11", 2, (0, 1, 2)),
        ("--rule bulyan", 5, (0, 1, 2, 5)),
        ("--rule 'krum(m=2)' median --n 12", 4, (0, 1, 2, 4)),
    ],
)
def test_f_and_s_follow(line, f, s):
    config = arguments.parse(options.RunCommand, shlex.split(line), prog="run").grid
    assert (config.f, config.s) == (f, s)
    if config.n < 20:
        assert assemble.plan(config)
    again = arguments.parse(Config, shlex.split(options_of(config)), prog="run")
    assert again == config


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 25, 51, 100])
def test_the_defaults_of_any_n_and_f_are_possible(n):
    for f in (None, *range(min(n, 12))):
        config = Config(n=n, f=f, rule=("mean",))
        assert all(0 <= s <= config.f for s in config.s)
        assert config.f < n
        if n < 9:
            assert assemble.plan(config)


@pytest.mark.parametrize(
    ("steps", "every"), [(300, 25), (10, 10), (1, 1), (101, 101), (202, 101), (310, 31), (48, 24)]
)
def test_evaluations_follow_the_steps(steps, every):
    assert Config(steps=steps).eval_every == every
    assert arguments.parse(Config, ["--steps", str(steps)], prog="run").eval_every == every


# --- errors --------------------------------------------------------------------------------------

MISTAKES = {
    "--rul krum": "unknown option --rul; did you mean --rule?",
    "--lr 0.1": "unknown option --lr; did you mean --learning-rate?",
    "--n": "--n needs a value.",
    "--n ten": "--n: expected an integer; got 'ten'.",
    "--learning-rate fast": "--learning-rate: expected a number; got 'fast'.",
    "--seeds 1 2": "unexpected '2'; python -m experiments run --help shows what it takes.",
    "--s": "s needs one or more different numbers; got ().",
    "--n 10 --f 3 --s 5": "s must lie in 0 .. f; got s=5, f=3. Give a smaller --s or larger --f.",
    "--n 10 --f 12": "f must be below n; got n=10, f=12.",
    "--n 10 --f 4": "krum needs n >= 2f + 3; got n=10, f=4.",
    "--f -1": "f must be at least 0; got -1.",
    "--steps 30 --eval-every 7": "eval_every must divide steps; got steps=30, eval_every=7.",
    "momentum": "unknown command 'momentum'; it is a study: write python -m experiments study mom",
    "krum": "unknown command 'krum'; for this rule write python -m experiments --rule krum.",
    "studdy": "unknown command 'studdy'; did you mean study?",
    "frobnicate": "unknown command 'frobnicate'; known: run, study, report, choose, worst-case,",
    "run momentum": "run takes options only; got 'momentum'; it is a study: write python -m exper",
    "study": "python -m experiments study needs NAME; python -m experiments study --help explai",
    "study momentun": "unknown study 'momentun'; did you mean momentum?",
    "study aksel --edition ful": "study aksel has no edition 'ful'; it has full, cpu. Did you me",
    "study aksel cpu": "unexpected 'cpu'; python -m experiments study --help shows what it takes.",
    "list rule": "unknown kind 'rule'; did you mean rules?",
    "--rule krumm": "unknown rule 'krumm'; did you mean krum?",
    "--rule Trimmed-Mean": "unknown rule 'Trimmed-Mean'; did you mean trimmed_mean?",
    "--rule rfa": "unknown rule 'rfa'; did you mean geometric_median?",
    "--rule sign_flip": "unknown rule 'sign_flip'; it is an attack: write --attack sign_flip.",
    "--rule fl_trust": "fl_trust is not offered on the command line: it needs trusted, which a run",
    "--rule zzz": "unknown rule 'zzz'; known: mean, median, trimmed_mean, krum,",
    "--rule": "nothing to run: no rule is given.",
    "--rule krum krum": "a rule is given twice: krum.",
    "--rule 'krum(4)'": "cannot read 'krum(4)'; expected a name or a call with keywords, such as "
    '"krum" or "krum(f=4, m=3)".',
    "--rule 'krum(k=3)'": "krum has no parameter k; it takes f, m, neighbors, squared.",
    "--rule 'krum(neighbours=3)'": "krum has no parameter neighbours; it takes f, m, neighbors, "
    "squared. Did you mean neighbors?",
    "--rule 'aksel(mode=mid)'": "cannot read 'aksel(mode=mid)'; a word needs quotes: mode='mid'.",
    "--rule \"aksel(mode='radus')\"": "mode must be one of mid, n-f, radius; got 'radus'. Did you",
    "--attack alie": "unknown attack 'alie'; did you mean little_is_enough?",
    "--attack krum": "unknown attack 'krum'; it is a rule: write --rule krum.",
    "--attack strongest": "strongest is not offered on the command line: it needs an attack: use",
    "--attack 'sign_flip('": "cannot read 'sign_flip('; expected a name or a call with keywords, "
    'such as "little_is_enough" or "little_is_enough(z=1.5)".',
    "--attack dissensus": "dissensus needs peers; expected --protocol gossip.",
    "--mixing bucketting": "unknown mixing 'bucketting'; did you mean bucketing?",
    "--mixing 'bucketing(2)'": "cannot read 'bucketing(2)'; expected a name or a call with keywords"
    ', such as "bucketing" or "bucketing(s=2)".',
    "--mixing bucketing": "bucketing needs s; write bucketing(s=...).",
    "--protocol gosip": "unknown protocol 'gosip'; did you mean gossip?",
    "--protocol 'gossip(2)'": "cannot read 'gossip(2)'; expected a name or a call with keywords, "
    'such as "gossip" or "gossip(graph=\'ring\')".',
    "--protocol \"gossip(graf='ring')\"": "gossip has no parameter graf; it takes graph, per_rece",
    "--protocol \"gossip(graph='rink')\"": "unknown graph 'rink'; did you mean ring?",
    "--protocol asynchronous": "asynchronous has momentum at update, if any; got momentum=0.9 at "
    "worker. Add --momentum-at update or --momentum 0.",
    "--protocol \"asynchronous(judge='kardan')\" --momentum 0 --rule mean --f 8": "judge must be "
    "one of none, kardam, lipschitz, frequency; got 'kardan'. Did you mean kardam?",
    "--schedule cosin": "unknown schedule 'cosin'; did you mean cosine?",
    "--schedule hyperbolic": "cannot read schedule 'hyperbolic'; expected hyperbolic(k) with k > 0",
    "--partition dirichlet": "cannot read kind of partition 'dirichlet'; expected dirichlet(alpha)",
    "--partition idd": "unknown kind of partition 'idd'; did you mean iid?",
    "--momentum-at wrker": "momentum_at must be one of worker, server, update; got 'wrker'. Did y",
    "--dealt-to honst": "dealt_to must be all or honest; got 'honst'. Did you mean honest?",
    "--dataset minst": "unknown data set 'minst'; did you mean mnist?",
    "--model resnet": "unknown model 'resnet'; did you mean resnet20?",
    "data --dataset digit": "unknown data set 'digit'; did you mean digits?",
    "theory --part kapa": "unknown part 'kapa'; did you mean kappa?",
    "worst-case --rule krumm": "unknown rule 'krumm'; did you mean krum?",
    "worst-case --data mnst": "data must be gaussian or mnist; got 'mnst'. Did you mean mnist?",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_that_says_what_to_write(told, line):
    status, out, err = told(line)
    assert (status, out) == (2, "")
    (message,) = [line for line in err.splitlines() if not line.startswith("\r")]
    assert message.startswith(f"error: {MISTAKES[line]}")
    assert len(message) <= 200


def test_very_long_names_are_cut(told):
    for option in ("--rule", "--attack", "--mixing", "--protocol", "--schedule", "--dataset"):
        _, _, err = told(f"{option} {'x' * 1000}")
        assert len(err.rstrip("\n")) <= 200, option


def test_underscores_may_be_written_for_hyphens():
    assert arguments.parse(Config, ["--batch_size", "4"], prog="run").batch_size == 4
    assert arguments.parse(Config, ["--batch_size=4"], prog="run").batch_size == 4
    assert arguments.parse(Config, ["--rule", "a_b"], prog="run").rule == ("a_b",)


def test_nearest():
    assert nearest("KRUM", ["mean", "krum"]) == "krum"
    assert nearest("ipm", ["mean", "inner_product_manipulation"]) == "inner_product_manipulation"
    assert nearest("m", ["mean", "min_max"]) is None
    assert nearest("", ["mean"]) is None
    assert nearest("xyz", []) is None


def test_one_and_many():
    assert [names.counted(k, "block") for k in (0, 1, 2)] == ["0 blocks", "1 block", "2 blocks"]
    assert names.counted(1, "study", "studies") == "1 study"
    assert names.counted(1234, "study", "studies") == "1,234 studies"


def test_one_block_is_told_so(told, monkeypatch, tmp_path):
    monkeypatch.setattr(hosts, "leads", lambda: False)  # nothing is run
    monkeypatch.setattr(commands, "_run", lambda *_, **__: None)
    options = "--rule median --attack none --s 0 --seeds 1 --steps 1"
    status, out, err = told(f"{options} --results {tmp_path}")
    assert status == 0, err
    assert "n = 25, f = 11: 1 block, 1 run of 1 step, into " in out


# --- list ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 100])
def test_the_list(told, width):
    status, out, _ = told("list", width)
    assert status == 0
    assert max(map(len, out.splitlines())) <= width
    assert not set("$\\`") & set(out)
    flat = " ".join(out.split())
    for part in (
        "krum (f, m=1, neighbors='n-f-2', squared=True) needs n >= 2f + 3",
        "bulyan (f) needs n >= 4f + 3",
        "huber (threshold=...) needs n >= 2f + 1",
        "omniscient (factor=1e+10)",
        "All attackers send b = -epsilon mu, with the mean mu of the honest updates.",
        "Every attacker sends independent noise, b_i ~ N(0, sigma^2 I).",
        "not offered: zeno needs params and trusted_loss, which a run does not have.",
        "gossip (graph='complete', per_receiver=False, local_steps=1, ...)",
    ):
        assert part in flat, part


def test_a_part_of_the_list(told):
    status, out, _ = told("list models")
    assert status == 0
    assert out.startswith("models:\n  softmax  Softmax regression.\n")
    assert "krum" not in out


def test_every_function_of_the_library_is_offered_or_has_a_reason():
    offered = {kind: set(table) for kind, table in catalogue.TABLES.items()}
    rules = {name for name, facts in catalogue.FACTS.items() if facts.kind in ("rule", "memory")}
    assert rules == offered["rule"] | set(catalogue.not_offered("rule"))
    helpers = {"default_starts", "little_is_enough_z", "pruning_mask"}
    both = offered["attack"] | set(catalogue.not_offered("attack"))
    assert set(catalogue.attacks.__all__) - helpers <= both
    for kind in catalogue.TABLES:
        assert not offered[kind] & set(catalogue.not_offered(kind))


def test_plain_text_of_formulas():
    assert listing.plain(r"Sends $b = -c \, (1, \dots, 1)$.") == "Sends b = -c (1, ..., 1)."
    assert listing.plain(r"$\mu - z\sigma$ and `krum`") == "mu - z sigma and krum"


# --- tables --------------------------------------------------------------------------------------


def test_tables_fit():
    titles = ["rule", "none", "sign_flip", "inner_product_manipulation(epsilon=0.5)", "non_finite"]
    rows = [["trimmed_mean", *["98.7 ± 0.2 (NaN)"] * 4], ["krum", *["9.0 ± 0.1"] * 4]]
    wide = columns.fitted(titles, rows, 200)
    assert [len(line) for line in wide.splitlines()] == [115] * 4
    assert columns.fitted(titles, rows, 115) == wide
    for width in (114, 100, 80, 60, 40):
        out = columns.fitted(titles, rows, width)
        assert max(map(len, out.splitlines())) <= width
        assert out.count("98.7 ± 0.2 (NaN)") == 4
        flat = out.replace(" ", "").replace("|", "").replace("\n", "")
        assert "sign_flip" in flat
        for part in out.split("\n\n"):
            assert part.splitlines()[-1].startswith("| krum ")
    assert columns.fitted(["a"], [], 80) == "| a |\n|---|"


def test_a_frame_as_a_table(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    frame = pd.DataFrame({"rule": ["krum"], "damage": [1.23456], "f": [3]})
    expected = "| rule | damage | f |\n|------|--------|---|\n| krum | 1.23   | 3 |"
    assert columns.of_frame(frame, "%.2f") == expected


# --- other programs ------------------------------------------------------------------------------

PROGRAMS = (
    *("byzjax.attacks.__main__", "byzjax._numerics.table", "byzjax.theory.__main__"),
    *("experiments.analysis.choosing", "experiments.analysis.findings"),
    *("experiments.analysis.theory.page", "experiments.analysis.gradients.page"),
    "experiments.report.drawings",
)
BENCHMARKS = (
    *("__main__", "accelerator.__main__", "agreement", "attacks", "collective", "devices"),
    *("direct", "kardam", "protocols", "published", "spread", "training"),
)


def ended(capsys, function):
    """Exit status, output, and the lines of the errors."""
    with pytest.raises(SystemExit) as end:
        function()
    out, err = capsys.readouterr()
    return end.value.code, out, err.splitlines()


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_programs(program, capsys, monkeypatch):
    def run(*words):
        monkeypatch.setattr(sys, "argv", [program, *words])
        return ended(capsys, lambda: runpy.run_module(program, run_name="__main__"))

    status, out, _ = run("--help")
    assert status == 0
    assert out.startswith("usage: ")
    status, out, errors = run("--nmaes")
    assert (status, out, len(errors)) == (2, "", 1)
    if program.startswith("experiments.analysis"):
        status, _, (error,) = run("nowhere")
        assert status == 2
        assert re.fullmatch(
            r"error: nowhere/\w+\.md: No such file .*; expected the folder .*", error
        )


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmarks(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    main = importlib.import_module(f"benchmarks.{name}").main
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    status, out, _ = ended(capsys, main)
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
    monkeypatch.setattr(sys, "argv", [name, "--wriet", "docs"])
    status, _, (error,) = ended(capsys, main)
    assert (status, error) == (2, "error: unknown option --wriet; did you mean --write?")


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("collective", "--part ruls", "error: --part: unknown 'ruls'; did you mean rules?"),
        ("kardam", "--datasets minst", "error: --datasets: unknown 'minst'; did you mean mnist?"),
        ("training", "--networks x", "error: --networks: unknown 'x'; known: mlp, cnn_5x5."),
        ("published", "--only zzz", "error: --only: no line's name contains 'zzz'; one contains"),
    ],
)
def test_wrong_names_of_benchmarks(name, line, message, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name, *line.split()])
    status, out, (error,) = ended(capsys, importlib.import_module(f"benchmarks.{name}").main)
    assert (status, out) == (2, "")
    assert error.startswith(message)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--tier defalt", "error: --tier: unknown 'defalt'; did you mean default?"),
        ("--only zzz", "error: no mutant's name or file holds 'zzz'; one does hold 'krum'."),
        ("--shard 3/2", "error: a shard reads as I/N with 1 <= I <= N; got '3/2'."),
        ("--jbos 1", "error: unknown option --jbos; did you mean --jobs?"),
    ],
)
def test_wrong_options_of_the_mutants(line, message, capsys):
    status, _, (error,) = ended(capsys, lambda: mutants.main(line.split()))
    assert (status, error) == (2, message)
