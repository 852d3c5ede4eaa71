"""Names and addresses under which the stage is reached."""

import ipaddress
import socket
from dataclasses import dataclass

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
# Where a socket would be sent from to each of these tells the addresses of this machine; nothing is sent.
PROBES = ("10.255.255.255", "172.31.255.255", "192.168.255.255", "198.51.100.1")


@dataclass(frozen=True)
class Address:
    """Addresses under which the stage is reached."""

    scheme: str
    host: str  # that it binds to
    port: int
    names: tuple[str, ...]  # names and addresses of this machine under which it is reached; the first is shown

    @property
    def hosts(self) -> tuple[str, ...]:
        """Values of the header `Host`, in lower case."""
        usual = {"http": 80, "https": 443}[self.scheme] == self.port
        with_port = [f"{name}:{self.port}" for name in self.names]
        return tuple(name.lower() for name in ([*self.names] if usual else []) + with_port)

    @property
    def local(self) -> bool:
        """Whether only this machine reaches it."""
        return is_loopback(self.host)

    @property
    def url(self) -> str:
        """Address without a path, for people at this machine."""
        name = LOOPBACK[0] if self.host in ("0.0.0.0", "::") else self.names[0]
        return f"{self.scheme}://{name}:{self.port}"

    @property
    def public(self) -> str:
        """Address without a path for other devices, "" if they cannot reach it."""
        others = [name for name in self.names if name not in LOOPBACK]
        return "" if self.local or not others else f"{self.scheme}://{others[0]}:{self.port}"


def is_loopback(host: str) -> bool:
    """Tell whether a host to bind to is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def names_of(host: str) -> tuple[str, ...]:
    """Return the names and addresses under which a server that binds to `host` is reached."""
    bracketed = f"[{host}]" if ":" in host else host
    if is_loopback(host):
        return tuple(dict.fromkeys([bracketed, *LOOPBACK])) if host != "::1" else ("[::1]", *LOOPBACK[:2])
    if host not in ("0.0.0.0", "::"):
        return (bracketed, socket.gethostname(), *LOOPBACK)
    name = socket.gethostname()
    return tuple(dict.fromkeys([*_own_addresses(), name, f"{name.split('.')[0]}.local", *LOOPBACK]))


def _own_addresses() -> list[str]:
    """Return the IPv4 addresses of this machine that others may reach."""
    found = []
    for probe in PROBES:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            try:
                one.connect((probe, 9))
            except OSError:
                continue
            found.append(one.getsockname()[0])
    return [address for address in dict.fromkeys(found) if not is_loopback(address)]
