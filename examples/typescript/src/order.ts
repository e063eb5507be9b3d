import { ConsumerError } from "./errors.js";
import type { LevelsEvent } from "./records.js";

/**
 * Puts the events of each symbol in order and drops those that are known already.
 *
 * Events come in order as long as a symbol stays in its partition. After partitions were added it may
 * move to another one, and a reader may see its next events before the last ones in the former
 * partition.
 */
export class Order {
  /** Events that came before the one they follow, by sequence. */
  readonly #early = new Map<string, Map<number, LevelsEvent>>();
  readonly #earlySince = new Map<string, number>();

  /** `known` has the last sequence of each symbol that was passed on. */
  constructor(
    private readonly known: Map<string, number>,
    private readonly patienceSeconds: number,
  ) {}

  /** Takes an event, and returns all that follow each other now. */
  add(event: LevelsEvent): LevelsEvent[] {
    const symbol = event.symbol;
    let last = this.known.get(symbol) ?? 0;
    if (event.sequence <= last) {
      return [];
    }
    const waiting = this.#early.get(symbol) ?? new Map<number, LevelsEvent>();
    waiting.set(event.sequence, event);

    const following: LevelsEvent[] = [];
    for (let next = waiting.get(last + 1); next; next = waiting.get(last + 1)) {
      last++;
      waiting.delete(last);
      following.push(next);
    }
    this.known.set(symbol, last);
    if (waiting.size === 0) {
      this.#early.delete(symbol);
      this.#earlySince.delete(symbol);
    } else {
      this.#early.set(symbol, waiting);
      if (following.length > 0 || !this.#earlySince.has(symbol)) {
        this.#earlySince.set(symbol, performance.now());
      }
    }
    return following;
  }

  /** Throws if an event has been missing for too long. */
  check(): void {
    for (const [symbol, since] of this.#earlySince) {
      if (performance.now() - since > this.patienceSeconds * 1000) {
        const received = Math.min(...(this.#early.get(symbol) ?? new Map()).keys());
        throw new ConsumerError(
          `${symbol}: expected event ${(this.known.get(symbol) ?? 0) + 1}, received ${received}: events are ` +
            "missing; start again to restore the present state",
        );
      }
    }
  }
}
