"""One request on the line, and everything that came back: what a healthy bus never shows.

`Bus` takes the reply that fits and drops the rest, which is right for driving an arm. Finding an
adapter that echoes, two servos with one id, or a cable that damages bytes needs the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

from firmware_bridge import packets
from firmware_bridge.bus import Bus
from firmware_bridge.packets import BROADCAST_ID, MAX_SERVO_ID, Frame, FrameParser, encode_frame
from firmware_bridge.registers import FEEDBACK_ADDRESS, FEEDBACK_BYTES, ID

# The silence that ends an answer.
QUIET_S = 0.003
# Servos answer a broadcast ping in slots by id; LeRobot waits as long for all 252.
BROADCAST_WAIT_S = 0.8
READ_BYTES = 1024
ID_POSITION = 2


@dataclass(frozen=True, slots=True)
class LineAnswer:
    """What followed a request: whole frames, how many bytes belonged to none, and the echo."""

    frames: tuple[Frame, ...]
    stray_bytes: int
    echoed: bool

    @property
    def silent(self) -> bool:
        """Whether nothing came, an echo aside."""
        return not self.frames and not self.stray_bytes


@dataclass(frozen=True, slots=True)
class ReplyCount:
    """How the replies of one servo to a number of equal requests came out."""

    asked: int
    good: int
    lost: int
    damaged: int
    doubled: int

    @property
    def bad(self) -> int:
        """Requests without exactly one good reply."""
        return self.asked - self.good


def ask_line(bus: Bus, frame: bytes, *, wait_s: float | None = None) -> LineAnswer:
    """Send a frame and listen until a reply is in and the line quiet. Raises PortError.

    `wait_s` bounds the silence before it, the bus's reply timeout when left out.
    """
    transport, clock = bus.transport, bus.clock
    wait_s = bus.reply_timeout_s if wait_s is None else wait_s
    transport.flush_input()
    transport.write(frame)
    parser, frames, echoed = FrameParser(), [], False
    deadline_s = clock() + wait_s
    while (left_s := deadline_s - clock()) > 0.0:
        data = transport.read(READ_BYTES, left_s)
        if not data:
            break
        for received in parser.feed(data):
            if not frames and not echoed and encode_frame(received) == frame:
                echoed = True
            else:
                frames.append(received)
        if frame[ID_POSITION] != BROADCAST_ID:
            deadline_s = clock() + (QUIET_S if frames else wait_s)
    return LineAnswer(tuple(frames), parser.skipped_bytes + parser.pending_bytes, echoed)


def echoes(bus: Bus) -> bool:
    """Return whether the adapter gives back every byte sent. Raises PortError."""
    return ask_line(bus, sign_of_life(MAX_SERVO_ID)).echoed


def sign_of_life(servo_id: int) -> bytes:
    """Build the request that a present servo answers and whose echo cannot pass for the answer.

    The echo of a ping can: it equals the reply of a servo that reports a voltage fault.
    """
    return packets.read(servo_id, ID.address, ID.size)


def broadcast_ping(bus: Bus) -> LineAnswer:
    """Ask all servos for a sign of life; blocks for 0.8 s. Raises PortError."""
    return ask_line(bus, packets.ping(BROADCAST_ID), wait_s=BROADCAST_WAIT_S)


def count_replies(bus: Bus, servo_id: int, asked: int) -> ReplyCount:
    """Read one servo's measurements `asked` times and count what came back. Raises PortError.

    Two servos with one id talk at the same time about different positions, so their replies come
    damaged or twice.
    """
    frame = packets.read(servo_id, FEEDBACK_ADDRESS, FEEDBACK_BYTES)
    counts = dict.fromkeys(("good", "lost", "damaged", "doubled"), 0)
    for _ in range(asked):
        counts[_judged(ask_line(bus, frame), servo_id)] += 1
    return ReplyCount(asked=asked, **counts)


def _judged(answer: LineAnswer, servo_id: int) -> str:
    fitting = [
        reply
        for reply in answer.frames
        if reply.servo_id == servo_id and len(reply.params) == FEEDBACK_BYTES
    ]
    if answer.silent:
        return "lost"
    if len(fitting) > 1:
        return "doubled"
    return "good" if fitting and not answer.stray_bytes else "damaged"
