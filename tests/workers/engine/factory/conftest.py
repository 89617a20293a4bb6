"""What a test registers is forgotten after it."""

from tests.support.registered import as_it_was, built_in  # noqa: F401 — fixtures
