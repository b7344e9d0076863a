import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge import packets, registers
from firmware_bridge.packets import Frame, FrameParser, Instruction, encode_frame

TWO_BYTES = {servo_id: (2000 + servo_id).to_bytes(2, "little") for servo_id in range(1, 7)}

GOLDEN = {
    "ping 1": (packets.ping(1), "ff ff 01 02 01 fb"),
    "ping 1 answered": (packets.status(1), "ff ff 01 02 00 fc"),
    "broadcast ping": (packets.ping(0xFE), "ff ff fe 02 01 fe"),
    "read model": (packets.read(1, 3, 2), "ff ff 01 04 02 03 02 f3"),
    "read position": (packets.read(1, 56, 2), "ff ff 01 04 02 38 02 be"),
    "position 1304": (
        packets.status(1, 0, registers.PRESENT_POSITION.encode(1304)),
        "ff ff 01 04 00 18 05 dd",
    ),
    "write goal 2048": (
        packets.write(1, 42, registers.GOAL_POSITION.encode(2048)),
        "ff ff 01 05 03 2a 00 08 c4",
    ),
    "sync read positions": (
        packets.sync_read(56, 2, range(1, 7)),
        "ff ff fe 0a 82 38 02 01 02 03 04 05 06 26",
    ),
    "sync read feedback": (
        packets.sync_read(registers.FEEDBACK_ADDRESS, registers.FEEDBACK_BYTES, range(1, 7)),
        "ff ff fe 0a 82 38 0f 01 02 03 04 05 06 19",
    ),
    "sync write goals": (
        packets.sync_write(42, TWO_BYTES),
        "ff ff fe 16 83 2a 02 01 d1 07 02 d2 07 03 d3 07 04 d4 07 05 d5 07 06 d6 07 08",
    ),
    "sync write torque off": (
        packets.sync_write(40, dict.fromkeys(range(1, 7), b"\x00")),
        "ff ff fe 10 83 28 01 01 00 02 00 03 00 04 00 05 00 06 00 30",
    ),
    "sync write torque on": (
        packets.sync_write(40, dict.fromkeys(range(1, 7), b"\x01")),
        "ff ff fe 10 83 28 01 01 01 02 01 03 01 04 01 05 01 06 01 2a",
    ),
    "broadcast torque off": (packets.write(0xFE, 40, b"\x00"), "ff ff fe 04 03 28 00 d2"),
    "torque off": (packets.write(1, 40, b"\x00"), "ff ff 01 04 03 28 00 cf"),
    "torque on": (packets.write(1, 40, b"\x01"), "ff ff 01 04 03 28 01 ce"),
    "lock 0": (packets.write(1, 55, b"\x00"), "ff ff 01 04 03 37 00 c0"),
    "lock 1": (packets.write(1, 55, b"\x01"), "ff ff 01 04 03 37 01 bf"),
    "acceleration, position, time, speed": (
        packets.write(
            1,
            41,
            registers.ACCELERATION.encode(20)
            + registers.GOAL_POSITION.encode(2048)
            + registers.GOAL_TIME.encode(0)
            + registers.GOAL_VELOCITY.encode(300),
        ),
        "ff ff 01 0a 03 29 14 00 08 00 00 2c 01 7f",
    ),
    "torque limit 500": (
        packets.write(6, 48, registers.TORQUE_LIMIT.encode(500)),
        "ff ff 06 05 03 30 f4 01 cc",
    ),
    "homing -1": (
        packets.write(1, 31, registers.HOMING_OFFSET.encode(-1)),
        "ff ff 01 05 03 1f 01 08 ce",
    ),
    "homing -2047": (
        packets.write(1, 31, registers.HOMING_OFFSET.encode(-2047)),
        "ff ff 01 05 03 1f ff 0f c9",
    ),
    "homing 2047": (
        packets.write(1, 31, registers.HOMING_OFFSET.encode(2047)),
        "ff ff 01 05 03 1f ff 07 d1",
    ),
    "goal velocity -100": (
        packets.write(1, 46, registers.GOAL_VELOCITY.encode(-100)),
        "ff ff 01 05 03 2e 64 80 e4",
    ),
    "midpoint calibration": (packets.write(1, 40, b"\x80"), "ff ff 01 04 03 28 80 4f"),
    "action": (packets.action(), "ff ff fe 02 05 fa"),
    "reboot": (packets.reboot(1), "ff ff 01 02 08 f4"),
    "reset": (encode_frame(Frame(1, 0x0A)), "ff ff 01 02 0a f2"),
    "recalibrate": (encode_frame(Frame(1, 0x0B)), "ff ff 01 02 0b f1"),
}

# Bytes rich in FF, so that headers turn up inside parameters and noise.
ff_rich = st.lists(st.sampled_from([0xFF, 0xFF, 0x01, 0x02, 0x00, 0xFE, 0x38]), max_size=30).map(
    bytes
)
frames = st.builds(
    Frame,
    servo_id=st.integers(0, 0xFE),
    code=st.integers(0, 0xFF),
    params=st.one_of(st.binary(max_size=40), ff_rich),
)


@pytest.mark.parametrize("name", GOLDEN)
def test_frame_has_the_recorded_bytes(name):
    built, golden = GOLDEN[name]
    assert built.hex(" ") == golden


def test_vendor_sync_write_example_has_the_vendors_checksum():
    data = registers.GOAL_POSITION.encode(2048) + bytes(2) + registers.GOAL_VELOCITY.encode(1000)
    assert packets.sync_write(42, dict.fromkeys((1, 2, 3, 4), data))[-1] == 0x58


@given(st.lists(frames, max_size=6), st.data())
def test_parser_finds_frames_however_they_are_split(sent, data):
    stream = b"".join(encode_frame(frame) for frame in sent)
    parser, found = FrameParser(), []
    while stream:
        count = data.draw(st.integers(1, len(stream)))
        found += parser.feed(stream[:count])
        stream = stream[count:]
    assert found == sent
    assert parser.skipped_bytes == 0
    assert parser.pending_bytes == 0


@given(st.binary(max_size=40).filter(lambda noise: b"\xff" not in noise), frames)
def test_parser_skips_noise_before_a_frame(noise, frame):
    parser = FrameParser()
    assert parser.feed(noise + encode_frame(frame)) == [frame]
    assert parser.skipped_bytes == len(noise)


@given(ff_rich, frames)
def test_parser_recovers_every_frame_that_follows_noise_once_the_noise_has_run_out(noise, frame):
    # Noise can promise a frame of up to 254 bytes; after that many bytes all is well again.
    encoded = encode_frame(frame)
    found = FrameParser().feed(noise + encoded * (600 // len(encoded) + 3))
    assert found[-3:] == [frame] * 3


@given(frames, st.data())
def test_parser_never_accepts_a_frame_with_one_flipped_bit(frame, data):
    encoded = bytearray(encode_frame(frame))
    position = data.draw(st.integers(2, len(encoded) - 1))
    encoded[position] ^= 1 << data.draw(st.integers(0, 7))
    found = FrameParser().feed(bytes(encoded))
    assert frame not in found


def test_parser_takes_the_last_two_of_three_ff():
    assert FrameParser().feed(b"\xff" + packets.status(1)) == [Frame(1, 0)]


def test_parser_moves_on_by_one_byte_after_a_bad_checksum():
    # The damaged frame's parameters hold a whole good one.
    inner = packets.status(2, 0, b"\x10\x20")
    outer = bytearray(packets.status(1, 0, inner))
    outer[-1] ^= 0xFF
    parser = FrameParser()
    assert parser.feed(bytes(outer)) == [Frame(2, 0, b"\x10\x20")]
    assert parser.bad_checksums == 1


def test_status_with_error_bit_7_is_parsed():
    assert FrameParser().feed(packets.status(3, 0x80, b"\x01")) == [Frame(3, 0x80, b"\x01")]


def test_sync_write_refuses_data_of_different_lengths():
    with pytest.raises(ValueError, match=r"one data length for all servos, got \[1, 2\]"):
        packets.sync_write(40, {1: b"\x00", 2: b"\x00\x00"})


@pytest.mark.parametrize(
    "frame", [Frame(255, 1), Frame(-1, 1), Frame(1, 256), Frame(1, Instruction.WRITE, bytes(249))]
)
def test_a_frame_that_cannot_be_is_refused(frame):
    with pytest.raises(ValueError, match=r"outside|248"):
        encode_frame(frame)


def test_damaged_length_does_not_swallow_frames_when_their_size_is_known():
    damaged = bytearray(packets.status(1, 0, b"ab"))
    damaged[3] = 0x40
    good = packets.status(2, 0, b"cd")
    assert FrameParser().feed(bytes(damaged) + good) == []
    assert FrameParser(max_params=2).feed(bytes(damaged) + good) == [Frame(2, 0, b"cd")]


def test_resync_finds_the_frames_behind_one_that_never_ended():
    parser = FrameParser()
    cut = packets.status(1, 0, bytes(40))[:9]
    assert parser.feed(cut + packets.status(2, 0, b"cd") + packets.status(3)) == []
    assert parser.resync() == [Frame(2, 0, b"cd"), Frame(3, 0)]
    assert parser.pending_bytes == 0
