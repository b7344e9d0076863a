"""Our frames and our parser against those of the vendor's SDK, for random calls and streams."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge import packets
from firmware_bridge.packets import Frame, FrameParser, encode_frame
from firmware_bridge.registers import CONTROL_TABLE

scs = pytest.importorskip("scservo_sdk")


class SilentPort:
    """A port under the SDK on which nobody answers."""

    is_using = False

    def __init__(self):
        self.sent = []

    def writePort(self, data):  # noqa: N802 - the SDK's names
        self.sent.append(bytes(data))
        return len(data)

    def readPort(self, length):  # noqa: N802
        return b""

    def isPacketTimeout(self):  # noqa: N802
        return True

    def clearPort(self):  # noqa: N802
        pass

    def setPacketTimeout(self, length):  # noqa: N802
        pass


addresses, servo_ids = st.integers(0, 255), st.integers(0, 252)
servo_lists = st.lists(servo_ids, min_size=1, max_size=30, unique=True)


def sdk_frames(call, *arguments):
    """Give the frames that a call of the SDK's packet handler sends."""
    port = SilentPort()
    call(port, *arguments)
    return port.sent


@given(servo_ids, addresses, st.integers(1, 64))
def test_ping_read_and_action_frames_are_those_of_the_sdk(servo_id, address, length):
    handler = scs.PacketHandler(0)
    assert sdk_frames(handler.ping, servo_id) == [packets.ping(servo_id)]
    ours = [packets.read(servo_id, address, length)]
    assert sdk_frames(handler.readTxRx, servo_id, address, length) == ours
    assert sdk_frames(handler.action, servo_id) == [packets.action(servo_id)]


@given(servo_ids, addresses, st.integers(0, 2**32 - 1))
def test_write_frames_of_1_2_and_4_bytes_are_those_of_the_sdk(servo_id, address, value):
    handler = scs.PacketHandler(0)
    for size, call in (
        (1, handler.write1ByteTxRx),
        (2, handler.write2ByteTxRx),
        (4, handler.write4ByteTxRx),
    ):
        cut = value % (1 << 8 * size)
        ours = packets.write(servo_id, address, cut.to_bytes(size, "little"))
        assert sdk_frames(call, servo_id, address, cut) == [ours]


@given(servo_ids, addresses, st.binary(min_size=1, max_size=40))
def test_reg_write_frames_are_those_of_the_sdk(servo_id, address, data):
    ours = packets.reg_write(servo_id, address, data)
    call = scs.PacketHandler(0).regWriteTxRx
    assert sdk_frames(call, servo_id, address, len(data), list(data)) == [ours]


@given(servo_lists, addresses, st.integers(1, 30))
def test_sync_read_frames_are_those_of_the_sdk(ids, address, length):
    port = SilentPort()
    reader = scs.GroupSyncRead(port, scs.PacketHandler(0), address, length)
    for servo_id in ids:
        reader.addParam(servo_id)
    reader.txPacket()
    assert port.sent == [packets.sync_read(address, length, ids)]


@given(servo_lists, addresses, st.integers(1, 7), st.randoms(use_true_random=False))
def test_sync_write_frames_are_those_of_the_sdk(ids, address, length, draw):
    port = SilentPort()
    writer = scs.GroupSyncWrite(port, scs.PacketHandler(0), address, length)
    data = {servo_id: draw.randbytes(length) for servo_id in ids}
    for servo_id, item in data.items():
        writer.addParam(servo_id, list(item))
    writer.txPacket()
    assert port.sent == [packets.sync_write(address, data)]


@given(st.sampled_from([entry for entry in CONTROL_TABLE if entry.sign_bit]), st.data())
def test_signed_values_are_encoded_as_the_sdk_does(entry, data):
    value = data.draw(st.integers(1 - (1 << entry.sign_bit), (1 << entry.sign_bit) - 1))
    wire = entry.encode(value)
    assert int.from_bytes(wire, "little") == scs.SCS_TOSCS(value, entry.sign_bit)
    assert entry.decode(wire) == scs.SCS_TOHOST(int.from_bytes(wire, "little"), entry.sign_bit)


class StreamPort(SilentPort):
    """A port under the SDK on which a stream arrives in pieces of any size."""

    def __init__(self, stream, sizes):
        super().__init__()
        self._stream = stream
        self._sizes = sizes

    def readPort(self, length):  # noqa: N802
        size = min(length, next(self._sizes))
        data, self._stream = self._stream[:size], self._stream[size:]
        return data

    def isPacketTimeout(self):  # noqa: N802
        return not self._stream


statuses = st.builds(
    lambda servo_id, error, params: encode_frame(Frame(servo_id, error, params)),
    servo_ids,
    st.integers(0, 0x7F),
    # Rich in what looks like the header of a frame.
    st.lists(st.one_of(st.just(0xFF), st.integers(0, 255)), max_size=20).map(bytes),
)


def sdk_first_frame(stream, draw):
    """Give the first frame the SDK finds in a stream, None when it gives up.

    It also takes five bytes with a length of 1 for a frame, which is its mistake.
    """
    port = StreamPort(stream, iter(lambda: draw.randint(1, 9), 0))
    packet, result = scs.PacketHandler(0).rxPacket(port)
    if result != scs.COMM_SUCCESS or packet[3] < packets.MIN_LENGTH_FIELD:
        return None
    return Frame(packet[2], packet[4], bytes(packet[5:-1]))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=12), st.lists(statuses, max_size=3), st.randoms(use_true_random=False))
def test_what_the_sdk_finds_in_a_noisy_stream_we_find_too(noise, frames, draw):
    stream = noise + b"".join(frames)
    found = sdk_first_frame(stream, draw)
    ours = FrameParser()
    pieces = [stream[start : start + 5] for start in range(0, len(stream), 5)]
    all_ours = [frame for piece in pieces for frame in ours.feed(piece)]
    # Frames that no servo sends, such as requests, are skipped by the SDK only.
    all_ours = [frame for frame in all_ours if frame.servo_id <= 0xFD and frame.code <= 0x7F]
    if found is not None:
        assert all_ours[0] == found
    elif frames and not noise:
        pytest.fail("the SDK does not understand clean frames")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=12).filter(lambda noise: b"\xff" not in noise), statuses)
def test_a_frame_behind_plain_noise_is_found_by_both(noise, frame):
    expected = Frame(frame[2], frame[4], frame[5:-1])
    assert sdk_first_frame(noise + frame, random.Random(1)) == expected
    assert FrameParser().feed(noise + frame) == [expected]
