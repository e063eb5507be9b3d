package org.example.gex;

import gex.levels.Levels;
import gex.levels.LevelsEvent;
import gex.levels.LevelsState;
import java.io.PrintStream;
import java.time.Clock;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.example.gex.FlipWatch.Alert;

/**
 * Prints a line when a price crosses the gamma flip, and when to stop trading on the levels.
 *
 * <p>The price is the spot of the last refresh, which may be half a minute old. Call {@link
 * FlipWatch#price} at each tick of your own feed instead.
 */
public final class FlipAlert implements Listener {
    private final Map<String, FlipWatch> watches = new TreeMap<>();
    private final PrintStream out;
    private final Clock clock;

    FlipAlert(PrintStream out, Clock clock) {
        this.out = out;
        this.clock = clock;
    }

    public static void main(String[] arguments) {
        Clock clock = Clock.systemUTC();
        Consumer.run(arguments, new FlipAlert(System.out, clock), clock);
    }

    @Override
    public void restored(Collection<LevelsState> states) {
        Instant now = clock.instant();
        for (LevelsState state : states) {
            show(state.getSymbol(), watch(state.getSymbol()).levels(state.getStatus(), state.getLevels(),
                    state.getPositioning(), state.getObservedAt(), now));
        }
    }

    @Override
    public void event(LevelsEvent event) {
        Levels after = event.getAfter();
        String model = after == null ? null : after.getPositioning();
        show(event.getSymbol(), watch(event.getSymbol()).levels(event.getStatus(), after, model,
                event.getObservedAt(), clock.instant()));
    }

    @Override
    public void refreshed(LevelsState state) {
        FlipWatch watch = watch(state.getSymbol());
        Instant now = clock.instant();
        show(state.getSymbol(), watch.refreshed(state.getObservedAt(), now));
        Double spot = state.getLevels() == null ? null : state.getLevels().getSpotPrice();
        if (spot != null) {
            show(state.getSymbol(), watch.price(spot, now));
        }
    }

    @Override
    public void passed(Instant now) {
        watches.forEach((symbol, watch) -> show(symbol, watch.passed(now)));
    }

    private FlipWatch watch(String symbol) {
        return watches.computeIfAbsent(symbol, s -> new FlipWatch(Silence.LIMIT));
    }

    private void show(String symbol, List<Alert> alerts) {
        Instant now = clock.instant().truncatedTo(ChronoUnit.MILLIS);
        for (Alert alert : alerts) {
            out.printf("%s  %s  %-7s  %s%n", now, symbol, alert.kind(), alert.text());
        }
    }
}
