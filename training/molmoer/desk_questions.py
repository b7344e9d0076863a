"""Questions about one moment on the desk, answered from what the simulator knows.

Where it is a close call no question is asked: every answer leaves a margin.
"""

from __future__ import annotations

import itertools
import re
from bisect import bisect
from collections.abc import Callable

import numpy as np

from edge.prompt import PromptFormat, robot_text, state_text
from sim.tasks import KINDS, Task
from sim.variation import PLAIN_COLOURS
from training.datasets.embodiment import load_embodiment
from training.molmoer.desk import BIN, COLOURS_RGB, FRONT, WRIST, Desk, Outline, Place
from training.molmoer.layouts import (
    draw_layout,
    is_plain,
    is_within_reach,
    pose_freely,
    pose_near,
)
from training.molmoer.points import points_text
from training.molmoer.question import Question, Scene, Split, phrase

OPENERS = ("", "Look at the desk. ", "Answer briefly. ", "Tell me. ")
SIDE_MARGIN = 0.06  # of the picture's width, between left and right
DEPTH_MARGIN_M = 0.03
NEARER_MARGIN_M = 0.04
# One wording a half and nothing but full desks for maps and lists: what words mean is learnt sooner
# where little else varies. Of two models that learnt to point, one's loss was 17 % under that of a
# blind one after 1100 steps of 32 so; with six wordings and one to three cubes, the other's 5 %.
PLAIN_OPENERS = ("", "Tell me. ")
NOUNS = ("cube", "block")  # of sim.tasks
# The cells of a map are a nano picture's tokens: two by two of 13 x 13 patches, fewer at the edges.
CELLS = 6.5  # in a picture's width or height
MAP_EDGES = tuple(min(cell / CELLS, 1.0) for cell in range(8))
WRIST_SHARE = 0.5  # of maps
FILLED = 0.25  # of a cell by a cube, to count there in the wrist's picture, where cubes are large
NEAR_SHARE = 0.5  # of hands, where places behind words are asked for
SEEN_CELLS = 0.3  # that a cube fills in the wrist's picture, to have a place there
ROBOT = "so101"
BIN_SHARE = 0.1  # of points; it is always in the same place
# The switches of MolmoAct2's released prompt (its config.json).
ROBOT_PROMPT = PromptFormat(
    wrap_setup=True,
    wrap_control=True,
    overview_column_tokens=False,
    detail_column_tokens=True,
    low_res_start=True,
    state_bins=256,
)

_SENTENCES = {
    "pointing": ("Point to the {a}.", "Show the {a}."),
    "side": (
        "Is the {a} to the left or to the right of the {b}?",
        "The {a}, is it left or right of the {b}?",
    ),
    "depth order": (
        "Is the {a} in front of or behind the {b}?",
        "The {a}, is it in front of or behind the {b}?",
    ),
    "counting": ("How many cubes are on the desk?", "Count the cubes."),
    "nearer": ("Which is nearer to the {b}, the {a} or the {c}?", "Nearer to the {b}, {a} or {c}?"),
    "farther": (
        "Which is farther from the {b}, the {a} or the {c}?",
        "Farther from the {b}, {a} or {c}?",
    ),
    "view": ("Which picture is from the {b} camera?", "Which one is from the {b} camera?"),
    "reach": ("Can the gripper pick the {a} up?", "Is the {a} in reach of the gripper?"),
}
_PLAIN_SENTENCES = {
    "map": ("Where are the cubes? {a}.",),
    "list": ("List the cubes.",),
    "where": ("Where is each cube?",),
}


class Moment:
    """The desk as it stands, with what questions need to know of it."""

    def __init__(self, desk: Desk, places: tuple[Place, ...]) -> None:
        self.cubes = tuple(place.name for place in places)
        self.places = {place.name: place for place in places}
        self.outlines: dict[str, Outline] = desk.outlines()
        self.centres_m = dict(desk.centres_m())
        self.tip_m = desk.tip_m
        seen = desk.seen_from_front(np.stack(list(self.centres_m.values())))
        self.from_camera_m = dict(zip(self.centres_m, seen[:, 2].tolist(), strict=True))

    def distance_m(self, name: str, landmark: str) -> float:
        """Give the distance of an object to "gripper" or "camera"."""
        if landmark == "camera":
            return self.from_camera_m[name]
        return float(np.linalg.norm(self.centres_m[name] - self.tip_m))


def desk_scene(desk: Desk, split: Split, rng: np.random.Generator) -> Scene:
    """Lay a desk out and ask one question of every kind that it answers without doubt."""
    moment = _lay_out(desk, split, rng, tuple(COLOURS_RGB))
    asked = (ask(moment, split, rng) for ask in _ASKERS)
    pictures = (desk.picture(FRONT), desk.picture(WRIST))
    return Scene(pictures, tuple(question for question in asked if question is not None))


def map_scene(desk: Desk, split: Split, rng: np.random.Generator) -> Scene:
    """Lay a desk out with all the robot's cubes and ask what each cell of one picture shows.

    An answer has a digit for every cell, row by row: so every part of a picture is asked about. In
    the front picture it stands in the cell of a cube's middle, in the wrist's, for which the hand
    is near a cube, in all that it fills.
    """
    is_wrist = rng.random() < WRIST_SHARE
    cells = _wrist_digits(desk, split, rng) if is_wrist else _front_digits(desk, split, rng)
    legend = ", ".join(f"{colour} is {digit}" for digit, colour in enumerate(PLAIN_COLOURS, 1))
    answer = " ".join("".join(map(str, row)) for row in cells)
    asked = _plain_question("map", split, rng, answer, a=legend.capitalize())
    return Scene((desk.picture(WRIST if is_wrist else FRONT),), (asked,))


def _front_digits(desk: Desk, split: Split, rng: np.random.Generator) -> np.ndarray:
    digits = np.zeros((len(MAP_EDGES) - 1,) * 2, int)
    cell_of = _lay_out_in_cells(desk, split, rng)
    for digit, colour in enumerate(PLAIN_COLOURS, 1):
        digits[cell_of[colour]] = digit
    return digits


def _wrist_digits(desk: Desk, split: Split, rng: np.random.Generator) -> np.ndarray:
    while True:  # until one is seen
        _lay_out(desk, split, rng, PLAIN_COLOURS, len(PLAIN_COLOURS), near=1.0)
        masks = desk.masks(WRIST)
        shares = np.zeros((1 + len(PLAIN_COLOURS), *(len(MAP_EDGES) - 1,) * 2))
        shares[0] = FILLED
        for digit, colour in enumerate(PLAIN_COLOURS, 1):
            if f"{colour} cube" in masks:
                shares[digit] = _cell_shares(masks[f"{colour} cube"])
        digits = shares.argmax(0)
        if digits.any():
            return digits


def _cell_shares(mask: np.ndarray) -> np.ndarray:
    """Give how much of each cell of a map a (height, width) mask fills, (7, 7) of 0..1."""
    rows, columns = ([round(edge * size) for edge in MAP_EDGES] for size in mask.shape)
    filled = np.add.reduceat(mask.astype(float), rows[:-1], axis=0)
    filled = np.add.reduceat(filled, columns[:-1], axis=1)
    return filled / np.outer(np.diff(rows), np.diff(columns))


def list_scene(desk: Desk, split: Split, rng: np.random.Generator) -> Scene:
    """Lay a desk out with all the robot's cubes and ask for the cell of each, in two orders.

    Row by row a cell comes before its colour, so places can be learnt without words; in a drawn
    order a colour comes before its cell, so a word is looked for in the picture.
    """
    cell_of = _lay_out_in_cells(desk, split, rng)
    texts = {colour: f"{row} {column}" for colour, (row, column) in cell_of.items()}
    by_row = ", ".join(f"{texts[colour]} {colour}" for colour in sorted(texts, key=texts.get))
    drawn = [str(colour) for colour in rng.permutation(PLAIN_COLOURS)]
    by_colour = ", ".join(f"{colour} {texts[colour]}" for colour in drawn)
    asked = (("list", by_row), ("where", by_colour))
    questions = (_plain_question(kind, split, rng, answer) for kind, answer in asked)
    return Scene((desk.picture(FRONT),), tuple(questions))


def mention_scene(desk: Desk, split: Split, rng: np.random.Generator, at_once: float) -> Scene:
    """Lay a desk out with all the robot's cubes; where an instruction names one, its place follows.

    It follows at once (a share `at_once` of the questions) or somewhere behind, in the words of the
    robot's own prompt and behind the same two pictures. So a model learns to know it from that word
    on, and knows it when an arm is told the same. The arm's state in it is drawn: it says nothing
    about where cubes are. A place is a list's cell of the front picture, then that of the wrist's,
    or "none".
    """
    moment = _lay_out(desk, split, rng, PLAIN_COLOURS, len(PLAIN_COLOURS), near=NEAR_SHARE)
    masks = desk.masks(WRIST)
    places = {
        name: f" {_cell_text(moment.outlines[name].centre)}, {_wrist_place(masks.get(name))}"
        for name in moment.cubes
    }
    asked = tuple(_mentioning(name, places, split, rng, at_once) for name in moment.cubes)
    return Scene((desk.picture(FRONT), desk.picture(WRIST)), asked)


def kinds() -> tuple[str, ...]:
    """Name the kinds of questions asked here."""
    return tuple(_SENTENCES)


def pointing(moment: Moment, split: Split, rng: np.random.Generator) -> Question:
    """Ask for the place of a cube or the bin in the front picture."""
    name = BIN if rng.random() < BIN_SHARE else str(rng.choice(moment.cubes))
    outline = moment.outlines[name]
    answer = points_text([outline.centre], name)
    return _question("pointing", split, rng, answer, a=name, radius=round(1000 * outline.radius))


def _mentioning(
    name: str, places: dict[str, str], split: Split, rng: np.random.Generator, at_once: float
) -> Question:
    task = Task(str(rng.choice(KINDS)), name.split()[0])
    words = task.instruction(int(rng.integers(1000)), held_out=split is Split.TEST)
    others = [other for other in sorted(places) if other != name]
    answer = places[name] + "".join(f", the {cube}{places[cube]}" for cube in others)
    begun = _begun_prompt(words, task.colour, rng, at_once)
    return Question("mention", begun, answer, (0, 1), goes_on=True)


def _cell_of(centre: tuple[float, float]) -> tuple[int, int]:
    x, y = centre
    return bisect(MAP_EDGES, y) - 1, bisect(MAP_EDGES, x) - 1


def _cell_text(centre: tuple[float, float]) -> str:
    row, column = _cell_of(centre)
    return f"{row} {column}"


def _wrist_place(mask: np.ndarray | None) -> str:
    if mask is None or _cell_shares(mask).sum() < SEEN_CELLS:
        return "none"
    rows, columns = np.nonzero(mask)
    height, width = mask.shape
    return _cell_text((float(columns.mean() + 0.5) / width, float(rows.mean() + 0.5) / height))


def _begun_prompt(words: str, colour: str, rng: np.random.Generator, at_once: float) -> str:
    """Write the robot's prompt up to where the cube is named, or to somewhere behind that."""
    robot = load_embodiment(ROBOT)
    state = state_text(rng.uniform(-1.0, 1.0, len(robot.state_names)), ROBOT_PROMPT.state_bins)
    text = robot_text(words, state, robot.setup, robot.control, [], False, ROBOT_PROMPT)
    text = text.partition("\n")[2]  # the turn is opened by who asks
    named = re.search(rf"\b{colour}( (?:{'|'.join(NOUNS)}))?\b", text)
    ends = [part.end() for part in re.finditer(r"<[^>]+>|[^\s<]+", text)]
    later = [end for end in ends if end > named.end()]
    ends_there = rng.random() < at_once
    return text[: named.end() if ends_there else later[int(rng.integers(len(later)))]]


def side(moment: Moment, split: Split, rng: np.random.Generator) -> Question | None:
    """Ask which side of another object one is on, as the front camera sees it."""
    wanted = _toss(rng)
    for a, b in _pairs([*moment.cubes, BIN], rng):
        offset = moment.outlines[a].centre[0] - moment.outlines[b].centre[0]
        if (offset if wanted else -offset) >= SIDE_MARGIN:
            return _question("side", split, rng, "right" if wanted else "left", a=a, b=b)
    return None


def depth_order(moment: Moment, split: Split, rng: np.random.Generator) -> Question | None:
    """Ask which of two objects is in front, that is nearer to the front camera."""
    wanted = _toss(rng)
    for a, b in _pairs([*moment.cubes, BIN], rng):
        offset_m = moment.from_camera_m[a] - moment.from_camera_m[b]
        if (-offset_m if wanted else offset_m) >= DEPTH_MARGIN_M:
            answer = "in front" if wanted else "behind"
            return _question("depth order", split, rng, answer, a=a, b=b)
    return None


def counting(moment: Moment, split: Split, rng: np.random.Generator) -> Question:
    """Ask how many cubes there are."""
    return _question("counting", split, rng, str(len(moment.cubes)))


def nearer(moment: Moment, split: Split, rng: np.random.Generator) -> Question | None:
    """Ask which of two cubes is nearer to, or farther from, the gripper or the camera."""
    kind = "nearer" if _toss(rng) else "farther"
    landmark = "gripper" if _toss(rng) else "camera"
    for a, c in _pairs(list(moment.cubes), rng):
        gap_m = moment.distance_m(a, landmark) - moment.distance_m(c, landmark)
        if abs(gap_m) >= NEARER_MARGIN_M:
            answer = a if (gap_m < 0) == (kind == "nearer") else c
            return _question(kind, split, rng, answer, a=a, b=landmark, c=c)
    return None


def view(moment: Moment, split: Split, rng: np.random.Generator) -> Question:
    """Show both cameras' pictures in any order and ask which one a camera took."""
    del moment
    order = [int(number) for number in rng.permutation(2)]
    asked = int(rng.integers(2))
    answer = str(order.index(asked) + 1)
    camera = (FRONT, WRIST)[asked]
    return _question("view", split, rng, answer, pictures=tuple(order), b=camera)


def reach(moment: Moment, split: Split, rng: np.random.Generator) -> Question | None:
    """Ask whether the gripper can pick a cube up from above."""
    wanted = _toss(rng)
    for name in rng.permutation(moment.cubes):
        if is_within_reach(moment.places[str(name)]) is wanted:
            return _question("reach", split, rng, "yes" if wanted else "no", a=str(name))
    return None


def _lay_out(
    desk: Desk,
    split: Split,
    rng: np.random.Generator,
    colours: tuple[str, ...],
    at_least: int = 1,
    near: float = 0.0,
) -> Moment:
    """Lay a desk out; a share `near` of the hands is near a cube."""
    while True:
        places = draw_layout(split, rng, colours, at_least)
        desk.dress(rng)
        desk.lay_out(places)
        if near and rng.random() < near:
            pose_near(desk, places, rng)
        else:
            pose_freely(desk, rng)
        desk.settle()
        if is_plain(desk):
            return Moment(desk, places)


def _lay_out_in_cells(
    desk: Desk, split: Split, rng: np.random.Generator
) -> dict[str, tuple[int, int]]:
    while True:  # until no two cubes are in one cell
        moment = _lay_out(desk, split, rng, PLAIN_COLOURS, len(PLAIN_COLOURS))
        cell_of = {
            colour: _cell_of(moment.outlines[f"{colour} cube"].centre) for colour in PLAIN_COLOURS
        }
        if len({*cell_of.values()}) == len(cell_of):
            return cell_of


_Asker = Callable[[Moment, Split, np.random.Generator], Question | None]
_ASKERS: tuple[_Asker, ...] = (pointing, side, depth_order, counting, nearer, view, reach)


def _question(
    kind: str,
    split: Split,
    rng: np.random.Generator,
    answer: str,
    *,
    pictures: tuple[int, ...] = (0,),
    radius: int | None = None,
    **names: str,
) -> Question:
    text = phrase(_SENTENCES[kind], OPENERS, split, rng).format(**names)
    return Question(kind, text, answer, pictures, radius)


def _plain_question(
    kind: str, split: Split, rng: np.random.Generator, answer: str, **names: str
) -> Question:
    text = phrase(_PLAIN_SENTENCES[kind], PLAIN_OPENERS, split, rng).format(**names)
    return Question(kind, text, answer, (0,))


def _pairs(names: list[str], rng: np.random.Generator) -> list[tuple[str, str]]:
    pairs = list(itertools.permutations(names, 2))
    return [pairs[int(number)] for number in rng.permutation(len(pairs))]


def _toss(rng: np.random.Generator) -> bool:
    return bool(rng.random() < 0.5)
