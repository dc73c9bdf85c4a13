"""One browser for all picture tests; without a Chromium on the machine they are skipped."""

from collections.abc import Iterator

import pytest

from tests.browser import Browser, browser, find_browser


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    if find_browser() is None:
        pytest.skip("no Chromium on this machine; install chromium to see the pictures drawn")
    with browser() as running:
        yield running
