package org.example.gex;

import gex.levels.LevelsEvent;
import java.time.Clock;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalInt;
import java.util.Set;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.RetriableException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;

/** Follows the events of a feed, and the refreshes that make no event. */
final class EventReader {
    private static final Duration POLL = Duration.ofMillis(200);
    /** Partitions may be added to {@code changes}, and it may be deleted. */
    private static final Duration LOOK_INTERVAL = Duration.ofSeconds(5);
    /** A broker may not know the topic for a moment after its start. */
    private static final int MAX_MISSES = 2;

    private final Topics topics;
    private final Decoder decoder;
    private final Order order;
    private final Listener listener;
    private final Clock clock;
    private Instant lookedAt = Instant.MIN;
    private final Map<String, Integer> misses = new HashMap<>();
    private boolean isAway;

    EventReader(Topics topics, Decoder decoder, Order order, Listener listener, Clock clock) {
        this.topics = topics;
        this.decoder = decoder;
        this.order = order;
        this.listener = listener;
        this.clock = clock;
    }

    /** Hands on every newer event, once and in order, for a time or up to a number. */
    void follow(
            String changes,
            String current,
            Map<TopicPartition, Long> eventsFrom,
            Map<TopicPartition, Long> statesFrom,
            Optional<Duration> time,
            OptionalInt maxEvents) {
        Instant end = time.map(clock.instant()::plus).orElse(Instant.MAX);
        int remaining = maxEvents.orElse(Integer.MAX_VALUE);
        Map<TopicPartition, Long> start = new HashMap<>(eventsFrom);
        start.putAll(statesFrom);
        try (KafkaConsumer<byte[], byte[]> consumer = topics.consumer()) {
            consumer.assign(start.keySet());
            start.forEach(consumer::seek);
            while (remaining > 0 && clock.instant().isBefore(end)) {
                for (LevelsEvent event : next(consumer, changes, current)) {
                    if (remaining > 0) {
                        listener.event(event);
                        remaining--;
                    }
                }
                listener.passed(clock.instant());
            }
        }
    }

    private List<LevelsEvent> next(KafkaConsumer<byte[], byte[]> consumer, String changes, String current) {
        Instant now = clock.instant();
        if (lookedAt.plus(LOOK_INTERVAL).isBefore(now)) {
            look(changes).ifPresent(topic -> readAddedPartitions(consumer, topic));
            // While it is gone, nothing is written to the other one either.
            look(current);
            lookedAt = now;
        }
        List<LevelsEvent> events = new ArrayList<>();
        for (ConsumerRecord<byte[], byte[]> record : Records.poll(consumer, POLL, topics, changes)) {
            if (record.topic().equals(changes)) {
                events.addAll(order.add(Records.decode(record, decoder::event), now));
            } else {
                listener.refreshed(Records.decode(record, decoder::state));
            }
        }
        order.check(now);
        return events;
    }

    /** Reads the partitions that were added to a topic. */
    private void readAddedPartitions(KafkaConsumer<byte[], byte[]> consumer, TopicDescription topic) {
        Set<TopicPartition> added = new HashSet<>(Topics.partitions(topic));
        added.removeAll(consumer.assignment());
        if (!added.isEmpty()) {
            Set<TopicPartition> all = new HashSet<>(consumer.assignment());
            all.addAll(added);
            consumer.assign(all);
            consumer.seekToBeginning(added);
        }
    }

    /** Describes a topic, if Kafka answers. Throws an exception if it was deleted. */
    private Optional<TopicDescription> look(String topic) {
        TopicDescription description;
        try {
            description = topics.describe(topic, LOOK_INTERVAL);
        } catch (UnknownTopicOrPartitionException e) {
            if (misses.merge(topic, 1, Integer::sum) == MAX_MISSES) {
                throw deleted(topic);
            }
            return Optional.empty();
        } catch (RetriableException e) {
            // The consumer connects again by itself, and we look again.
            if (!isAway) {
                System.err.println("Kafka does not answer: trying until it does");
            }
            isAway = true;
            return Optional.empty();
        }
        if (isAway) {
            System.err.println("Kafka answers again");
        }
        isAway = false;
        if (!topics.isSame(description)) {
            throw new ConsumerException(
                    "topic %s was deleted and created again: start again to restore the present state", topic);
        }
        misses.remove(topic);
        return Optional.of(description);
    }

    private static ConsumerException deleted(String topic) {
        return new ConsumerException(
                "topic %s was deleted: start again when the connector has created it again", topic);
    }
}
