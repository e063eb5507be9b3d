package org.example.gex;

import gex.levels.Status;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;

/**
 * Notices that levels are no longer refreshed: no connector runs, or it cannot reach Kafka.
 *
 * <p>It reads no topic and no clock, so it is tested without both.
 */
final class Silence {
    /** Two refreshes of 30 s, and the time in which another worker takes over from a dead one. */
    static final Duration LIMIT = Duration.ofSeconds(70);

    /** When the last refresh of each symbol with LIVE levels was observed. */
    private final Map<String, Instant> refreshedAt = new TreeMap<>();

    private final Set<String> silent = new HashSet<>();

    /** Takes the status of a symbol, from a state or an event. */
    void status(String symbol, Status status, Instant observedAt) {
        if (status == Status.LIVE) {
            refreshedAt.merge(symbol, observedAt, Silence::later);
        } else {
            // No levels are refreshed, or their status says already that they are old.
            refreshedAt.remove(symbol);
            silent.remove(symbol);
        }
    }

    /** Takes a refresh of a symbol. */
    void refresh(String symbol, Instant observedAt) {
        refreshedAt.computeIfPresent(symbol, (s, last) -> later(last, observedAt));
    }

    /** Returns a line for each symbol that has become silent, or is refreshed again. */
    List<String> lines(Instant now) {
        List<String> lines = new ArrayList<>();
        refreshedAt.forEach((symbol, at) -> {
            boolean isSilent = at.plus(LIMIT).isBefore(now);
            if (isSilent && silent.add(symbol)) {
                long seconds = Duration.between(at, now).toSeconds();
                lines.add("%s: not refreshed for %d s. Does a connector run?".formatted(symbol, seconds));
            } else if (!isSilent && silent.remove(symbol)) {
                lines.add("%s: refreshed again".formatted(symbol));
            }
        });
        return lines;
    }

    private static Instant later(Instant one, Instant other) {
        return one.isAfter(other) ? one : other;
    }
}
