"""Settings of the documentation; `make docs` builds it.

The source folder is the root of the repository, so that pages link to the changelog, the benchmarks
and the model card of the shipped bundle as files beside them, in the site as in a checkout.
"""

import stallscan

project = "stallscan"
author = "the stallscan authors"
copyright = author
release = version = stallscan.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_design"]
# Two hyphens begin an option, also in headings.
smartquotes = False
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "benchmarks/*.md",
    "src/stallscan/bundle/shipped/*/README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
]
# Not searched for pages.
exclude_patterns = [".*", "docs/_build", "tests"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
# A line may begin with "% of the frames".
myst_disable_syntax = ["myst_line_comment"]
autodoc_member_order = "bysource"
# The docstrings name the types; signatures have the annotations.
autodoc_typehints = "signature"

html_theme = "pydata_sphinx_theme"
html_title = "stallscan"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_extra_path = ["static/index.html"]
html_copy_source = False
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
