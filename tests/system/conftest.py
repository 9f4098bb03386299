"""Signals as a terminal delivers them."""

import signal

import pytest


@pytest.fixture(autouse=True)
def default_signals():
    """SIGHUP is ignored where the tests run under nohup, and child processes inherit that."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, previous)
