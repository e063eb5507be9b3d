import { promisify } from "node:util";
import kafkaJavascript from "@confluentinc/kafka-javascript";
import type { KafkaConsumer, LibrdKafkaError } from "@confluentinc/kafka-javascript/types/rdkafka.js";
import { ConsumerError } from "./errors.js";

const { CODES } = kafkaJavascript;

export const START_TIMEOUT_MS = 30_000;
const POLL_MS = 200;

/** librdkafka asks for a group. It is not joined, and no offset is committed. */
const GROUP = "gex-levels-client";

/** Connects a consumer that assigns its partitions itself. */
export async function connect(bootstrap: string): Promise<KafkaConsumer> {
  const consumer = new kafkaJavascript.KafkaConsumer(
    {
      "bootstrap.servers": bootstrap,
      "group.id": GROUP,
      "isolation.level": "read_committed",
      "enable.auto.commit": false,
      "enable.partition.eof": true,
      "log_level": 0,
    },
    // A consumer whose position is gone must not continue elsewhere.
    { "auto.offset.reset": "error" },
  );
  consumer.setDefaultConsumeTimeout(POLL_MS);
  try {
    await promisify(consumer.connect.bind(consumer))({ timeout: START_TIMEOUT_MS });
  } catch (error) {
    throw new ConsumerError(`no answer from Kafka at ${bootstrap} (${(error as Error).message}): check --bootstrap`);
  }
  return consumer;
}

export function isUnknownTopic(error: LibrdKafkaError | undefined): boolean {
  return (
    error?.code === CODES.ERRORS.ERR_UNKNOWN_TOPIC_OR_PART ||
    error?.code === CODES.ERRORS.ERR__UNKNOWN_TOPIC ||
    error?.code === CODES.ERRORS.ERR__UNKNOWN_PARTITION
  );
}

/** Adds the remedy to an error of Kafka. */
export function explain(topic: string, error: LibrdKafkaError): ConsumerError {
  switch (error.code) {
    case CODES.ERRORS.ERR_TOPIC_AUTHORIZATION_FAILED:
      return new ConsumerError(`not allowed to read topic ${topic}: grant this user READ and DESCRIBE on it`);
    case CODES.ERRORS.ERR_GROUP_AUTHORIZATION_FAILED:
      return new ConsumerError(`not allowed to use the group ${GROUP}: grant this user READ on it`);
    case CODES.ERRORS.ERR__AUTO_OFFSET_RESET:
    case CODES.ERRORS.ERR_OFFSET_OUT_OF_RANGE:
      return new ConsumerError(
        `topic ${topic}: retention deleted events before they were read, or the topic was deleted and created ` +
          "again; start again to restore the present state",
      );
    default:
      return isUnknownTopic(error) ? deleted(topic) : new ConsumerError(`topic ${topic}: ${error.message}`);
  }
}

export function deleted(topic: string): ConsumerError {
  return new ConsumerError(`topic ${topic} was deleted: start again when the connector has created it again`);
}
