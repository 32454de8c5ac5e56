/** What can be done to a memory database from outside: the faults, as a test orders them. */
import { type DatabaseFailure, MemoryDatabaseError } from "./database-error.ts";

/**
 * `request-lost`: the database never gets the COMMIT. `reply-lost`: it commits, and the answer is
 * lost. `request-late`: the connection dies, and the COMMIT arrives when it is delivered.
 */
export type CommitFault = "request-lost" | "reply-lost" | "request-late";

/** A statement on its way. */
export interface StatementSeen {
  /** What it does: `claim`, `open`, `advance`, `record`, `enqueue`, `append`, `settle`, … */
  readonly verb: string;
  /** The storage that sends it, by its name. */
  readonly client: string;
  readonly connection: string;
}

/** What goes wrong with one statement: it is late, and perhaps it fails or its connection dies. */
export interface StatementFault {
  readonly delayMs?: number;
  readonly fails?: DatabaseFailure | "request-lost" | "reply-lost";
}

/** The COMMIT that was held back. Delivering it twice does nothing. */
export interface LateCommit {
  readonly deliver: () => void;
}

export interface DatabaseFaults {
  /** Asked for each statement; null: nothing goes wrong. */
  onStatement: ((statement: StatementSeen) => StatementFault | null) | null;
  /** Asked for each COMMIT; null: nothing goes wrong. */
  onCommit: ((statement: StatementSeen) => CommitFault | null) | null;
  /** Breaks the next COMMIT, of one storage where its name is given. */
  readonly breakNextCommit: (fault: CommitFault, client?: string) => LateCommit;
  /** Lets every COMMIT arrive that was held back, in the order of sending. */
  readonly deliverLateCommits: () => void;
  /** Ends all connections, or those of one storage: open transactions are rolled back. */
  readonly cutConnections: (client?: string) => void;
  /** While it lasts nobody can connect; beginning it ends all connections. */
  readonly outage: (on: boolean) => void;
  /** While it lasts nothing can be written, as after a fail-over to a replica. */
  readonly readOnly: (on: boolean) => void;
  /** While it lasts relays are woken by their own storage only. */
  readonly loseWakeUps: (on: boolean) => void;
  /** Sets a lane's floor, also to where it hides rows: what a sweep must find. */
  readonly setFloor: (lane: number, floor: bigint) => void;
}

interface StatementTrouble {
  readonly kind: "fails" | "request-lost" | "reply-lost" | "delayed";
  readonly failure: MemoryDatabaseError | null;
  readonly delayMs: number;
}

/** Where connections ask what goes wrong. */
export class FaultDesk {
  onStatement: DatabaseFaults["onStatement"] = null;
  onCommit: DatabaseFaults["onCommit"] = null;
  down = false;
  wakeUpsLost = false;
  #readOnly = false;
  readonly #next: { fault: CommitFault; client: string | undefined; late: LateBox }[] = [];
  readonly #late: LateBox[] = [];

  isReadOnly(): boolean {
    return this.#readOnly;
  }

  readOnly(on: boolean): void {
    this.#readOnly = on;
  }

  ofStatement(statement: StatementSeen): StatementTrouble | null {
    const fault = this.onStatement?.(statement) ?? null;
    if (fault === null) return null;
    const { delayMs = 0, fails } = fault;
    if (fails === undefined) return { kind: "delayed", failure: null, delayMs };
    if (fails === "request-lost" || fails === "reply-lost") {
      return { kind: fails, failure: null, delayMs };
    }
    const text = `${statement.verb} failed: ${fails}`;
    return { kind: "fails", failure: new MemoryDatabaseError(fails, text), delayMs };
  }

  ofCommit(statement: StatementSeen) {
    const place = this.#next.findIndex(
      ({ client }) => client === undefined || client === statement.client,
    );
    const [ordered] = place < 0 ? [] : this.#next.splice(place, 1);
    const kind = ordered?.fault ?? this.onCommit?.(statement) ?? null;
    if (kind === null) return null;
    const box = ordered?.late ?? new LateBox();
    const late = (deliver: () => void) => {
      box.deliver = deliver;
      this.#late.push(box);
    };
    return { kind, late };
  }

  breakNextCommit(fault: CommitFault, client?: string): LateCommit {
    const late = new LateBox();
    this.#next.push({ fault, client, late });
    return { deliver: () => late.deliver() };
  }

  deliverLateCommits(): void {
    for (const late of this.#late.splice(0)) late.deliver();
  }
}

class LateBox {
  deliver: () => void = () => undefined;
}
