// Owns the running of a storage script: one step after another, each until nothing moves any more,
// and what became of each in words. At its end everything that is open is rolled back, and what is
// committed is read. Judges nothing.

import type { CommitFault } from "@oncebox/testing";
import { errorInWords, Labels } from "./storage-outcome.ts";
import { finalLines, Scene } from "./storage-scene.ts";
import type { Actor, Script, Step } from "./storage-script.ts";
import type { StorageSide } from "./storage-side.ts";
import { act } from "./storage-verbs.ts";

interface Call {
  readonly number: number;
  readonly verb: string;
  /** Whether it holds a transaction of its own while it runs. */
  readonly own: boolean;
  /** The transaction that it keeps busy. */
  readonly transaction: string | null;
  outcome: string | null;
}

/** Verbs that work in a transaction which is open already. */
const inside: ReadonlySet<Step["do"]> = new Set([
  ...(["effect", "fail", "end secretly", "cut", "record", "enqueue"] as const),
  ...(["handle", "end", "commit", "rollback", "destroy"] as const),
]);

/** One line for each outcome. Rejects where the side does not come to rest. */
export async function run<Tx>(script: Script, side: StorageSide<Tx>): Promise<readonly string[]> {
  const lines: string[] = [];
  const scene = new Scene(side, new Labels());
  const running = new Running(scene, lines);
  for (const [place, step] of script.steps.entries()) await running.step(place + 1, step);
  await running.end();
  return [...lines, ...(await finalLines(scene, script))];
}

class Running<Tx> {
  readonly #scene: Scene<Tx>;
  readonly #lines: string[];
  readonly #calls = new Set<Call>();

  constructor(scene: Scene<Tx>, lines: string[]) {
    this.#scene = scene;
    this.#lines = lines;
  }

  async step(number: number, step: Step): Promise<void> {
    if (step.do === "wait") return this.#outlast(number);
    if (step.do === "pass") {
      await this.#scene.side.pass(step.ms);
      return;
    }
    const transaction = this.#scene.transactionOf(step);
    // A connection runs one statement at a time; only to be destroyed does not wait for its turn.
    const busy = [...this.#calls].some((each) => each.transaction === transaction);
    if (transaction !== null && busy && step.do !== "destroy") {
      this.#lines.push(`${number} ${step.do}: busy`);
      return;
    }
    const own = !inside.has(step.do);
    const call: Call = { number, verb: step.do, own, transaction, outcome: null };
    this.#calls.add(call);
    const fault = "fault" in step ? this.#arm(step.fault, actorOf(this.#scene, step)) : null;
    const storage = this.#scene.side.storageOf(actorOf(this.#scene, step));
    act(this.#scene, step).then(
      (words) => {
        call.outcome = words;
      },
      (error: unknown) => {
        call.outcome = errorInWords(error, storage.trouble);
      },
    );
    if (fault !== null) {
      await this.#ended(call);
      await fault.disarm();
    }
    await this.#rest();
    this.#tell(number);
    if (this.#calls.has(call)) this.#lines.push(`${number} ${step.do}: waits`);
  }

  /** Nothing is left open but what the script's end is asked about. */
  async end(): Promise<void> {
    this.#scene.deliver();
    for (let round = 0; round < 100; round += 1) {
      await this.#scene.endAll();
      await this.#rest();
      this.#tell(0);
      if (this.#calls.size === 0 && this.#scene.open.size === 0) return;
    }
    throw new Error("100 rounds of rolling back must end all calls");
  }

  #arm(fault: CommitFault | undefined, actor: Actor) {
    if (fault === undefined) return null;
    const armed = this.#scene.side.breakCommit(actor, fault);
    this.#scene.armed(fault, armed.deliver);
    return armed;
  }

  /** A call whose COMMIT is broken waits for no lock. */
  async #ended(call: Call): Promise<void> {
    await this.#scene.side.outlast(() => call.outcome !== null);
  }

  async #outlast(number: number): Promise<void> {
    const waiting = [...this.#calls];
    if (waiting.length > 0) {
      await this.#scene.side.outlast(() => waiting.some(({ outcome }) => outcome !== null));
      await this.#rest();
    }
    this.#tell(number);
  }

  #rest(): Promise<void> {
    const waiting = () => [...this.#calls].filter(({ outcome }) => outcome === null);
    return this.#scene.side.rest({
      pending: () => waiting().length,
      open: () => this.#scene.openCount() + waiting().filter(({ own }) => own).length,
    });
  }

  /** What ended since the last step, in the order of the steps. */
  #tell(number: number): void {
    for (const call of this.#calls) {
      if (call.outcome === null) continue;
      this.#calls.delete(call);
      const after =
        call.number === number ? "" : number === 0 ? " (at the end)" : ` (at ${number})`;
      this.#lines.push(`${call.number}${after} ${call.verb}: ${call.outcome}`);
    }
  }
}

function actorOf<Tx>(scene: Scene<Tx>, step: Step): Actor {
  if ("by" in step) return step.by;
  return "of" in step ? scene.actorOf(step.of) : "a";
}
