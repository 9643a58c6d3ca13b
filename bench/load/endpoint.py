"""How clients get at a registry: its URL, the repository to use, and the login."""

from __future__ import annotations

import base64
import http.client
import re
import ssl
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import quote, urlsplit

import msgspec

_PARAMETER: Final = re.compile(r'(\w+)="([^"]*)"')
_SECONDS: Final = 10.0
_BODY_BYTES_MAX: Final = 1 << 20


class Unreachable(Exception):
    """The target cannot be measured: absent, asking for a login, no registry. One line."""


@dataclass(frozen=True, slots=True)
class Login:
    """A user's name and password, or nothing."""

    user: str = ""
    password: str = ""

    def basic(self) -> str:
        """The Authorization header, or ''."""
        if not self.password:
            return ""
        pair = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return f"Basic {pair}"


ANONYMOUS: Final = Login()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One repository of one registry, with the header that opens it."""

    host: str
    port: int
    tls: bool
    repository: str
    authorization: str
    token_target: str = ""
    """Path and query of the token service, where the registry itself has one."""

    def anonymous(self) -> Endpoint:
        """The same without a login."""
        return replace(self, authorization="")


def reach(url: str, repository: str, login: Login, *, others: tuple[str, ...] = ()) -> Endpoint:
    """Find out how to push to and pull from a repository (and pull from ``others``).

    Follows the challenge of ``/v2/``: none, Basic, or Bearer with a token service. Raises
    Unreachable.
    """
    site = _site(url)

    def found(authorization: str, token_target: str = "") -> Endpoint:  # nosec B107 # none
        return Endpoint(site.host, site.port, site.tls, repository, authorization, token_target)

    status, headers, _ = site.get("/v2/")
    if status == 200:
        return found("")
    challenge = headers.get("www-authenticate", "")
    scheme = challenge.partition(" ")[0].lower()
    if status != 401 or scheme not in ("basic", "bearer"):
        raise Unreachable(f"{url}: no registry: /v2/ answers {status}")
    if scheme == "basic":
        if not login.password:
            raise Unreachable(f"{url}: needs a login: give --user and a password")
        if site.get("/v2/", login.basic())[0] != 200:
            raise Unreachable(f"{url}: refuses the login")
        return found(login.basic())
    scopes = [f"repository:{repository}:pull,push"]
    scopes += [f"repository:{other}:pull" for other in others]
    return found(*_token(site, challenge, scopes, login))


def look(url: str, found: Endpoint, login: Login) -> None:
    """See that a repository is not closed to this login, which an anonymous token does not tell.

    Raises Unreachable.
    """
    status, _, _ = _site(url).get(f"/v2/{found.repository}/tags/list?n=1", found.authorization)
    if status in (401, 403):
        text = (
            "refuses the login" if login.password else "needs a login: give --user and a password"
        )
        raise Unreachable(f"{url}: {text}: {found.repository} answers {status}")


@dataclass(frozen=True, slots=True)
class _Site:
    """A server, under the name that messages call it by."""

    name: str
    host: str
    port: int
    tls: bool

    def get(self, target: str, authorization: str = "") -> tuple[int, dict[str, str], bytes]:
        """Status, headers by small name, and body. Raises Unreachable."""
        connection: http.client.HTTPConnection
        if self.tls:
            connection = http.client.HTTPSConnection(
                self.host, self.port, timeout=_SECONDS, context=ssl.create_default_context()
            )
        else:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=_SECONDS)
        headers = {"Authorization": authorization} if authorization else {}
        try:
            connection.request("GET", target, headers=headers)
            answer = connection.getresponse()
            body = answer.read(_BODY_BYTES_MAX)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{self.name}: does not answer: {error}") from error
        finally:
            connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


def _site(url: str) -> _Site:
    parts = urlsplit(url if "//" in url else f"http://{url}")
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
        raise Unreachable(f"{url}: not a URL of the form http://host:port")
    tls = parts.scheme == "https"
    return _Site(url, parts.hostname, port or (443 if tls else 80), tls)


def _token(site: _Site, challenge: str, scopes: list[str], login: Login) -> tuple[str, str]:
    """The header with a token, and the token service's target where it is the registry's own."""
    url = site.name
    values = dict(_PARAMETER.findall(challenge))
    query = "&".join(f"scope={quote(scope, safe=':,/')}" for scope in scopes)
    if "service" in values:
        query = f"service={quote(values['service'], safe='')}&{query}"
    if "realm" not in values:
        raise Unreachable(f"{url}: its challenge names no token service")
    service = _site(values["realm"])
    target = f"{urlsplit(values['realm']).path}?{query}"
    status, _, body = service.get(target, login.basic())
    if status in (401, 403):
        text = (
            "refuses the login" if login.password else "needs a login: give --user and a password"
        )
        raise Unreachable(f"{url}: {text}")
    try:
        answer = msgspec.json.decode(body)
        token = answer.get("token") or answer["access_token"]
    except (msgspec.DecodeError, KeyError, AttributeError):
        raise Unreachable(f"{url}: its token service answers {status} without a token") from None
    own = (service.host, service.port) == (site.host, site.port)
    return f"Bearer {token}", target if own else ""
