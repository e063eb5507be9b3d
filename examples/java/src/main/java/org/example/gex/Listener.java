package org.example.gex;

import gex.levels.LevelsEvent;
import gex.levels.LevelsState;
import java.time.Instant;
import java.util.Collection;

/** Receives the levels of a feed. All calls come from one thread. */
interface Listener {
    /** Takes the present states. The events that follow continue them. */
    void restored(Collection<LevelsState> states);

    /** Takes the next event of its symbol. Each comes once, and its sequence is larger by one. */
    void event(LevelsEvent event);

    /**
     * Takes a state that was written after the start: the sign that the connector works.
     *
     * <p>It may come before or after its event. Take levels and status from events only.
     */
    default void refreshed(LevelsState state) {}

    /** Is called every few seconds or more often, also if nothing comes. */
    default void passed(Instant now) {}
}
