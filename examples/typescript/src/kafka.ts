import { promisify } from "node:util";
import kafkaJavascript from "@confluentinc/kafka-javascript";
import type { KafkaConsumer, LibrdKafkaError, Message, Metadata } from "@confluentinc/kafka-javascript/types/rdkafka.js";
import { ConsumerError } from "./errors.js";

const { CODES } = kafkaJavascript;

const START_TIMEOUT_MS = 30_000;
const POLL_MS = 200;
/** With more, the client drops an error that comes after a message in the same call. */
const MAX_MESSAGES = 1;
/** Partitions may be added to `changes`, and it may be deleted. */
const LOOK_INTERVAL_MS = 5_000;
/** A broker may not know the topic for a moment after its start. */
const MAX_MISSES = 2;

/** The offset of a partition's first record, to librdkafka. */
const BEGINNING = -2;

/** An offset of each partition. */
export type Offsets = Map<number, number>;

/** Connects a consumer that assigns its partitions itself. */
export async function connect(bootstrap: string, isolation: "read_committed" | "read_uncommitted"): Promise<KafkaConsumer> {
  const consumer = new kafkaJavascript.KafkaConsumer(
    {
      "bootstrap.servers": bootstrap,
      // It is required, but no group is joined and no offset committed.
      "group.id": "unused",
      "isolation.level": isolation,
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

/**
 * Returns the end of each partition.
 *
 * To a read_committed consumer, a partition ends before its first open transaction.
 */
export async function ends(consumer: KafkaConsumer, topic: string): Promise<Offsets> {
  const partitions = await partitionsOf(consumer, topic, START_TIMEOUT_MS);
  if (partitions.length === 0) {
    throw new ConsumerError(`no topic ${topic}: check --prefix and --feed, or start the connector once`);
  }
  const found: Offsets = new Map();
  for (const partition of partitions) {
    const query = promisify(consumer.queryWatermarkOffsets.bind(consumer)) as (
      topic: string,
      partition: number,
      timeoutMs: number,
    ) => Promise<{ highOffset: number }>;
    try {
      found.set(partition, (await query(topic, partition, START_TIMEOUT_MS)).highOffset);
    } catch (error) {
      throw explain(topic, error as LibrdKafkaError);
    }
  }
  return found;
}

async function partitionsOf(consumer: KafkaConsumer, topic: string, timeout: number): Promise<number[]> {
  const ask = promisify(consumer.getMetadata.bind(consumer)) as (options: object) => Promise<Metadata>;
  let metadata: Metadata;
  try {
    metadata = await ask({ topic, timeout });
  } catch (error) {
    throw explain(topic, error as LibrdKafkaError);
  }
  const found = metadata.topics.find((candidate) => candidate.name === topic);
  return (found?.partitions ?? []).map((partition) => partition.id);
}

/** Adds the remedy to an error of Kafka. */
function explain(topic: string, error: LibrdKafkaError): ConsumerError {
  switch (error.code) {
    case CODES.ERRORS.ERR_TOPIC_AUTHORIZATION_FAILED:
      return new ConsumerError(`not allowed to read topic ${topic}: grant this user READ and DESCRIBE on it`);
    case CODES.ERRORS.ERR__AUTO_OFFSET_RESET:
    case CODES.ERRORS.ERR_OFFSET_OUT_OF_RANGE:
      return new ConsumerError(
        `topic ${topic}: retention deleted events before they were read; start again to restore the present state`,
      );
    case CODES.ERRORS.ERR_UNKNOWN_TOPIC_OR_PART:
    case CODES.ERRORS.ERR__UNKNOWN_TOPIC:
    case CODES.ERRORS.ERR__UNKNOWN_PARTITION:
      return deleted(topic);
    default:
      return new ConsumerError(`topic ${topic}: ${error.message}`);
  }
}

function deleted(topic: string): ConsumerError {
  return new ConsumerError(`topic ${topic} was deleted: start again when the connector has created it again`);
}

/** Reads the connector's records of a topic. */
export class TopicReader {
  /** The offset of the next record of each partition. */
  #positions: Offsets = new Map();
  #lookedAt = performance.now();
  #misses = 0;

  constructor(
    private readonly consumer: KafkaConsumer,
    private readonly topic: string,
  ) {}

  /** Yields the committed records below these ends. */
  async *readTo(high: Offsets): AsyncGenerator<Message> {
    const waiting = new Set(high.keys());
    // The end of a partition. A commit moves it, and it is then reported again.
    const onEnd = ({ partition, offset }: { partition: number; offset: number }) => {
      if (offset >= high.get(partition)!) {
        waiting.delete(partition);
      }
    };
    this.consumer.on("partition.eof", onEnd);
    this.#assign(new Map([...high.keys()].map((partition) => [partition, BEGINNING])));
    while (waiting.size > 0) {
      yield* await this.#poll();
    }
    this.consumer.removeListener("partition.eof", onEnd);
  }

  /** Yields records from these offsets on, and null if none came for a while. */
  async *follow(start: Offsets, until: number): AsyncGenerator<Message | null> {
    this.#assign(start);
    while (performance.now() < until) {
      yield* await this.#poll();
      yield null;
      if (performance.now() - this.#lookedAt > LOOK_INTERVAL_MS) {
        await this.#look();
        this.#lookedAt = performance.now();
      }
    }
  }

  #assign(positions: Offsets): void {
    this.#positions = positions;
    const partitions = [...positions].map(([partition, offset]) => ({ topic: this.topic, partition, offset }));
    this.consumer.assign(partitions);
  }

  async #poll(): Promise<Message[]> {
    const consume = promisify(this.consumer.consume.bind(this.consumer)) as (count: number) => Promise<Message[]>;
    let messages: Message[];
    try {
      messages = await consume(MAX_MESSAGES);
    } catch (error) {
      throw explain(this.topic, error as LibrdKafkaError);
    }
    for (const message of messages) {
      this.#positions.set(message.partition, message.offset + 1);
    }
    return messages.filter(isOurs);
  }

  /** Reads the partitions that were added to the topic, and notices its deletion. */
  async #look(): Promise<void> {
    let partitions: number[];
    try {
      partitions = await partitionsOf(this.consumer, this.topic, LOOK_INTERVAL_MS);
    } catch {
      // Kafka is away. The consumer connects again, and we look again.
      return;
    }
    if (partitions.length === 0) {
      this.#misses++;
      if (this.#misses === MAX_MISSES) {
        throw deleted(this.topic);
      }
      return;
    }
    this.#misses = 0;
    const added = partitions.filter((partition) => !this.#positions.has(partition));
    if (added.length > 0) {
      this.#assign(new Map([...this.#positions, ...added.map((partition) => [partition, BEGINNING] as const)]));
    }
  }
}

/**
 * Returns false for a stray: a record that the connector did not write.
 *
 * Another program may have the right to write to the topics, and an operator may delete a state by
 * mistake. The connector continues as if strays were not there.
 */
function isOurs(message: Message): boolean {
  if (message.headers?.some((header) => "ce_type" in header)) {
    return true;
  }
  console.error(`skipped a record of another program: ${place(message)}`);
  return false;
}

export function place(message: Message): string {
  return `${message.topic}-${message.partition}, offset ${message.offset}`;
}
