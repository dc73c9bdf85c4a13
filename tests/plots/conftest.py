"""One browser for all picture tests; without a Chromium on the machine they are skipped."""

from collections.abc import Iterator

import pytest

from tests.browser import Browser, browser


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with browser() as running:
        yield running
