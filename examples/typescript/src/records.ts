/** The parts of the schemas that this program uses. */

export interface Levels {
  positioning: string | null;
  all_expiry: {
    hvl: number | null;
    call_resistance: number | null;
    put_support: number | null;
  };
}

/** A value of `changes`. Moments are microseconds since the epoch. */
export interface LevelsEvent {
  symbol: string;
  sequence: number;
  kind: string;
  reason: string | null;
  status: string;
  computed_at: number | null;
  observed_at: number;
  after: Levels | null;
}

/** A value of `current`. */
export interface LevelsState {
  symbol: string;
  sequence: number;
  status: string;
  computed_at: number | null;
  observed_at: number;
  levels: Levels | null;
}
