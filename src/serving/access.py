"""Who may reach the server: no page of another site, only token holders."""

import hmac
import ipaddress
from typing import NamedTuple


class Refusal(NamedTuple):
    status: int
    message: str


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address: 127.0.0.1, ::1 or localhost."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == 'localhost'


def is_every_address(host: str) -> bool:
    """Whether a server listens at all addresses of the machine: 0.0.0.0 or ::."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def in_url(host: str) -> str:
    """'::1' -> '[::1]'"""
    return f'[{host}]' if ':' in host else host


class Access:
    """Checks the headers of requests to a server at `host` and `port`. token: that requests to /v1 must bring; None for none.

    A page of another site can send requests to a local server through the browser of the person who looks at it. If its own name
    leads to this machine (DNS rebinding), it could read the answers too. But it cannot choose the headers Host and Origin.
    """

    def __init__(self, host: str, port: int, token: str | None):
        self._token = token
        names = {'localhost', '127.0.0.1', '::1', host}
        # A server at every address has names that it does not know; it has a token, which no other page has.
        self._hosts = None if is_every_address(host) else {
            name.lower() for host in names for name in (f'{in_url(host)}:{port}', *([in_url(host)] if port == 80 else []))}

    def refusal(self, path: str, headers: dict[str, list[str]]) -> Refusal | None:
        """Why a request is refused; None if it is not. headers: lower-case name -> its values."""
        hosts = [host.lower() for host in headers.get('host', [])]
        if len(hosts) != 1 or self._hosts is not None and hosts[0] not in self._hosts:
            return Refusal(403, 'the header Host does not name this server')
        for origin in headers.get('origin', []):
            if origin.lower() not in (f'http://{hosts[0]}', f'https://{hosts[0]}'):
                return Refusal(403, 'the header Origin names another site')
        if self._token is not None and path.startswith('/v1/') and not self._has_token(headers.get('authorization', [])):
            return Refusal(401, 'this server needs its token: Authorization: Bearer TOKEN')
        return None

    def _has_token(self, given: list[str]) -> bool:
        if len(given) != 1:
            return False
        scheme, _, token = given[0].partition(' ')
        # In constant time: how long it takes says nothing about how many characters are right.
        return scheme.lower() == 'bearer' and hmac.compare_digest(token.strip().encode(), self._token.encode())
