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
import org.apache.kafka.common.errors.TimeoutException;
import org.apache.kafka.common.errors.TopicAuthorizationException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** Describes topics and makes consumers that read them without a consumer group. */
final class Topics implements AutoCloseable {
    private static final Duration START_TIMEOUT = Duration.ofSeconds(30);

    private final String bootstrap;
    private final Admin admin;

    Topics(String bootstrap) {
        this.bootstrap = bootstrap;
        Map<String, Object> settings = new HashMap<>();
        settings.put(AdminClientConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        try {
            admin = Admin.create(settings);
        } catch (KafkaException e) {
            throw new ConsumerException("--bootstrap %s: %s", bootstrap, e.getCause().getMessage());
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
            partitions(describe(topic, START_TIMEOUT)).forEach(partition -> latest.put(partition, OffsetSpec.latest()));
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
        Map<String, Object> settings = Map.of(
                ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap,
                ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed",
                // A consumer whose position is gone must not continue elsewhere.
                ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "none",
                // If the topic is deleted, only the connector may create it again.
                ConsumerConfig.ALLOW_AUTO_CREATE_TOPICS_CONFIG, false,
                ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false);
        return new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    /** Adds the remedy to an error of Kafka. */
    ConsumerException explain(String topic, KafkaException error) {
        if (error instanceof UnknownTopicOrPartitionException) {
            return new ConsumerException(
                    "no topic %s: check --prefix and --feed, or start the connector once", topic);
        }
        if (error instanceof TopicAuthorizationException) {
            return new ConsumerException(
                    "not allowed to read topic %s: grant this user READ and DESCRIBE on it", topic);
        }
        if (error instanceof OffsetOutOfRangeException) {
            return new ConsumerException(
                    "topic %s: retention deleted events before they were read; start again to restore the"
                            + " present state",
                    topic);
        }
        if (error instanceof TimeoutException) {
            return new ConsumerException("no answer from Kafka at %s: check --bootstrap", bootstrap);
        }
        return new ConsumerException("topic %s: %s", topic, error.getMessage());
    }
}
