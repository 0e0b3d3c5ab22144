"""svg.py - what our pictures share: colours for light and dark pages, text, marks, the page.

Standard library only.  Used by report.py and tests/bench/plots.py.
"""

from xml.sax.saxutils import escape

LIGHT = """
  .bg { fill: #ffffff } text { fill: #1f2328; font: 13px system-ui, sans-serif } .dim { fill: #656d76 }
  .head { font-weight: 600; font-size: 16px } .num { font-variant-numeric: tabular-nums } .strong { font-weight: 600 }
  .mark { fill: #ffffff; stroke: #1f2328; stroke-width: 1.2 } .line { stroke: #d0d7de }
"""
DARK = """
    .bg { fill: #0d1117 } text { fill: #e6edf3 } .dim { fill: #9198a1 }
    .mark { fill: #0d1117; stroke: #e6edf3 } .line { stroke: #3d444d }
"""


def text(x, y, what, cls="", anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{cls}" text-anchor="{anchor}">{escape(what)}</text>'


def mark(i, x, y):
    """The sign of series i: circle, square, triangle, diamond in turn."""
    shapes = (
        f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="3.8"/>',
        f'<rect class="mark" x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7"/>',
        f'<path class="mark" d="M{x:.1f} {y - 4.4:.1f} l4.4 7.8 h-8.8 z"/>',
        f'<path class="mark" d="M{x:.1f} {y - 4.6:.1f} l4.6 4.6 l-4.6 4.6 l-4.6 -4.6 z"/>',
    )
    return shapes[i % len(shapes)]


def page(width, height, title, body, light="", dark=""):
    """The file's text.  light, dark: what the body's own classes look like on either kind of page."""
    style = LIGHT + light + "  @media (prefers-color-scheme: dark) {" + DARK + dark + "  }\n"
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(title)}</title><style>{style}</style>",
        f'<rect class="bg" width="{width}" height="{height}" rx="8"/>',
        text(24, 36, title, "head"),
    ]
    return "\n".join([*head, *body, "</svg>", ""])
