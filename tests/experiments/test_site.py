"""The pages and the notebooks: their statements hold and their code runs."""

import json
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

from experiments.analysis import choosing
from tests.flags import QUICKLY

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
NOTEBOOKS = sorted((ROOT / "colab").glob("*.py"))
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
# Commands that a reader runs once, or that would install into the tests' environment.
INSTALLING = re.compile(r"git clone|python3 -m venv|\. \.venv|(\.venv/bin/)?pip install")


def blocks(page, language):
    text = (DOCS / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


# --- pages ----------------------------------------------------------------------------------------


SHORT = {
    "--study": " --steps 25",
    "--study mine": " --attack sign_flip",
    "worst-case": " --steps 3",
    "pytest": " -p no:cacheprovider",
}


def run_page(page, folder):
    """Runs a page as a reader would: saves its files, runs its commands, the rest as one script.

    Commands are shortened by `SHORT`.
    """
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT))),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": QUICKLY,
    }

    def run(*command):
        done = subprocess.run(
            command, cwd=folder, env=environment, timeout=300, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    script = []
    for code in blocks(page, "python"):
        if name := re.match(r"# (\w+\.py)\n", code):
            (folder / name[1]).write_text(code)
        if not code.startswith("# test_"):
            script.append(code)
    (folder / "script.py").write_text("\n".join(script))
    said = run(sys.executable, "script.py")
    for line in "".join(blocks(page, "bash")).splitlines():
        if INSTALLING.match(line):
            continue
        assert line.startswith("python -m "), line
        line += "".join(more for word, more in SHORT.items() if word in line)
        run("bash", "-ec", line.replace("python", sys.executable, 1))
    return said


def test_getting_started_prints_what_it_says(tmp_path):
    page = (DOCS / "start.md").read_text()
    said = run_page("start.md", tmp_path)
    (shown,) = blocks("start.md", "text")
    assert "python first.py" in page
    for line, printed in zip(shown.splitlines(), said.splitlines(), strict=True):
        assert printed.startswith(line.removesuffix("...")), (line, printed)


@pytest.mark.slow
def test_a_user_defined_rule(tmp_path):
    """Its contract, table, report and worst case, from the page alone."""
    (rule,) = (code for code in blocks("own-rule.md", "python") if "# my_rules.py" in code)
    lines = [line for line in rule.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) < 15
    said = run_page("own-rule.md", tmp_path)
    assert said == "[1.25 2.  ]\n"
    report = (tmp_path / "results" / "mine" / "index.html").read_text()
    assert "my_rules:nearest" in report
    (path,) = (tmp_path / "results").glob("worst-case*/damage.csv")
    table = path.read_text()
    assert "my_rules:nearest,gradient_attack" in table

    # What the page says about a broken rule.
    path = tmp_path / "my_rules.py"
    path.write_text(path.read_text().replace("scores.lowest(distances, n - f)", "distances >= 0"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_my_rules.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": QUICKLY},
        timeout=120,
        capture_output=True,
        text=True,
    )
    (shown,) = blocks("own-rule.md", "text")
    assert done.returncode == 1
    assert " ".join(shown.split()) in " ".join(done.stdout.split())


@pytest.mark.slow
def test_a_user_defined_attack(tmp_path):
    said = dict(line.rsplit(" ", 1) for line in run_page("own-attack.md", tmp_path).splitlines())
    assert float(said["strongest"]) > float(said["factor 0.5"])


@pytest.mark.slow
def test_the_page_of_the_threat_model_runs(tmp_path):
    assert len(blocks("threat-model.md", "python")) == 6
    run_page("threat-model.md", tmp_path)


@pytest.mark.slow
def test_the_page_on_strangers_prints_what_it_says():
    (code,), (said,) = (blocks("strangers.md", language) for language in ("python", "text"))
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICKLY}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env=environment, timeout=300, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == said


def test_every_page_with_code_is_run():
    """Here or in another file, test_faults_among for one; other pages show commands."""
    ran_there = {"protocols.md", "index.md", "collective.md", "scaling.md", "references.md"}
    ran_there |= {"sampling.md", "weights.md", "compression.md", "pytorch.md", "flower.md"}
    ran_there |= {"privacy.md", "backdoors.md"}
    here = {"start.md", "own-rule.md", "own-attack.md", "threat-model.md", "strangers.md"}
    in_pages = {"flax.md", "training-loop.md", "laboratory.md"}
    for page in DOCS.glob("*.md"):
        if blocks(page.name, "python"):
            assert page.name in here | in_pages | ran_there, page


def test_the_chain_of_the_first_page_is_that_of_the_readme():
    (shown,) = blocks("index.md", "python")
    assert shown in (ROOT / "README.md").read_text()


def test_the_table_of_rules_is_read_from_the_files():
    page = (DOCS / "choosing.md").read_text()
    assert choosing.written(page, DOCS) == page, "python -m experiments.analysis.choosing docs"


def test_advice_rests_on_the_table():
    page = (DOCS / "choosing.md").read_text()
    advice = page.split("## What to take")[1].split("## What was measured")[0]
    measured = page.split("<!-- measured -->")[1].split("<!-- end of measured -->")[0]
    momentum = (DOCS / "studies" / "README.md").read_text()
    momentum = momentum.split("<!-- momentum -->")[1].split("<!-- end of momentum -->")[0]
    elsewhere = re.findall(r"\[([^]]+)\]\(studies/README.md#momentum-cpu-edition\)", advice)
    assert len(elsewhere) == 1
    for number in re.findall(r"\d+\.\d", elsewhere[0]):
        assert number in momentum, number
    numbers = re.findall(r"\d+\.\d", advice.replace(elsewhere[0], ""))
    assert len(numbers) >= 15
    for number in numbers:
        assert re.search(rf"\| {re.escape(number)} ", measured), number


# --- notebooks ------------------------------------------------------------------------------------


def cells_of_script(path):
    """(kind, text) of each cell of a script in the percent format."""
    _, *cells = re.split(r"^# %%(.*)\n", path.read_text(), flags=re.MULTILINE)
    for marker, text in zip(cells[::2], cells[1::2]):
        if "[markdown]" in marker:
            text = re.sub(r"^# ?", "", text.strip(), flags=re.MULTILINE)
        yield "markdown" if "[markdown]" in marker else "code", text.strip()


def notebook(path):
    return json.loads(path.with_suffix(".ipynb").read_text())


def test_there_are_six_notebooks():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06"]
    assert [p.with_suffix(".py") for p in sorted((ROOT / "colab").glob("*.ipynb"))] == NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_pair_agrees_and_has_no_output(path):
    cells = notebook(path)["cells"]
    shown = [(cell["cell_type"], "".join(cell["source"]).strip()) for cell in cells]
    assert shown == list(cells_of_script(path)), "jupytext --to ipynb --update colab/*.py"
    for cell in cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_opens_with_its_badge_and_installs_on_colab_only(path):
    (_, badge), (_, install), *_ = cells_of_script(path)
    owner = REPOSITORY.removeprefix("https://github.com/")
    place = f"https://colab.research.google.com/github/{owner}/blob/main/colab/{path.stem}.ipynb"
    assert badge.startswith(
        f"[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)]({place})"
    )
    assert place in (DOCS / "notebooks.md").read_text()
    assert f'REPOSITORY = "{REPOSITORY}"\nif "google.colab" in sys.modules:\n' in install
    assert install.count("pip") == 2  # the command, and the instructions for other systems


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_and_its_row_say_the_same_time(path):
    (_, opening), *_ = cells_of_script(path)
    (seconds,) = re.findall(r"^Takes (\d+ s) on two cores", opening, flags=re.MULTILINE)
    lines = (DOCS / "notebooks.md").read_text().splitlines()
    (row,) = [line for line in lines if path.stem in line]
    assert f"| {seconds} |" in row


def test_the_page_of_notebooks_installs_what_they_import():
    """In a block that can be copied and run."""
    text = (DOCS / "notebooks.md").read_text()
    (command,) = re.findall(r"```bash\n(.*)\n```", text)
    installed = {name.replace("-", "_") for name in command.split("install ")[1].split()}
    modules = {"scikit_learn": "sklearn"}
    installed = {modules.get(name, name) for name in installed}
    for path in NOTEBOOKS:
        used = set(re.findall(r"^ *(?:from|import) (\w+)", path.read_text(), flags=re.MULTILINE))
        used -= set(sys.stdlib_module_names) | {"byzjax", "jax", "numpy", "optax"}
        assert used <= installed, path


def test_the_repository_has_one_address():
    named = [*DOCS.glob("*.md"), *NOTEBOOKS, ROOT / "CITATION.cff", ROOT / "README.md"]
    for path in named:
        for address in re.findall(r"https://github\.com/[\w.-]+/[\w-]+", path.read_text()):
            assert address == REPOSITORY, path
