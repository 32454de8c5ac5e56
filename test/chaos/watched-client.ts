// Owns what a worker's log tells of its statements: the advance and COMMIT of a chunk, and each step of
// a turn to try a parked message again, when they are sent and answered. Every step is logged before
// the next thing happens, and the worker may stop dead at each.

import type pg from "pg";
import type { StepLog } from "../fixtures/step-log.ts";
import type { Point } from "./points.ts";

export interface Watching {
  readonly step: StepLog;
  readonly topic: string;
  /** Stops there if the worker was told to; `where` is logged. */
  readonly stopIfTold: (point: Point, where: object) => void;
  /** The chunk that the partition has open, for the log. */
  readonly chunkOf: (partition: number) => object;
  /** Whether the handler will fail: known before it is called. */
  readonly failsStill: (sequence: number, attempt: number) => boolean;
}

/** A turn of this process, for the log: bigints as text. */
interface Turn {
  readonly topic: string;
  readonly id: string;
  readonly partition: number;
  readonly offset: string;
  readonly attempts: number;
}

// biome-ignore lint/suspicious/noExplicitAny: the original has a dozen overloads
type Query = (this: pg.Client, config: any, ...rest: any[]) => any;

type Answer = Promise<{ readonly rows: readonly Readonly<Record<string, unknown>>[] }>;

/** The failing call reports the same error. */
const ignored = () => {};

export function watchedClient(Base: typeof pg.Client, watching: Watching): typeof pg.Client {
  const { step, topic, stopIfTold, chunkOf, failsStill } = watching;
  // A process tries one at a time.
  let taken: Turn | null = null;
  return class WatchedClient extends Base {
    /** Whose transaction this connection has open, where it is that of a turn. */
    #turn: Turn | null = null;
    /** What the next statement ends, if it is COMMIT. */
    #ending: { readonly partition: number } | Turn | null = null;

    override query: Query = (config, ...rest) => {
      const send = () => (super.query as Query).call(this, config, ...rest);
      const text: unknown = typeof config === "string" ? config : config?.text;
      if (typeof text !== "string") return send();
      const values: readonly unknown[] = config.values ?? rest[0];
      const ending = this.#ending;
      this.#ending = null;
      switch (/^\/\* oncebox_(\w+) \*\/|^INSERT INTO effects|^COMMIT$|^ROLLBACK$/.exec(text)?.[0]) {
        case "/* oncebox_open */":
          this.#turn = null;
          return send();
        case "/* oncebox_advance */":
          this.#ending = { partition: Number(values[2]) };
          step("advance", { topic, ...this.#ending });
          return send();
        case "/* oncebox_take_parked */":
          return this.#take(send);
        case "/* oncebox_open_parked */":
          return this.#open(send, String(values[0]));
        case "/* oncebox_remove_parked */":
          return this.#remove(send);
        case "INSERT INTO effects":
          return this.#write(send, Number(values[4]));
        case "ROLLBACK":
          if (this.#turn !== null) step("turn-ended", { ...this.#turn, ok: false });
          this.#turn = null;
          return send();
        case "COMMIT":
          return ending === null ? send() : this.#commit(send, ending);
        default:
          return send();
      }
    };

    #take(send: () => Answer): Answer {
      const answer = send();
      // Registered before the caller's: nothing has been made of the answer when it stops here.
      answer.then(({ rows: [row] }) => {
        if (row === undefined) return;
        const { id, partition, record_offset: offset, attempts } = row;
        const where = { partition: Number(partition), attempts: Number(attempts) };
        taken = { topic, id: String(id), offset: String(offset), ...where };
        step("turn-taken", taken);
        // One that fails anyway shows no missing fence.
        const sequence = Number(Buffer.from(row.value as Uint8Array).toString());
        if (!failsStill(sequence, where.attempts)) stopIfTold("taken", taken);
      }, ignored);
      return answer;
    }

    #open(send: () => Answer, id: string): Answer {
      if (taken?.id !== id) throw new Error(`turn ${id} is tried, and ${taken?.id} was taken`);
      const turn = taken;
      this.#turn = turn;
      const answer = send();
      answer.then(({ rows }) => {
        step("turn-opened", { ...turn, held: rows[0]?.held });
      }, ignored);
      return answer;
    }

    /** Known by its connection: offsets do not tell a parked message from one of a chunk for sure. */
    #write(send: () => Answer, partition: number): Answer {
      const turn = this.#turn;
      if (turn !== null) step("redriving", turn);
      const answer = send();
      answer.then(() => {
        if (turn === null) stopIfTold("handling", { partition, ...chunkOf(partition) });
        else stopIfTold("redriving", turn);
      }, ignored);
      return answer;
    }

    #remove(send: () => Answer): Answer {
      const turn = this.#turn;
      if (turn === null) throw new Error("a parked message is removed outside of its turn");
      this.#ending = turn;
      const answer = send();
      answer.catch(() => step("turn-ended", { ...turn, ok: false }));
      return answer;
    }

    #commit(send: () => Answer, ending: { readonly partition: number } | Turn): Answer {
      const isTurn = "id" in ending;
      const { partition } = ending;
      const where = isTurn ? ending : { partition, ...chunkOf(partition) };
      this.#turn = null;
      stopIfTold(isTurn ? "removed" : "advanced", where);
      step(isTurn ? "turn-commit" : "commit", isTurn ? ending : { topic, partition });
      const answer = send();
      stopIfTold(isTurn ? "removing" : "committing", where);
      const answered = (ok: boolean) => {
        if (isTurn) step("turn-ended", { ...ending, ok });
        else step("commit-answered", { topic, partition, ok });
      };
      answer.then(
        () => answered(true),
        () => answered(false),
      );
      return answer;
    }
  };
}
