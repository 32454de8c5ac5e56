// Owns the names of the points at which a worker can be told to stop: of a chunk, and of a turn to try
// a parked message again.

export type ChunkPoint =
  /** The chunk's transaction is about to be opened; nothing was sent. */
  | "opening"
  /** A handler has written its effect; more messages, the advance and COMMIT are to come. */
  | "handling"
  /** The advance was sent (and answered where the pool does not pipeline), COMMIT was not. */
  | "advanced"
  /** COMMIT was sent, its answer was not read. */
  | "committing";

const turnPoints = [
  /** The turn was given; the transaction is about to be begun that tries the message, and succeeds. */
  "taken",
  /** The message's handler has written its effect. */
  "redriving",
  /** The message's removal was sent (and answered, as above), COMMIT was not. */
  "removed",
  /** COMMIT was sent, its answer was not read. */
  "removing",
] as const;

export type TurnPoint = (typeof turnPoints)[number];

export type Point = ChunkPoint | TurnPoint;

export function isTurnPoint(point: unknown): point is TurnPoint {
  return (turnPoints as readonly unknown[]).includes(point);
}
