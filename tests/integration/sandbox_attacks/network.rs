//! Out over the network, or to another program of this machine.

use super::End::{Denied, Is};
use super::{Row, Status, alone, attacks};

#[test]
fn network() {
    alone("sandbox_attacks::network::network", |folder| {
        attacks(folder, ROWS)
    });
}

const ROWS: &[Row] = &[
    Row(
        "TCP",
        "import socket\nattempt(socket.create_connection, ('127.0.0.1', $TCP4), 1)",
        Denied(1),
    ),
    Row(
        "TCP over IPv6",
        "import socket\nattempt(lambda: socket.socket(socket.AF_INET6).connect(('::1', $TCP6)))",
        Denied(1),
    ),
    Row(
        "UDP",
        "import socket\nattempt(lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', $UDP)))",
        Denied(1),
    ),
    Row(
        "a raw socket",
        "import socket\nattempt(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)",
        Denied(1),
    ),
    Row(
        "a packet socket",
        "import socket\nattempt(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 768)",
        Denied(1),
    ),
    Row(
        "a socket file",
        "import socket\nattempt(lambda: socket.socket(socket.AF_UNIX).connect('$UNIX'))",
        Denied(1),
    ),
    Row(
        "an abstract socket",
        "import socket\nattempt(lambda: socket.socket(socket.AF_UNIX).connect(chr(0) + '$NAMED'))",
        Denied(1),
    ),
    Row(
        "netlink",
        "import socket\nattempt(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).bind((0, 0)))",
        Denied(1),
    ),
    Row(
        "vsock",
        "import socket\nattempt(socket.socket, socket.AF_VSOCK, socket.SOCK_STREAM)",
        Denied(1),
    ),
    Row(
        "a name service",
        "import socket\nattempt(socket.getaddrinfo, 'example.com', 80)",
        Denied(1),
    ),
    Row(
        "a web page",
        "import urllib.request\nattempt(urllib.request.urlopen, 'http://127.0.0.1:$TCP4/', None, 1)",
        Denied(1),
    ),
    Row(
        "a listener of its own",
        "import socket\nattempt(lambda: socket.create_server(('127.0.0.1', 0)))",
        Denied(1),
    ),
    Row(
        "sockets by number",
        "call($SYS_socket$, 2, 1, 0)\ncall($SYS_socket$, 10, 2, 0)\ncall($SYS_socket$, 1, 1, 0)",
        Denied(3),
    ),
    Row(
        "a pair of sockets",
        "import socket\nattempt(socket.socketpair)",
        Denied(1),
    ),
    Row(
        "io_uring",
        "call($SYS_io_uring_setup$, 8, ctypes.create_string_buffer(256))",
        Is(Status::Refused),
    ),
    Row(
        "shared memory",
        "call($SYS_shmget$, 0, 4096, 0o1600)",
        Denied(1),
    ),
    Row(
        "a message queue",
        "call($SYS_mq_open$, b'/atp', 0o102, 0o600, 0)",
        Denied(1),
    ),
];
