"""A disk that is full, for tests of what writes files."""

import resource
from contextlib import contextmanager


@contextmanager
def small_files_only():
    """As on a full disk: a file cannot grow beyond 100 KB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
