# SPDX-License-Identifier: BSD-3-Clause
"""How Sphinx makes a site of these pages (`make docs`) and a man page (`make man`).

The site loads nothing from the network.
"""

project = "kickbench"
author = "the kickbench authors"

extensions = ["myst_parser"]
exclude_patterns = ["ci", "sample"]

# Anchors of headings as GitHub makes them, so that a link works in both places.
myst_heading_anchors = 3

html_theme = "alabaster"
html_theme_options = {
    "description": "When a guest is stuck, does the host still obey its operator?",
    "page_width": "70em",
    "body_max_width": "none",
    "fixed_sidebar": True,
    "show_powered_by": False,
}
html_copy_source = False
html_show_copyright = False

# `make man`: the help of every command as one page.
man_pages = [("reference/commands", "kickbench", "judge kernels by what stuck guests obey", "", 1)]
