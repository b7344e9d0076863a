"""A row of emulated servos on one wire: instructions in, replies out, physics in between.

No input or output of its own and no clock but the one `advance` moves, so a test can run it in
memory and a server can put it on a pseudo-terminal.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence

import numpy as np

from firmware_bridge import packets, registers
from firmware_bridge.emulator.faults import Faults, ReplyFault, ServoFaults
from firmware_bridge.emulator.plant import Plant
from firmware_bridge.emulator.servo import EmulatedServo, ServoOptions
from firmware_bridge.packets import BROADCAST_ID, Frame, FrameParser, Instruction

PHYSICS_STEP_S = 0.001
SUPPLY_V = 12.0
# Sag of a 12 V supply and its cables; the current scale is the servo's, 6.5 mA per raw unit.
SUPPLY_RESISTANCE_OHM = 0.1
AMPERE_PER_RAW = 0.0065
REBOOT_S = 0.8
# An unfinished frame is given up after this silence.
FRAME_GAP_S = 0.05
# Replies to a broadcast PING come in id order, one slot each.
PING_SLOT_S = 0.001
BITS_PER_BYTE = 10
MAX_READ_BYTES = packets.MAX_LENGTH_FIELD - packets.MIN_LENGTH_FIELD


class EmulatedBus:
    """Servos with ids `ids` (1..n when not given) that turn the shafts of `plant`, in that order.

    With `byte_timing` replies take their time on the wire (10 bits a byte) and the servo's return
    delay; without it they are due at once. `servos` maps position on the bus to servo.
    """

    def __init__(
        self,
        plant: Plant,
        ids: Sequence[int] | None = None,
        faults: Faults | None = None,
        *,
        supply_v: float = SUPPLY_V,
        byte_timing: bool = False,
    ) -> None:
        servo_ids = range(1, plant.n_servos + 1) if ids is None else ids
        if len(servo_ids) != plant.n_servos:
            raise ValueError(f"{len(servo_ids)} servo ids for a plant of {plant.n_servos} servos")
        self.faults = faults or Faults()
        self.supply_v = supply_v
        self.now_s = 0.0
        self.servos = [_build_servo(servo_id, self.faults) for servo_id in servo_ids]
        self._plant = plant
        self._byte_timing = byte_timing
        self._random = random.Random(self.faults.seed)
        self._matches = [0] * len(self.faults.replies)
        self._parser = FrameParser()
        self._parser_baud_rate: int | None = None
        self._last_byte_s = 0.0
        self._line_free_s = 0.0
        self._outbox: list[tuple[float, int, bytes]] = []
        self._sent = 0
        self._pending_writes: dict[int, tuple[int, bytes]] = {}
        self._last_due_s: dict[int, float] = {}
        self._away_until_s: dict[int, float] = {}
        self._unstepped_s = 0.0
        self._step(PHYSICS_STEP_S)

    def handle(self, data: bytes, baud_rate: int | None = None) -> bytes:
        """Take what the host sent at `baud_rate` (None: the right one); return what is due now."""
        if baud_rate != self._parser_baud_rate or self.now_s - self._last_byte_s > FRAME_GAP_S:
            self._parser.reset()
            self._parser_baud_rate = baud_rate
        self._last_byte_s = self.now_s
        if self.faults.echo:
            self._post(data, self.now_s)
        self._line_free_s = max(self._line_free_s, self.now_s) + self._wire_s(len(data))
        for frame in self._parser.feed(data):
            self._execute(frame, baud_rate)
        return self.collect()

    def advance(self, dt_s: float) -> bytes:
        """Move time and physics on by `dt_s` and return the replies that have become due."""
        self._unstepped_s += dt_s
        end_s = self.now_s + dt_s
        while self._unstepped_s >= PHYSICS_STEP_S * (1.0 - 1e-9):
            self._unstepped_s = max(0.0, self._unstepped_s - PHYSICS_STEP_S)
            self._step(PHYSICS_STEP_S)
        self.now_s = end_s
        return self.collect()

    def collect(self) -> bytes:
        """Return the bytes that are due by now."""
        due = []
        while self._outbox and self._outbox[0][0] <= self.now_s + 1e-9:
            due.append(heapq.heappop(self._outbox)[2])
        return b"".join(due)

    def next_due_s(self) -> float | None:
        """Return when the next reply is due, on the bus clock; None when nothing waits."""
        return self._outbox[0][0] if self._outbox else None

    def power_cycle(self) -> None:
        """Take the supply away from every servo and give it back."""
        self._pending_writes.clear()
        for servo in self.servos:
            servo.power_cycle()

    def _step(self, dt_s: float) -> None:
        positions = self._plant.positions_deg()
        velocities = self._plant.velocities_deg_s()
        current_a = AMPERE_PER_RAW * sum(servo.drive.current_raw for servo in self.servos)
        supply_v = self.supply_v - SUPPLY_RESISTANCE_OHM * current_a
        duty = np.array(
            [
                servo.step(float(position), float(velocity), supply_v, dt_s)
                for servo, position, velocity in zip(
                    self.servos, positions, velocities, strict=True
                )
            ]
        )
        self._plant.step(duty, dt_s)

    def _execute(self, frame: Frame, baud_rate: int | None) -> None:
        present = [servo for servo in self.servos if self._hears(servo, baud_rate)]
        if frame.code == Instruction.SYNC_READ:
            self._sync_read(frame.params, present)
        elif frame.code == Instruction.SYNC_WRITE:
            self._sync_write(frame.params, present)
        elif frame.servo_id == BROADCAST_ID:
            for servo in sorted(present, key=lambda servo: servo.servo_id):
                if frame.code == Instruction.PING:
                    slot_s = servo.servo_id * PING_SLOT_S if self._byte_timing else 0.0
                    self._reply(servo, servo.servo_id, b"", slot_s)
                else:
                    self._unicast(servo, frame)
        else:
            for servo in present:
                if servo.servo_id == frame.servo_id:
                    wants_reply = self._unicast(servo, frame)
                    if wants_reply is not None:
                        self._reply(servo, frame.servo_id, wants_reply)

    def _unicast(self, servo: EmulatedServo, frame: Frame) -> bytes | None:
        """Carry out an instruction and return the reply's parameters; None for no reply."""
        params, answers = frame.params, servo.value(registers.RESPONSE_STATUS_LEVEL) != 0
        acknowledge = b"" if answers else None
        if frame.code == Instruction.PING:
            return b""
        if frame.code == Instruction.READ and len(params) == 2 and params[1] <= MAX_READ_BYTES:
            return servo.read(params[0], params[1])
        if frame.code == Instruction.WRITE and len(params) > 1:
            servo.write(params[0], params[1:])
            return acknowledge
        if frame.code == Instruction.REG_WRITE and len(params) > 1:
            self._pending_writes[servo.servo_id] = (params[0], params[1:])
            servo.reg_write_pending = True
            return acknowledge
        if frame.code == Instruction.ACTION:
            servo.reg_write_pending = False
            pending = self._pending_writes.pop(servo.servo_id, None)
            if pending is not None:
                servo.write(*pending)
            return acknowledge
        if frame.code == Instruction.REBOOT:
            self._pending_writes.pop(servo.servo_id, None)
            servo.power_cycle()
            self._away_until_s[servo.servo_id] = self.now_s + REBOOT_S
        return None

    def _sync_read(self, params: bytes, present: list[EmulatedServo]) -> None:
        if len(params) < 3 or params[1] > MAX_READ_BYTES:
            return
        address, length = params[0], params[1]
        for servo_id in params[2:]:
            answering = [servo for servo in present if servo.servo_id == servo_id]
            for servo in answering:
                self._reply(servo, servo_id, servo.read(address, length))
            if not answering and self.faults.silent_after_missing:
                return

    def _sync_write(self, params: bytes, present: list[EmulatedServo]) -> None:
        if len(params) < 2:
            return
        address, length = params[0], params[1]
        for start in range(2, len(params) - length, length + 1):
            for servo in present:
                if servo.servo_id == params[start]:
                    servo.write(address, params[start + 1 : start + 1 + length])

    def _hears(self, servo: EmulatedServo, baud_rate: int | None) -> bool:
        servo_id = servo.servo_id
        return (
            servo_id not in self.faults.missing
            and self._away_until_s.get(servo_id, 0.0) <= self.now_s
            and baud_rate in (None, servo.baud_rate)
        )

    def _reply(
        self, servo: EmulatedServo, servo_id: int, params: bytes, slot_s: float = 0.0
    ) -> None:
        data = packets.status(servo_id, servo.status_bits, params)
        due_s = self.now_s
        if self._byte_timing:
            turn_around_s = servo.value(registers.RETURN_DELAY_TIME) * 2e-6 + slot_s
            due_s = self._line_free_s + turn_around_s + self._wire_s(len(data))
            if not slot_s:
                self._line_free_s = due_s
        rule = self._fault_for(servo_id)
        if rule is not None and rule.kind == "drop":
            return
        if rule is not None and rule.kind == "corrupt":
            data = self._corrupted(data)
        if rule is not None and rule.kind == "late":
            due_s += rule.delay_ms / 1000.0
        # Neither a servo nor an adapter lets a later answer overtake an earlier one.
        due_s = max(due_s, self._last_due_s.get(servo_id, 0.0))
        self._last_due_s[servo_id] = due_s
        self._post(data, due_s)

    def _fault_for(self, servo_id: int) -> ReplyFault | None:
        for index, rule in enumerate(self.faults.replies):
            if rule.ids is not None and servo_id not in rule.ids:
                continue
            self._matches[index] += 1
            turn = self._matches[index] - rule.after
            in_window = turn > 0 and (rule.count is None or turn <= rule.count)
            if in_window and self._random.random() < rule.probability:
                return rule
        return None

    def _corrupted(self, data: bytes) -> bytes:
        damaged = bytearray(data)
        position = self._random.randrange(2, len(data))
        damaged[position] ^= 1 << self._random.randrange(8)
        return bytes(damaged)

    def _post(self, data: bytes, due_s: float) -> None:
        self._sent += 1
        heapq.heappush(self._outbox, (due_s, self._sent, data))

    def _wire_s(self, count: int) -> float:
        if not self._byte_timing:
            return 0.0
        return count * BITS_PER_BYTE / (self._parser_baud_rate or registers.BAUD_RATES[0])


def _build_servo(servo_id: int, faults: Faults) -> EmulatedServo:
    own = faults.servos.get(servo_id, ServoFaults())
    options = ServoOptions(
        goal_write_clears_overload=faults.overload_clears_on == "goal_write",
        torque_on_runs_to_stale_goal=own.torque_on_runs_to_stale_goal,
        initial_status_bits=own.status_bits,
    )
    servo = EmulatedServo(servo_id, options)
    servo.restore_eeprom({registers.RESPONSE_STATUS_LEVEL: own.response_status_level})
    return servo
