// Owns the language of storage scripts: steps as data. Actors are processes, each with a storage of
// its own on the same database. What a step makes is kept under the name that it gives.

import type { CommitFault } from "@oncebox/testing";

export type Actor = "a" | "b" | "c";

/** A record of a chunk: its id is that of its offset unless told otherwise. */
export type ScriptRecord =
  | number
  | { readonly at: number; readonly id?: number | null; readonly sum?: number };

/** An id of `record`: with the checksum of all records unless told otherwise. */
export type ScriptId = number | { readonly id: number; readonly sum: number | null };

type By = { readonly by: Actor };
/** The topic is the script's only one unless told otherwise. */
type OfTopic = { readonly topic?: string };
type Registration = By &
  OfTopic & {
    readonly starts: readonly number[];
    readonly group?: string;
    readonly topicId?: string;
  };
/** `in`: a transaction or a handle. */
type In = { readonly in: string };
type Faulty = { readonly fault?: CommitFault };

export type Step =
  | (Registration & {
      readonly do: "register";
      readonly added?: readonly (readonly [partition: number, offset: number])[];
    })
  | (Registration & { readonly do: "adopt" })
  | (By & OfTopic & { readonly do: "registered" })
  | (By &
      OfTopic &
      Faulty & {
        readonly do: "claim";
        readonly as: string;
        readonly partition?: number;
        readonly waitMs?: number;
      })
  | (By & { readonly do: "lost"; readonly claims: readonly string[] })
  | (By & {
      readonly do: "open";
      readonly as: string;
      readonly claim: string;
      readonly records: readonly ScriptRecord[];
    })
  /** A handle of a chunk, beside the one that is there under the chunk's name. */
  | { readonly do: "handle"; readonly of: string; readonly as: string }
  | { readonly do: "end"; readonly handle: string }
  | (In & { readonly do: "effect"; readonly text: string })
  /** A statement that the database refuses; whoever sent it goes on as if nothing had happened. */
  | (In & { readonly do: "fail" })
  | (In & { readonly do: "end secretly"; readonly begin: boolean })
  | (In & { readonly do: "cut" })
  | (In & By & { readonly do: "record"; readonly ids: readonly ScriptId[] })
  | (In & By & { readonly do: "enqueue"; readonly lane: number; readonly rows: readonly string[] })
  /** A transaction of the application's own. */
  | { readonly do: "begin"; readonly as: string }
  /** One by `storage.transaction`. */
  | (By & { readonly do: "work"; readonly as: string })
  | (Faulty & {
      readonly do: "commit";
      readonly of: string;
      /** Of a chunk: the position; that of its opening unless told otherwise. */
      readonly to?: number;
      readonly mark?: { readonly topicId: string; readonly epoch: number; readonly last?: number };
    })
  | { readonly do: "rollback"; readonly of: string }
  | { readonly do: "destroy"; readonly of: string }
  /** The COMMIT that was held back arrives. */
  | { readonly do: "deliver" }
  /** Until a step that waits has come to its end, which it does by itself. */
  | { readonly do: "wait" }
  | (By & { readonly do: "positions" })
  | (By &
      Faulty & {
        readonly do: "seek";
        readonly moves: readonly (readonly [partition: number, to: number])[];
        readonly replay?: boolean;
        readonly expected?: string;
        readonly topicId?: string;
      })
  | (By & { readonly do: "audit log" })
  | (By & {
      readonly do: "lease";
      readonly as: string;
      readonly max?: number;
      readonly renew?: string;
      readonly ms?: number;
    })
  | (By & { readonly do: "release"; readonly leases: string })
  | (By & {
      readonly do: "read";
      readonly as: string;
      readonly leases: string;
      readonly rows?: number;
      readonly pending?: string;
      readonly sweep?: boolean;
    })
  | (By & {
      readonly do: "settle";
      readonly leases: string;
      readonly read: string;
      readonly only?: readonly string[];
    })
  /** The database's clock is moved on, as far as leases are concerned. */
  | { readonly do: "pass"; readonly ms: number };

export interface Script {
  readonly name: string;
  readonly steps: readonly Step[];
}

/** One line for each step, numbered. */
export function inWords(steps: readonly { readonly do: string }[]): readonly string[] {
  return steps.map(({ do: verb, ...rest }, place) => {
    const arguments_ = Object.entries(rest).map(
      ([key, value]) => `${key}=${JSON.stringify(value)}`,
    );
    return `${String(place + 1).padStart(3)} ${verb} ${arguments_.join(" ")}`.trimEnd();
  });
}

/** What a database with one writer at a time can do. */
export interface Abilities {
  /** The connection is a wire: it can be cut, and a COMMIT can be lost on it. */
  readonly wire: boolean;
  /** Several transactions may be open at once. */
  readonly writers: "many" | "one";
  /** A failed statement aborts its transaction. */
  readonly aborts: boolean;
  /** A handle is the storage's own: it dies, and can be told from any other. */
  readonly handles: boolean;
  /** What a handler writes when it has ended its transaction stands by itself, or is refused. */
  readonly behindEnd: "stands" | "refused";
}

const wireSteps: ReadonlySet<Step["do"]> = new Set(["cut", "deliver", "destroy", "pass", "wait"]);

/** Whether a script asks for nothing that these abilities do not hold. */
export function fits({ steps }: Script, able: Abilities): boolean {
  const open = new Set<string>();
  const over = new Set<string>();
  const ended = new Set<string>();
  for (const step of steps) {
    const used = "in" in step ? step.in : "of" in step ? step.of : null;
    // Nothing can be said to what has no handle of its own when it is over.
    if (!able.handles && used !== null && over.has(used)) return false;
    if (!able.wire && (wireSteps.has(step.do) || "fault" in step)) return false;
    if (!able.aborts && step.do === "fail") return false;
    if (step.do === "end secretly" && !step.begin) ended.add(step.in);
    const behind = step.do === "effect" && ended.has(step.in);
    if (able.behindEnd === "refused" && behind) return false;
    if (!able.handles && (step.do === "handle" || step.do === "end secretly")) return false;
    if (able.writers === "many") continue;
    if (step.do === "commit" || step.do === "rollback") {
      open.delete(step.of);
      over.add(step.of);
      continue;
    }
    const inside = "in" in step || step.do === "handle" || step.do === "end";
    if (!inside && open.size > 0) return false;
    if (step.do === "open" || step.do === "begin" || step.do === "work") open.add(step.as);
  }
  return true;
}
