"""What emulated servos live in: the plant they turn, their supply, and what happens to them."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from firmware_bridge.emulator.defaults import SUPPLY_V
from firmware_bridge.emulator.faults import REGISTERS, Event, Faults
from firmware_bridge.emulator.plant import NOMINAL_SUPPLY_V, Plant
from firmware_bridge.emulator.servo import EmulatedServo
from firmware_bridge.emulator.timeline import Timeline

# The current scale is the servo's.
AMPERE_PER_RAW = 0.0065
REBOOT_S = 0.8


class Surroundings:
    """Steps `servos` and `plant` together, feeds them from one supply, lets events happen.

    `echo` and `unplugged` are the state of the adapter and its port; `plugs` counts how often it
    was unplugged, so that a client can tell that its port is not the one it opened.
    """

    def __init__(
        self,
        plant: Plant,
        servos: Sequence[EmulatedServo],
        faults: Faults,
        supply_v: float | None,
        fired: Counter[str],
    ) -> None:
        self.now_s = 0.0
        self.plugs = 0
        self._plant = plant
        self._servos = servos
        self.supply_v = supply_v
        self._fired = fired
        self._ends: list[tuple[float, int, Callable[[], None]]] = []
        self._n_ends = 0
        self.replace_faults(faults)

    @property
    def echo(self) -> bool:
        """Whether the adapter returns what is sent."""
        return self.faults.echo or self.now_s < self._echo_until_s

    @property
    def unplugged(self) -> bool:
        """Whether the port is gone."""
        return self.now_s < self._unplugged_until_s

    def is_heard(self, servo: EmulatedServo) -> bool:
        """Say whether the servo is powered and connected."""
        index = self._servos.index(servo)
        return servo.place not in self.faults.missing and self._unheard_until_s[index] <= self.now_s

    def replace_faults(self, faults: Faults) -> None:
        """End what is going on and start with other faults; their times count from now."""
        self._stuck_until_s = [0.0] * len(self._servos)
        for _, _, end in sorted(self._ends):
            end()
        self._ends.clear()
        self.faults = faults
        self._echo_until_s = self._unplugged_until_s = self._sag_until_s = 0.0
        self._sag_v = self._dark_until_s = 0.0
        self._unheard_until_s = [0.0] * len(self._servos)
        self._timeline = Timeline(faults.seed)
        for event in faults.events:
            self._timeline.add(event, self.now_s)

    def throw(self, event: Event) -> None:
        """Let an event happen, now or when its time comes."""
        self._timeline.add(event, self.now_s)
        self.let_happen()

    def let_happen(self) -> None:
        """Begin the events that are due and end those that are over."""
        while self._ends and self._ends[0][0] <= self.now_s:
            heapq.heappop(self._ends)[2]()
        for event in self._timeline.due(self.now_s):
            self._fired[event.kind] += 1
            self._begin(event)

    def step(self, dt_s: float) -> None:
        """Advance servos and plant by `dt_s`."""
        self.let_happen()
        supply_v = self._loaded_supply_v()
        if supply_v < self.faults.brown_out_below_v and self.now_s >= self._dark_until_s:
            self._fired["brown_out_by_load"] += 1
            self._dark_until_s = self.now_s + REBOOT_S
            self._cut_power(range(len(self._servos)), REBOOT_S)
        ratio = supply_v / NOMINAL_SUPPLY_V
        positions = self._plant.positions_deg().tolist()
        velocities = self._plant.velocities_deg_s().tolist()
        duty = [
            servo.step(
                position, velocity, supply_v, supply_ratio=ratio, now_s=self.now_s, dt_s=dt_s
            )
            for servo, position, velocity in zip(self._servos, positions, velocities, strict=True)
        ]
        self._plant.step(np.array(duty) * ratio, dt_s)

    def reboot(self, servos: Iterable[EmulatedServo], away_s: float = REBOOT_S) -> None:
        """Take the power of servos away; they come back after `away_s` with RAM defaults."""
        self._cut_power([self._servos.index(servo) for servo in servos], away_s)

    def _loaded_supply_v(self) -> float:
        supply_v = self.supply_v
        if supply_v is None:
            supply_v = self.faults.supply_v
        if supply_v is None:
            supply_v = SUPPLY_V[self.faults.build]
        if self.now_s < self._sag_until_s:
            supply_v = self._sag_v
        current_a = AMPERE_PER_RAW * sum(servo.drive.current_raw for servo in self._servos)
        return supply_v - self.faults.supply_ohm * current_a

    def _begin(self, event: Event) -> None:
        until_s = self.now_s + event.lasts_s
        picked = [
            index
            for index, servo in enumerate(self._servos)
            if event.ids is None or servo.place in event.ids
        ]
        match event.kind:
            case "brown_out":
                self._cut_power(picked, event.lasts_s)
            case "silent":
                self._silence(picked, until_s)
            case "unplug":
                self.plugs += 1
                self._unplugged_until_s = max(self._unplugged_until_s, until_s)
            case "echo":
                self._echo_until_s = max(self._echo_until_s, until_s)
            case "sag":
                self._sag_v, self._sag_until_s = event.amount, until_s
            case "block":
                self._block(picked, until_s)
            case "push":
                self._plant.load_nm[picked] += event.amount
                self._at(until_s, lambda: self._release(picked, event.amount))
            case _:
                for index in picked:
                    self._strike(self._servos[index], event, until_s)

    def _strike(self, servo: EmulatedServo, event: Event, until_s: float) -> None:
        match event.kind:
            case "hot":
                servo.drive.temperature_c = event.amount
            case "overload":
                servo.drive.overloaded = True
            case "status":
                servo.force_status(int(event.amount), until_s)
            case "register":
                servo.restore_eeprom({REGISTERS[event.register]: int(event.amount)})

    def _cut_power(self, picked: Iterable[int], away_s: float) -> None:
        picked = list(picked)

        def cycle() -> None:
            for index in picked:
                self._servos[index].power_cycle()

        cycle()
        self._silence(picked, self.now_s + away_s)
        # They start with the position of the moment in which they come back.
        self._at(self.now_s + away_s, cycle)

    def _silence(self, picked: Iterable[int], until_s: float) -> None:
        for index in picked:
            self._unheard_until_s[index] = max(self._unheard_until_s[index], until_s)

    def _block(self, picked: Sequence[int], until_s: float) -> None:
        for index in picked:
            self._stuck_until_s[index] = max(self._stuck_until_s[index], until_s)
            self._plant.stuck[index] = True
        self._at(until_s, lambda: self._unblock(picked))

    def _unblock(self, picked: Sequence[int]) -> None:
        for index in picked:
            if self._stuck_until_s[index] <= self.now_s:
                self._plant.stuck[index] = False

    def _release(self, picked: Sequence[int], torque_nm: float) -> None:
        self._plant.load_nm[picked] -= torque_nm

    def _at(self, when_s: float, end: Callable[[], None]) -> None:
        self._n_ends += 1
        heapq.heappush(self._ends, (when_s, self._n_ends, end))
