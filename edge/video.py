"""Film a run: camera pictures side by side, what is asked, and the depth codes as a grid.

A cell of the grid is lit when its picture had changed, so that the newest policy call asked for its
code again. Above are the tasks of the run, each with what a judge has found so far. Made after the
run, H.264 through PyAV (extra `demo`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from edge.black_box import NOT_ASKED, BlackBox
from edge.policy_thread import PolicyCall
from edge.recording import PICTURE_HEIGHT, RECORD_HZ, RecordedFrame
from edge.safety import Outcome
from edge.task_turns import Turn

HEADER_PX, TASKS_PX, FOOTER_PX, GAP_PX = 34, 40, 30, 8
BACKGROUND, INK, FAINT = (24, 26, 30), (235, 235, 235), (140, 145, 150)
LIT = (255, 196, 0)
GOOD, BAD = (76, 175, 80), (224, 96, 92)
CHIP_PX, LETTER_PX, LINE_PX = 12, 7, 15
DARKEST, BRIGHTEST = 40, 200
FONT = cv2.FONT_HERSHEY_SIMPLEX
CRF = "20"
TICK = Fraction(1, 1000)  # seconds


def write_video(
    path: Path,
    frames: Sequence[RecordedFrame],
    box: BlackBox,
    calls: Sequence[PolicyCall],
    turns: Sequence[Turn],
) -> None:
    """Write an MP4 of one run, every picture at its own time; nothing when there are no frames."""
    import av

    if not frames:
        return
    ticks = box.columns()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(RECORD_HZ).limit_denominator(1000))
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": CRF, "preset": "veryfast"}
        stream.codec_context.time_base = TICK
        for number, frame in enumerate(frames):
            picture = compose_picture(frame, ticks, calls, turns)
            if number == 0:  # the first frame opens the codec, which fixes the size
                stream.height, stream.width = picture.shape[:2]
            elif picture.shape[:2] != (stream.height, stream.width):  # a camera changed its mode
                picture = cv2.resize(picture, (stream.width, stream.height))
            image = av.VideoFrame.from_ndarray(picture, format="rgb24")
            image.pts, image.time_base = round((frame.t_s - frames[0].t_s) / TICK), TICK
            for packet in stream.encode(image):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def compose_picture(
    frame: RecordedFrame,
    ticks: dict[str, np.ndarray],
    calls: Sequence[PolicyCall],
    turns: Sequence[Turn],
) -> np.ndarray:
    """Lay out one picture of the film, (height, width, 3) uint8 RGB with even sides."""
    panels = [_decode(jpeg) for jpeg in frame.pictures]
    done = [call for call in calls if call.ended_s <= frame.t_s]
    with_depth = any(call.depth_codes is not None for call in calls)
    if with_depth:
        panels.append(_depth_panel(done))
    row = _side_by_side(panels)
    height, width = row.shape[:2]
    top = HEADER_PX + TASKS_PX
    canvas = np.full((top + height + FOOTER_PX, width, 3), BACKGROUND, np.uint8)
    canvas[top : top + height] = row
    begun = [turn for turn in turns if turn.began_s is not None and turn.began_s <= frame.t_s]
    _text(canvas, (begun or turns)[-1 if begun else 0].task, (GAP_PX, 23), 0.6, INK)
    _draw_turns(canvas, turns, frame.t_s)
    _text(canvas, _footer(frame.t_s, ticks, done, with_depth), (GAP_PX, top + height + 20))
    even = (canvas.shape[0] // 2 * 2, canvas.shape[1] // 2 * 2)
    return np.ascontiguousarray(canvas[: even[0], : even[1]])


def _draw_turns(canvas: np.ndarray, turns: Sequence[Turn], t_s: float) -> None:
    """Draw a chip for each task: hollow while it waits, then lit, then in the verdict's colour."""
    share = canvas.shape[1] // len(turns)
    for turn in turns:
        x, y = GAP_PX + turn.number * share, HEADER_PX + 3
        waits = turn.began_s is None or t_s < turn.began_s
        colour, thickness = FAINT if waits else LIT, 1 if waits else cv2.FILLED
        if turn.done_s is not None and t_s >= turn.done_s:
            colour = GOOD
        elif turn.ended_s is not None and t_s >= turn.ended_s:
            colour = FAINT if turn.succeeded is None else BAD
        cv2.rectangle(canvas, (x, y), (x + CHIP_PX, y + CHIP_PX), colour, thickness)
        left, most = x + CHIP_PX + GAP_PX, (share - CHIP_PX - 2 * GAP_PX) // LETTER_PX
        for line, words in enumerate((turn.task, turn.outcome_at(t_s))):
            _text(canvas, words[:most], (left, y + CHIP_PX - 1 + line * LINE_PX), 0.4)


def _footer(
    t_s: float, ticks: dict[str, np.ndarray], done: Sequence[PolicyCall], with_depth: bool
) -> str:
    started = len(ticks["t_s"]) > 0
    row = int(np.searchsorted(ticks["t_s"], t_s, side="right")) - 1
    seconds = t_s - ticks["t_s"][0] if started else 0.0
    parts = [f"{max(0.0, seconds):5.1f} s", f"tick {max(0, row + 1)}"]
    if row >= 0 and ticks["outcome"][row] != NOT_ASKED:
        parts.append(Outcome(int(ticks["outcome"][row])).name.lower())
    if done:
        call = done[-1]
        parts.append(f"call {call.number + 1}: {(call.ended_s - call.started_s) * 1e3:.0f} ms")
        if with_depth:
            cells = 0 if call.depth_codes is None else len(call.depth_codes)
            parts.append(f"{call.changed_cells} of {cells} cells asked again")
            parts.append(f"{call.depth_passes} depth passes")
    return "   ".join(parts)


def _decode(jpeg: bytes | None) -> np.ndarray:
    if jpeg is None:
        return np.full((PICTURE_HEIGHT, PICTURE_HEIGHT * 4 // 3, 3), BACKGROUND, np.uint8)
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    if image.shape[0] == PICTURE_HEIGHT:
        return image
    width = max(1, round(image.shape[1] * PICTURE_HEIGHT / image.shape[0]))
    return cv2.resize(image, (width, PICTURE_HEIGHT), interpolation=cv2.INTER_LINEAR)


def _depth_panel(done: Sequence[PolicyCall]) -> np.ndarray:
    panel = np.full((PICTURE_HEIGHT, PICTURE_HEIGHT, 3), BACKGROUND, np.uint8)
    known = [call for call in done if call.depth_codes is not None]
    if not known:
        _text(panel, "depth codes", (GAP_PX, PICTURE_HEIGHT // 2))
        return panel
    codes, asked = known[-1].depth_codes, known[-1].asked_cells
    columns = math.isqrt(len(codes) - 1) + 1
    rows = math.ceil(len(codes) / columns)
    brightest = max(1, int(codes.max()))
    side = PICTURE_HEIGHT // max(rows, columns)
    for cell, code in enumerate(codes):
        y, x = cell // columns * side, cell % columns * side
        value = DARKEST + (BRIGHTEST - DARKEST) * int(code) // brightest
        cv2.rectangle(panel, (x, y), (x + side - 2, y + side - 2), (value,) * 3, cv2.FILLED)
        if asked is not None and asked[cell]:
            cv2.rectangle(panel, (x + 1, y + 1), (x + side - 3, y + side - 3), LIT, 2)
    return panel


def _side_by_side(panels: Sequence[np.ndarray]) -> np.ndarray:
    gap = np.full((PICTURE_HEIGHT, GAP_PX, 3), BACKGROUND, np.uint8)
    pieces: list[np.ndarray] = [gap]
    for panel in panels:
        pieces += [panel, gap]
    return np.concatenate(pieces, axis=1)


def _text(
    canvas: np.ndarray,
    text: str,
    place: tuple[int, int],
    scale: float = 0.45,
    colour: tuple[int, int, int] = FAINT,
) -> None:
    plain = text.encode("ascii", "replace").decode()  # the font has no other letters
    cv2.putText(canvas, plain, place, FONT, scale, colour, 1, cv2.LINE_AA)
