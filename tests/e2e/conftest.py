"""What a story has counted is told at the end of the run."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Every property that a test recorded, whether it passed or not."""
    told = [each for kind in ("passed", "failed") for each in terminalreporter.stats.get(kind, ())]
    lines = [f"{name}: {value}" for report in told for name, value in report.user_properties]
    if lines:
        terminalreporter.section("what it cost")
        terminalreporter.write_line("\n".join(lines))
