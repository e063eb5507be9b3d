/** The program cannot go on. The message says why, and what to do about it. */
export class ConsumerError extends Error {}
