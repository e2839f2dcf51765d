"""Says loudly when the tests on private hosts were skipped."""

import pytest

from hosts.namespaces import SKIPPED, missing


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if SKIPPED in str(r.longrepr)]
    if skipped:
        terminalreporter.write_line(
            f"{len(skipped)} tests on private hosts were SKIPPED: {missing()}", yellow=True
        )
