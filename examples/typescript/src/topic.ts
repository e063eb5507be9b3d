import { promisify } from "node:util";
import kafkaJavascript from "@confluentinc/kafka-javascript";
import type {
  IAdminClient,
  KafkaConsumer,
  LibrdKafkaError,
  ListOffsetsResult,
  TopicDescription,
  Uuid,
} from "@confluentinc/kafka-javascript/types/rdkafka.js";
import { ConsumerError } from "./errors.js";
import { START_TIMEOUT_MS, deleted, explain, isUnknownTopic } from "./kafka.js";

const { AdminClient, CODES, IsolationLevel, OffsetSpec } = kafkaJavascript;

const LOOK_TIMEOUT_MS = 5_000;
/** A broker may not know the topic for a moment after its start. */
const MAX_MISSES = 2;

/** An offset of each partition. */
export type Offsets = Map<number, number>;

/** Asks for the partitions of a topic and their ends, and notices that it was deleted. */
export class Topic {
  readonly #admin: IAdminClient;
  /** A topic that is created again has another id. */
  #id = "";
  #misses = 0;

  /** It uses the connections of a consumer. */
  constructor(
    consumer: KafkaConsumer,
    readonly name: string,
  ) {
    this.#admin = AdminClient.createFrom(consumer);
  }

  /**
   * Returns the end of each partition.
   *
   * If only committed records count, a partition ends before its first open transaction.
   */
  async ends(isolation: "read_committed" | "read_uncommitted"): Promise<Offsets> {
    const isolationLevel =
      isolation === "read_committed" ? IsolationLevel.READ_COMMITTED : IsolationLevel.READ_UNCOMMITTED;
    const list = promisify(this.#admin.listOffsets.bind(this.#admin)) as (
      partitions: object[],
      options: object,
    ) => Promise<ListOffsetsResult[]>;
    try {
      const found = await this.#describe(START_TIMEOUT_MS);
      const latest = found.partitions.map(({ partition }) => ({
        topic: this.name,
        partition,
        offset: OffsetSpec.LATEST,
      }));
      this.#id = textOf(found.topicId);
      const listed = await list(latest, { timeout: START_TIMEOUT_MS, isolationLevel });
      return new Map(listed.map((end) => [end.partition, end.offset]));
    } catch (error) {
      const code = (error as LibrdKafkaError).code;
      if (isUnknownTopic(error as LibrdKafkaError) || code === CODES.ERRORS.ERR_TOPIC_EXCEPTION) {
        throw new ConsumerError(`no topic ${this.name}: check --prefix and --feed, or start the connector once`);
      }
      throw explain(this.name, error as LibrdKafkaError);
    }
  }

  /** Returns the present partitions, none if Kafka does not tell. Call `ends` before. */
  async partitions(): Promise<number[]> {
    let found: TopicDescription;
    try {
      found = await this.#describe(LOOK_TIMEOUT_MS);
    } catch (error) {
      if (!isUnknownTopic(error as LibrdKafkaError)) {
        // Kafka is away. The consumer connects again, and we look again.
        return [];
      }
      this.#misses++;
      if (this.#misses === MAX_MISSES) {
        throw deleted(this.name);
      }
      return [];
    }
    this.#misses = 0;
    if (textOf(found.topicId) !== this.#id) {
      throw new ConsumerError(
        `topic ${this.name} was deleted and created again: start again to restore the present state`,
      );
    }
    return found.partitions.map(({ partition }) => partition);
  }

  /** Throws the LibrdKafkaError of the answer. */
  async #describe(timeout: number): Promise<TopicDescription> {
    const describe = promisify(this.#admin.describeTopics.bind(this.#admin)) as (
      topics: string[],
      options: object,
    ) => Promise<TopicDescription[]>;
    const [found] = await describe([this.name], { timeout });
    if (found!.error) {
      throw found!.error;
    }
    return found!;
  }
}

/** Its own text has another name in the client (1.10) than in the client's types. */
function textOf(id: Uuid): string {
  return `${id.mostSignificantBits}/${id.leastSignificantBits}`;
}
