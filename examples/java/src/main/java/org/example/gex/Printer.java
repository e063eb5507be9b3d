package org.example.gex;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import com.fasterxml.jackson.databind.annotation.JsonNaming;
import gex.levels.AllExpiry;
import gex.levels.Levels;
import gex.levels.LevelsEvent;
import gex.levels.LevelsState;
import gex.levels.Status;
import java.io.PrintStream;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.Collection;
import java.util.HashMap;
import java.util.Map;

/** Prints events and states; a trading system would act here. */
final class Printer implements Listener {
    /** An event or a state, as it is printed. */
    @JsonNaming(SnakeCaseStrategy.class)
    record Line(
            String type,
            String symbol,
            long sequence,
            String kind,
            String reason,
            Status status,
            Long computedAt,
            String act,
            String model,
            boolean modelChanged,
            Double hvl,
            Double callResistance,
            Double putSupport) {}

    private final ObjectMapper json = new ObjectMapper();
    private final PrintStream out;

    /** The model behind the last levels of each symbol. */
    private final Map<String, String> models = new HashMap<>();

    private final Silence silence = new Silence();

    Printer(PrintStream out) {
        this.out = out;
    }

    @Override
    public void restored(Collection<LevelsState> states) {
        for (LevelsState state : states) {
            silence.status(state.getSymbol(), state.getStatus(), state.getObservedAt());
            print("state", state.getSymbol(), state.getSequence(), null, null,
                    state.getStatus(), state.getComputedAt(), state.getLevels());
        }
        write(Map.of("type", "restored", "symbols", states.size()));
    }

    @Override
    public void event(LevelsEvent event) {
        silence.status(event.getSymbol(), event.getStatus(), event.getObservedAt());
        print("event", event.getSymbol(), event.getSequence(), event.getKind().name(), event.getReason(),
                event.getStatus(), event.getComputedAt(), event.getAfter());
    }

    @Override
    public void refreshed(LevelsState state) {
        silence.refresh(state.getSymbol(), state.getObservedAt());
    }

    @Override
    public void passed(Instant now) {
        // A trading system would stop here.
        silence.lines(now).forEach(System.err::println);
    }

    private void print(String type, String symbol, long sequence, String kind, String reason,
            Status status, Instant computedAt, Levels latest) {
        // A state keeps the last levels whatever its status, so look at that first.
        boolean mayUse = status == Status.LIVE || status == Status.STALE;
        Levels levels = mayUse ? latest : null;
        AllExpiry numbers = levels == null ? new AllExpiry() : levels.getAllExpiry();
        String model = levels == null ? null : levels.getPositioning();
        write(new Line(type, symbol, sequence, kind, reason, status, micros(computedAt), act(status),
                model, isOther(symbol, model),
                numbers.getHvl(), numbers.getCallResistance(), numbers.getPutSupport()));
    }

    private static String act(Status status) {
        return switch (status) {
            case LIVE -> "use";
            case STALE -> "careful";
            default -> "none";
        };
    }

    /** Levels of two models are not comparable: forget all that was derived from older ones. */
    private boolean isOther(String symbol, String model) {
        if (model == null) {
            return false;
        }
        String last = models.put(symbol, model);
        return last != null && !last.equals(model);
    }

    private static Long micros(Instant moment) {
        return moment == null ? null : ChronoUnit.MICROS.between(Instant.EPOCH, moment);
    }

    private void write(Object line) {
        try {
            out.println(json.writeValueAsString(line));
            out.flush();
        } catch (JsonProcessingException e) {
            throw new IllegalStateException(e);
        }
    }
}
