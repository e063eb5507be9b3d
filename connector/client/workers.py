"""Looks every two seconds if any connector runs, by the members of its group.

A worker that dies leaves the group after its session time-out, 6 s. So this tells of dead
connectors long before their silence does. It needs the right to DESCRIBE the group. Without
it, and with `group.protocol=consumer`, which these old requests do not know, the answer is
unknown, and silence alone tells.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final

import confluent_kafka as ck

if TYPE_CHECKING:
    from collections.abc import Callable

    from confluent_kafka.admin import AdminClient

_log = logging.getLogger("connector.client")

_INTERVAL_SECONDS: Final = 2.0
_REQUEST_SECONDS: Final = 3.0
_DESERTED: Final = "Empty"
# A group is forgotten some time after it was deserted.
_UNKNOWN: Final = frozenset({"Dead", ""})


class WorkerLook:
    """Asks in a thread of its own, because the request blocks."""

    def __init__(
        self,
        admin: AdminClient,
        group: Callable[[], str | None],
        stopped: Callable[[], bool],
    ) -> None:
        """`group` returns the group of the last record's writer."""
        self.deserted_group: str | None = None
        self._admin = admin
        self._group = group
        self._stopped = stopped
        self._thread = threading.Thread(
            target=self._run, name="gex-levels-workers", daemon=True
        )

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def _run(self) -> None:
        pause = threading.Event()
        while not self._stopped():
            group = self._group()
            if group is not None:
                self._look(group)
            pause.wait(_INTERVAL_SECONDS)

    def _look(self, group: str) -> None:
        try:
            # The newer requests can abort the process when brokers come back:
            # https://github.com/confluentinc/librdkafka/issues/4605
            found = self._admin.list_groups(group, timeout=_REQUEST_SECONDS)
        except (ck.KafkaException, DeprecationWarning) as error:
            # An outage is noticed by the reading thread. A program may also have made
            # errors of warnings.
            _log.debug("cannot look for workers: %s", error)
            return
        states = {str(one.state) for one in found}
        if _DESERTED in states:
            self.deserted_group = group
        elif not states <= _UNKNOWN or group != self.deserted_group:
            self.deserted_group = None
