"""One request to the Hub of the tests: read, what goes wrong with it, who asks, and the answer's bytes."""

import json
import re
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from .faults import Cut, Metered, wait
from .storage import Account, Refusal, Repository

if TYPE_CHECKING:
    from tests.hub_server import HubServer


class Handler(BaseHTTPRequestHandler):
    """Finds the method that answers; `routes` has its name without the underscore by method and path."""

    protocol_version = "HTTP/1.1"
    hub: "HubServer"
    routes: dict[str, str]

    def setup(self) -> None:
        super().setup()
        self.rfile = Metered(self.rfile, self.hub.line)  # type: ignore[assignment]
        self.wfile = Metered(self.wfile, self.hub.line)  # type: ignore[assignment]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _answer(self) -> None:
        address = urlsplit(self.path)
        request = f"{self.command} {unquote(address.path)}"
        self.query = {name: values[0] for name, values in parse_qs(address.query).items()}
        self.hub.requests.append(request)
        self.fault = self.hub.line.fault(request)
        self.rfile.left = None if self.fault is None else self.fault.cut_request  # type: ignore[attr-defined]
        self.body = self._read_body()
        self.rfile.left = None  # type: ignore[attr-defined]
        if self.fault is not None and self.fault.cut_request is not None:
            raise Cut
        wait(self.fault)
        headers = {name.lower(): value for name, value in self.headers.items()}
        exchange = {"request": request, "query": self.query, "headers": headers, "body": self.body}
        self.hub.exchanges.append(exchange)
        try:
            if self.fault is not None and self.fault.status is not None:
                raise Refusal(self.fault.status, "injected", headers=self.fault.headers)
            for pattern, name in self.routes.items():
                if match := re.fullmatch(pattern, request):
                    self.account = self._account()
                    getattr(self, f"_{name}")(**match.groupdict())
                    break
            else:
                raise Refusal(404, "Sorry, we can't find the page you are looking for.")
        except Refusal as refusal:
            self._json({"error": str(refusal)}, status=refusal.status, headers=refusal.headers)
        exchange["status"] = self.status

    def _account(self) -> Account | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not token:
            return None
        account = self.hub.tokens.get(token)
        if account is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        if account.expired:
            raise Refusal(401, f'User Access Token "{account.name}" is expired')
        return account

    def _repository(self, kind: str | None, repo_id: str, *, write: bool = False) -> Repository:
        repository = self.hub.repositories.get((self._kind(kind), repo_id))
        owns = repository is not None and self.account is not None and self.account.name == repository.owner
        if repository is None or (repository.private and not owns):
            if self.account is None:
                raise Refusal(401, "Invalid username or password.", "RepoNotFound")
            raise Refusal(404, "Repository not found", "RepoNotFound")
        if write and self.account is None:
            raise Refusal(401, "Invalid username or password.")
        if write and not (owns and self.account is not None and self.account.role == "write"):
            raise Refusal(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
        return repository

    def _kind(self, name: str | None) -> str:
        return "dataset" if (name or "").startswith("dataset") else "model"

    def _whoami(self) -> None:
        if self.account is None:
            raise Refusal(401, "Invalid username or password.")
        auth = {"accessToken": {"displayName": self.account.name, "role": self.account.role}}
        self._json({"name": self.account.name, "type": "user", "orgs": [], "auth": auth})

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _json(self, value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), status, "application/json", headers or {})

    def _send(self, content: bytes, status: int, content_type: str, headers: dict[str, str]) -> None:
        self.status = status
        self.send_response(status)
        for name, value in {"Content-Type": content_type, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.left = None if self.fault is None else self.fault.cut_response  # type: ignore[attr-defined]
            self.wfile.write(content)
            self.wfile.left = None  # type: ignore[attr-defined]
