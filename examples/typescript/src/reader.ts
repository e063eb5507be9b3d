import { promisify } from "node:util";
import type { KafkaConsumer, LibrdKafkaError, Message } from "@confluentinc/kafka-javascript/types/rdkafka.js";
import { ConsumerError } from "./errors.js";
import { explain } from "./kafka.js";
import type { Offsets, Topic } from "./topic.js";

/** With more, the client drops an error that comes after a message in the same call. */
const MAX_MESSAGES = 1;
/** Partitions may be added to `changes`, and it may be deleted. */
const LOOK_INTERVAL_MS = 5_000;

/** The offset of a partition's first record, to librdkafka. */
const BEGINNING = -2;

/** Reads the connector's records of the two topics of a feed. */
export class FeedReader {
  /** The offset of the next record of each partition, by topic. */
  #positions = new Map<string, Offsets>();
  #lookedAt = performance.now();

  constructor(
    private readonly consumer: KafkaConsumer,
    private readonly changes: Topic,
    private readonly current: Topic,
  ) {}

  /** Yields the committed records of `current` below these ends. Throws if there is no progress for some time. */
  async *restore(high: Offsets, patienceSeconds: number): AsyncGenerator<Message> {
    const total = [...high.values()].reduce((sum, end) => sum + end, 0);
    const positions: Offsets = new Map([...high.keys()].map((partition) => [partition, BEGINNING]));
    // Records of aborted transactions are not delivered, so the end must be reported. In a busy
    // partition it may never be, but later records come.
    const onEnd = ({ partition, offset }: { partition: number; offset: number }) => {
      positions.set(partition, offset);
    };
    this.consumer.on("partition.eof", onEnd);
    this.#assign(new Map([[this.current.name, positions]]));
    let progress = progressOf(positions, high);
    let progressAt = performance.now();
    while (progress < total) {
      yield* await this.#poll();
      const before = progress;
      progress = progressOf(positions, high);
      if (progress > before) {
        progressAt = performance.now();
      } else if (performance.now() - progressAt > patienceSeconds * 1000) {
        throw new ConsumerError(
          `topic ${this.current.name}: an open transaction holds back its records: end the one that ` +
            "`gex-connector check` names, then start again",
        );
      }
    }
    this.consumer.removeListener("partition.eof", onEnd);
  }

  /** Yields the records of both topics from these offsets on, and null if none came for a while. */
  async *follow(changesFrom: Offsets, currentFrom: Offsets, until: number): AsyncGenerator<Message | null> {
    this.#assign(
      new Map([
        [this.changes.name, changesFrom],
        [this.current.name, currentFrom],
      ]),
    );
    while (performance.now() < until) {
      yield* await this.#poll();
      yield null;
      if (performance.now() - this.#lookedAt > LOOK_INTERVAL_MS) {
        await this.#readAddedPartitions();
        // While it is gone, nothing is written to the other one either.
        await this.current.partitions();
        this.#lookedAt = performance.now();
      }
    }
  }

  async #readAddedPartitions(): Promise<void> {
    const positions = this.#positions.get(this.changes.name)!;
    const added = (await this.changes.partitions()).filter((partition) => !positions.has(partition));
    if (added.length > 0) {
      added.forEach((partition) => positions.set(partition, BEGINNING));
      this.#assign(this.#positions);
    }
  }

  #assign(positions: Map<string, Offsets>): void {
    this.#positions = positions;
    const partitions = [...positions].flatMap(([topic, offsets]) =>
      [...offsets].map(([partition, offset]) => ({ topic, partition, offset })),
    );
    this.consumer.assign(partitions);
  }

  async #poll(): Promise<Message[]> {
    const consume = promisify(this.consumer.consume.bind(this.consumer)) as (count: number) => Promise<Message[]>;
    let messages: Message[];
    try {
      messages = await consume(MAX_MESSAGES);
    } catch (error) {
      // The error does not tell which topic it is of.
      throw explain([...this.#positions.keys()].join(" or "), error as LibrdKafkaError);
    }
    for (const message of messages) {
      this.#positions.get(message.topic)!.set(message.partition, message.offset + 1);
    }
    return messages.filter(isOurs);
  }
}

function progressOf(positions: Offsets, high: Offsets): number {
  return [...high].reduce((sum, [partition, end]) => sum + Math.min(positions.get(partition)!, end), 0);
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

/** Returns the position of a record, for messages. */
export function place(message: Message): string {
  return `${message.topic}-${message.partition}, offset ${message.offset}`;
}
