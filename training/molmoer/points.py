"""Points in answers, as Molmo2 writes them, and when an answer's points are right.

    <points coords="1 1 308 305 2 471 620">cubes</points>

The numbers inside the tag are the picture (from 1), and for each point its number (from 1) and its
x and y in thousandths of that picture's width and height, three digits each (Molmo2 release, model
card). A point counts when it is not further from the middle of what is pointed to than the radius
of a disc as large, and MARGIN more; several count when each does, in the order asked for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

MARGIN = 50  # thousandths of a picture
_SCALE = 1000
_COORDS = re.compile(r'<points coords="1((?: \d+ \d{3} \d{3})+)">')
_POINT = re.compile(r" (\d+) (\d{3}) (\d{3})")


def points_text(points: Sequence[tuple[float, float]], name: str) -> str:
    """Write points in the first picture; x and y are shares of its width and height."""
    coords = (f" {number} {_scaled(x)} {_scaled(y)}" for number, (x, y) in enumerate(points, 1))
    return f'<points coords="1{"".join(coords)}">{name}</points>'


def points_in(answer: str) -> list[tuple[int, int]]:
    """Read the points of an answer, thousandths; none when they are not numbered from 1 on."""
    match = _COORDS.search(answer)
    found = _POINT.findall(match[1]) if match else []
    in_order = [int(number) for number, _, _ in found] == [*range(1, len(found) + 1)]
    return [(int(x), int(y)) for _, x, y in found] if in_order else []


def is_hit(answer: str, truth: str, radius: int) -> bool:
    """Tell whether every point of `answer` is near enough to that of `truth`."""
    said, meant = points_in(answer), points_in(truth)
    if not said or len(said) != len(meant):
        return False
    return all(math.dist(*pair) <= radius + MARGIN for pair in zip(said, meant, strict=True))


def _scaled(share: float) -> str:
    return f"{min(max(round(_SCALE * share), 0), _SCALE - 1):03d}"
