"""The site: `python -m sphinx -W -b html docs docs/_build/html`.

Nothing is fetched and nothing is trained. Equations become MathML, which browsers draw without a
script. A link to a file that is no page of the site leads to the repository; one that leads nowhere
ends the build.
"""

import fnmatch
import html.parser
import importlib
import inspect
import os
import pathlib
import pkgutil
import re
import tomllib
import urllib.parse

import latex2mathml.converter
from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.ext.autodoc.mock import mock

import byzjax

DOCS = pathlib.Path(__file__).parent
ROOT = DOCS.parent
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]

project = "byzjax"
version = release = byzjax.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "**/table.md", "**/summary.md"]  # tables lie beside their pages
html_theme = "furo"
html_title = "byzjax"
html_static_path = ["_static"]
html_css_files = ["byzjax.css"]
html_copy_source = False
html_domain_indices = False
html_show_copyright = False
smartquotes = False
html_math_renderer = "mathml"
html_theme_options = {"top_of_page_buttons": []}  # half of the pages are made, not written
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the tests run the notebooks
suppress_warnings = ["autosummary.import_cycle"]  # names are written in full
autosummary_generate = False
autodoc_typehints = "none"  # Args says more
autodoc_preserve_defaults = True
default_role = "literal"  # docstrings are written as in Markdown
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True


# --- equations ------------------------------------------------------------------------------------


def mathml(latex: str, display: str) -> str:
    """Raises if a command is not understood, which would be drawn as it is written."""
    known = latex.replace(r"\arg", r"\mathrm{arg}")
    known = re.sub(r"\\[Bb]igg?[lr](?=\\[{}])", "", known)  # braces grow by themselves
    made = latex2mathml.converter.convert(known, display=display)
    if "\\" in re.sub("<[^>]*>", "", made):
        raise ExtensionError(f"no MathML for {latex!r}.")
    return made


def inline(translator, node) -> None:
    translator.body.append(mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def block(translator, node) -> None:
    translator.body.append(f'<div class="math">{mathml(node.astext(), "block")}</div>\n')
    raise nodes.SkipNode


def docstrings(app, what, name, obj, options, lines: list[str]) -> None:
    """Equations, and code that is set off by its indentation, as reStructuredText has them."""

    def directive(match: re.Match) -> str:
        return "\n.. math::\n\n" + "\n".join(f"   {line}" for line in match[1].strip().split("\n"))

    text = re.sub(r"\$\$(.+?)\$\$", directive, "\n".join(lines), flags=re.DOTALL)
    text = re.sub(r"\$([^$\n]+)\$", r":math:`\1`", text)
    if what == "module":
        text = re.sub(r"\n\n(?=    \S)", "\n\n::\n\n", text)
    lines[:] = text.split("\n")


# --- the reference: one page for each public module -----------------------------------------------


def names_of(module) -> list[str]:
    """What a module offers, in its own order."""
    if names := getattr(module, "__all__", None):
        return [name for name in names if not inspect.ismodule(getattr(module, name))]
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def entry(name: str, value) -> list[str]:
    """A function, a class, or a table, of which the keys and the texts are shown."""
    if callable(value):
        return [f".. auto{'class' if inspect.isclass(value) else 'function'}:: {name}", ""]
    pairs = value.items() if isinstance(value, dict) else [(key, None) for key in value]
    lines = [f"   * `{k}`{f': {v}' if isinstance(v, str) else ''}" for k, v in pairs]
    return [f".. py:data:: {name}", "", *lines, ""]


def page_of(module, names: list[str]) -> list[str]:
    """What stands on the face is shown under the name that it has there."""
    members = {}
    for name in names:
        value = getattr(module, name)
        home = byzjax if getattr(byzjax, name, None) is value else module
        members[f"{home.__name__}.{name}"] = value
    title = module.__name__
    return [
        *(title, "=" * len(title), ""),
        *(f".. automodule:: {title}", "   :no-members:", "   :no-index:", ""),
        *(".. autosummary::", ""),
        *(f"   ~{name}" for name, value in members.items() if callable(value)),
        *("", *(line for name, value in members.items() for line in entry(name, value))),
    ]


def write_reference(app, config) -> None:
    """Pages of the reference, from the modules that there are."""
    public = [m.name for m in pkgutil.iter_modules(byzjax.__path__) if not m.name.startswith("_")]
    modules = [importlib.import_module(f"byzjax.{name}") for name in public]
    with mock(["flwr"]):
        pages = {module: names for module in modules if (names := names_of(module))}
    elsewhere = {name for names in pages.values() for name in names}
    pages[byzjax] = [name for name in names_of(byzjax) if name not in elsewhere]
    folder = DOCS / "api"
    folder.mkdir(exist_ok=True)
    written = set()
    for module, names in pages.items():
        text = "\n".join(page_of(module, names))
        path = folder / f"{module.__name__.rpartition('.')[2]}.rst"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
        written.add(path)
    for path in set(folder.glob("*.rst")) - written:
        path.unlink()


def copy_notebooks(app, config) -> None:
    """Sphinx reads nothing outside of its folder."""
    for path in (ROOT / "colab").glob("*.ipynb"):
        target = DOCS / "notebooks" / path.name
        if not target.exists() or target.read_bytes() != path.read_bytes():
            target.write_bytes(path.read_bytes())


# --- links ----------------------------------------------------------------------------------------


def links_to_the_repository(app, docname: str, source: list[str]) -> None:
    """Modules are in the reference; what else is no page or picture lies in the repository."""
    page = pathlib.Path(app.env.doc2path(docname))
    if page.suffix != ".md":
        return

    def link(match: re.Match) -> str:
        text, target, anchor = match.groups("")
        path = pathlib.Path(os.path.normpath(page.parent / target))
        if not path.exists():
            raise ExtensionError(f"{page}: {target} does not exist.")
        if path.is_dir() and (path / "README.md").exists():
            path = path / "README.md"
        if path.suffix == ".ipynb":
            path = DOCS / "notebooks" / path.name
        module = "byzjax" if path.stem == "__init__" else path.stem
        if path.parent == ROOT / "byzjax" and (DOCS / "api" / f"{module}.rst").exists():
            path = DOCS / "api" / f"{module}.rst"
        of_site = path.is_relative_to(DOCS) and path.suffix in (".md", ".rst", ".png", ".ipynb")
        if of_site and path.name not in ("table.md", "summary.md"):
            return f"{text}({os.path.relpath(path, page.parent)}{anchor})"
        kind = "tree" if path.is_dir() else "blob"
        return f"{text}({REPOSITORY}/{kind}/main/{path.relative_to(ROOT)}{anchor})"

    parts = re.split(r"(^```.*?^```$)", source[0], flags=re.DOTALL | re.MULTILINE)
    for i in range(0, len(parts), 2):  # not inside of code
        parts[i] = re.sub(r"(\])\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)", link, parts[i])
    source[0] = "".join(parts)
    if docname == "index":  # places for pages that may be missing: Sphinx would warn of each
        there = [str(path.relative_to(DOCS)) for path in DOCS.rglob("*.*")]
        source[0] = "\n".join(
            line
            for line in source[0].split("\n")
            if not re.fullmatch(r"\w+\*", line) or fnmatch.filter(there, line)
        )


class Page(html.parser.HTMLParser):
    """The anchors of a page of HTML, and where it leads."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        found = dict(attrs)
        self.ids.add(found.get("id") or "")
        if target := found.get("href") or found.get("src"):
            self.links.append(target)


def check_links(app, exception) -> None:
    """Every link between pages leads to a page that exists, and to an anchor that is there."""
    if exception is not None or app.builder.name != "html":
        return
    folder = pathlib.Path(app.outdir)
    made = [pathlib.Path(app.builder.get_outfilename(name)) for name in app.env.found_docs]
    pages = {path: Page(path.read_text()) for path in made}
    broken, tried = [], 0
    for path, page in pages.items():
        for link in page.links:
            url = urllib.parse.urlsplit(link)
            if url.scheme or url.netloc:
                continue
            tried += 1
            target = (path.parent / urllib.parse.unquote(url.path)).resolve() if url.path else path
            target = target / "index.html" if target.is_dir() else target
            there = target.exists()
            if there and url.fragment and target in pages:
                there = urllib.parse.unquote(url.fragment) in pages[target].ids
            if not there:
                broken.append(f"{path.relative_to(folder)} -> {link}")
    if broken:
        raise ExtensionError("links that lead nowhere:\n" + "\n".join(sorted(set(broken))))
    print(f"{tried} links between {len(pages)} pages resolve.")


def setup(app) -> None:
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    app.connect("config-inited", write_reference)
    app.connect("config-inited", copy_notebooks)
    app.connect("source-read", links_to_the_repository)
    app.connect("autodoc-process-docstring", docstrings)
    app.connect("build-finished", check_links)
