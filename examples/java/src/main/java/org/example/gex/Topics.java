package org.example.gex;

import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AdminClientConfig;
import org.apache.kafka.clients.admin.DescribeTopicsOptions;
import org.apache.kafka.clients.admin.ListOffsetsOptions;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetOutOfRangeException;
import org.apache.kafka.common.IsolationLevel;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.KafkaFuture;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.errors.AuthenticationException;
import org.apache.kafka.common.errors.ClusterAuthorizationException;
import org.apache.kafka.common.errors.InvalidTopicException;
import org.apache.kafka.common.errors.TimeoutException;
import org.apache.kafka.common.errors.TopicAuthorizationException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** Describes topics and makes consumers that read them without a consumer group. */
final class Topics implements AutoCloseable {
    private static final Duration START_TIMEOUT = Duration.ofSeconds(30);

    private final String bootstrap;
    private final Map<String, Object> clientSettings;
    private final Admin admin;

    /** A topic that is created again has another id. */
    private final Map<String, Uuid> ids = new HashMap<>();

    /** @param clientSettings further settings of Kafka's clients, such as {@code security.protocol} */
    Topics(String bootstrap, Map<String, Object> clientSettings) {
        this.bootstrap = bootstrap;
        this.clientSettings = clientSettings;
        Map<String, Object> settings = new HashMap<>(clientSettings);
        settings.put(AdminClientConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        try {
            admin = Admin.create(settings);
        } catch (KafkaException e) {
            // Admin wraps most causes, but not those that it finds first.
            Throwable cause = e.getCause() == null ? e : e.getCause();
            throw new ConsumerException(
                    "no client for Kafka at '%s': %s: check --bootstrap and --config",
                    bootstrap,
                    cause.getMessage());
        }
    }

    @Override
    public void close() {
        admin.close(Duration.ZERO);
    }

    /**
     * Returns the offset after the last record of each partition.
     *
     * <p>With READ_COMMITTED, a partition ends before its first open transaction.
     */
    Map<TopicPartition, Long> ends(String topic, IsolationLevel isolation) {
        var options = new ListOffsetsOptions(isolation).timeoutMs((int) START_TIMEOUT.toMillis());
        Map<TopicPartition, OffsetSpec> latest = new HashMap<>();
        Map<TopicPartition, Long> ends = new HashMap<>();
        try {
            TopicDescription description = describe(topic, START_TIMEOUT);
            ids.put(topic, description.topicId());
            partitions(description).forEach(partition -> latest.put(partition, OffsetSpec.latest()));
            get(admin.listOffsets(latest, options).all()).forEach((partition, end) -> ends.put(partition, end.offset()));
        } catch (KafkaException e) {
            throw explain(topic, e);
        }
        return ends;
    }

    /** Describes a topic. Throws the KafkaException of the answer, or TimeoutException. */
    TopicDescription describe(String topic, Duration timeout) {
        var options = new DescribeTopicsOptions().timeoutMs((int) timeout.toMillis());
        return get(admin.describeTopics(List.of(topic), options).allTopicNames()).get(topic);
    }

    /** Returns true if this is still the topic whose ends were noted. */
    boolean isSame(TopicDescription topic) {
        return topic.topicId().equals(ids.get(topic.name()));
    }

    private static <T> T get(KafkaFuture<T> future) {
        try {
            return future.get();
        } catch (ExecutionException e) {
            if (e.getCause() instanceof KafkaException cause) {
                throw cause;
            }
            throw new IllegalStateException(e);
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }

    static List<TopicPartition> partitions(TopicDescription topic) {
        return topic.partitions().stream()
                .map(partition -> new TopicPartition(topic.name(), partition.partition()))
                .toList();
    }

    KafkaConsumer<byte[], byte[]> consumer() {
        Map<String, Object> settings = new HashMap<>(clientSettings);
        settings.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        settings.put(ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed");
        // A consumer whose position is gone must not continue elsewhere.
        settings.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "none");
        // If the topic is deleted, only the connector may create it again.
        settings.put(ConsumerConfig.ALLOW_AUTO_CREATE_TOPICS_CONFIG, false);
        settings.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false);
        return new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    /**
     * Returns the sum of a consumer's positions, each up to the partition's end.
     *
     * <p>A position passes aborted records and the markers of transactions. It stops before an open
     * transaction.
     */
    long progress(KafkaConsumer<byte[], byte[]> consumer, String topic, Map<TopicPartition, Long> ends) {
        try {
            return ends.entrySet().stream()
                    .mapToLong(end -> Math.min(consumer.position(end.getKey()), end.getValue()))
                    .sum();
        } catch (KafkaException e) {
            throw explain(topic, e);
        }
    }

    /**
     * Adds the remedy to an error of Kafka.
     *
     * @param topic the topic that was read, unless the error names another one
     */
    ConsumerException explain(String topic, KafkaException error) {
        if (error instanceof UnknownTopicOrPartitionException) {
            return new ConsumerException(
                    "no topic %s: check --prefix and --feed, or start the connector once", topic);
        }
        if (error instanceof InvalidTopicException) {
            return new ConsumerException("%s is no name of a topic: check --prefix and --feed", topic);
        }
        if (error instanceof TopicAuthorizationException denied) {
            return new ConsumerException(
                    "not allowed to read topic %s: grant this user READ and DESCRIBE on it",
                    denied.unauthorizedTopics().stream().findFirst().orElse(topic));
        }
        if (error instanceof OffsetOutOfRangeException lost) {
            TopicPartition partition = lost.partitions().iterator().next();
            return new ConsumerException(
                    "topic %s: retention deleted events before they were read, or the topic was deleted and"
                            + " created again; start again to restore the present state",
                    partition.topic());
        }
        if (error instanceof TimeoutException) {
            return new ConsumerException(
                    "no answer from Kafka at %s: check --bootstrap and --config, and that Kafka runs", bootstrap);
        }
        if (error instanceof AuthenticationException || error instanceof ClusterAuthorizationException) {
            return new ConsumerException(
                    "Kafka at %s refuses this user: %s: check --config", bootstrap, error.getMessage());
        }
        return new ConsumerException(
                "topic %s: %s: look at the brokers, then start again", topic, error.getMessage());
    }
}
