package org.example.gex;

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Function;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.KafkaException;

/** Reads the connector's records. */
final class Records {
    private Records() {}

    /** Returns the connector's records that come within a time, if any. */
    static List<ConsumerRecord<byte[], byte[]>> poll(
            KafkaConsumer<byte[], byte[]> consumer, Duration time, Topics topics, String topic) {
        List<ConsumerRecord<byte[], byte[]>> ours = new ArrayList<>();
        try {
            consumer.poll(time).forEach(record -> {
                if (isOurs(record)) {
                    ours.add(record);
                }
            });
        } catch (KafkaException e) {
            throw topics.explain(topic, e);
        }
        return ours;
    }

    /**
     * Returns false for a stray: a record that the connector did not write.
     *
     * <p>Another program may have the right to write to the topics, and an operator may delete a state
     * by mistake. The connector continues as if strays were not there.
     */
    private static boolean isOurs(ConsumerRecord<byte[], byte[]> record) {
        if (record.headers().lastHeader("ce_type") != null) {
            return true;
        }
        System.err.println("skipped a record of another program: " + place(record));
        return false;
    }

    static <T> T decode(ConsumerRecord<byte[], byte[]> record, Function<byte[], T> decoder) {
        byte[] value = record.value() == null ? new byte[0] : record.value();
        try {
            return decoder.apply(value);
        } catch (ConsumerException e) {
            throw new ConsumerException("%s: %s", place(record), e.getMessage());
        }
    }

    private static String place(ConsumerRecord<byte[], byte[]> record) {
        return "%s-%d, offset %d".formatted(record.topic(), record.partition(), record.offset());
    }
}
