// Owns the faults that wait for a process to come to a certain step: they fire at the next request
// of that kind after their time. Asked by the models' hooks; counts what fired.

import type { OutgoingRecord, RecordBatch } from "@oncebox/core";
import type {
  BatchFault,
  OffsetCommitFault,
  PublishFault,
  StatementFault,
  StatementSeen,
} from "@oncebox/testing";
import type { Manners } from "./manners.ts";
import type { Fault, Step } from "./plan.ts";
import { applicationName } from "./sources.ts";
import type { Worker } from "./worker.ts";
import type { World } from "./world.ts";

type StepFault = Fault & { readonly step: Step };

const stepOfVerb: Readonly<Record<string, Step>> = {
  claim: "claim",
  open: "open",
  append: "handle",
  update: "handle",
  enqueue: "handle",
  advance: "advance",
  lease: "lease",
  read: "read",
  settle: "settle",
  "note-claim": "note-claim",
  probe: "probe",
  park: "park",
  "take-parked": "take-parked",
  "open-parked": "open-parked",
  "settle-parked": "settle-parked",
  prune: "prune",
};

export class Hits {
  readonly #world: World;
  readonly #workers: readonly Worker[];
  readonly #armed: StepFault[] = [];
  readonly #senders = new WeakMap<OutgoingRecord, number>();
  readonly #fired: (cell: string, ms: number) => void;
  /** When the last record that was held back will have been stored. */
  quietAt = 0;

  constructor(
    world: World,
    workers: readonly Worker[],
    manners: Manners,
    fired: (cell: string, ms: number) => void,
  ) {
    this.#world = world;
    this.#workers = workers;
    this.#fired = fired;
    const { database, outside } = world;
    database.faults.onStatement = (statement) => this.#statement(statement);
    database.faults.onCommit = (statement) => this.#commit(statement);
    outside.faults.onBatch = (member, batch) => this.#batch(member, batch);
    outside.faults.onCommit = (member, positions) => {
      manners.offsetsSent(member, positions);
      return this.#groupCommit(member);
    };
    outside.faults.onPublish = (_, records) => this.#publish(records);
  }

  arm(fault: StepFault): void {
    this.#armed.push(fault);
  }

  /**
   * Nothing goes wrong any more, or nothing at this step. What waits for a message that is tried alone
   * goes on waiting: until one is, so many processes have ended that all others are mended by then.
   */
  disarm(step: Step | null = null): void {
    const left = this.#armed.filter((fault) => {
      return step === null ? fault.act === "commit-lost" : fault.step !== step;
    });
    this.#armed.splice(0, Number.POSITIVE_INFINITY, ...left);
  }

  readonly publishing = (records: readonly OutgoingRecord[], place: number): void => {
    for (const record of records) this.#senders.set(record, place);
  };

  #statement({ verb, client, connection }: StatementSeen): StatementFault | null {
    this.#world.verbs.set(connection, verb);
    this.#world.clients.set(connection, client);
    this.#world.trace.note(client, verb);
    if (verb === "open-parked") this.#world.turns.add(connection);
    const step = this.#stepOf(verb, connection);
    const worker = this.#workerOf(client);
    const fault = step === undefined || worker === null ? null : this.#take(step, worker.place);
    if (fault === null || worker === null) return null;
    switch (fault.act) {
      case "kill-before":
        worker.kill(fault.ms);
        return { fails: "request-lost" };
      case "kill-after":
        // The database does what it was asked, and nobody hears.
        worker.kill(fault.ms);
        return null;
      case "freeze-before":
        this.#freeze(worker, fault.ms);
        return { delayMs: fault.ms };
      case "freeze-after":
        this.#freeze(worker, fault.ms);
        return null;
      case "commit-lost":
        // Of the chunk behind it.
        this.arm({ ...fault, step: "commit", act: "request-lost" });
        return null;
      case "request-lost":
      case "reply-lost":
      case "deadlock":
      case "lock-timeout":
      case "unavailable":
        return { fails: fault.act };
      default:
        throw new TypeError(`${fault.act} cannot happen to a statement`);
    }
  }

  #stepOf(verb: string, connection: string): Step | undefined {
    const step = stepOfVerb[verb];
    if (step === "handle" && this.#world.turns.has(connection)) return "handle-parked";
    // Whoever looks for parked messages finds none, most of the time.
    if (step === "take-parked" && this.#world.rowsOf("parked").length === 0) return undefined;
    return step;
  }

  #commit({ client, connection }: StatementSeen) {
    this.#world.trace.note(client, "commit");
    if (client === applicationName) {
      const lost = this.#take("app-commit", null);
      return lost === null ? null : this.#broken(lost);
    }
    const worker = this.#workerOf(client);
    const isTurn = this.#world.turns.has(connection);
    const moves = this.#world.verbs.get(connection) === "advance";
    if (worker === null || (!isTurn && !moves)) return null;
    const fault = this.#take(isTurn ? "commit-parked" : "commit", worker.place);
    if (fault === null) return null;
    if (fault.act === "kill-before" || fault.act === "kill-after") {
      worker.kill(fault.ms);
      return fault.act === "kill-before" ? "request-lost" : null;
    }
    if (fault.act === "freeze-before" || fault.act === "freeze-after") {
      this.#freeze(worker, fault.ms);
      // Frozen with the COMMIT unsent: the transaction stays open until its idle time is over.
      return fault.act === "freeze-before" ? this.#late(fault.ms) : null;
    }
    return this.#broken(fault);
  }

  #broken({ act, ms }: StepFault) {
    if (act === "request-lost" || act === "reply-lost") return act;
    if (act === "late") return this.#late(ms);
    throw new TypeError(`${act} cannot happen to a COMMIT`);
  }

  #late(ms: number): "request-late" {
    const { clock, database } = this.#world;
    const landing = clock.sleep(ms).then(() => database.faults.deliverLateCommits());
    landing.catch(() => undefined);
    return "request-late";
  }

  #batch(member: string, { partition, endOffset }: RecordBatch): BatchFault | null {
    this.#world.trace.note(member, "batch");
    const worker = this.#workerOf(member);
    const fault = worker === null ? null : this.#take("batch", worker.place);
    if (fault === null || worker === null) return null;
    const { act, ms } = fault;
    if (act === "late") return { kind: act, ms };
    if (act === "ahead") {
      worker.skipTo(partition, endOffset);
      return { kind: "lost" };
    }
    if (act === "stale" || act === "twice" || act === "lost") return { kind: act };
    this.#hit(worker, fault);
    return null;
  }

  #groupCommit(member: string): OffsetCommitFault | null {
    this.#world.trace.note(member, "group-commit");
    const worker = this.#workerOf(member);
    const fault = worker === null ? null : this.#take("group-commit", worker.place);
    if (fault === null || worker === null) return null;
    const { act } = fault;
    if (act === "lost" || act === "reply-lost" || act === "accepted") return act;
    this.#hit(worker, fault);
    return null;
  }

  #publish(records: readonly OutgoingRecord[]): PublishFault | null {
    const [first] = records;
    const place = first === undefined ? undefined : this.#senders.get(first);
    const worker = place === undefined ? undefined : this.#workers[place];
    const fault = worker === undefined ? null : this.#take("publish", worker.place);
    if (fault === null || worker === undefined) return null;
    const { act, ms } = fault;
    switch (act) {
      case "unknown-late":
        return this.#storedLate(ms);
      case "unknown-stored":
      case "unknown-lost":
      case "refused-message":
      case "refused-topic":
        return { kind: act };
      case "kill-before":
        worker.kill(ms);
        return { kind: "unknown-lost" };
      case "freeze-before":
        this.#freeze(worker, ms);
        return this.#storedLate(ms);
      default:
        this.#hit(worker, fault);
        return null;
    }
  }

  #storedLate(ms: number): PublishFault {
    this.quietAt = Math.max(this.quietAt, this.#world.clock.now() + ms + 1);
    return { kind: "unknown-late", ms };
  }

  #hit(worker: Worker, { act, ms }: StepFault): void {
    if (act.startsWith("kill")) worker.kill(ms);
    else this.#freeze(worker, ms);
  }

  #freeze(worker: Worker, ms: number): void {
    worker.freeze();
    const { name } = worker;
    const waking = this.#world.clock.sleep(ms).then(() => {
      if (worker.name === name) worker.thaw();
    });
    waking.catch(() => undefined);
  }

  /** The first fault that waits for this; it happens once. */
  #take(step: Step, place: number | null): StepFault | null {
    const at = this.#armed.findIndex(
      (fault) => fault.step === step && (place === null || fault.worker === place),
    );
    const [fault] = at < 0 ? [] : this.#armed.splice(at, 1);
    if (fault === undefined) return null;
    this.#fired(`${step}/${fault.act}`, fault.ms);
    this.#world.trace.note("fault", `${step}/${fault.act} w${fault.worker} ${fault.ms}`);
    return fault;
  }

  /** A running process by the name of its storage or of its member. */
  #workerOf(name: string): Worker | null {
    const worker = this.#workers.find(
      (each) => name === each.name || name.startsWith(`${each.name}-`),
    );
    return worker?.running ? worker : null;
  }
}
