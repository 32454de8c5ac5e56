// Owns what each step of a storage script does, by the port alone, and its outcome in words.

import type { LogMark, OutboxEntry } from "@oncebox/core";
import {
  auditInWords,
  claimInWords,
  leasesInWords,
  positionsInWords,
  rangesOf,
  rowsInWords,
  ThrownByWork,
} from "./storage-outcome.ts";
import {
  checksum,
  found,
  messageOf,
  recordOf,
  type Scene,
  timeOf,
  usualTopic,
  type Work,
} from "./storage-scene.ts";
import type { Step } from "./storage-script.ts";

/** The runner itself moves the time. */
type Verb = Exclude<Step["do"], "pass" | "wait">;
type StepOf<V extends Verb> = Extract<Step, { readonly do: V }>;
type Verbs = {
  readonly [V in Verb]: <Tx>(scene: Scene<Tx>, step: StepOf<V>) => Promise<string>;
};

/** Does it; the outcome in words. Rejects with what the port rejects with. */
export async function act<Tx>(scene: Scene<Tx>, step: Step): Promise<string> {
  if (step.do === "pass" || step.do === "wait") return "done";
  const verb = verbs[step.do] as (scene: Scene<Tx>, step: Step) => Promise<string>;
  return verb(scene, step);
}

const audit = { actor: "an operator", reason: "a script" };

function startsOf(starts: readonly number[]): ReadonlyMap<number, bigint> {
  return new Map(starts.map((offset, partition) => [partition, BigInt(offset)]));
}

const inboxVerbs = {
  register: async ({ side, consumer }, step) => {
    const { starts, topic = usualTopic, group = "group", topicId = null, added = [] } = step;
    await side.storageOf(step.by).registerTopic({
      ...{ consumer, groupId: group, topic, topicId, start: startsOf(starts) },
      added: new Map(added.map(([partition, offset]) => [partition, BigInt(offset)])),
    });
    return "done";
  },
  adopt: async ({ side, consumer }, step) => {
    const { starts, topic = usualTopic, group: groupId = "group", topicId = null } = step;
    const topics = [{ topic, topicId, start: startsOf(starts) }];
    await side.storageOf(step.by).adopt({ consumer, groupId, topics, audit });
    return "done";
  },
  registered: async ({ side, consumer }, { by, topic = usualTopic }) =>
    (await side.storageOf(by).isRegistered(consumer, topic)) ? "yes" : "no",
  claim: async (scene, { by, as, partition = 0, topic = usualTopic, waitMs = 30_000 }) => {
    const { side, consumer, claims, labels } = scene;
    const ref = { consumer, topic, partition, owner: `process ${by}` };
    const claim = await side.storageOf(by).claim(ref, waitMs);
    if (claim !== null) claims.set(as, claim);
    return claimInWords(claim, labels);
  },
  lost: async ({ side, claims }, { by, claims: names }) => {
    const asked = names.map((name) => found(claims.get(name)));
    const lost = await side.storageOf(by).lostClaims(asked);
    return names.filter((_, place) => lost.includes(asked[place] as never)).join(" ") || "none";
  },
  positions: async ({ side, consumer, labels }, { by }) =>
    positionsInWords(await side.storageOf(by).positions(consumer), labels).join("; "),
  seek: async ({ side, consumer, claims }, step) => {
    const { by, moves, replay = false, expected, topicId = null } = step;
    const moved = await side.storageOf(by).seek({
      ...{ consumer, topic: usualTopic, topicId, replay, audit },
      moves: moves.map(([partition, to]) => ({ partition, to: BigInt(to) })),
      expected: expected === undefined ? null : found(claims.get(expected)),
    });
    if (moved === null) return "not held any more";
    return moved.map(({ partition, from, to }) => `${partition}: ${from} to ${to}`).join(", ");
  },
  "audit log": async ({ side, consumer }, { by }) =>
    auditInWords(await side.storageOf(by).auditLog(consumer, { limit: 100, below: null })),
} satisfies Partial<Verbs>;

const transactionVerbs = {
  open: async (scene, { by, as, claim: name, records }) => {
    const claim = found(scene.claims.get(name));
    const chunk = await scene.side.storageOf(by).open(claim, records.map(recordOf));
    scene.made.set(as, { actor: by, kind: "chunk", chunk, claim });
    scene.open.add(as);
    return `at ${chunk.nextOffset}: ${chunk.recorded.join(" ") || "no records"}`;
  },
  begin: async (scene, { as }) => {
    scene.made.set(as, { actor: "a", kind: "own", own: await scene.side.begin() });
    scene.open.add(as);
    return "done";
  },
  work: async (scene, { by, as }) => {
    const work = await beginWork(scene, by);
    scene.made.set(as, { actor: by, kind: "work", work });
    scene.open.add(as);
    return "begun";
  },
  commit: async (scene, step) => {
    const open = found(scene.made.get(step.of));
    const wasOpen = scene.open.has(step.of);
    try {
      if (open.kind === "own") await open.own.commit();
      else if (open.kind === "work") await open.work.end(null);
      else {
        const { to = Number(open.chunk.nextOffset) } = step;
        await open.chunk.commit(BigInt(to), markOf(step));
      }
    } finally {
      scene.open.delete(step.of);
      if (step.fault !== undefined && wasOpen) scene.hangs();
    }
    return "committed";
  },
  rollback: async (scene, { of }) => {
    const open = found(scene.made.get(of));
    try {
      if (open.kind === "own") await open.own.rollback();
      else if (open.kind === "work") await open.work.end(new ThrownByWork());
      else return (await open.chunk.rollback()) ? "clean" : "the connection is gone";
    } finally {
      scene.open.delete(of);
    }
    return "rolled back";
  },
  destroy: async (scene, { of }) => {
    const open = found(scene.made.get(of));
    if (open.kind !== "chunk") return "no chunk";
    open.chunk.destroy();
    scene.open.delete(of);
    return "done";
  },
  handle: async (scene, { of, as }) => {
    const open = found(scene.made.get(of));
    if (open.kind !== "chunk") return "no chunk";
    scene.handles.set(as, open.chunk.handle());
    scene.ofHandle.set(as, of);
    return "done";
  },
  end: async ({ handles }, { handle }) => {
    found(handles.get(handle)).end();
    return "done";
  },
  deliver: async (scene) => {
    scene.deliver();
    return "done";
  },
} satisfies Partial<Verbs>;

async function beginWork<Tx>(scene: Scene<Tx>, by: StepOf<"work">["by"]): Promise<Work<Tx>> {
  let end: (error: Error | null) => void = () => {};
  const gate = new Promise<void>((resolve, reject) => {
    end = (error) => (error === null ? resolve() : reject(error));
  });
  // Told by whoever waits for the whole.
  gate.catch(() => {});
  return new Promise((resolve, reject) => {
    const whole = scene.side.storageOf(by).transaction(async (tx) => {
      resolve({
        tx,
        end: (error) => {
          end(error);
          return whole;
        },
      });
      await gate;
    });
    whole.catch(reject);
  });
}

function markOf({ mark }: StepOf<"commit">): LogMark {
  if (mark === undefined) return { topicId: null, leaderEpoch: null, last: null };
  const { topicId, epoch: leaderEpoch, last: at } = mark;
  const last = at === undefined ? null : { offset: BigInt(at), timestamp: timeOf(at), checksum };
  return { topicId, leaderEpoch, last };
}

const insideVerbs = {
  effect: async (scene, { in: name, text }) => {
    await scene.side.insertEffect(scene.txOf(name), text);
    return "done";
  },
  fail: async (scene, { in: name }) => {
    await scene.side.failStatement(scene.txOf(name));
    return "not refused";
  },
  "end secretly": async (scene, { in: name, begin }) => {
    await scene.side.endSecretly(scene.txOf(name), { begin });
    if (!begin) scene.open.delete(scene.ofHandle.get(name) ?? name);
    return "done";
  },
  cut: async (scene, { in: name }) => {
    if (!scene.open.has(scene.ofHandle.get(name) ?? name)) return "nothing is open";
    await scene.side.cut(scene.txOf(name));
    scene.open.delete(scene.ofHandle.get(name) ?? name);
    return "done";
  },
  record: async (scene, { in: name, by, ids }) => {
    const { consumer, side } = scene;
    const tx = scene.txOf(name);
    return (await side.storageOf(by).recordIds(tx, consumer, ids.map(messageOf))).join(" ");
  },
  enqueue: async (scene, { in: name, by, lane, rows }) => {
    const entries = rows.map((id): OutboxEntry => {
      const bytes = new TextEncoder().encode(id);
      return { lane, id, topic: usualTopic, key: bytes, value: bytes, headers: [] };
    });
    await scene.side.storageOf(by).enqueue(scene.txOf(name), entries);
    return "done";
  },
} satisfies Partial<Verbs>;

const relayVerbs = {
  lease: async ({ side, leases, tokens }, { by, as, max = 64, renew, ms = 60_000 }) => {
    const kept = renew === undefined ? [] : found(leases.get(renew));
    const answer = await side
      .storageOf(by)
      .leaseLanes({ relay: `relay ${by}`, leaseMs: ms, renew: kept, acquireMax: max });
    leases.set(as, answer.leases);
    const words = leasesInWords(answer.leases, tokens);
    for (const { lane, token } of answer.leases) tokens.set(lane, token);
    return `${words}, relays ${answer.relays}`;
  },
  release: async ({ side, leases }, { by, leases: name }) => {
    await side.storageOf(by).releaseLanes(`relay ${by}`, found(leases.get(name)));
    return "done";
  },
  read: async ({ side, leases, reads }, step) => {
    const { by, as, leases: name, rows: limit = 1_000, pending, sweep = false } = step;
    const before = pending === undefined ? [] : found(reads.get(pending));
    const limits = { rows: limit, bytes: 10_000_000, pending: before, sweep };
    const answer = await side.storageOf(by).readLanes(found(leases.get(name)), limits);
    reads.set(as, answer.rows);
    const more = answer.more ? ", and more" : "";
    return `${rowsInWords(answer.rows)}${more}, below the floor ${answer.belowFloor}`;
  },
  settle: async ({ side, leases, reads }, { by, leases: name, read, only }) => {
    const rows = found(reads.get(read)).filter(({ id }) => only?.includes(id) ?? true);
    const { lost } = await side.storageOf(by).settleBatch(found(leases.get(name)), rows);
    return `lost ${rangesOf(lost)}`;
  },
} satisfies Partial<Verbs>;

const verbs: Verbs = { ...inboxVerbs, ...transactionVerbs, ...insideVerbs, ...relayVerbs };
