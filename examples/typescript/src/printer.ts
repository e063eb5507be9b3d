import type { Levels, LevelsEvent, LevelsState } from "./records.js";
import { Silence } from "./silence.js";

const ACTS: Record<string, string> = { LIVE: "use", STALE: "careful" };

/** Prints events and states; a trading system would act here. */
export class Printer {
  /** The model behind the last levels of each symbol. */
  readonly #models = new Map<string, string>();
  readonly #silence = new Silence();

  state(state: LevelsState): void {
    this.#silence.status(state);
    this.#print({ ...state, type: "state", kind: null, reason: null }, state.levels);
  }

  event(event: LevelsEvent): void {
    this.#silence.status(event);
    this.#print({ ...event, type: "event" }, event.after);
  }

  /** Notes that the connector works, from a state that was written after the start. */
  refreshed(state: LevelsState): void {
    this.#silence.refresh(state);
  }

  /** Prints on standard error that a symbol is silent, or refreshed again. A trading system would stop here. */
  passed(): void {
    for (const line of this.#silence.lines(Date.now() * 1000)) {
      console.error(line);
    }
  }

  restored(symbols: number): void {
    console.log(JSON.stringify({ type: "restored", symbols }));
  }

  #print(record: Omit<LevelsEvent, "after" | "kind"> & { type: string; kind: string | null }, latest: Levels | null): void {
    const act = ACTS[record.status] ?? "none";
    // A state keeps the last levels whatever its status, so look at that first.
    const levels = act === "none" ? null : latest;
    const model = levels?.positioning ?? null;
    const line = {
      type: record.type,
      symbol: record.symbol,
      sequence: record.sequence,
      kind: record.kind,
      reason: record.reason,
      status: record.status,
      computed_at: record.computed_at,
      act,
      model,
      model_changed: this.#isOther(record.symbol, model),
      hvl: levels?.all_expiry.hvl ?? null,
      call_resistance: levels?.all_expiry.call_resistance ?? null,
      put_support: levels?.all_expiry.put_support ?? null,
    };
    console.log(JSON.stringify(line));
  }

  /** Levels of two models are not comparable: forget all that was derived from older ones. */
  #isOther(symbol: string, model: string | null): boolean {
    if (model === null) {
      return false;
    }
    const last = this.#models.get(symbol);
    this.#models.set(symbol, model);
    return last !== undefined && last !== model;
  }
}
