"""The origins of web pages that may use the server (`--cors`), as browsers send them: in lower case, without a default
port."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from ms_codegeex.base.errors import UserError

PORTS = {"http": "80", "https": "443"}
PARTS = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>\[[0-9a-f:.]+\]|[^/?#@:\s]+)(:(?P<port>[0-9]{1,5}|\*))?")
HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
BELOW = r"[a-z0-9_-]+(\.[a-z0-9_-]+)*"
PRIVATE = "access-control-request-private-network"
EXAMPLES = "https://code.example.com, https://*.example.com, http://localhost:* or chrome-extension://*"


class Origins:
    """The set of origins that match `entries` of `--cors`. `*.` stands for all subdomains, `:*` for all ports, and `*`
    for all hosts of a scheme other than HTTP(S). Raises `UserError` for an entry that no browser sends and, without
    `keys`, for one that every page can match."""

    def __init__(self, entries: Sequence[str], keys: bool):
        self.every = "*" in entries
        self._patterns = [re.compile(_pattern(entry.lower(), entry, keys)) for entry in entries]

    def __contains__(self, origin: str) -> bool:
        origin = origin.lower()
        match = PARTS.fullmatch(origin)
        if match is not None and match["port"] and match["port"] == PORTS.get(match["scheme"]):
            origin = origin.rpartition(":")[0]
        return any(pattern.fullmatch(origin) for pattern in self._patterns)


def _pattern(entry: str, given: str, keys: bool) -> str:
    if entry in ("*", "null") and keys:  # any page can send "null", from a sandboxed frame
        return entry.replace("*", ".*")
    match = PARTS.fullmatch(entry)
    web = match is not None and match["scheme"] in PORTS
    if not keys and (entry in ("*", "null") or (web and match["host"] == "*")):
        raise UserError(f"--cors: {given} without keys lets every web page use this server; name origins, or give keys")
    if match is None or match["scheme"] == "file" or not (host := _host(match["host"], web)):
        raise UserError(f"--cors: {given!r} is not an origin that a browser sends; give one such as {EXAMPLES}")
    port = match["port"]
    if port == "*":
        end = "(:[0-9]+)?"
    else:
        end = f":{int(port)}" if port and str(int(port)) != PORTS.get(match["scheme"]) else ""
    return f"{re.escape(match['scheme'])}://{host}{end}"


def _host(host: str, web: bool) -> str:
    if host.startswith("["):
        try:
            return re.escape(f"[{ipaddress.IPv6Address(host[1:-1]).compressed}]")
        except ValueError:
            return ""
    if host == "*":
        return BELOW
    below, name = host.startswith("*."), host.removeprefix("*.")
    try:
        name = name.encode("idna").decode() if not name.isascii() else name
    except UnicodeError:
        return ""
    wide = below and web and "." not in name and name != "localhost"  # such as *.com
    return "" if wide or not HOST.fullmatch(name) else rf"{BELOW}\." * below + re.escape(name)


class Cors(CORSMiddleware):
    """CORS for pages of these origins, including their access to a private network from outside."""

    def __init__(self, app: ASGIApp, origins: Origins, expose_headers: Sequence[str]):
        allowed = ["*"] if origins.every else []
        super().__init__(app, allowed, ["GET", "POST"], ["*"], expose_headers=expose_headers)
        self.origins = origins

    def is_allowed_origin(self, origin: str) -> bool:
        return origin in self.origins

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a browser's preflight request. Private networks are handled here, because older versions of Starlette
        do not know them and newer ones refuse them."""
        response = super().preflight_response(Headers({k: v for k, v in request_headers.items() if k != PRIVATE}))
        if response.status_code == 200 and request_headers.get(PRIVATE) == "true":
            response.headers["Access-Control-Allow-Private-Network"] = "true"
        return response
