"""Tokens for SASL OAUTHBEARER, from a function of the user's.

librdkafka asks for a token when a client is created, and again after four fifths of each
token's life. It calls from a thread of its own, so that clients that nobody polls have valid
tokens, too.
"""

from __future__ import annotations

import importlib
import logging
import time
from typing import TYPE_CHECKING, Any, Final

from connector.errors import ConfigError
from connector.logs import Bounded

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)

_LOG_INTERVAL_SECONDS: Final = 60
# The year 5138 in seconds, and 1973 in milliseconds.
_LARGEST_SECONDS: Final = 10**11


class Tokens:
    """Calls the function that `kafka.oauth_cb` names, and logs its failures.

    The function gets `sasl.oauthbearer.config` and returns a token, and when it expires in
    seconds since the epoch; optionally also a principal and a dictionary of extensions.
    """

    def __init__(self, path: str) -> None:
        """`path` is `module:function`. Raises ConfigError if it cannot be imported."""
        self.path = path
        self._function = _imported(path)
        self._bounded = Bounded(_LOG_INTERVAL_SECONDS, time.monotonic)

    def __call__(self, config: str) -> tuple[Any, ...]:
        """Return a token. librdkafka asks again after ten seconds if this raises."""
        try:
            token: tuple[Any, ...] = self._function(config)
            _check(token)
        except Exception as error:
            # librdkafka says only that there was an exception.
            reason = f"{type(error).__name__}: {error}"
            if self._bounded.admit(reason) is not None:
                fields = {"function": self.path, "error": reason}
                _log.exception("kafka.oauth_cb failed", extra=fields, exc_info=False)
            raise
        return token


def _imported(path: str) -> Callable[[str], Any]:
    module, _, name = path.partition(":")
    try:
        function: Callable[[str], Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        fault = (
            f"kafka.oauth_cb: '{path}': {error}; expected module:function of a module "
            "that is installed, or in a folder of PYTHONPATH"
        )
        raise ConfigError([fault]) from None
    return function


def _check(token: object) -> None:
    """Raise TypeError or ValueError if the function returned no token."""
    expected = "expected a tuple of a token and its expiry in seconds since the epoch"
    if not isinstance(token, tuple) or len(token) < len(("token", "expiry")):
        raise TypeError(expected)
    text, expiry, *_ = token
    if not isinstance(text, str) or not isinstance(expiry, int | float):
        raise TypeError(expected)
    if expiry > _LARGEST_SECONDS:
        raise ValueError("the expiry seems to be in milliseconds; divide it by 1000")
