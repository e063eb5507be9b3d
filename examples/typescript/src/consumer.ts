/**
 * Follows one feed of gex-levels-connector without a gap or a duplicate, and without storing an offset.
 *
 * It restores the present state of every symbol from the topic `current`, then follows `changes`. An
 * event and the state after it are one transaction, but a reader may learn of the commit in one topic
 * before the other. To miss no event in between, `run` keeps this order:
 *
 * 1. Note where the committed events of `changes` end (E). Only then note where `current` ends (H), open
 *    transactions included.
 * 2. Read the committed records of `current` up to H. A transaction with an event below E has its state
 *    below H, because it was committed after all its records were written. So every change below E is
 *    restored.
 * 3. Follow `changes` from E. Skip events that are not newer than the restored sequence, and check that
 *    the sequence then grows by one. Follow `current` from H, too: a refresh that changes nothing makes no
 *    event, so only `current` shows that the connector works.
 *
 * It prints one JSON object a line. A trading system would act where `Printer` prints.
 */

import { parseArgs } from "node:util";
import { Decoder } from "./decoder.js";
import { ConsumerError } from "./errors.js";
import { connect } from "./kafka.js";
import { Order } from "./order.js";
import { Printer } from "./printer.js";
import { FeedReader } from "./reader.js";
import type { LevelsEvent, LevelsState } from "./records.js";
import { Topic } from "./topic.js";

const text = { type: "string" } as const;
const OPTIONS = {
  bootstrap: { ...text, default: "127.0.0.1:9092" },
  prefix: { ...text, default: "gex.levels" },
  feed: { ...text, default: "all" },
  registry: text,
  schemas: { ...text, default: "../../schemas" },
  seconds: { ...text, default: "Infinity" },
  "max-events": { ...text, default: "Infinity" },
  patience: { ...text, default: "90" },
};

function numberOf(option: string, value: string): number {
  const number = Number(value);
  if (value === "" || Number.isNaN(number)) {
    throw new ConsumerError(`--${option} ${value}: expected a number`);
  }
  return number;
}

async function run(): Promise<void> {
  const { values: options } = parseArgs({ options: OPTIONS });
  const patience = numberOf("patience", options.patience);
  const seconds = numberOf("seconds", options.seconds);
  let remaining = numberOf("max-events", options["max-events"]);
  const decoder = new Decoder(options.schemas, options.registry);
  const consumer = await connect(options.bootstrap);
  const changes = new Topic(consumer, `${options.prefix}.${options.feed}.changes`);
  const current = new Topic(consumer, `${options.prefix}.${options.feed}.current`);

  // 1. Note both ends, in this order.
  const start = await changes.ends("read_committed");
  const high = await current.ends("read_uncommitted");

  // 2. Restore.
  const states = new Map<string, LevelsState>();
  const reader = new FeedReader(consumer, changes, current);
  for await (const message of reader.restore(high, patience)) {
    const state = await decoder.state(message);
    // Another program may have copied an old state to another partition.
    if (state.sequence >= (states.get(state.symbol)?.sequence ?? 0)) {
      states.set(state.symbol, state);
    }
  }
  const printer = new Printer();
  const known = new Map<string, number>();
  for (const state of states.values()) {
    known.set(state.symbol, state.sequence);
    printer.state(state);
  }
  printer.restored(states.size);

  // 3. Follow.
  const order = new Order(known, patience);
  const until = performance.now() + seconds * 1000;
  if (remaining > 0) {
    for await (const message of reader.follow(start, high, until)) {
      const events: LevelsEvent[] = message?.topic === changes.name ? order.add(await decoder.event(message)) : [];
      for (const event of events.slice(0, remaining)) {
        printer.event(event);
        remaining--;
      }
      if (message?.topic === current.name) {
        printer.refreshed(await decoder.state(message));
      }
      printer.passed();
      order.check();
      if (remaining === 0) {
        break;
      }
    }
  }
}

try {
  await run();
  process.exit(0);
} catch (error) {
  const isKnown = error instanceof ConsumerError || (error as { code?: string }).code?.startsWith("ERR_PARSE_ARGS");
  if (!isKnown) {
    throw error;
  }
  console.error(`error: ${(error as Error).message}`);
  process.exit(1);
}
