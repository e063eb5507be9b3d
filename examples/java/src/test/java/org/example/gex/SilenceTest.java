package org.example.gex;

import static org.junit.jupiter.api.Assertions.assertEquals;

import gex.levels.Status;
import java.time.Instant;
import java.util.List;
import org.junit.jupiter.api.Test;

class SilenceTest {
    private static final Instant NOW = Instant.EPOCH;

    private final Silence silence = new Silence();

    @Test
    void tellsOnceThatASymbolIsSilentAndOnceThatItIsRefreshedAgain() {
        silence.status("BTCUSDT", Status.LIVE, NOW);
        assertEquals(List.of(), silence.lines(NOW.plusSeconds(70)));
        Instant late = NOW.plusSeconds(71);
        assertEquals(List.of("BTCUSDT: not refreshed for 71 s. Does a connector run?"), silence.lines(late));
        assertEquals(List.of(), silence.lines(late));

        silence.refresh("BTCUSDT", late);
        assertEquals(List.of("BTCUSDT: refreshed again"), silence.lines(late));
        assertEquals(List.of(), silence.lines(late));
    }

    @Test
    void expectsNoRefreshWithoutLiveLevels() {
        silence.status("BTCUSDT", Status.LIVE, NOW);
        silence.status("BTCUSDT", Status.MISSING, NOW);
        silence.refresh("BTCUSDT", NOW);
        assertEquals(List.of(), silence.lines(NOW.plusSeconds(3600)));
    }
}
