import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from firmware_bridge.errors import PortError
from firmware_bridge.last_words import LastWords
from firmware_bridge.life_sign import (
    LifeSign,
    Phase,
    StopKind,
    TakenOver,
    outcome_word,
    unconfirmed_servos,
)
from firmware_bridge.watchdog import Watchdog
from firmware_bridge.watched_port import WatchedPort

IDS = (1, 2, 3, 4, 5, 6)


@pytest.fixture
def page():
    made = LifeSign.create()
    yield made
    made.close()


class Port:
    """A port that notes what reaches it."""

    name, baud_rate = "port", 1_000_000

    def __init__(self):
        self.sent, self.flushed, self.opened, self.is_lost = [], 0, 0, False

    def write(self, data):
        if self.is_lost:
            raise PortError("port: port lost")
        self.sent.append(data)

    def read(self, max_bytes, timeout_s):
        return b""

    def flush_input(self):
        self.flushed += 1

    def reopen(self):
        self.opened += 1
        self.is_lost = False
        return True

    def fileno(self):
        return 0


class Control:
    """The program's end of the socket to its watchdog."""

    def __init__(self):
        self.messages = []

    def send(self, message):
        self.messages.append(message)

    def sendmsg(self, buffers, ancillary, *_):
        self.messages.append(b"".join(buffers))


def test_both_sides_see_the_same_page(page):
    other = LifeSign(os.dup(page.descriptor))
    page.phase = Phase.TORQUE
    before_ns = time.monotonic_ns()
    page.show_life(400_000_000)
    assert other.phase == Phase.TORQUE
    assert before_ns + 400_000_000 <= other.alive_until_ns <= time.monotonic_ns() + 400_000_000
    other.taken_over = TakenOver.SILENT
    assert page.taken_over == TakenOver.SILENT
    other.close()


def test_first_to_ask_for_a_stop_is_remembered(page):
    assert page.stop_asked[0] is StopKind.NOBODY
    page.ask_stop(StopKind.DEAD_MAN, 4_194_304)
    page.ask_stop(StopKind.COMMAND, 17)
    assert page.stop_asked == (StopKind.DEAD_MAN, 4_194_304)


@pytest.mark.parametrize("silent", [(), (3,), (1, 6), IDS])
def test_outcome_of_a_soft_stop_survives_the_page(page, silent):
    page.outcome = outcome_word(IDS, silent)
    assert page.outcome
    assert unconfirmed_servos(IDS, page.outcome) == silent


def test_unknown_outcome_confirms_nobody():
    assert unconfirmed_servos(IDS, 0) == IDS


def test_every_request_is_a_sign_of_life(page):
    port = Port()
    watched = WatchedPort(port, page, Control())
    watched.allowed_ns = 5_000_000_000
    for request in (lambda: watched.write(b"x"), watched.flush_input, watched.reopen):
        page.alive_until_ns = 0
        request()
        assert page.alive_until_ns > time.monotonic_ns() + 4_000_000_000
        assert page.allowed_ns == 5_000_000_000
    assert port.sent == [b"x"]


def test_nothing_reaches_the_port_after_the_takeover(page):
    port = Port()
    watched = WatchedPort(port, page, Control())
    page.taken_over = TakenOver.SILENT
    for request in (lambda: watched.write(b"x"), watched.flush_input):
        with pytest.raises(PortError, match="the watchdog has taken the arm over"):
            request()
    assert not watched.reopen()
    assert (port.sent, port.flushed, port.opened) == ([], 0, 0)


def test_watchdog_is_told_once_when_the_port_is_lost_and_when_it_is_back(page):
    port, control = Port(), Control()
    watched = WatchedPort(port, page, control)
    port.is_lost = True
    for _ in range(3):
        with pytest.raises(PortError):
            watched.write(b"x")
    assert control.messages == [b"port lost"]
    assert watched.reopen()
    watched.write(b"y")
    assert control.messages == [b"port lost", b"port opened"]


def record_in(folder: Path, content: bytes) -> tuple[LastWords, int]:
    (folder / "part").write_bytes(bytes(len(content)))
    descriptor = os.memfd_create("record")
    os.write(descriptor, content)
    words = LastWords(len(content), 2, 8, str(folder / "part"), str(folder / "record"))
    return words, descriptor


def test_reason_that_is_too_long_is_cut_between_characters(tmp_path):
    words, descriptor = record_in(tmp_path, b"<<........>>")
    words = LastWords.from_json(words.to_json())
    words.write(descriptor, "1234567é is cut")
    os.close(descriptor)
    assert (tmp_path / "record").read_bytes() == b"<<1234567\0>>"
    assert not (tmp_path / "part").exists()


def test_record_never_replaces_a_file(tmp_path):
    words, descriptor = record_in(tmp_path, b"<<........>>")
    (tmp_path / "record").write_text("precious")
    with pytest.raises(FileExistsError):
        words.write(descriptor, "why")
    os.close(descriptor)
    assert (tmp_path / "record").read_text() == "precious"


def test_a_watchdog_has_shown_life_before_it_says_that_it_is_ready(page):
    began_ns, shown_ns = time.monotonic_ns(), []

    class Program:
        def send(self, message):
            shown_ns.append(page.watchdog_seen_ns)
            page.phase = Phase.DONE

    watchdog = object.__new__(Watchdog)
    watchdog._page, watchdog._control = page, Program()
    watchdog._server = SimpleNamespace(close=lambda: None)
    watchdog.run()
    assert shown_ns[0] >= began_ns
