package org.example.gex;

import gex.levels.LevelsEvent;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalInt;
import java.util.Set;
import java.util.function.Consumer;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.errors.RetriableException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;

/** Follows the events of a feed. */
final class EventReader {
    private static final Duration POLL = Duration.ofMillis(200);
    /** Partitions may be added to {@code changes}, and it may be deleted. */
    private static final Duration LOOK_INTERVAL = Duration.ofSeconds(5);
    /** A broker may not know the topic for a moment after its start. */
    private static final int MAX_MISSES = 2;

    private final Topics topics;
    private final Decoder decoder;
    private final Order order;
    private Instant lookedAt = Instant.MIN;
    private Uuid topicId;
    private int misses;

    EventReader(Topics topics, Decoder decoder, Order order) {
        this.topics = topics;
        this.decoder = decoder;
        this.order = order;
    }

    /** Hands on every newer event, once and in order, for a time or up to a number. */
    void follow(
            String topic,
            Map<TopicPartition, Long> start,
            Optional<Duration> time,
            OptionalInt maxEvents,
            Consumer<LevelsEvent> handler) {
        Instant end = time.map(Instant.now()::plus).orElse(Instant.MAX);
        int remaining = maxEvents.orElse(Integer.MAX_VALUE);
        try (KafkaConsumer<byte[], byte[]> consumer = topics.consumer()) {
            consumer.assign(start.keySet());
            start.forEach(consumer::seek);
            while (remaining > 0 && Instant.now().isBefore(end)) {
                for (LevelsEvent event : next(consumer, topic)) {
                    if (remaining > 0) {
                        handler.accept(event);
                        remaining--;
                    }
                }
            }
        }
    }

    private List<LevelsEvent> next(KafkaConsumer<byte[], byte[]> consumer, String topic) {
        Instant now = Instant.now();
        if (lookedAt.plus(LOOK_INTERVAL).isBefore(now)) {
            look(consumer, topic);
            lookedAt = now;
        }
        List<LevelsEvent> events = new ArrayList<>();
        for (ConsumerRecord<byte[], byte[]> record : Records.poll(consumer, POLL, topics)) {
            events.addAll(order.add(Records.decode(record, decoder::event), now));
        }
        order.check(now);
        return events;
    }

    /** Reads the partitions that were added to a topic, and notices its deletion. */
    private void look(KafkaConsumer<byte[], byte[]> consumer, String topic) {
        TopicDescription description;
        try {
            description = topics.describe(topic, LOOK_INTERVAL);
        } catch (UnknownTopicOrPartitionException e) {
            misses++;
            if (misses == MAX_MISSES) {
                throw deleted(topic);
            }
            return;
        } catch (RetriableException e) {
            // Kafka is away. The consumer connects again, and we look again.
            return;
        }
        if (topicId != null && !topicId.equals(description.topicId())) {
            throw deleted(topic);
        }
        topicId = description.topicId();
        misses = 0;

        Set<TopicPartition> added = new HashSet<>(Topics.partitions(description));
        added.removeAll(consumer.assignment());
        if (!added.isEmpty()) {
            Set<TopicPartition> all = new HashSet<>(consumer.assignment());
            all.addAll(added);
            consumer.assign(all);
            consumer.seekToBeginning(added);
        }
    }

    private static ConsumerException deleted(String topic) {
        return new ConsumerException(
                "topic %s was deleted: start again when the connector has created it again", topic);
    }
}
