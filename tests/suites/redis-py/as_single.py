"""A plugin of pytest for redis-py's suite: has it take a cluster behind one address for a single server."""

import pytest
import redis


@pytest.hookimpl(wrapper=True)
def pytest_sessionstart():
    """The suite asks INFO when its session starts, and remembers the answer."""
    asked = redis.Redis.info
    redis.Redis.info = lambda *words, **options: {**asked(*words, **options), "cluster_enabled": 0}
    try:
        return (yield)
    finally:
        redis.Redis.info = asked
