"""What the scripts here share."""
import socket


def free_port(kind=socket.SOCK_STREAM):
    """A port of this machine that nobody has, of streams or datagrams."""
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
