"""A row of emulated servos on one wire: instructions in, replies out, physics in between.

No input or output of its own and no clock but the one `advance` moves, so a test can run it in
memory and a server can put it on a pseudo-terminal.
"""

from __future__ import annotations

import enum
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from firmware_bridge import packets, registers
from firmware_bridge.emulator.faults import Event, Faults, ReplyFault, ServoFaults
from firmware_bridge.emulator.plant import Plant
from firmware_bridge.emulator.servo import EmulatedServo
from firmware_bridge.emulator.surroundings import Surroundings
from firmware_bridge.emulator.wire import Wire
from firmware_bridge.packets import BROADCAST_ID, Frame, FrameParser, Instruction

PHYSICS_STEP_S = 0.001
# An unfinished frame is given up after this silence.
FRAME_GAP_S = 0.05
# Replies to a broadcast PING come in id order, one slot each.
PING_SLOT_S = 0.001
MAX_READ_BYTES = packets.MAX_LENGTH_FIELD - packets.MIN_LENGTH_FIELD
RECALIBRATION_FIRMWARE = (3, 10)


class VendorInstruction(enum.IntEnum):
    """Instructions that the vendor's tools send and no driver needs."""

    RESTORE = 0x06
    BACKUP = 0x09
    RESET = 0x0A
    RECALIBRATE = 0x0B


class EmulatedBus:
    """Servos with ids `ids` (1..n when not given) that turn the shafts of `plant`, in that order.

    With `byte_timing` replies take their time on the wire (10 bits a byte) and the servo's return
    delay; without it they are due at once. `servos` maps position
    on the bus to servo, `fired` counts every fault that struck, by kind. Safe to call from threads.
    """

    def __init__(
        self,
        plant: Plant,
        ids: Sequence[int] | None = None,
        faults: Faults | None = None,
        *,
        supply_v: float | None = None,
        byte_timing: bool = False,
    ) -> None:
        places = range(1, plant.n_servos + 1) if ids is None else ids
        if len(places) != plant.n_servos:
            raise ValueError(f"{len(places)} servo ids for a plant of {plant.n_servos} servos")
        self.faults = faults = faults or Faults()
        self.fired: Counter[str] = Counter()
        self.servos = [
            EmulatedServo(place, faults, faults.servos.get(place, ServoFaults()))
            for place in places
        ]
        self._world = Surroundings(plant, self.servos, faults, supply_v, self.fired)
        self._wire = Wire(
            faults, self.fired, byte_timing=byte_timing, baud_rate=registers.BAUD_RATES[0]
        )
        self._lock = threading.RLock()
        self._parser = FrameParser()
        self._baud_rate: int | None = None
        self._last_byte_s = 0.0
        self._unstepped_s = 0.0
        self._seen_plugs = 0
        self._world.step(PHYSICS_STEP_S)

    def __getstate__(self) -> dict[str, object]:
        """Be copied, by `copy.deepcopy`, with a lock of its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    @property
    def now_s(self) -> float:
        """The bus's own clock."""
        return self._world.now_s

    @property
    def supply_v(self) -> float | None:
        """Voltage of the supply without load; None is what the faults say. May be set."""
        return self._world.supply_v

    @supply_v.setter
    def supply_v(self, volts: float | None) -> None:
        self._world.supply_v = volts

    @property
    def unplugged(self) -> bool:
        """Whether the port is gone at the moment."""
        return self._world.unplugged

    @property
    def plugs(self) -> int:
        """How often the port was unplugged so far; a port opened before an unplugging is dead."""
        return self._world.plugs

    def inject(self, *faults: ReplyFault | Event) -> None:
        """Throw faults at the running bus: rules hold from now on, times count from now."""
        with self._lock:
            for fault in faults:
                if isinstance(fault, ReplyFault):
                    self._wire.add_rule(fault)
                else:
                    self._world.throw(fault)

    def replace_faults(self, faults: Faults) -> None:
        """End every fault and start with others, as if they had been there from the beginning.

        Registers that faults have changed stay as they are, and the servos of the build they are.
        """
        with self._lock:
            self.faults = faults = replace(faults, build=self.faults.build)
            self._wire.set_faults(faults)
            self._world.replace_faults(faults)
            for servo in self.servos:
                servo.set_faults(faults, faults.servos.get(servo.place, ServoFaults()))
            self._world.let_happen()

    def handle(self, data: bytes, baud_rate: int | None = None) -> bytes:
        """Take what the host sent at `baud_rate` (None: the right one); return what is due now."""
        with self._lock:
            now_s = self.now_s
            if baud_rate != self._baud_rate or now_s - self._last_byte_s > FRAME_GAP_S:
                self._parser.reset()
                self._baud_rate = baud_rate
                self._wire.baud_rate = baud_rate or registers.BAUD_RATES[0]
            self._last_byte_s = now_s
            if self.unplugged:
                return b""
            self._wire.take_request(data, now_s, echo=self._world.echo)
            for frame in self._parser.feed(data):
                self._execute(frame)
            return self.collect()

    def advance(self, dt_s: float) -> bytes:
        """Move time and physics on by `dt_s` and return the replies that have become due."""
        with self._lock:
            end_s = self.now_s + dt_s
            self._unstepped_s += dt_s
            while self._unstepped_s >= PHYSICS_STEP_S * (1.0 - 1e-9):
                self._unstepped_s = max(0.0, self._unstepped_s - PHYSICS_STEP_S)
                self._world.now_s = end_s - self._unstepped_s
                self._world.step(PHYSICS_STEP_S)
            self._world.now_s = end_s
            return self.collect()

    def collect(self) -> bytes:
        """Return the bytes that are due by now."""
        with self._lock:
            if self.plugs != self._seen_plugs:
                self._seen_plugs = self.plugs
                self._wire.drop_everything()
                self._parser.reset()
            return self._wire.collect(self.now_s)

    def next_due_s(self) -> float | None:
        """Return when the next reply is due, on the bus clock; None when nothing waits."""
        return self._wire.next_due_s()

    def power_cycle(self) -> None:
        """Take the supply away from every servo and give it back."""
        with self._lock:
            for servo in self.servos:
                servo.power_cycle()

    def _execute(self, frame: Frame) -> None:
        heard = [servo for servo in self.servos if self._hears(servo)]
        if frame.code == Instruction.SYNC_READ:
            self._sync_read(frame.params, heard)
        elif frame.code == Instruction.SYNC_WRITE:
            self._sync_write(frame.params, heard)
        elif frame.servo_id == BROADCAST_ID:
            self._broadcast(frame, heard)
        else:
            asked = _with_id(heard, frame.servo_id)
            self._answer([(servo, self._reply_to(servo, frame)) for servo in self._reached(asked)])

    def _hears(self, servo: EmulatedServo) -> bool:
        return self._baud_rate in (None, servo.baud_rate) and self._world.is_heard(servo)

    def _reached(self, servos: Sequence[EmulatedServo]) -> list[EmulatedServo]:
        return [servo for servo in servos if not self._wire.is_deaf(servo.place)]

    def _broadcast(self, frame: Frame, heard: list[EmulatedServo]) -> None:
        reached = self._reached(heard)
        if frame.code != Instruction.PING:
            for servo in reached:
                self._params_for(servo, frame)
            return
        for servo_id in sorted({servo.servo_id for servo in reached}):
            alike = _with_id(reached, servo_id)
            self._answer(
                [(servo, _status(servo, servo_id, b"")) for servo in alike],
                slot_s=servo_id * PING_SLOT_S,
            )

    def _sync_read(self, params: bytes, heard: list[EmulatedServo]) -> None:
        if len(params) < 3 or params[1] > MAX_READ_BYTES:
            return
        address, length = params[0], params[1]
        for servo_id in params[2:]:
            asked = self._reached(_with_id(heard, servo_id))
            self._answer(
                [(servo, _status(servo, servo_id, servo.read(address, length))) for servo in asked]
            )
            if not asked and self.faults.silent_after_missing:
                return

    def _sync_write(self, params: bytes, heard: list[EmulatedServo]) -> None:
        if len(params) < 2:
            return
        address, length = params[0], params[1]
        for start in range(2, len(params) - length, length + 1):
            for servo in self._reached(_with_id(heard, params[start])):
                servo.write(address, params[start + 1 : start + 1 + length])

    def _answer(
        self, replies: Sequence[tuple[EmulatedServo, bytes | None]], slot_s: float = 0.0
    ) -> None:
        """Send the replies of the servos that one id reached: one, or several that collide."""
        spoken = [(servo, data) for servo, data in replies if data is not None]
        if not spoken:
            return
        first, data = spoken[0]
        if len(spoken) > 1:
            data = self._wire.collided([data for _, data in spoken])
        self._wire.reply(first.place, data, self.now_s, delay_s=first.return_delay_s, slot_s=slot_s)

    def _reply_to(self, servo: EmulatedServo, frame: Frame) -> bytes | None:
        """Carry out an instruction for one servo and return its reply; None for none."""
        baud_rate = servo.baud_rate
        params = self._params_for(servo, frame)
        servo_id = frame.servo_id
        if self.faults.settings_answered_as == "new":
            servo_id = servo.servo_id
            if servo.baud_rate != baud_rate:
                return None
        return None if params is None else _status(servo, servo_id, params)

    def _params_for(self, servo: EmulatedServo, frame: Frame) -> bytes | None:
        """Carry out an instruction and return the reply's parameters; None for no reply."""
        params = frame.params
        match frame.code:
            case Instruction.PING:
                return b""
            case Instruction.READ if len(params) == 2 and params[1] <= MAX_READ_BYTES:
                return servo.read(params[0], params[1])
            case Instruction.WRITE if len(params) > 1:
                servo.write(params[0], params[1:])
            case Instruction.REG_WRITE if len(params) > 1:
                servo.pending_write = (params[0], params[1:])
            case Instruction.ACTION:
                pending, servo.pending_write = servo.pending_write, None
                if pending is not None:
                    servo.write(*pending)
            case VendorInstruction.RESTORE:
                servo.restore()
            case Instruction.REBOOT:
                self._world.reboot([servo])
                return None
            case VendorInstruction.BACKUP:
                servo.file.back_up()
            case VendorInstruction.RESET:
                servo.forget_turns()
            case VendorInstruction.RECALIBRATE if servo.firmware >= RECALIBRATION_FIRMWARE:
                servo.recalibrate(*_centre(params))
            case _:
                return None
        return b"" if servo.value(registers.RESPONSE_STATUS_LEVEL) else None


def _with_id(servos: Sequence[EmulatedServo], servo_id: int) -> list[EmulatedServo]:
    return [servo for servo in servos if servo.servo_id == servo_id]


def _status(servo: EmulatedServo, servo_id: int, params: bytes) -> bytes:
    return packets.status(servo_id, servo.status_bits, params)


def _centre(params: bytes) -> tuple[int, ...]:
    return (int.from_bytes(params, "little"),) if len(params) == 2 else ()
