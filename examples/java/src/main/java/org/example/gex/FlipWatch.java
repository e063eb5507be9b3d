package org.example.gex;

import gex.levels.Levels;
import gex.levels.Status;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;

/**
 * Decides for one symbol if its levels may be used, and on which side of the gamma flip the price is.
 *
 * <p>It reads no topic and no clock, so it is tested without both. Levels and prices may come from
 * two threads.
 */
final class FlipWatch {
    /** So close to the flip, as a fraction of it, the side does not change: noise is no crossing. */
    private static final double BAND = 0.001;

    enum Kind {
        /** Do not trade on the levels any more, and forget what was derived from them. */
        STOP,
        /** The levels may be used. */
        GO,
        /** The price is on the other side of the flip. */
        CROSSED
    }

    record Alert(Kind kind, String text) {}

    private final Duration silence;
    private Status status;
    private Double flip;
    private String model;
    private Double price;
    private Boolean isAbove;
    private Instant seenAt = Instant.MIN;

    /** Why nobody may trade; null if the levels may be used. */
    private String obstacle = "";

    /** @param silence so long after the last refresh, the connector counts as dead */
    FlipWatch(Duration silence) {
        this.silence = silence;
    }

    /**
     * Takes the levels of a state or an event.
     *
     * @param levels null if there are none
     * @param namedModel null if the API did not name it: the last one is still in use
     */
    synchronized List<Alert> levels(
            Status newStatus, Levels levels, String namedModel, Instant observedAt, Instant now) {
        List<Alert> alerts = new ArrayList<>();
        if (namedModel != null && model != null && !namedModel.equals(model)) {
            stop("the model is %s, it was %s".formatted(namedModel, model), alerts);
        }
        if (namedModel != null) {
            model = namedModel;
        }
        status = newStatus;
        flip = levels == null ? null : levels.getAllExpiry().getHvl();
        see(observedAt);
        decide(now, alerts);
        return alerts;
    }

    /** Takes the sign of life that a refresh is. */
    synchronized List<Alert> refreshed(Instant observedAt, Instant now) {
        see(observedAt);
        return passed(now);
    }

    /** Takes a price of your own feed. */
    synchronized List<Alert> price(double newPrice, Instant now) {
        price = newPrice;
        return passed(now);
    }

    /** Notices silence. */
    synchronized List<Alert> passed(Instant now) {
        List<Alert> alerts = new ArrayList<>();
        decide(now, alerts);
        return alerts;
    }

    synchronized boolean mayTrade() {
        return obstacle == null;
    }

    private void see(Instant observedAt) {
        if (observedAt.isAfter(seenAt)) {
            seenAt = observedAt;
        }
    }

    private void decide(Instant now, List<Alert> alerts) {
        String found = findObstacle(now);
        if (found != null) {
            stop(found, alerts);
            return;
        }
        if (obstacle != null) {
            obstacle = null;
            alerts.add(new Alert(Kind.GO, "flip %s, model %s".formatted(flip, model)));
        }
        if (price != null) {
            compare(alerts);
        }
    }

    private String findObstacle(Instant now) {
        if (status != Status.LIVE) {
            return status == null ? "no levels yet" : "the status is " + status;
        }
        if (flip == null) {
            return "there is no flip";
        }
        if (seenAt.plus(silence).isBefore(now)) {
            return "no refresh for %d s: look at the connector".formatted(silence.toSeconds());
        }
        return null;
    }

    private void stop(String reason, List<Alert> alerts) {
        isAbove = null;
        price = null;
        if (!reason.equals(obstacle)) {
            obstacle = reason;
            alerts.add(new Alert(Kind.STOP, reason));
        }
    }

    private void compare(List<Alert> alerts) {
        double band = flip * BAND;
        if (Math.abs(price - flip) <= band) {
            return;
        }
        boolean above = price > flip;
        if (isAbove != null && isAbove != above) {
            String side = above ? "above" : "below";
            alerts.add(new Alert(Kind.CROSSED, "%s is %s the flip %s".formatted(price, side, flip)));
        }
        isAbove = above;
    }
}
