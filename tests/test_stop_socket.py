import os
import socket

import pytest

from firmware_bridge import stop_socket
from firmware_bridge.stop_server import MAX_CLIENTS, StopServer
from firmware_bridge.stop_socket import HOLD_SILENCE_S, StopSocketError, connect, listen, peer

PORT = "/dev/ttyTEST0"
WHO = "42 a program"


@pytest.fixture(autouse=True)
def shared(tmp_path, monkeypatch):
    """Keep the sockets in a folder of this test."""
    monkeypatch.setattr(stop_socket, "_SHARED_FOLDER", tmp_path)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return tmp_path


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def served():
    """Give a function that makes the one server of this test, and its clock."""
    servers = []

    def serve(*, dead_man=False):
        clock = Clock()
        servers.append(StopServer(*listen(PORT), WHO, dead_man=dead_man, clock=clock))
        return servers[0], clock

    yield serve
    for server in servers:
        server.close()


def client_of(server, line: bytes) -> socket.socket:
    client = connect(PORT, 2.0)
    server.serve(0.0)
    client.sendall(line)
    server.serve(0.0)
    return client


def test_nobody_listens_where_nothing_runs():
    assert connect(PORT, 1.0) is None


def test_socket_is_the_users_alone_and_goes_with_its_server(shared):
    server, path = listen(PORT)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600
    StopServer(server, path, WHO, dead_man=False).close()
    assert not path.exists()
    assert connect(PORT, 1.0) is None


def test_ports_real_path_decides_not_the_link(tmp_path, served):
    served()
    link = tmp_path / "arm"
    link.symlink_to(PORT)
    client = connect(str(link), 1.0)
    assert client is not None
    client.close()


def test_left_over_socket_is_replaced_but_a_live_one_is_not():
    dead, path = listen(PORT)
    dead.close()
    assert path.exists()
    live, _ = listen(PORT)
    with pytest.raises(StopSocketError, match="another watchdog listens there"):
        listen(PORT)
    live.close()
    stop_socket.remove_left_over(PORT)
    assert not path.exists()


@pytest.mark.parametrize("what", ["link", "file", "open to others"])
def test_folder_that_others_could_use_is_refused(shared, what):
    folder = shared / f"molmoact-arm-{os.getuid()}"
    if what == "link":
        (shared / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(shared / "elsewhere")
    elif what == "file":
        folder.write_text("")
    else:
        folder.mkdir()
        folder.chmod(0o755)
    with pytest.raises(StopSocketError, match=f"{folder} is (not a folder|open to other users)"):
        listen(PORT)
    assert connect(PORT, 1.0) is None


def test_folder_of_the_session_serves_when_the_first_cannot(shared, monkeypatch):
    (shared / f"molmoact-arm-{os.getuid()}").write_text("")
    (shared / "session").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(shared / "session"))
    server, path = listen(PORT)
    assert path.parent == shared / "session" / "molmoact-arm"
    client = connect(PORT, 1.0)
    assert client is not None
    client.close()
    server.close()


def test_stop_is_noted_and_answered_when_it_is_done(served):
    server, _ = served()
    client = client_of(server, b"stop\n")
    assert server.asked_by == os.getpid()
    server.answer("limp 1 2 unconfirmed 3")
    assert client.makefile().read() == f"asked {WHO}\nlimp 1 2 unconfirmed 3\n"
    client.close()


def test_request_may_come_in_pieces_and_nonsense_is_refused(served):
    server, _ = served()
    client = client_of(server, b"st")
    assert server.asked_by is None
    client.sendall(b"op\n")
    server.serve(0.0)
    assert server.asked_by == os.getpid()
    nonsense = client_of(server, b"go faster\n")
    assert nonsense.recv(100) == b"refused unknown request\n"
    endless = client_of(server, b"x" * 200)
    server.serve(0.0)
    with pytest.raises(ConnectionResetError):
        endless.recv(100)
    for one in (client, nonsense, endless):
        one.close()


def test_client_that_says_nothing_keeps_nobody_waiting(served):
    server, _ = served()
    silent = client_of(server, b"")
    client = client_of(server, b"stop\n")
    assert server.asked_by == os.getpid()
    silent.close()
    client.close()
    server.serve(0.0)
    server.answer("limp 1")


def test_crowd_at_the_socket_is_bounded(served):
    server, _ = served()
    clients = [client_of(server, b"") for _ in range(MAX_CLIENTS)]
    with connect(PORT, 2.0) as one_more:
        server.serve(0.0)
        assert one_more.recv(1) == b""
    for client in clients:
        client.close()


def test_dead_mans_switch_is_let_go_when_the_holder_leaves(served):
    server, _ = served(dead_man=True)
    client = client_of(server, b"hold\n")
    assert client.recv(100) == f"holding {WHO}\n".encode()
    assert (server.holders, server.let_go_by) == (1, None)
    client.close()
    server.serve(0.0)
    assert (server.holders, server.let_go_by) == (0, os.getpid())


def test_dead_mans_switch_is_let_go_when_the_holder_falls_silent(served):
    server, clock = served(dead_man=True)
    client = client_of(server, b"hold\n")
    for _ in range(5):
        clock.now_s += 0.8 * HOLD_SILENCE_S
        client.sendall(b".")
        server.serve(0.0)
        assert server.let_go_by is None
    clock.now_s += 1.01 * HOLD_SILENCE_S
    server.serve(0.0)
    assert server.let_go_by == os.getpid()
    client.close()


def test_dead_mans_switch_is_refused_when_the_run_wants_none(served):
    server, _ = served()
    client = client_of(server, b"hold\n")
    assert client.recv(100) == b"refused start the run with --dead-man\n"
    assert server.holders == 0
    client.close()


def test_both_ends_know_each_other():
    one, other = socket.socketpair()
    with one, other:
        assert peer(one) == (os.getpid(), os.getuid())
