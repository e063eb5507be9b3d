package org.example.gex;

import gex.levels.LevelsState;
import java.time.Duration;
import java.time.Instant;
import java.util.HashMap;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;

/** Restores the last state of each symbol. */
final class StateReader {
    private static final Duration POLL = Duration.ofMillis(200);

    private final Topics topics;
    private final Decoder decoder;

    StateReader(Topics topics, Decoder decoder) {
        this.topics = topics;
        this.decoder = decoder;
    }

    /**
     * Returns the states that are committed below these ends of {@code current}.
     *
     * @param patience the longest time without progress
     */
    Map<String, LevelsState> restore(String topic, Map<TopicPartition, Long> high, Duration patience) {
        Map<String, LevelsState> states = new HashMap<>();
        long total = high.values().stream().mapToLong(Long::longValue).sum();
        try (KafkaConsumer<byte[], byte[]> consumer = topics.consumer()) {
            consumer.assign(high.keySet());
            consumer.seekToBeginning(high.keySet());
            long progress = topics.progress(consumer, topic, high);
            Instant progressAt = Instant.now();
            while (progress < total) {
                for (ConsumerRecord<byte[], byte[]> record : Records.poll(consumer, POLL, topics, topic)) {
                    LevelsState state = Records.decode(record, decoder::state);
                    states.merge(state.getSymbol(), state, StateReader::newer);
                }
                long before = progress;
                progress = topics.progress(consumer, topic, high);
                if (progress > before) {
                    progressAt = Instant.now();
                } else if (progressAt.plus(patience).isBefore(Instant.now())) {
                    throw new ConsumerException(
                            "topic %s: an open transaction holds back its records: end the one that"
                                    + " `gex-connector check` names, then start again",
                            topic);
                }
            }
        }
        return states;
    }

    /** Another program may have copied an old state to another partition. */
    private static LevelsState newer(LevelsState known, LevelsState state) {
        return state.getSequence() >= known.getSequence() ? state : known;
    }
}
