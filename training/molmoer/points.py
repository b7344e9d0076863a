"""Points in answers, as Molmo2 writes them, and when an answer's point is right.

    <points coords="1 1 308 305">red cube</points>

The numbers are the picture (from 1), the point (from 1) and its x and y in thousandths of that
picture's width and height, three digits each (Molmo2 release, model card). A point counts when it
is not further from the middle of what is pointed to than the radius of a disc as large, and
MARGIN more.
"""

from __future__ import annotations

import math
import re

MARGIN = 50  # thousandths of a picture
_SCALE = 1000
_COORDS = re.compile(r'<points coords="1 1 (\d{3}) (\d{3})">')


def point_text(x: float, y: float, name: str) -> str:
    """Write a point in the first picture; `x` and `y` are shares of its width and height."""
    across, down = (min(max(round(_SCALE * share), 0), _SCALE - 1) for share in (x, y))
    return f'<points coords="1 1 {across:03d} {down:03d}">{name}</points>'


def point_in(answer: str) -> tuple[int, int] | None:
    """Read the point of an answer, thousandths; None when it holds none."""
    match = _COORDS.search(answer)
    return (int(match[1]), int(match[2])) if match else None


def is_hit(answer: str, truth: str, radius: int) -> bool:
    """Tell whether the point of `answer` is near enough to that of `truth`."""
    said, meant = point_in(answer), point_in(truth)
    if said is None or meant is None:
        return False
    return math.dist(said, meant) <= radius + MARGIN
