"""Fixtures for the tests of the pretrainings."""

import os

import pytest


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """Do not wait for the disk after each saved state."""
    monkeypatch.setattr(os, "fsync", lambda _handle: None)
