import { existsSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import type { Message } from "@confluentinc/kafka-javascript/types/rdkafka.js";
import avro from "avsc";
import { ConsumerError } from "./errors.js";
import { place } from "./reader.js";
import type { LevelsEvent, LevelsState } from "./records.js";

const REGISTRY_TIMEOUT_MS = 10_000;

// Confluent framing: a zero byte, and the schema's id in the registry.
const CONFLUENT_PREFIX_BYTES = 5;
// Avro single-object encoding: C3 01, and the schema's fingerprint.
const SINGLE_OBJECT_PREFIX_BYTES = 10;

// CRC-64-AVRO, see "Schema fingerprints" in Avro's specification.
const EMPTY_FINGERPRINT = 0xc15d213aa4d7a795n;

// A type comes before the types that use it.
const NAMES = ["Status", "Source", "Levels", "LevelsEvent", "LevelsState"];

type Resolver = ReturnType<avro.Type["createResolver"]>;

interface Writer {
  type: avro.Type;
  resolver?: Resolver;
}

/** Decodes values that were written with any version of the schemas. */
export class Decoder {
  readonly #event: avro.Type;
  readonly #state: avro.Type;
  readonly #writers = new Map<string, Writer>();

  /** Without a registry, it decodes only values in single-object encoding. */
  constructor(
    schemas: string,
    private readonly registry: string | undefined,
  ) {
    const released = join(schemas, "released");
    for (const version of existsSync(released) ? readdirSync(released) : []) {
      this.#learn(join(released, version));
    }
    const ours = this.#learn(schemas);
    this.#event = ours[3]!;
    this.#state = ours[4]!;
  }

  async event(message: Message): Promise<LevelsEvent> {
    return (await this.#decode(message, this.#event)) as LevelsEvent;
  }

  async state(message: Message): Promise<LevelsState> {
    return (await this.#decode(message, this.#state)) as LevelsState;
  }

  /** Makes the schemas of a folder known. */
  #learn(folder: string): avro.Type[] {
    const registry = {};
    return NAMES.map((name) => {
      const path = join(folder, `gex.levels.${name}.avsc`);
      if (!existsSync(path)) {
        throw new ConsumerError(`no schema ${path}: set --schemas to the connector's folder schemas`);
      }
      const type = avro.Type.forSchema(JSON.parse(readFileSync(path, "utf8")), { registry });
      this.#writers.set(singleObjectPrefix(type), { type });
      return type;
    });
  }

  async #decode(message: Message, ours: avro.Type): Promise<unknown> {
    const value = message.value ?? Buffer.alloc(0);
    const size = value[0] === 0 ? CONFLUENT_PREFIX_BYTES : SINGLE_OBJECT_PREFIX_BYTES;
    if (value.length < size) {
      throw new ConsumerError(`${place(message)}: ${value.length} bytes are too few for a framed Avro datum`);
    }
    const prefix = value.subarray(0, size);
    let writer = this.#writers.get(prefix.toString("hex"));
    if (!writer) {
      writer = { type: await this.#fetch(prefix) };
      this.#writers.set(prefix.toString("hex"), writer);
    }
    writer.resolver ??= resolver(writer.type, ours, prefix);
    try {
      return ours.fromBuffer(value.subarray(size), writer.resolver);
    } catch (error) {
      throw new ConsumerError(`${place(message)}: cannot be decoded: ${(error as Error).message}`);
    }
  }

  async #fetch(prefix: Buffer): Promise<avro.Type> {
    const name = nameOf(prefix);
    if (prefix[0] !== 0) {
      throw new ConsumerError(
        `schema ${name} is unknown: take schemas/ from the connector's version that writes the topic`,
      );
    }
    if (!this.registry) {
      throw new ConsumerError(`schema ${name} is in a schema registry: pass its address with --registry`);
    }
    const address = `${this.registry}/schemas/ids/${name}`;
    let response: Response;
    try {
      response = await fetch(address, { signal: AbortSignal.timeout(REGISTRY_TIMEOUT_MS) });
    } catch (error) {
      throw new ConsumerError(`schema ${name}: no answer from ${address} (${error}): check --registry`);
    }
    if (!response.ok) {
      throw new ConsumerError(`schema ${name}: ${address} answers ${response.status}: check --registry`);
    }
    try {
      const { schema } = (await response.json()) as { schema: string };
      return avro.Type.forSchema(JSON.parse(schema));
    } catch (error) {
      throw new ConsumerError(
        `schema ${name}: ${address} does not answer with an Avro schema (${(error as Error).message}): check --registry`,
      );
    }
  }
}

function resolver(writer: avro.Type, ours: avro.Type, prefix: Buffer): Resolver {
  try {
    return ours.createResolver(writer);
  } catch (error) {
    throw new ConsumerError(
      `schema ${nameOf(prefix)} cannot be read by this version, update this program and schemas/: ` +
        (error as Error).message,
    );
  }
}

/** Returns a schema's id or fingerprint, as messages show it. */
function nameOf(prefix: Buffer): string {
  return prefix[0] === 0 ? String(prefix.readUInt32BE(1)) : prefix.toString("hex");
}

/** Returns the first bytes of a value of this type, in hexadecimal digits. */
function singleObjectPrefix(type: avro.Type): string {
  const prefix = Buffer.from("c3010000000000000000", "hex");
  // avsc exports the Parsing Canonical Form.
  prefix.writeBigUInt64LE(fingerprint(Buffer.from(JSON.stringify(type.schema()))), 2);
  return prefix.toString("hex");
}

function fingerprint(bytes: Buffer): bigint {
  let result = EMPTY_FINGERPRINT;
  for (const byte of bytes) {
    result ^= BigInt(byte);
    for (let bit = 0; bit < 8; bit++) {
      result = (result >> 1n) ^ (result & 1n ? EMPTY_FINGERPRINT : 0n);
    }
  }
  return result;
}
