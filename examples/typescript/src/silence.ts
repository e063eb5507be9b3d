/** Two refreshes of 30 s, and the time in which another worker takes over from a dead one. */
const LIMIT_SECONDS = 70;
const MICROS = 1_000_000;

/** Notices that levels are no longer refreshed: no connector runs, or it cannot reach Kafka. */
export class Silence {
  /** When the last refresh of each symbol with LIVE levels was observed. */
  readonly #refreshedAt = new Map<string, number>();
  readonly #silent = new Set<string>();

  /** Takes the status of a symbol, from a state or an event. Moments are microseconds since the epoch. */
  status(record: { symbol: string; status: string; observed_at: number }): void {
    if (record.status === "LIVE") {
      const last = this.#refreshedAt.get(record.symbol) ?? 0;
      this.#refreshedAt.set(record.symbol, Math.max(last, record.observed_at));
    } else {
      // No levels are refreshed, or their status says already that they are old.
      this.#refreshedAt.delete(record.symbol);
      this.#silent.delete(record.symbol);
    }
  }

  /** Takes a refresh of a symbol. */
  refresh(record: { symbol: string; observed_at: number }): void {
    const last = this.#refreshedAt.get(record.symbol);
    if (last !== undefined) {
      this.#refreshedAt.set(record.symbol, Math.max(last, record.observed_at));
    }
  }

  /** Returns a line for each symbol that has become silent, or is refreshed again. */
  lines(now: number): string[] {
    const lines: string[] = [];
    for (const [symbol, at] of this.#refreshedAt) {
      const seconds = (now - at) / MICROS;
      const isSilent = seconds > LIMIT_SECONDS;
      if (isSilent && !this.#silent.has(symbol)) {
        this.#silent.add(symbol);
        lines.push(`${symbol}: not refreshed for ${seconds.toFixed(0)} s. Does a connector run?`);
      } else if (!isSilent && this.#silent.delete(symbol)) {
        lines.push(`${symbol}: refreshed again`);
      }
    }
    return lines;
  }
}
