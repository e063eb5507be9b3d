"""The example strategy on a replayed hour: its signals do not depend on the speed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.support.replayed_strategy import (
    signals_of_day,
    signals_of_replay,
    write_day,
)
from tests.support.simulated_day import simulated_day

if TYPE_CHECKING:
    from pathlib import Path

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names

HOUR_SECONDS: Final = 3600


# At speed 1800 the hour takes two seconds.
@pytest.mark.parametrize("speed", ["max", "1800"])
def test_the_strategy_signals_the_same_at_every_speed(
    kafka: LocalKafka, names: Names, tmp_path: Path, speed: str
) -> None:
    hour = list(simulated_day(seconds=HOUR_SECONDS))
    wanted = signals_of_day(hour)
    file = tmp_path / "hour.jsonl.gz"
    write_day(hour, file)

    found = signals_of_replay(
        kafka.bootstrap_servers, f"{names.topic_prefix}.hour", file, speed, wanted
    )

    assert found == wanted
    # There is a symbol that was missing meanwhile, and others that went from wall to wall.
    everything = str(wanted)
    assert "flat (the status is MISSING)" in everything
    assert "at the call resistance" in everything
