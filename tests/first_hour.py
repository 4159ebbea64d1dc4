"""Follows the README, every page and every notebook in a fresh clone, word for word.

    python -m tests.first_hour FOLDER [--only WORD ...] [--write PAGE]

Clones the last commit of this repository into an empty folder, with a home directory of its own,
and runs what a reader would type, page by page in the order of the site: the commands, and then all
Python of the page as one script. A page that creates a virtual environment runs in a folder of its
own; others run in the clone, in the environment of the README. A block of Python that begins with
`# name.py` is saved under that name. The clone stands in for the repository's address. Commands
below `<!-- not run: why -->` are listed with the reason.

Prints a line for each step, and ends with an error if one failed.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import time
import tomllib
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<why>[^\n]*) -->\n)?^```(?P<language>bash|python)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
LIMIT = 3600  # seconds that one step may take


class Step(NamedTuple):
    """One step of a reader: a command, or a page's Python."""

    page: str
    what: str
    seconds: float | None  # None: not run
    remark: str = ""


def pages(root: pathlib.Path) -> list[str]:
    """The README and all pages that are not generated, in the order of the site."""
    text = (root / "docs" / "index.md").read_text()
    listed = []
    for tree in re.findall(r"```\{toctree\}\n(.*?)```", text, re.DOTALL):
        for line in tree.splitlines():
            if line and not line.startswith(":"):
                name = line.split("<")[-1].strip(" >")
                listed += sorted(str(p.relative_to(root)) for p in root.glob(f"docs/{name}.md"))
    return ["README.md", *dict.fromkeys(listed)]


def blocks_of(text: str) -> list[re.Match]:
    """The blocks of commands and of Python of a page."""
    return list(BLOCK.finditer(text))


class Reader:
    """Runs what a reader types, and notes how long it takes."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.clone, self.steps = folder, folder / "byzjax", []
        home = folder / "home"
        home.mkdir(parents=True)
        # The clone takes the place of the repository, also for pip.
        (home / ".gitconfig").write_text(f'[url "file://{ROOT}"]\n\tinsteadOf = {REPOSITORY}\n')
        removed = {"PYTHONPATH", "VIRTUAL_ENV", "XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR"}
        self.environment = {k: v for k, v in os.environ.items() if k not in removed}
        self.environment |= {"HOME": str(home), "MPLBACKEND": "agg", "JAX_PLATFORMS": "cpu"}

    def run(self, page: str, what: str, command: list[str], folder: pathlib.Path) -> None:
        """Runs one step; prints the end of its output if it fails."""
        path = f"{folder / '.venv' / 'bin'}{os.pathsep}{self.environment['PATH']}"
        begin, remark = time.perf_counter(), ""
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=self.environment | {"PATH": path},
                timeout=LIMIT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            if done.returncode:
                remark = f"FAILED with {done.returncode}"
                print(done.stdout[-3000:], flush=True)
        except subprocess.TimeoutExpired:
            remark = f"FAILED: longer than {LIMIT} s"
        self.note(Step(page, what, time.perf_counter() - begin, remark))

    def note(self, step: Step) -> None:
        self.steps.append(step)
        print(line_of(step), flush=True)

    def follow(self, page: str) -> None:
        """All blocks of a page."""
        blocks = blocks_of((self.clone / page).read_text())
        commands = [block["code"] for block in blocks if block["language"] == "bash"]
        alone = page != "README.md" and any("python3 -m venv" in code for code in commands)
        folder = self.folder / page.replace("/", "-").removesuffix(".md") if alone else self.clone
        folder.mkdir(exist_ok=True)
        here, script = folder, []
        for block in blocks:
            code = block["code"]
            if block["why"]:
                self.note(Step(page, first_line(code), None, block["why"]))
            elif block["language"] == "bash":
                place = self.folder / "place"  # where the commands end, perhaps after `cd`
                code = f"trap 'pwd > {place}' EXIT\n{code}"
                self.run(page, first_line(block["code"]), ["bash", "-ec", code], here)
                here = pathlib.Path(place.read_text().strip())
            else:
                if name := re.match(r"# (\w+\.py)\n", code):
                    (folder / name[1]).write_text(code)
                if not code.startswith("# test_"):
                    script.append(code)
        # The chain of the front pages is a sketch with names of the reader's own.
        if script and page not in ("README.md", "docs/index.md"):
            (folder / "page.py").write_text("\n".join(script))
            what = f"its {len(script)} blocks of Python" if len(script) > 1 else "its Python"
            self.run(page, what, ["python", "page.py"], folder)

    def execute(self, notebook: pathlib.Path) -> None:
        """A notebook in its full form."""
        command = ["jupyter", "execute", str(notebook)]
        self.run(str(notebook.relative_to(self.clone)), "all cells", command, self.clone)


def first_line(code: str) -> str:
    """The first line of a block, and how many follow."""
    lines = [line for line in code.splitlines() if line.strip() and line[:1] != "#"]
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    return lines[0].partition("  #")[0].strip() + more


def line_of(step: Step) -> str:
    """A row of the table."""
    seconds = "not run" if step.seconds is None else f"{step.seconds:.0f}"
    return f"| {step.page} | `{step.what}` | {seconds} | {step.remark} |"


def versions(python: pathlib.Path) -> dict[str, str]:
    """Versions in the environment of the README."""
    code = "import json, jax, flax, optax, sys; print(json.dumps({'Python': sys.version.split()[0],"
    code += " 'JAX': jax.__version__, 'Flax': flax.__version__, 'optax': optax.__version__}))"
    return json.loads(subprocess.run([python, "-c", code], capture_output=True, check=True).stdout)


def machine() -> str:
    """The processor and its cores."""
    info = pathlib.Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return f"{os.cpu_count()} cores, {name[1] if name else 'unknown processor'}"


def page_of(steps: list[Step], about: str) -> str:
    """The page "The first hour"."""
    total = sum(step.seconds or 0 for step in steps)
    rows = "\n".join(map(line_of, steps))
    return f"""# The first hour

What a newcomer types, in order: the README, every page of this site, every notebook in full.
Written by `python -m tests.first_hour FOLDER --write docs/first-hour.md`, which does so in a fresh
clone with fresh environments and an empty home directory.

{about}. Together: {total / 60:.0f} minutes.

| page | step | seconds |  |
| --- | --- | --- | --- |
{rows}
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tests.first_hour", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("folder", type=pathlib.Path, help="a folder that does not exist yet")
    parser.add_argument("--only", nargs="*", help="pages whose name holds one of these words")
    parser.add_argument("--write", type=pathlib.Path, help="the page to write")
    args = parser.parse_args()
    if args.folder.exists():
        parser.error(f"{args.folder} exists; give a folder that does not.")
    reader = Reader(args.folder.absolute())
    clone = ["git", "clone", "-q", f"file://{ROOT}", str(reader.clone)]
    reader.run("README.md", f"git clone {REPOSITORY}", clone, reader.folder)
    notebooks = sorted((reader.clone / "colab").glob("*.ipynb"))
    for page in pages(reader.clone):
        if not args.only or page == "README.md" or any(word in page for word in args.only):
            reader.follow(page)
    for notebook in notebooks:
        if not args.only or any(word in notebook.name for word in args.only):
            reader.execute(notebook)
    installed = versions(reader.clone / ".venv" / "bin" / "python")
    mnist = "MNIST prepared" if "TFDS_DATA_DIR" in os.environ else "MNIST not prepared"
    about = ", ".join([machine(), *map(" ".join, installed.items()), mnist])
    about += time.strftime("; %Y-%m-%d")
    if args.write:
        args.write.write_text(page_of(reader.steps, about))
    failed = [step for step in reader.steps if step.remark.startswith("FAILED")]
    print(f"{len(reader.steps)} steps, {len(failed)} failed; {about}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
