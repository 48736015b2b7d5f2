"""Tests reach no network."""

import socket

import pytest


def test_a_connection_to_anywhere_else_fails() -> None:
    with socket.socket() as made, pytest.raises(AssertionError, match="wanted to connect"):
        made.connect(("192.0.2.1", 80))  # an address that is kept for examples
