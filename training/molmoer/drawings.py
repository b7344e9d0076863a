"""Questions about drawn pictures: shapes, colours, digits, words, counts and simple charts.

They stand in for general vision-language data, of which none can be shipped. Whatever is drawn is
known, so every answer is right by construction.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from training.molmoer.question import Question, Scene, Split, phrase, split_of

COLOURS_RGB = {
    "red": (214, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 70, 220),
    "yellow": (240, 205, 40),
    "purple": (140, 50, 170),
    "black": (20, 20, 20),
}
SHAPES = ("circle", "square", "triangle", "cross")
WORDS = ("cat", "dog", "sun", "bus", "key", "pen", "box", "ten")
OPENERS = ("", "Look at the picture. ", "Answer briefly. ", "Tell me. ")
MAX_COUNT = 4
BARS = 4
MAX_DRAWS = 10_000

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_SENTENCES = {
    "shape": ("Which shape is this?", "What is drawn here?"),
    "colour": ("Which colour is the shape?", "What colour do you see?"),
    "digit": ("Which digit is this?", "Read the digit."),
    "word": ("Which word is this?", "Read the word."),
    "drawn count": ("How many shapes are there?", "Count the shapes."),
    "chart": ("Which bar is the highest?", "What colour is the tallest bar?"),
}


def draw_scene(split: Split, rng: np.random.Generator, size_px: int) -> Scene:
    """Draw one picture, `size_px` on a side, with a question or two of this half of the set."""
    draw = _DRAWERS[int(rng.integers(len(_DRAWERS)))]
    for _ in range(MAX_DRAWS):
        content, picture, answers = draw(rng, size_px)
        if split_of(content) is split:
            break
    else:
        raise RuntimeError(f"no drawing for the {split.value} half in {MAX_DRAWS} draws")
    questions = tuple(
        Question(kind, phrase(_SENTENCES[kind], OPENERS, split, rng), answer, pictures=(0,))
        for kind, answer in answers.items()
    )
    return Scene((_with_noise(picture, rng),), questions)


def kinds() -> tuple[str, ...]:
    """Name the kinds of questions asked here."""
    return tuple(_SENTENCES)


_Drawing = tuple[str, np.ndarray, dict[str, str]]


def _one_shape(rng: np.random.Generator, size_px: int) -> _Drawing:
    shape, colour = _pick(SHAPES, rng), _pick(tuple(COLOURS_RGB), rng)
    radius_px = size_px * rng.uniform(0.34, 0.42)
    centre_px = size_px * rng.uniform(0.45, 0.55, 2)
    picture = _paper(size_px, rng)
    _draw_shape(picture, shape, centre_px, radius_px, COLOURS_RGB[colour])
    content = f"{shape} {colour} {centre_px.round()} {radius_px:.0f}"
    return content, picture, {"shape": shape, "colour": colour}


def _digit(rng: np.random.Generator, size_px: int) -> _Drawing:
    text = str(int(rng.integers(10)))
    content, picture = _written(text, rng, size_px, 0.8)
    return content, picture, {"digit": text}


def _word(rng: np.random.Generator, size_px: int) -> _Drawing:
    text = _pick(WORDS, rng)
    content, picture = _written(text, rng, size_px, 0.95)
    return content, picture, {"word": text}


def _several(rng: np.random.Generator, size_px: int) -> _Drawing:
    count = int(rng.integers(1, MAX_COUNT + 1))
    radius_px = size_px * rng.uniform(0.08, 0.11)
    shape, colour = _pick(SHAPES, rng), _pick(tuple(COLOURS_RGB), rng)
    centres_px: list[np.ndarray] = []
    while len(centres_px) < count:
        centre_px = rng.uniform(1.1 * radius_px, size_px - 1.1 * radius_px, 2)
        if all(np.hypot(*(centre_px - other)) > 2.6 * radius_px for other in centres_px):
            centres_px.append(centre_px)
    picture = _paper(size_px, rng)
    for centre_px in centres_px:
        _draw_shape(picture, shape, centre_px, radius_px, COLOURS_RGB[colour])
    content = f"{shape} {colour} {np.round(centres_px).tolist()}"
    return content, picture, {"drawn count": str(count)}


def _chart(rng: np.random.Generator, size_px: int) -> _Drawing:
    colours = [str(name) for name in rng.permutation(list(COLOURS_RGB))[:BARS]]
    heights = rng.uniform(0.15, 0.6, BARS)
    highest = int(rng.integers(BARS))
    heights[highest] = rng.uniform(0.75, 0.92)
    picture = _paper(size_px, rng)
    slot_px = size_px / BARS
    for bar, (colour, height) in enumerate(zip(colours, heights, strict=True)):
        corner = (round((bar + 0.15) * slot_px), size_px - 1)
        opposite = (round((bar + 0.85) * slot_px), round((1 - height) * size_px))
        cv2.rectangle(picture, corner, opposite, COLOURS_RGB[colour], -1)
    content = f"{colours} {heights.round(2).tolist()}"
    return content, picture, {"chart": colours[highest]}


_Drawer = Callable[[np.random.Generator, int], _Drawing]
_DRAWERS: tuple[_Drawer, ...] = (_one_shape, _digit, _word, _several, _chart)


def _paper(size_px: int, rng: np.random.Generator) -> np.ndarray:
    shade = rng.integers(225, 256, 3)
    return np.full((size_px, size_px, 3), shade, np.uint8)


def _with_noise(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noisy = picture + rng.normal(0.0, 4.0, picture.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _written(
    text: str, rng: np.random.Generator, size_px: int, share: float
) -> tuple[str, np.ndarray]:
    """Write `text`, its longer side about `share` of the picture, near the middle."""
    colour = _pick(tuple(COLOURS_RGB), rng)
    thickness = max(2, size_px // 20)
    (width, height), _ = cv2.getTextSize(text, _FONT, 1.0, 1)
    scale = size_px * share * rng.uniform(0.85, 1.0) / max(width, height)
    (width, height), _ = cv2.getTextSize(text, _FONT, scale, thickness)
    jitter = rng.uniform(-0.05, 0.05, 2) * size_px
    x, y = round((size_px - width) / 2 + jitter[0]), round((size_px + height) / 2 + jitter[1])
    picture = _paper(size_px, rng)
    cv2.putText(picture, text, (x, y), _FONT, scale, COLOURS_RGB[colour], thickness, cv2.LINE_AA)
    return f"{text} {colour} {x} {y} {scale:.2f}", picture


def _draw_shape(
    picture: np.ndarray,
    shape: str,
    centre_px: np.ndarray,
    radius_px: float,
    colour: tuple[int, int, int],
) -> None:
    if shape == "circle":
        centre = (round(centre_px[0]), round(centre_px[1]))
        cv2.circle(picture, centre, round(radius_px), colour, -1, cv2.LINE_AA)
        return
    corners_px = np.round(centre_px + radius_px * _outline(shape)).astype(np.int32)
    cv2.fillPoly(picture, [corners_px], colour, cv2.LINE_AA)


def _outline(shape: str) -> np.ndarray:
    """Give the corners of a shape in the unit circle, (corners, 2), y downwards."""
    if shape == "cross":
        arm = 0.3
        corner = np.array([[arm, -1.0], [arm, -arm], [1.0, -arm]])
        turns = [np.array([[c, -s], [s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
        return np.concatenate([corner @ turn.T for turn in turns])
    count, offset = {"square": (4, np.pi / 4), "triangle": (3, 0.0)}[shape]
    angles = offset + 2 * np.pi * np.arange(count) / count
    return np.stack([np.sin(angles), -np.cos(angles)], axis=1)


def _pick(names: tuple[str, ...], rng: np.random.Generator) -> str:
    return names[int(rng.integers(len(names)))]
