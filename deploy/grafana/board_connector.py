"""The dashboard for operators: the health of the connector and of each of its parts.

Imported by the script `generate.py`.
"""  # noqa: INP001 - beside a script

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import units
from panels import (
    BLUE,
    GREEN,
    INTERVAL,
    LIVE,
    OLDEST,
    ORANGE,
    RED,
    Panel,
    mean,
    per_minute,
    quantiles,
    share_of_checks,
)

# Requests per minute of the workers that own shards. A standby's budget does not count.
BUDGET: Final = (
    "sum(gex_request_budget_per_minute"
    " and on (instance) sum by (instance) (gex_shards_owned) > 0)"
)

# Every worker exports the configured number of shards, so a sum would count it repeatedly.
CONFIGURED_SHARDS: Final = "sum(max by (feed) (gex_shards))"

# A stat panel compares with a threshold. A short window would let its colour flicker.
END_TO_END_P95: Final = quantiles("gex_end_to_end_seconds", window="5m")["p95"]
UNCERTAINTY_P95: Final = quantiles("gex_detection_uncertainty_seconds")["p95"]

# Columns of Grafana's grid, which has 24 of them.
HALF: Final = 12
QUARTER: Final = 6

_HEALTH: Final = (
    Panel(
        "Workers",
        {"workers": "count(gex_build_info)"},
        shows=(
            "Workers that Prometheus can scrape. One is enough; further workers "
            "stand by or share the shards."
        ),
        bad="None: nothing is published. One: there is no standby.",
        do=(
            "Start workers. The exit status and the last log line say why a worker"
            " ended."
        ),
        see="how-to/runbooks.md#gexmetricsabsent",
        kind="stat",
        steps={0: RED, 1: GREEN},
    ),
    Panel(
        "Shards without owner",
        {"shards": f"{CONFIGURED_SHARDS} - sum(gex_shards_owned)"},
        shows="Shards that no worker has open. Their symbols are not watched.",
        bad="Above 0 for more than a minute. A failover takes seconds.",
        do="Check Assignment below. The log says why a shard cannot be opened.",
        see="how-to/runbooks.md#gexshardsnotowned",
        kind="stat",
        # Below 0 if two workers show a shard as theirs, as after a freeze.
        steps={-1e9: ORANGE, 0: GREEN, 1: RED},
    ),
    LIVE,
    OLDEST,
    Panel(
        "API key and plan",
        {
            "key": "max(gex_key_refused)",
            "plan": "max(gex_plan_refused)",
            "month": "max(gex_quota_exhausted)",
        },
        shows=(
            "Shows if the upstream accepts the API key and the plan of its user, and if "
            "the month has requests left. Polling stops while one is refused."
        ),
        bad="Refused.",
        do=(
            "Rotate a refused key: replace the content of `api_key_file`. No restart "
            "is needed. If plan or month is refused, another key does not help."
        ),
        see="how-to/runbooks.md#gexkeyrefused",
        kind="stat",
        values={0: ("accepted", GREEN), 1: ("refused", RED)},
    ),
    Panel(
        "Kafka brokers up",
        # The worker with the fewest: a sum would hide that it is cut off.
        {"brokers": "min(gex_kafka_brokers_up)"},
        shows="Connected brokers, of the worker with the fewest connections.",
        bad="0: that worker cannot reach Kafka.",
        do="Restore Kafka. Do not restart the workers.",
        see="how-to/operations.md#kafka-is-away",
        kind="stat",
        steps={0: RED, 1: GREEN},
    ),
    Panel(
        "Mean delay / target",
        {"of the target": f"{mean('gex_detection_delay_seconds', '5m')} / $target"},
        unit=units.PercentUnit,
        shows=(
            "Mean detection delay of the last 5 minutes as a share of "
            "`schedule.target_delay_seconds`, which you enter above. It includes "
            "the upstream's own lag."
        ),
        bad=(
            "Far above 100 %: the budget is too small, or the upstream serves "
            "refreshes late."
        ),
        do="Compare price and visibility lag below.",
        see="how-to/runbooks.md#gexdetectiondelayburn",
        kind="stat",
        # Multiples of the target.
        steps={0: GREEN, 2: ORANGE, 4: RED},
        decimals=0,
    ),
    Panel(
        "End to end, p95",
        {"p95": END_TO_END_P95},
        unit=units.Seconds,
        shows=(
            "Time from the upstream's computation to the committed transaction: "
            "95th percentile over 5 minutes."
        ),
        bad="Above a few seconds: consumers act on old levels.",
        do="Find out which part is slow: detection and publishing are both below.",
        see="how-to/operations.md#budget",
        kind="stat",
        steps={0: GREEN, 2: ORANGE, 5: RED},
    ),
    Panel(
        "Budget used",
        # The limit is per minute. Two of them smooth the bursts within a minute.
        {"used": f"60 * sum(rate(gex_upstream_requests_total[2m])) / {BUDGET}"},
        unit=units.PercentUnit,
        shows="Requests of the last 2 minutes as a share of the workers' budget.",
        bad=(
            "At 100 %: checks are skipped, and delays grow. The budget is never "
            "exceeded."
        ),
        do="Get a larger plan, configure fewer symbols, or raise the target delay.",
        see="how-to/runbooks.md#gexbudgetnearend",
        kind="stat",
        # Rates are estimates, so a budget that is used up shows a little less than 100 %.
        steps={0: GREEN, 0.8: ORANGE, 0.98: RED},
        decimals=0,
    ),
    Panel(
        "Aborted in 15 min",
        {"aborted": 'sum(increase(gex_transactions_total{result="aborted"}[15m]))'},
        shows=(
            "Transactions aborted in the last 15 minutes. Their events are "
            "published again; none are lost."
        ),
        bad=(
            "More than a few: Kafka is slow or unreachable, or a second fleet is "
            "running."
        ),
        do="Check the row Kafka below.",
        see="how-to/runbooks.md#gextransactionsaborted",
        kind="stat",
        steps={0: GREEN, 1: ORANGE, 10: RED},
        # `increase` extrapolates to fractions.
        decimals=0,
    ),
    Panel(
        "Quarantined in 1 h",
        # An hour, so that a single entry stays in sight for a while.
        {"entries": "sum(increase(gex_quarantined_total[1h]))"},
        shows=(
            "Entries rejected in the last hour. Their bytes are in the topic "
            "`quarantine`."
        ),
        bad="Rising: the API has changed its format.",
        do="Keep the records, and check for a new version of the connector.",
        see="how-to/runbooks.md#gexquarantinegrowing",
        kind="stat",
        steps={0: GREEN, 1: ORANGE, 10: RED},
        # `increase` extrapolates to fractions.
        decimals=0,
    ),
    Panel(
        "Slowest loop",
        {"ago": "max(time() - gex_loop_progress_timestamp_seconds)"},
        unit=units.Seconds,
        shows="Longest time since any loop of a worker made progress.",
        bad=(
            "Above 60 s: a worker is stuck. Its probe `/health/live` fails soon, "
            "and the supervisor restarts it."
        ),
        do="Check Loops below for the worker, and keep its log.",
        see="how-to/runbooks.md#gexworkerstuck",
        kind="stat",
        # The liveness probe allows the poller 30 s.
        steps={0: GREEN, 30: ORANGE, 60: RED},
        decimals=0,
    ),
    Panel(
        "Freshness",
        {
            "median": "quantile(0.5, time() - gex_symbol_computed_timestamp_seconds)",
            "oldest": "max(time() - gex_symbol_computed_timestamp_seconds)",
            "longest wait for an answer": "max(time() - gex_symbol_observed_timestamp_seconds)",
        },
        unit=units.Seconds,
        shows="Age of the levels, and time since the last answer for a symbol.",
        bad=(
            "The oldest levels are above 90 s: STALE. If all lines climb together,"
            " the API or the workers are down."
        ),
        do="The dashboard GEX levels shows the symbols.",
        see="how-to/runbooks.md#gexfreshnessburn",
        # `stale_after_seconds`, unless a feed configures another value.
        steps={0: "transparent", 90: RED},
        width=HALF,
    ),
    Panel(
        "Requests by outcome",
        {
            # Without the many outcomes that did not happen.
            "{{outcome}}": (
                per_minute("gex_upstream_request_duration_seconds_count", "outcome")
                + " > 0"
            )
        },
        unit=units.RequestsPerMinute,
        shows="Requests by result: ok, or the class of the error.",
        bad=(
            "Any other outcome than ok for more than a minute. key_refused, plan_refused "
            "and quota_exhausted stop polling; rate_limited waits as long as the "
            "upstream asks."
        ),
        do="For each outcome see",
        see="how-to/operations.md#the-api",
        kind="bars",
        width=HALF,
    ),
)

_DELAY: Final = (
    Panel(
        "Detection delay",
        {
            **quantiles("gex_detection_delay_seconds", 99),
            # The schedule aims at a mean, not at a percentile.
            "mean": mean("gex_detection_delay_seconds", INTERVAL),
            "target (mean)": "vector($target)",
        },
        unit=units.Seconds,
        bad="The mean stays above the target.",
        do=(
            "A high price points to the budget, a large visibility lag to the upstream."
        ),
        see="how-to/runbooks.md#gexdetectiondelayburn",
        width=HALF,
    ),
    Panel(
        "End-to-end latency",
        quantiles("gex_end_to_end_seconds", 99),
        unit=units.Seconds,
        bad="Above a few seconds.",
        do="Check its two parts: detection delay and publish duration.",
        see="how-to/operations.md#budget",
        width=HALF,
    ),
    Panel(
        "Publish duration",
        quantiles("gex_publish_duration_seconds", 99),
        unit=units.Seconds,
        bad=(
            "Above a second: Kafka is slow, or a shard was closed and publishes "
            "its backlog now."
        ),
        do="Check transactions, round trips and producer queues below.",
        see="how-to/runbooks.md#gexpublishslow",
        width=HALF,
    ),
    Panel(
        "Uncertainty and visibility lag",
        {
            "uncertainty, p95": UNCERTAINTY_P95,
            "visibility lag": "max(gex_visibility_lag_seconds)",
        },
        unit=units.Seconds,
        bad=(
            "A lag far from 0: the upstream serves refreshes late, or a clock is wrong."
        ),
        do="Compare with the clock correction.",
        see="how-to/operations.md#budget",
        width=HALF,
    ),
)

_UPSTREAM: Final = (
    Panel(
        "Budget",
        {
            "used": f"60 * sum(rate(gex_upstream_requests_total[{INTERVAL}]))",
            "budget": BUDGET,
            # Each worker estimates or is told the same figures of the user: do not add them.
            "other clients": "max(gex_request_foreign_per_minute)",
            "limit": "max(gex_rate_limit_limit)",
            "remaining": "min(gex_rate_limit_remaining)",
        },
        unit=units.RequestsPerMinute,
        shows=(
            "Requests sent, the budget of all workers together, requests of other "
            "programs of the user, and the upstream's own figures: its limit, "
            "and what is left in its window."
        ),
        bad=(
            "Used reaches the budget; other clients are above 0; remaining reaches 0."
        ),
        do=(
            "Stop or slow down other programs of the user (limits are per user, so "
            "another key does not help), get a larger plan, configure "
            "fewer symbols, or raise the target delay."
        ),
        see="how-to/runbooks.md#gexbudgetnearend",
        width=HALF,
    ),
    Panel(
        "Price of a request",
        {"{{worker}}": "gex_request_price_seconds"},
        unit=units.Seconds,
        bad=(
            "Far above a few seconds: the budget, not the target, determines the delay."
        ),
        do="Get a larger plan, configure fewer symbols, or raise the target delay.",
        see="how-to/operations.md#budget",
        width=QUARTER,
    ),
    Panel(
        "Clock correction",
        {
            "{{worker}}, the API's": "gex_clock_correction_seconds",
            "{{worker}}, the brokers'": "gex_broker_clock_difference_seconds",
        },
        unit=units.Seconds,
        bad="Far from 0: one of the two clocks is wrong.",
        do="Check the worker's clock (NTP) first.",
        see="how-to/runbooks.md#gexclockcorrectionlarge",
        width=QUARTER,
    ),
    Panel(
        "The month's requests",
        {
            "used": "max(gex_quota_used)",
            "remaining": "min(gex_quota_remaining)",
            "limit": "max(gex_quota_limit)",
        },
        shows=(
            "Requests of all programs of the user in this month, as the upstream counts "
            "them, and what is left until 00:00 UTC on the 1st. Empty without a cap."
        ),
        bad="Remaining reaches 0 before the month ends: polling stops.",
        do="Stop other programs of the user, or get a larger plan.",
        see="how-to/runbooks.md#gexquotarunsout",
        width=HALF,
    ),
    Panel(
        "The month's end",
        {
            "month ends in": "max(gex_quota_reset_timestamp_seconds) - time()",
            "requests last for": (
                "min(gex_quota_projected_end_timestamp_seconds) - time()"
            ),
        },
        unit=units.Seconds,
        shows=(
            "Time until the month ends, and until its requests are used up at the pace "
            "of the last day."
        ),
        bad="The requests last for less than the month.",
        do="Stop other programs of the user, or get a larger plan.",
        see="how-to/runbooks.md#gexquotarunsout",
        width=HALF,
    ),
    Panel(
        "Requests by purpose",
        {"{{purpose}}": per_minute("gex_upstream_requests_total", "purpose")},
        unit=units.RequestsPerMinute,
        shows=(
            "Requests by purpose: first look, expected refresh, search for the "
            "rhythm, retry, refused symbol."
        ),
        bad=(
            "A search that continues: the rhythm is not known yet, or the vendor "
            "has stopped computing."
        ),
        do="Wait: after a start the search ends within a few minutes.",
        see="how-to/operations.md#budget",
        kind="bars",
    ),
    Panel(
        "Request duration",
        quantiles("gex_upstream_request_duration_seconds", 99),
        unit=units.Seconds,
        bad="Close to `upstream.timeout_seconds`: requests fail.",
        do="Check the network, then contact the vendor.",
        see="how-to/operations.md#the-api",
    ),
    Panel(
        "Checks by result",
        {
            f"{result}, {{{{feed}}}}": share_of_checks(result)
            for result in ("missing", "invalid", "served")
        },
        unit=units.PercentUnit,
        shows=(
            "Results of the checks of symbols: with levels (served), without "
            "levels (missing), or of a symbol that the upstream does not know "
            "(invalid). The rest failed."
        ),
        bad=("Missing above a few percent; invalid above 0; served well below 100 %."),
        do=(
            "Missing: the upstream's cache is cold; wait, then contact the vendor."
            " Invalid: check the spelling."
        ),
        see="how-to/runbooks.md#gexmissingburn",
    ),
    Panel(
        "Symbols by status",
        {"{{status}}": "sum by (status) (gex_symbol_status)"},
        shows="Number of symbols with each status.",
        bad="Fewer symbols are LIVE than are configured.",
        do="The dashboard GEX levels shows which.",
        see="how-to/operations.md#the-api",
        kind="bars",
        width=HALF,
    ),
    Panel(
        "Quarantine and contradictions",
        {
            "{{reason}}": per_minute("gex_quarantined_total", "reason"),
            "not written": "60 * sum(rate(gex_quarantine_failed_total[$__rate_interval]))",
            "response: {{kind}}": per_minute(
                "gex_responses_inconsistent_total", "kind"
            ),
            "other name of {{symbol}}": per_minute(
                "gex_symbol_other_spelling_total", "symbol"
            ),
            "other venues: {{feed}}": per_minute(
                "gex_venues_not_applied_total", "feed"
            ),
        },
        unit=units.EventsPerMinute,
        shows=(
            "Entries that went to quarantine by reason, and those that could not be "
            "written there; contradictions in responses by kind; symbols found "
            "under another name, and responses for other venues."
        ),
        bad="A rate that does not return to 0: the API has changed its format.",
        do=(
            "Keep the records of the topic `quarantine`, and check for a new "
            "version of the connector."
        ),
        see="how-to/runbooks.md#gexquarantinegrowing",
        kind="bars",
        width=HALF,
    ),
)

_KAFKA: Final = (
    Panel(
        "Transactions",
        {"{{result}}": per_minute("gex_transactions_total", "result")},
        unit=units.OpsPerMinute,
        bad="Aborts that continue.",
        do='Search the log for "shard closed by an error"; it names the cause.',
        see="how-to/runbooks.md#gextransactionsaborted",
        kind="bars",
    ),
    Panel(
        "Producer queues",
        {"{{worker}}": "gex_kafka_queue_messages"},
        bad="Growing: Kafka is too slow or unreachable.",
        do="Check the brokers.",
        see="how-to/operations.md#kafka-is-away",
    ),
    Panel(
        "Observations dropped",
        {"{{reason}}": per_minute("gex_observations_dropped_total", "reason")},
        unit=units.EventsPerMinute,
        bad=(
            "unpublishable: the broker rejects a record. collapsed or lost "
            "although Kafka is reachable."
        ),
        do=(
            "older is harmless: the upstream served an older refresh after a newer"
            " one. For the others see"
        ),
        see="how-to/runbooks.md#gexrecordsrefused",
        kind="bars",
    ),
    Panel(
        "Round trip to the brokers, p99",
        {"{{broker}}, {{worker}}": "gex_kafka_broker_rtt_seconds"},
        unit=units.Seconds,
        bad="Much longer than usual: publishing takes several round trips.",
        do="Check that broker and the network. Long polls count too.",
        see="how-to/operations.md#kafka-is-away",
    ),
    Panel(
        "Connected brokers",
        {"{{worker}}": "gex_kafka_brokers_up"},
        bad="0: this worker cannot reach Kafka.",
        do="Restore Kafka. Do not restart the worker.",
        see="how-to/operations.md#kafka-is-away",
    ),
    Panel(
        "Topics with a fault",
        {"{{topic}}": "max by (topic) (gex_topic_fault) == 1"},
        shows="Topics of the connector that are gone or do not fit. Empty if all is well.",
        bad="Any topic: nothing may be published, or a restart may fail.",
        do='Search the log for "topics are gone" and "a topic does not fit".',
        see="how-to/operations.md#a-topic-is-gone",
        kind="bars",
    ),
    Panel(
        "Workers with a wrong clock",
        {"{{worker}}": "gex_clock_wrong == 1"},
        shows="Workers that have left the group because of their clock. Empty if all is well.",
        bad="Any worker: it cannot take over if another one fails.",
        do="Correct the clock of its machine (NTP). It then joins by itself.",
        see="how-to/runbooks.md#gexclockwrong",
        kind="bars",
    ),
    Panel(
        "Partitions with hidden records",
        {"{{topic}}": "max by (topic) (gex_held_back_partitions) > 0"},
        shows="Partitions in which a transaction stays open. Empty if all is well.",
        bad="Any topic: consumers cannot read what is published after it began.",
        do='Search the log for "consumers cannot read new records"; it has the command.',
        see="how-to/runbooks.md#gexeventsheldback",
        kind="bars",
    ),
    Panel(
        "Kafka errors",
        {"{{code}}": per_minute("gex_kafka_errors_total", "code")},
        unit=units.EventsPerMinute,
        shows=(
            "Errors reported by the Kafka clients, by librdkafka's error name. "
            "Empty if there were none since the start."
        ),
        bad="A code that keeps coming back, or one about authorization.",
        do=(
            "_TRANSPORT, _ALL_BROKERS_DOWN: Kafka is unreachable. Authorization: a"
            " right is missing (docs/reference/rights.md)."
        ),
        see="how-to/operations.md#kafka-is-away",
        kind="bars",
    ),
)

_SHARDS: Final = (
    Panel(
        "Assignment",
        {
            "{{feed}} {{shard}}, {{worker}}": (
                "max by (feed, shard, instance) (gex_shard_open)"
            )
        },
        shows=(
            "The worker that owns each shard, and if the shard is open or still "
            "being opened."
        ),
        bad="A shard without owner, or one that stays at opening.",
        do=(
            'Search the log for "shard closed by an error"; it names the cause and'
            " the next try."
        ),
        see="how-to/runbooks.md#gexshardsnotowned",
        kind="states",
        values={0: ("opening", ORANGE), 1: ("open", GREEN)},
        width=HALF,
    ),
    Panel(
        "Shards owned",
        {
            "{{worker}}": "sum by (instance) (gex_shards_owned)",
            "owned": "sum(gex_shards_owned)",
            "all": CONFIGURED_SHARDS,
        },
        shows=(
            "Shards that each worker has open, their sum, and the number of "
            "configured shards."
        ),
        bad="Owned below all for more than a minute: some symbols are not watched.",
        do="Start a worker. If one is running, check why a shard cannot be opened.",
        see="how-to/runbooks.md#gexshardsnotowned",
        width=HALF,
    ),
    Panel(
        "Shards taken by others",
        {"{{worker}}": f"increase(gex_shard_fenced_total[{INTERVAL}])"},
        bad=(
            "Repeatedly in two groups of workers: another fleet uses the same topics."
        ),
        do=(
            "Stop one fleet, or give it its own `topic_prefix`. Once after a "
            "freeze is harmless."
        ),
        see="how-to/runbooks.md#gexanotherfleet",
        kind="bars",
    ),
    Panel(
        "Restore duration, mean since the start",
        {
            # Restores are too rare for a rate: take all since the start.
            "{{worker}}": (
                "gex_restore_duration_seconds_sum / gex_restore_duration_seconds_count"
            )
        },
        unit=units.Seconds,
        shows="Time to read a shard's state back when it was opened.",
        bad="Above a second: symbols are not watched for as long at each failover.",
        do=(
            "Compare the records read: many more than symbols mean that compaction"
            " lags."
        ),
        see="how-to/operations.md#fail-over",
    ),
    Panel(
        "Records read in a restore",
        {
            "{{worker}}": "gex_restore_records_total / gex_restore_duration_seconds_count"
        },
        bad="Many more than the shard has symbols: compaction lags.",
        do="Check the log cleaner of the brokers.",
        see="how-to/operations.md#fail-over",
    ),
    Panel(
        "Records of other programs",
        {"{{feed}}-{{shard}}": "gex_stray_records > 0"},
        shows="Keys of `current` whose last record was not the connector's.",
        bad="Above 0: something else writes to the topics. Workers skip it.",
        do="Stop that program, and remove the keys that are not symbols.",
        see="how-to/operations.md#stray-records",
    ),
    Panel(
        "Symbols of feeds that are not configured",
        {"{{feed}}": "gex_orphaned_symbols"},
        shows="Symbols that are not REMOVED although no configuration has their feed.",
        bad="For more than some minutes: workers have different configurations.",
        do="Restart the workers that still have the feed.",
        see="how-to/operations.md#feeds",
    ),
)

_PROCESS: Final = (
    Panel(
        "Memory",
        {"{{worker}}": "process_resident_memory_bytes"},
        unit=units.BytesIEC,
        shows="Resident memory of each worker.",
        bad="Growing for hours. It stays flat even while Kafka is unreachable.",
        do="Restart the worker, and report it with its log.",
        see="how-to/operations.md#kafka-is-away",
        width=5,
    ),
    Panel(
        "CPU",
        {"{{worker}}": f"rate(process_cpu_seconds_total[{INTERVAL}])"},
        unit=units.PercentUnit,
        shows="CPU of each worker; 100 % is one core.",
        bad="Close to 100 %: checks are late.",
        do="Use more shards and workers.",
        see="explanation/capacity.md#limits-found",
        width=5,
    ),
    Panel(
        "Loops",
        {
            "{{loop}}, {{worker}}": (
                "time() - max by (loop, instance) (gex_loop_progress_timestamp_seconds)"
            ),
        },
        unit=units.Seconds,
        shows="Time since each loop of a worker made progress.",
        bad="Above 60 s: the loop is stuck.",
        do=(
            "Keep the worker's log. Its probe `/health/live` fails, and the "
            "supervisor restarts it."
        ),
        see="how-to/runbooks.md#gexworkerstuck",
        # Twice the poller's limit: the supervisor should have restarted the worker.
        steps={0: "transparent", 60: RED},
        width=6,
    ),
    Panel(
        "Log lines dropped",
        {"{{worker}}": "60 * rate(gex_log_lines_dropped_total[$__rate_interval])"},
        unit=units.EventsPerMinute,
        bad="Above 0: nobody reads the worker's standard error.",
        do="Check the program that collects the log.",
        see="how-to/runbooks.md#gexloglinesdropped",
        width=4,
    ),
    Panel(
        "Versions",
        {
            "{{version}}": "count by (version) (gex_build_info)",
            "API {{version}}": "count by (version) (gex_upstream_version_info)",
            "breaking release": "max(gex_upstream_breaking_release)",
        },
        shows="Number of workers per version, and per contract version of the API.",
        bad=(
            "Two versions for longer than a rolling update takes. A breaking release "
            "that is 1: see the runbook of GexUpstreamBreakingRelease."
        ),
        do="Finish the update. For versions that may run together see",
        see="how-to/operations.md#changes-and-upgrades",
        kind="stat",
        steps={0: BLUE},
        width=4,
        height=8,
    ),
)

# The rows of the dashboard by their title, from top to bottom. All but the first open
# collapsed.
ROWS: Final = {
    "Health": _HEALTH,
    "Delay": _DELAY,
    "Upstream": _UPSTREAM,
    "Kafka": _KAFKA,
    "Shards": _SHARDS,
    "Process": _PROCESS,
}
