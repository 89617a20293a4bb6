"""Requests that are nearly right: those of the API's own examples, with something changed."""

from __future__ import annotations

import copy
import json
import random
import re
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

ODD_VALUES: list[Any] = [
    None, True, 0, -1, 2**31, 2**63, 2**64, 10**30, 10**400, 1e308, -0.0, "", " ", "\u0000", "\ud800", "é" * 50,
    "../..", "a/b", "job_0", "a" * 5_000, [], {}, [[]], [None] * 300, {"": ""}, {"component": "mlp"}, {"component": 5},
    {"component": "sequential", "config": {"layers": [{"component": "keras/Dense"}] * 50}}, "keras/Adam", "digits",
]  # fmt: skip
ODD_TEXTS = ["", "%00", "%ff", "..%2f..", "~" * 300, "1e999", "-1", "9" * 40, "null", "%", "a&b", "é", "[]", "0"]
ODD_HEADERS = [
    ("Content-Length", "5"), ("Content-Length", "-1"), ("Content-Length", "99999999999999"),
    ("Transfer-Encoding", "gzip"), ("Transfer-Encoding", "chunked"), ("Expect", "100-continue"), ("Host", ""),
    ("Range", "bytes=0-0,5-9"), ("Range", "bytes=-0"), ("Range", "bytes=99999999999-"), ("If-None-Match", "*"),
    ("If-None-Match", "W/" * 500), ("Accept", "text/event-stream"), ("Last-Event-ID", "9" * 18),
    ("Upgrade", "websocket"), ("Connection", "upgrade"), ("Idempotency-Key", "k"), ("Idempotency-Key", "é"),
    ("Idempotency-Key", "x" * 300),
    ("Content-Type", "text/plain"), ("Content-Encoding", "gzip"), ("Tapeworks-Lease", "x" * 190),
    ("Cookie", "a" * 9_000),
    ("Content-Digest", "sha-256=:AAAA:"), ("Authorization", "Bearer"), ("Authorization", "Basic \xff"), ("X", "\t"),
    ("Origin", "https://attacker.example"), ("X-Forwarded-For", "1.2.3.4, " * 100),
]  # fmt: skip
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PRI", "get"]
_QUERY = ["after", "limit", "state", "kind", "label", "name", "wait", "unless", "points", "trace", "created_after"]
_LARGE = 900_000


@dataclass(frozen=True)
class Sent:
    """One request as it is sent."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    pieces: tuple[int, ...] = ()
    """Sizes of the chunks in which the body goes; none: with its length."""
    cut: int | None = None
    """How many bytes are sent before the connection is closed."""
    times: int = 1
    """How often, one after the other without waiting."""

    def encoded(self) -> bytes:
        """As bytes; after the last one the connection is closed."""
        whole = self._one(kept=True) * (self.times - 1) + self._one(kept=False)
        return whole if self.cut is None else whole[: self.cut]

    def _one(self, *, kept: bool) -> bytes:
        lines = [f"{self.method} {self.path} HTTP/1.1", "Host: localhost"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        names = {name.lower() for name, _ in self.headers}
        if self.pieces:
            lines.append("Transfer-Encoding: chunked")
        elif (self.body or self.method in ("POST", "PUT", "PATCH")) and "content-length" not in names:
            lines.append(f"Content-Length: {len(self.body)}")
        if not kept:
            lines.append("Connection: close")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
        return head + (b"".join(self._chunks()) if self.pieces else self.body)

    def _chunks(self) -> Iterator[bytes]:
        at = 0
        for size in (*self.pieces, len(self.body)):
            if part := self.body[at : at + size]:
                yield b"%x\r\n%s\r\n" % (len(part), part)
            at += size
        yield b"0\r\n\r\n"


@dataclass
class Mutations:
    """Makes requests from an OpenAPI document; `ids` fills its paths."""

    document: dict[str, Any]
    ids: dict[str, list[str]]
    spec: dict[str, Any]
    key: str
    random: random.Random
    _operations: list[tuple[str, str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for path, operations in self.document["paths"].items():
            for method, operation in operations.items():
                content = operation.get("requestBody", {}).get("content", {})
                self._operations.append((method.upper(), path, content.get("application/json", {}).get("example")))

    def request(self) -> Sent:
        """The next one."""
        method, template, example = self.random.choice(self._operations)
        if self.random.random() < 0.25:
            method, template, example = "POST", self.random.choice(["/v1/jobs", "/v1/jobs/validate"]), self.spec
        path = re.sub(r"\{(\w+)(:path)?\}", lambda match: self._filled(match[1]), template)
        body = b"" if example is None else json.dumps(example).encode()
        headers = (("Authorization", f"Bearer {self.key}"),) if self.random.random() < 0.9 else ()
        sent = Sent(method, path, headers, body)
        for _ in range(self.random.choice([0, 1, 1, 1, 2, 3])):
            sent = self.random.choice(_CHANGES)(self, sent)
        return sent

    def _filled(self, name: str) -> str:
        known = self.ids.get(name)
        if known and self.random.random() < 0.8:
            return self.random.choice(known)
        return self.random.choice(["1", "x", "latest", *ODD_TEXTS[1:]])

    # ── changes ──────────────────────────────────────────────────────────────────────────────────

    def _value(self, sent: Sent) -> Sent:
        """Another value somewhere in the body, or one more."""
        try:
            document = json.loads(sent.body or b"{}")
        except (ValueError, RecursionError):
            return sent
        document = copy.deepcopy(document)
        for _ in range(self.random.randint(1, 3)):
            place = self.random.choice([document, *_containers(document)])
            odd = copy.deepcopy(self.random.choice(ODD_VALUES))
            if isinstance(place, dict):
                place[self.random.choice([*place, "name", "x", "", "config"])] = odd
            elif isinstance(place, list):
                place.insert(self.random.randint(0, len(place)), odd)
        return replace(sent, body=json.dumps(document).encode())

    def _bytes(self, sent: Sent) -> Sent:
        """Some bytes of the body are others, or it ends early."""
        body = bytearray(sent.body)
        for _ in range(self.random.randint(1, 4)):
            if body:
                body[self.random.randrange(len(body))] = self.random.randrange(256)
        kept = self.random.choice([len(body), len(body), self.random.randint(0, len(body))])
        return replace(sent, body=bytes(body[:kept]))

    def _nested(self, sent: Sent) -> Sent:
        """A value that is nested deeply."""
        levels = self.random.choice([20, 90, 200, 990, 5_000])
        kinds = [("[", "]"), ('{"a":', "}"), ('{"component":"keras/Dense","config":{"k":', "}}")]
        opened, closed = self.random.choice(kinds)
        nested = opened * levels + "1" + closed * levels
        whole = json.dumps({**self.spec, "model": {"component": "mlp", "config": {"outputs": "HERE"}}})
        return replace(sent, body=whole.replace('"HERE"', nested).encode())

    def _large(self, sent: Sent) -> Sent:
        """A megabyte of something."""
        if self.random.random() < 0.8:
            return sent
        makes: list[Callable[[], bytes]] = [
            lambda: b"{" + b",".join(b'"k%d":1' % (n // 2) for n in range(_LARGE // 10)) + b"}",
            lambda: b"[" + b",".join([b"[]"] * (_LARGE // 3)) + b"]",
            lambda: json.dumps({**self.spec, **{f"k{n}": 1 for n in range(_LARGE // 12)}}).encode(),
            lambda: json.dumps({**self.spec, "metrics": ["keras/None"] * (_LARGE // 14)}).encode(),
            lambda: json.dumps({**self.spec, "models": {f"m{n}": "mlp" for n in range(_LARGE // 20)}}).encode(),
            lambda: bytes(self.random.randbytes(_LARGE)),
        ]
        return replace(sent, body=self.random.choice(makes)())

    def _query(self, sent: Sent) -> Sent:
        names = _QUERY
        count = self.random.choice([1, 2, 5, 30, 400])
        query = "&".join(f"{self.random.choice(names)}={self._text()}" for _ in range(count))
        return replace(sent, path=f"{sent.path.partition('?')[0]}?{query}")

    def _text(self) -> str:
        text = self.random.choice([*ODD_TEXTS, "5", "queued", "a=b", quote(self._words())])
        return text.replace(" ", "%20").replace("é", "%C3%A9")

    def _words(self) -> str:
        return "".join(self.random.choices(string.printable, k=self.random.randint(0, 20)))

    def _header(self, sent: Sent) -> Sent:
        return replace(sent, headers=(*sent.headers, self.random.choice(ODD_HEADERS)))

    def _method(self, sent: Sent) -> Sent:
        return replace(sent, method=self.random.choice(METHODS))

    def _path(self, sent: Sent) -> Sent:
        parts = sent.path.split("/")
        parts[self.random.randrange(len(parts))] = self._text()
        return replace(sent, path="/".join(parts) or "/")

    def _framing(self, sent: Sent) -> Sent:
        sizes = self.random.choice([(1,) * min(len(sent.body), 200), (7, 1, 90), (len(sent.body),)])
        return replace(sent, pieces=sizes or (1,))

    def _cut(self, sent: Sent) -> Sent:
        return replace(sent, cut=self.random.randint(1, 400))

    def _repeated(self, sent: Sent) -> Sent:
        return replace(sent, times=self.random.choice([2, 5, 40])) if len(sent.body) < 10_000 else sent


_CHANGES: list[Callable[[Mutations, Sent], Sent]] = [
    Mutations._value, Mutations._value, Mutations._value, Mutations._bytes, Mutations._nested, Mutations._large,
    Mutations._query, Mutations._query, Mutations._header, Mutations._header, Mutations._method, Mutations._path,
    Mutations._framing, Mutations._cut, Mutations._repeated,
]  # fmt: skip


def _containers(value: Any) -> Iterator[Any]:
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if isinstance(item, dict | list):
            yield item
            yield from _containers(item)
