"""Signals that ask a command to stop."""

from __future__ import annotations

import os
import signal
import time

import pytest

from durable.cli import signals


def test_signal_that_comes_while_the_first_is_acted_on_is_one_with_it() -> None:
    acted: list[int] = []

    def act(number: int) -> None:
        acted.append(number)
        if len(acted) == 1:
            signal.raise_signal(signal.SIGINT)

    with signals.on_first_signal(act):
        signal.raise_signal(signal.SIGTERM)

    assert acted == [signal.SIGTERM]


def test_second_signal_ends_the_process_though_the_first_is_still_acted_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)

    def act(number: int) -> None:
        # As if a line on a terminal that takes nothing had waited that long.
        later = time.monotonic() + signals.ECHO_SECONDS + 1
        monkeypatch.setattr(time, "monotonic", lambda: later)
        signal.raise_signal(signal.SIGINT)

    with signals.on_first_signal(act):
        signal.raise_signal(signal.SIGTERM)

    assert codes == [128 + signal.SIGINT]


@pytest.mark.parametrize(("later", "ends"), [(0.05, False), (0.2, True)])
def test_second_signal_counts_as_soon_as_it_can_be_no_echo(
    later: float, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    clock = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: clock)

    with signals.on_first_signal(lambda number: None, ended.append):
        signal.raise_signal(signal.SIGTERM)
        clock += later
        signal.raise_signal(signal.SIGINT)

    assert ended == ([signal.SIGINT, 128 + signal.SIGINT] if ends else [])
