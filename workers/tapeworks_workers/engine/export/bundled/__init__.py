"""Files that go into every bundle unchanged."""
