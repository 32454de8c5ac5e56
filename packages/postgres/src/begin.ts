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
export function beginScript({ lockTimeoutMs, idleInTransactionTimeoutMs }: Limits): string {
  const begin = `BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = ${lockTimeoutMs}`;
  if (idleInTransactionTimeoutMs === null) return begin;
  return `${begin}; SET LOCAL idle_in_transaction_session_timeout = ${idleInTransactionTimeoutMs}`;
}
