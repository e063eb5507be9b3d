package org.example.gex;

import static org.junit.jupiter.api.Assertions.assertDoesNotThrow;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import gex.levels.LevelsEvent;
import java.time.Duration;
import java.time.Instant;
import java.util.List;
import org.junit.jupiter.api.Test;

class OrderTest {
    private static final Instant NOW = Instant.EPOCH;

    private final Order order = new Order(Duration.ofMinutes(1));

    @Test
    void passesEachEventOnOnceAndInOrder() {
        order.startAfter("BTCUSDT", 4);
        assertEquals(List.of(), add(4, NOW));
        assertEquals(List.of(), add(6, NOW));
        assertEquals(List.of(5L, 6L), add(5, NOW));
        assertEquals(List.of(), add(5, NOW));
    }

    @Test
    void waitsForAMissingEventAsLongAsThePatience() {
        add(1, NOW);
        Instant later = NOW.plus(Duration.ofHours(1));
        add(3, later);
        assertDoesNotThrow(() -> order.check(later.plusSeconds(1)));
        assertThrows(ConsumerException.class, () -> order.check(later.plusSeconds(61)));
    }

    private List<Long> add(long sequence, Instant now) {
        LevelsEvent event = new LevelsEvent();
        event.setSymbol("BTCUSDT");
        event.setSequence(sequence);
        return order.add(event, now).stream().map(LevelsEvent::getSequence).toList();
    }
}
