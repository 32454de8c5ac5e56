/**
 * One connection to a memory database: statements one after another, at most one transaction, and
 * every way in which a connection can die under it. Knows nothing of what the statements do.
 *
 *   free ─ begin ─▶ open ─ statement ─▶ open (idle time-out runs) ─ commit, rollback ─▶ free
 *                    │        └─ failed ─▶ aborted ─ rollback ─▶ free
 *                    └─ cut, idle for too long, outage ─▶ lost (rolled back), or its COMMIT comes late
 */
import type { Clock } from "@oncebox/core";
import { connectionLost, MemoryDatabaseError } from "./database-error.ts";
import type { CommitFault, FaultDesk } from "./database-faults.ts";
import type { Tables, Transaction } from "./tables.ts";

/** What connections of one database share. */
export interface ConnectionSetting {
  readonly clock: Clock;
  readonly tables: Tables;
  readonly faults: FaultDesk;
  readonly statementMs: () => number;
}

export interface ClientSetting {
  /** The storage that it belongs to, or the application. */
  readonly client: string;
  readonly idleInTransactionTimeoutMs: number | null;
  /** Whether a statement travels while those before it are under way. */
  readonly pipelined: boolean;
  /** Resolves when the process may go on. */
  readonly running: () => Promise<void>;
}

interface StatementKind {
  readonly writes?: boolean;
  /** It ends what a failed statement has left. */
  readonly evenAborted?: boolean;
}

export class Connection {
  readonly name: string;
  readonly client: string;
  /** How many statements were sent. */
  statements = 0;
  lost = false;
  transaction: Transaction | null = null;
  readonly #setting: ConnectionSetting;
  readonly #client: ClientSetting;
  /** Since when the open transaction is idle; null while a statement runs. */
  #idleSince: number | null = null;
  /** The end of the statement that was sent last; null: none is under way. */
  #last: Promise<void> | null = null;
  /** Ends the watch over an idle transaction. */
  #over: AbortController | null = null;
  /** That of the statement under way, where it has one of its own. */
  #own: Transaction | null = null;

  constructor(name: string, setting: ConnectionSetting, client: ClientSetting) {
    this.name = name;
    this.client = client.client;
    this.#setting = setting;
    this.#client = client;
  }

  /** Costs no statement: it goes with the first one. */
  begin(): Transaction {
    if (this.lost) throw connectionLost(true);
    this.transaction = this.#setting.tables.begin(this.name);
    const over = new AbortController();
    this.#over = over;
    this.#rest();
    this.#endWhenIdle(this.transaction, over.signal).catch(() => undefined);
    return this.transaction;
  }

  /**
   * Runs in the open transaction, or in one of its own, behind whatever was sent before it on this
   * connection.
   */
  async run<R>(
    verb: string,
    work: (transaction: Transaction) => R | Promise<R>,
    kind: StatementKind = {},
  ): Promise<R> {
    const before = this.#last;
    let over: () => void = () => undefined;
    const end = new Promise<void>((resolve) => {
      over = resolve;
    });
    this.#last = end;
    try {
      return await this.#run(verb, work, kind, before);
    } catch (error) {
      // One that stands still, or was killed, does not hear that its connection is gone.
      await this.#client.running();
      throw error;
    } finally {
      over();
      if (this.#last === end) this.#last = null;
    }
  }

  async #run<R>(
    verb: string,
    work: (transaction: Transaction) => R | Promise<R>,
    { writes = true, evenAborted = false }: StatementKind,
    before: Promise<void> | null,
  ): Promise<R> {
    const { tables, faults } = this.#setting;
    await this.#client.running();
    if (before !== null && !this.#client.pipelined) await before;
    if (this.lost) throw connectionLost(true);
    this.#idleSince = null;
    this.statements += 1;
    const fault = faults.ofStatement({ verb, client: this.client, connection: this.name });
    await this.#travel(fault?.delayMs ?? 0);
    if (before !== null) {
      await before;
      if (this.lost) throw connectionLost(false);
      this.#idleSince = null;
    }
    if (fault?.kind === "request-lost") {
      this.cut();
      throw connectionLost(false);
    }
    const own = this.transaction === null;
    const transaction = this.transaction ?? tables.begin(this.name);
    if (own) this.#own = transaction;
    let result: R;
    try {
      if (!evenAborted) checkAborted(transaction);
      this.#check(fault?.kind === "fails" ? fault.failure : null, writes);
      const working = work(transaction);
      // What does not wait is committed in the same turn: nothing comes between the two.
      result = working instanceof Promise ? await working : working;
    } catch (error) {
      if (own) tables.rollback(transaction);
      else tables.abort(transaction, error);
      this.#rest();
      throw error;
    }
    if (own) tables.commit(transaction);
    if (fault?.kind === "reply-lost") this.cut();
    if (this.lost) throw connectionLost(false);
    this.#rest();
    await this.#client.running();
    return result;
  }

  /** A statement that its author got wrong. */
  refuse(): Promise<never> {
    return this.run("refused", () => {
      throw new MemoryDatabaseError("bad-statement", "division by zero");
    });
  }

  /** `rolled back`: COMMIT of an aborted transaction. Rejects where the answer is lost. */
  async commit(): Promise<"committed" | "rolled back"> {
    try {
      return await this.#commit();
    } finally {
      await this.#client.running();
    }
  }

  async #commit(): Promise<"committed" | "rolled back"> {
    const { tables, faults } = this.#setting;
    await this.#client.running();
    if (this.lost) throw connectionLost(true);
    this.#idleSince = null;
    const transaction = this.transaction;
    const fault = faults.ofCommit({ verb: "commit", client: this.client, connection: this.name });
    await this.#travel(0);
    if (transaction === null) return "committed";
    if (fault !== null) this.#break(transaction, fault.kind, fault.late);
    this.transaction = null;
    this.#over?.abort(noReason);
    if (transaction.aborted !== null) {
      tables.rollback(transaction);
      return "rolled back";
    }
    tables.commit(transaction);
    return "committed";
  }

  /** False where the connection is gone. */
  async rollback(): Promise<boolean> {
    if (this.lost) return false;
    await Promise.resolve();
    if (this.lost) return false;
    this.#over?.abort(noReason);
    if (this.transaction !== null) this.#setting.tables.rollback(this.transaction);
    this.transaction = null;
    return true;
  }

  /** The connection dies, and the transaction with it. */
  cut(): void {
    this.lost = true;
    this.#over?.abort(noReason);
    for (const transaction of [this.transaction, this.#own]) {
      if (transaction !== null) this.#setting.tables.rollback(transaction);
    }
  }

  async #travel(delayMs: number): Promise<void> {
    const { clock, statementMs } = this.#setting;
    const ms = statementMs() + delayMs;
    if (ms > 0) await clock.sleep(ms);
    else await Promise.resolve();
    if (this.lost) throw connectionLost(false);
  }

  #check(fails: MemoryDatabaseError | null, writes: boolean): void {
    if (fails !== null) throw fails;
    if (writes && this.#setting.faults.isReadOnly()) {
      throw new MemoryDatabaseError("read-only", "the database is read-only");
    }
  }

  #break(transaction: Transaction, fault: CommitFault, late: (deliver: () => void) => void): never {
    const { tables } = this.#setting;
    this.lost = true;
    if (fault === "request-lost") tables.rollback(transaction);
    else if (fault === "request-late") {
      // The server knows of no end of the connection yet: the transaction stays open, locks and all.
      late(() => {
        if (transaction.state !== "open") return;
        if (transaction.aborted === null) tables.commit(transaction);
        else tables.rollback(transaction);
      });
      this.#rest();
    } else if (transaction.aborted === null) tables.commit(transaction);
    else tables.rollback(transaction);
    throw connectionLost(false);
  }

  #rest(): void {
    this.#idleSince = this.#setting.clock.now();
  }

  /** The database's own time: it goes on while the process is frozen. */
  async #endWhenIdle(transaction: Transaction, over: AbortSignal): Promise<void> {
    const { clock, tables } = this.#setting;
    const { idleInTransactionTimeoutMs: ms } = this.#client;
    if (ms === null) return;
    while (transaction.state === "open") {
      const idleMs = this.#idleSince === null ? 0 : clock.now() - this.#idleSince;
      if (idleMs >= ms) {
        this.lost = true;
        tables.rollback(transaction);
      } else await clock.sleep(ms - idleMs, over);
      if (over.aborted) return;
    }
  }
}

function checkAborted(transaction: Transaction): void {
  if (transaction.aborted === null) return;
  throw new MemoryDatabaseError(
    "transaction-aborted",
    "the transaction is aborted: statements are ignored until its end",
  );
}

/** Given to `abort`: making one up costs more than all the rest of a statement. */
const noReason = "over";
