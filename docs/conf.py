"""The documentation site: ``python -m sphinx -W --keep-going -n docs docs/_build``, fastnn installed, no network."""

from typing import Any

from fastnn import __version__

project, author, version = "fastnn", "the fastnn developers", __version__
copyright = author
extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]

myst_heading_anchors = 3            # the links to headings are GitHub's
# the docstrings have the types, with shapes, and the attributes
autodoc_typehints, autodoc_member_order = "none", "bysource"
autodoc_preserve_defaults = True
numpydoc_show_class_members = False
copybutton_exclude = ".linenos, .gp, .go"

# `x` in a docstring: a link where it is the name of something, otherwise an argument, which looks like code
default_role = "py:obj"
nitpick_ignore_regex = [("py:obj", r"[a-z_0-9]+")]

smartquotes = False

html_theme = "furo"
html_title = f"fastnn {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = html_copy_source = False
html_show_copyright = False


def in_fastnn(app: Any, env: Any, node: Any, text: Any) -> Any:
    """What a docstring of any module calls `Sequential.fit` is `fastnn.Sequential.fit`."""
    domain, target = env.get_domain("py"), f"fastnn.{node.get('reftarget')}"
    if node.get("refdomain") == "py":
        return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], target, node, text)


def setup(app: Any) -> None:
    app.connect("missing-reference", in_fastnn)
