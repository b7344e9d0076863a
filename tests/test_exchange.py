"""What came back for one request, sorted without a wire."""

import itertools

import pytest

from firmware_bridge import packets
from firmware_bridge.exchange import Exchange
from firmware_bridge.packets import status

READ = packets.read(1, 56, 2)
PING = packets.ping(1)
SYNC_READ = packets.sync_read(56, 2, (1, 2, 3))
THREE = {1: 2, 2: 2, 3: 2}


def sync_exchange(echoing=False):
    return Exchange(SYNC_READ, THREE, echoing)


def test_replies_are_kept_by_id_with_their_error_byte():
    exchange = sync_exchange()
    stream = status(1, 0, b"\x01\x00") + status(2, 0x24, b"\x02\x00") + status(3, 0, b"\x03\x00")
    assert not exchange.take(stream[:-1])
    assert exchange.take(stream[-1:])
    assert [(reply.error, reply.data[0]) for reply in exchange.replies.values()] == [
        (0, 1),
        (0x24, 2),
        (0, 3),
    ]


def test_error_bit_7_does_not_hide_a_reply():
    exchange = Exchange(READ, {1: 2}, False)
    assert exchange.take(status(1, 0x80, b"\x01\x02"))
    assert exchange.replies[1].error == 0x80


def test_nothing_is_waited_for_behind_the_last_servo():
    exchange = sync_exchange()
    assert exchange.take(status(1, 0, b"ab") + status(3, 0, b"cd"))
    assert sorted(exchange.replies) == [1, 3]


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x01\x02\x03", bytes(15)])
def test_reply_of_another_length_answers_nothing(data):
    exchange = Exchange(READ, {1: 2}, False)
    assert not exchange.take(status(1, 0, data))
    assert exchange.replies == {}
    assert exchange.strays + exchange.bad_checksums <= 1


def test_reply_of_a_servo_that_was_not_asked_is_a_stranger():
    exchange = Exchange(READ, {1: 2}, False)
    assert not exchange.take(status(7, 0, b"ab"))
    assert exchange.strangers == {7}


def test_two_answers_of_one_id_are_both_dropped():
    exchange = sync_exchange()
    exchange.take(status(1, 0, b"ab") + status(1, 0, b"cd") + status(2, 0, b"ef"))
    assert list(exchange.replies) == [2]
    assert exchange.doubled == {1}


def test_damaged_length_costs_one_reply_and_no_time():
    damaged = bytearray(status(1, 0, b"ab"))
    damaged[3] |= 0x80
    exchange = sync_exchange()
    assert exchange.take(bytes(damaged) + status(2, 0, b"cd") + status(3, 0, b"ef"))
    assert sorted(exchange.replies) == [2, 3]


def test_cut_reply_does_not_swallow_the_next_one():
    exchange = sync_exchange()
    exchange.take(status(1, 0, b"ab") + status(2, 0, b"cd")[:5] + status(3, 0, b"ef"))
    assert sorted(exchange.replies) == [1, 3]


def test_reply_behind_the_beginning_of_a_longer_frame_is_found_when_time_is_over():
    write = packets.write(1, 41, bytes(7))
    exchange = Exchange(write, {1: 0}, True)
    assert not exchange.take(write[:5] + status(1))
    exchange.give_up()
    assert sorted(exchange.replies) == [1]


@pytest.mark.parametrize("request_frame", [PING, READ])
def test_whole_echo_is_dropped_where_it_is_announced(request_frame):
    length = 0 if request_frame == PING else 2
    exchange = Exchange(request_frame, {1: length}, True)
    assert not exchange.take(request_frame)
    assert exchange.take(status(1, 0, bytes(length)))
    assert exchange.replies[1].error == 0


def test_what_came_before_the_echo_answers_nothing():
    exchange = Exchange(READ, {1: 2}, True)
    exchange.take(status(1, 0, b"ol") + READ + status(1, 0, b"ne"))
    assert exchange.replies[1].data == b"ne"


@pytest.mark.parametrize("cut", range(1, len(SYNC_READ)))
def test_partial_echo_does_not_hide_the_replies(cut):
    exchange = sync_exchange(echoing=True)
    replies = b"".join(status(servo_id, 0, b"ab") for servo_id in THREE)
    exchange.take(SYNC_READ[:cut] + replies)
    exchange.give_up()
    assert sorted(exchange.replies) == [1, 2, 3]
    assert not exchange.clean


@pytest.mark.parametrize("position", range(len(SYNC_READ)))
def test_damaged_echo_does_not_hide_the_replies(position):
    echo = bytearray(SYNC_READ)
    echo[position] ^= 0x10
    exchange = sync_exchange(echoing=True)
    exchange.take(bytes(echo) + b"".join(status(servo_id, 0, b"ab") for servo_id in THREE))
    exchange.give_up()
    assert sorted(exchange.replies) == [1, 2, 3]


def test_unannounced_echo_is_noticed():
    exchange = sync_exchange()
    exchange.take(SYNC_READ + status(3, 0, b"ab"))
    assert exchange.mirrored


@pytest.mark.parametrize("cut", [1, 2, 3])
@pytest.mark.parametrize("next_is_whole", [True, False])
def test_reply_that_ends_in_the_beginning_of_the_next_one_is_not_kept(cut, next_is_whole):
    # What was cut off is replaced by the next servo's FF FF ID; the checksum fits by chance.
    second = status(2, 0, b"\x11\x22")[: None if next_is_whole else cut]
    fitting = 0
    for first, error in itertools.product(range(0, 256, 5), range(256)):
        stream = status(1, error, bytes((first, 0)))[:-cut] + second
        if packets.checksum(stream[2:7]) != stream[7]:
            continue
        fitting += 1
        exchange = sync_exchange()
        exchange.take(stream)
        exchange.give_up()
        assert 1 not in exchange.replies
    assert fitting > 20


def test_junk_behind_a_reply_does_not_cost_it():
    exchange = sync_exchange()
    exchange.take(status(1, 0, b"ab") + b"\x00" + status(3, 0, b"cd"))
    exchange.give_up()
    assert sorted(exchange.replies) == [1, 3]
