package org.example.gex;

import gex.levels.LevelsEvent;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/**
 * Puts the events of each symbol in order and drops those that are known already.
 *
 * <p>Events come in order as long as a symbol stays in its partition. After partitions were added it
 * may move to another one, and a reader may see its next events before the last ones in the former
 * partition.
 */
final class Order {
    private final Duration patience;

    /** The last sequence of each symbol that was passed on. */
    private final Map<String, Long> known = new HashMap<>();

    /** Events that came before the one they follow, and since when they wait. */
    private final Map<String, TreeMap<Long, LevelsEvent>> early = new HashMap<>();

    private final Map<String, Instant> earlySince = new HashMap<>();

    Order(Duration patience) {
        this.patience = patience;
    }

    void startAfter(String symbol, long sequence) {
        known.put(symbol, sequence);
    }

    /** Takes an event, and returns all that follow each other now. */
    List<LevelsEvent> add(LevelsEvent event, Instant now) {
        String symbol = event.getSymbol();
        long last = known.getOrDefault(symbol, 0L);
        if (event.getSequence() <= last) {
            return List.of();
        }
        TreeMap<Long, LevelsEvent> waiting = early.computeIfAbsent(symbol, s -> new TreeMap<>());
        waiting.put(event.getSequence(), event);

        List<LevelsEvent> following = new ArrayList<>();
        while (waiting.containsKey(last + 1)) {
            last++;
            following.add(waiting.remove(last));
        }
        known.put(symbol, last);
        if (waiting.isEmpty()) {
            early.remove(symbol);
            earlySince.remove(symbol);
        } else if (!following.isEmpty()) {
            earlySince.put(symbol, now);
        } else {
            earlySince.putIfAbsent(symbol, now);
        }
        return following;
    }

    /** Throws an exception if an event has been missing for too long. */
    void check(Instant now) {
        earlySince.forEach((symbol, since) -> {
            if (Duration.between(since, now).compareTo(patience) > 0) {
                throw new ConsumerException(
                        "%s: expected event %d, received %d: events are missing; start again to restore the"
                                + " present state",
                        symbol, known.get(symbol) + 1, early.get(symbol).firstKey());
            }
        });
    }
}
