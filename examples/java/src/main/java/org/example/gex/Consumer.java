package org.example.gex;

import gex.levels.LevelsState;
import java.time.Clock;
import java.util.Map;
import org.apache.kafka.common.IsolationLevel;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;

/**
 * Follows one feed of gex-levels-connector without a gap or a duplicate, and without storing an offset.
 *
 * <p>It restores the present state of every symbol from the topic {@code current}, then follows {@code
 * changes}. An event and the state after it are one transaction, but a reader may learn of the commit
 * in one topic before the other. To miss no event in between, {@link #run} keeps this order:
 *
 * <ol>
 *   <li>Note where the committed events of {@code changes} end (E). Only then note where {@code
 *       current} ends (H), open transactions included.
 *   <li>Read the committed records of {@code current} up to H. A transaction with an event below E has
 *       its state below H, because it was committed after all its records were written. So every change
 *       below E is restored.
 *   <li>Follow {@code changes} from E. Skip events that are not newer than the restored sequence, and
 *       check that the sequence then grows by one. Follow {@code current} from H, too: a refresh that
 *       changes nothing makes no event, so only {@code current} shows that the connector works.
 * </ol>
 *
 * <p>It prints one JSON object a line. A trading system would be another {@link Listener}, such as
 * {@link FlipAlert}.
 */
public final class Consumer {
    private Consumer() {}

    public static void main(String[] arguments) {
        run(arguments, new Printer(System.out), Clock.systemUTC());
    }

    /** Runs a program with these options. It ends the process if there is an error. */
    static void run(String[] arguments, Listener listener, Clock clock) {
        try {
            follow(Options.parse(arguments), listener, clock);
        } catch (ConsumerException | KafkaException e) {
            System.err.println("error: " + e.getMessage());
            System.exit(1);
        }
    }

    /**
     * Calls a listener until the time is over or the number of events is reached. Without either limit,
     * it ends only with an exception.
     *
     * @throws ConsumerException if it cannot go on; the levels that the listener has are old from then on
     */
    static void follow(Options options, Listener listener, Clock clock) {
        Decoder decoder = new Decoder(options.registry(), options.released());
        try (Topics topics = new Topics(options.bootstrap(), options.clientSettings())) {
            System.err.printf("asking Kafka at %s for %s%n", options.bootstrap(), options.current());
            // 1. Note both ends, in this order.
            Map<TopicPartition, Long> start = topics.ends(options.changes(), IsolationLevel.READ_COMMITTED);
            Map<TopicPartition, Long> high = topics.ends(options.current(), IsolationLevel.READ_UNCOMMITTED);

            // 2. Restore.
            Order order = new Order(options.patience());
            StateReader reader = new StateReader(topics, decoder);
            Map<String, LevelsState> states = reader.restore(options.current(), high, options.patience());
            for (LevelsState state : states.values()) {
                order.startAfter(state.getSymbol(), state.getSequence());
            }
            listener.restored(states.values());

            // 3. Follow.
            EventReader events = new EventReader(topics, decoder, order, listener, clock);
            events.follow(
                    options.changes(), options.current(), start, high, options.time(), options.maxEvents());
        }
    }
}
