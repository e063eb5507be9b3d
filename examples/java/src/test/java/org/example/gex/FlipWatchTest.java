package org.example.gex;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import gex.levels.AllExpiry;
import gex.levels.ExpectedMove;
import gex.levels.Levels;
import gex.levels.MaxPain;
import gex.levels.Odte;
import gex.levels.Ranked;
import gex.levels.Status;
import java.time.Duration;
import java.time.Instant;
import java.util.List;
import org.example.gex.FlipWatch.Alert;
import org.example.gex.FlipWatch.Kind;
import org.junit.jupiter.api.Test;

class FlipWatchTest {
    private static final Instant NOW = Instant.parse("2026-11-27T10:00:00Z");
    private static final Duration SILENCE = Duration.ofSeconds(70);

    private final FlipWatch watch = new FlipWatch(SILENCE);

    @Test
    void tradesOnLiveLevelsOnly() {
        assertEquals(List.of(Kind.GO), live(60_000, "flow"));
        for (Status status : List.of(Status.STALE, Status.MISSING, Status.INVALID, Status.REMOVED)) {
            // A STALE event and a state have levels, which do not count.
            assertEquals(List.of(Kind.STOP), take(status, levels(60_000), "flow"));
            assertFalse(watch.mayTrade());
            assertEquals(List.of(Kind.GO), live(60_000, "flow"));
            assertTrue(watch.mayTrade());
        }
    }

    @Test
    void tellsCrossingFromNoise() {
        live(60_000, "flow");
        assertEquals(List.of(), price(60_100));
        assertEquals(List.of(), price(59_990));
        assertEquals(List.of(Kind.CROSSED), price(59_900));
        assertEquals(List.of(), price(60_010));
        assertEquals(List.of(Kind.CROSSED), price(60_100));
    }

    @Test
    void noticesThatTheFlipCrossesThePrice() {
        live(60_000, "flow");
        price(60_100);
        assertEquals(List.of(Kind.CROSSED), live(60_500, "flow"));
    }

    @Test
    void beginsAgainWithAnotherModel() {
        live(60_000, "flow");
        price(60_100);
        assertEquals(List.of(Kind.STOP, Kind.GO), live(65_000, "std"));
        // Below the flip of the other model, but no price has crossed it.
        assertEquals(List.of(), price(60_100));
    }

    @Test
    void remembersTheModelOverAnAbsence() {
        live(60_000, "flow");
        assertEquals(List.of(Kind.STOP), take(Status.MISSING, null, null));
        assertEquals(List.of(Kind.STOP, Kind.GO), live(60_000, "std"));
    }

    @Test
    void takesNoSideWhileItMayNotTrade() {
        live(60_000, "flow");
        price(60_100);
        take(Status.MISSING, null, null);
        assertEquals(List.of(), price(59_000));
        live(60_000, "flow");
        assertEquals(List.of(), price(59_000));
    }

    @Test
    void stopsWithoutAFlip() {
        live(60_000, "flow");
        assertEquals(List.of(Kind.STOP), take(Status.LIVE, levels(null), "flow"));
    }

    @Test
    void stopsInSilenceUntilTheNextRefresh() {
        live(60_000, "flow");
        Instant late = NOW.plus(SILENCE).plusMillis(1);
        assertEquals(List.of(), kinds(watch.passed(NOW.plus(SILENCE))));
        assertEquals(List.of(Kind.STOP), kinds(watch.passed(late)));
        assertEquals(List.of(), kinds(watch.price(59_000, late)));
        assertEquals(List.of(Kind.GO), kinds(watch.refreshed(late, late)));
    }

    private List<Kind> live(double flip, String model) {
        return take(Status.LIVE, levels(flip), model);
    }

    private List<Kind> take(Status status, Levels levels, String model) {
        return kinds(watch.levels(status, levels, model, NOW, NOW));
    }

    private List<Kind> price(double price) {
        return kinds(watch.price(price, NOW));
    }

    private static List<Kind> kinds(List<Alert> alerts) {
        return alerts.stream().map(Alert::kind).toList();
    }

    private static Levels levels(double flip) {
        return levels(Double.valueOf(flip));
    }

    private static Levels levels(Double flip) {
        AllExpiry allExpiry = AllExpiry.newBuilder().setHvl(flip).build();
        return Levels.newBuilder()
                .setAllExpiry(allExpiry)
                .setOdte(new Odte())
                .setMaxPain(new MaxPain())
                .setExpectedMove(new ExpectedMove())
                .setRanked(new Ranked())
                .build();
    }
}
