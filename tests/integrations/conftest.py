"""Integrations are tested with the real thing, where it is installed."""

import pytest


def in_environment(monkeypatch: pytest.MonkeyPatch, url: str, username: str, password: str) -> None:
    """What the examples read, for a sandbox."""
    monkeypatch.setenv("CAPILLARY_BASE_URL", url)
    monkeypatch.setenv("CAPILLARY_USERNAME", username)
    monkeypatch.setenv("CAPILLARY_PASSWORD", password)
