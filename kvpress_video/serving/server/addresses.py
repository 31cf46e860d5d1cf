"""Rules for network addresses to fetch media from."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import SplitResult, quote, urlsplit

from .failures import RequestError

_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_SAFE = "/?:@!$&'()*+,;=%~-._[]"


class Endpoint(NamedTuple):
    """A resolved and checked URL.

    Attributes:
        scheme: `"http"` or `"https"`.
        host, port: as in the URL.
        target: path and query.
        addresses: IP addresses of the host, all allowed.
    """

    scheme: str
    host: str
    port: int
    target: str
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class HostRules:
    """Hosts that the server may connect to.

    Attributes:
        allowed: hosts as `"host"` or `"host:port"` that need neither public addresses nor standard ports.
    """

    allowed: frozenset[str] = frozenset()

    def endpoint(self, url: str) -> Endpoint:
        """Resolve the host of a URL, and check all of its addresses.

        Connect to these addresses only: a second look-up may return others.

        Raises:
            RequestError: the URL is not a plain http or https URL, its host is unknown, or one of its addresses is not
                public.
        """
        parts = split_url(url)
        port, host = parts.port, (parts.hostname or "").rstrip(".")
        try:
            ascii_host = host if ":" in host else host.encode("idna").decode()
        except UnicodeError as error:
            raise _unreadable() from error
        if parts.scheme not in _PORTS:
            raise _refused("Media are given by http, https or data URLs.")
        if not ascii_host or parts.username is not None or parts.password is not None:
            raise _refused("A URL needs a host, and may not contain a user name or password.")
        port = _PORTS[parts.scheme] if port is None else port
        by_name = not self.allowed.isdisjoint((ascii_host, f"{ascii_host}:{port}"))
        if not by_name and port not in _PORTS.values():
            raise _refused(f"Port {port} is not allowed: media are fetched from ports 80 and 443.")
        target = quote(parts.path or "/", safe=_SAFE) + (f"?{quote(parts.query, safe=_SAFE)}" if parts.query else "")
        return Endpoint(parts.scheme, ascii_host, port, target, _resolved(ascii_host, port, by_name))


def split_url(url: str) -> SplitResult:
    """Split a URL that every program reads in the same way.

    Python ignores line breaks and tabs in URLs, and FFmpeg stops at a null: the host that one of them checks would not
    be the host that the other connects to.

    Raises:
        RequestError: the URL contains such characters, cannot be split, or its port is no port number.
    """
    if any(character <= " " or character in "\\\x7f" for character in url):
        raise _refused("A URL may not contain spaces, control characters or backslashes.")
    try:
        parts = urlsplit(url)
        _ = parts.port  # read from the text only now
    except ValueError as error:
        raise _unreadable() from error
    return parts


def _resolved(host: str, port: int, by_name: bool) -> tuple[str, ...]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _refused("The host of the URL is unknown.") from error
    addresses = tuple(dict.fromkeys(str(address[0]) for *_, address in found))
    if not addresses or not (by_name or all(map(is_public, addresses))):
        raise _refused("The host of the URL has an address that is not public.")
    return addresses


def is_public(address: str) -> bool:
    """Return whether an IP address belongs to the public internet and does not tunnel to another network.

    IPv4 addresses in IPv6 (mapped, NAT64) count as themselves; the tunnels 6to4 and Teredo are not public.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        if found in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
        if found.sixtofour is not None or found.teredo is not None or found.is_site_local:
            return False
    return found.is_global and not (found.is_multicast or found.is_reserved or found.is_unspecified)


def _unreadable() -> RequestError:
    return _refused("The URL cannot be read.")


def _refused(message: str) -> RequestError:
    return RequestError(400, message, code="invalid_url")
