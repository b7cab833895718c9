"""Markers: a test that needs Java or a GPU is skipped, with the reason, only where there is none."""

import os
import signal

import pytest

# Tests use files of their own only; without this a wrong name would wait for the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A runner in the background (nohup, a service) may ignore signals, and children would inherit that.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)


@pytest.hookimpl(tryfirst=True)  # before fixtures, which may need what is missing
def pytest_runtest_setup(item):
    if item.get_closest_marker("java"):
        missing = _missing_java()
        if missing and os.environ.get("QPEFT_REQUIRE_JAVA") == "1":
            pytest.fail(f"QPEFT_REQUIRE_JAVA=1, but: {missing}", pytrace=False)
        elif missing:
            pytest.skip(missing)
    if item.get_closest_marker("gpu") and not _has_gpu():
        pytest.skip("no CUDA device")


def _missing_java():
    from qpeft_rerank.errors import DependencyError
    from qpeft_rerank.java import find_java

    try:
        find_java()
    except DependencyError as error:
        return str(error)
    return None


def _has_gpu():
    import torch

    return torch.cuda.is_available()
