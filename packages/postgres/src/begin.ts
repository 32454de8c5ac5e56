/** How the storage's own transactions begin, and what bounds them. Sends nothing. */

export interface Limits {
  /** No lock is waited for longer. */
  readonly lockTimeoutMs: number;
  /**
   * The database ends a transaction that stands still for so long: a frozen process would hold its
   * locks until it dies. Null: never.
   */
  readonly idleInTransactionTimeoutMs: number | null;
}

/** READ COMMITTED whatever the default is: what was waited for must be seen as it is now. */
const begin = "BEGIN ISOLATION LEVEL READ COMMITTED";

export function beginScript(limits: Limits): string {
  return `${begin}; ${limited(limits)}`;
}

/**
 * As above, but `oncebox_open` gives the session its own lock_timeout back: handlers follow. By way of
 * a setting, since a reset would lose what the session itself has set.
 */
export function beginChunkScript(limits: Limits): string {
  const kept = "set_config('oncebox.lock_timeout', current_setting('lock_timeout'), true)";
  return `${begin}; SELECT ${kept}; ${limited(limits)}`;
}

function limited({ lockTimeoutMs, idleInTransactionTimeoutMs }: Limits): string {
  const lock = `SET LOCAL lock_timeout = ${lockTimeoutMs}`;
  if (idleInTransactionTimeoutMs === null) return lock;
  return `${lock}; SET LOCAL idle_in_transaction_session_timeout = ${idleInTransactionTimeoutMs}`;
}
