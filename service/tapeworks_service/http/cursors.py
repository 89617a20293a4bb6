"""Places in lists as opaque words: what counts rows of all projects is no business of any of them.

A word is encrypted and authenticated under the installation's secret, for one list of one project: it opens at every
service on the database, and nowhere else.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets

from tapeworks_service.problems import Problem, invalid_value

_NONCE, _NUMBER, _TAG = 8, 8, 8


class Cursors:
    """Makes cursors and reads them."""

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, b"cursors", hashlib.sha256)

    def write(self, project_id: str, listed: str, place: int) -> str:
        """The cursor of a place in a project's list."""
        nonce = secrets.token_bytes(_NONCE)
        body = nonce + self._crossed(nonce, place.to_bytes(_NUMBER, "big"))
        return base64.urlsafe_b64encode(body + self._tag(project_id, listed, body)).decode()

    def read(self, project_id: str, listed: str, cursor: str) -> int:
        """The place. Raises 422 for what is no cursor of this list."""
        try:
            raw = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True)
        except (UnicodeEncodeError, binascii.Error) as error:
            raise _no_cursor() from error
        body, tag = raw[: _NONCE + _NUMBER], raw[_NONCE + _NUMBER :]
        if not hmac.compare_digest(tag, self._tag(project_id, listed, body)):
            raise _no_cursor()
        return int.from_bytes(self._crossed(body[:_NONCE], body[_NONCE:]), "big")

    def _crossed(self, nonce: bytes, number: bytes) -> bytes:
        stream = hmac.digest(self._key, b"stream" + nonce, hashlib.sha256)
        return bytes(one ^ other for one, other in zip(number, stream, strict=False))

    def _tag(self, project_id: str, listed: str, body: bytes) -> bytes:
        return hmac.digest(self._key, f"tag\n{project_id}\n{listed}\n".encode() + body, hashlib.sha256)[:_TAG]


def _no_cursor() -> Problem:
    return invalid_value("/after", "after must be a cursor of this list", "Use the `next` of the previous page.")
