/**
 * B1: COMMITs of chunks whose answers never arrive, through a proxy between a consumer and its
 * database: lost before the server, lost on the way back, or delivered long after everybody gave up.
 * PostgreSQL itself says what became of each (pg_xact_status). Messages carry no ids here: what keeps
 * them from loss and doubling is that the partition is claimed again, behind the old transaction's
 * lock, and that its row is the authority.
 */
import { CommitUnknownError, type Message, type Storage, StorageError } from "@oncebox/core";
import { postgresStorage } from "@oncebox/postgres";
import type { ClientBase } from "pg";
import { describe, expect, it } from "vitest";
import type { FaultProxy } from "../fixtures/proxy.ts";
import type { RequestFault } from "../fixtures/proxy-faults.ts";
import { type PlannedFault, planFault, startDatabaseProxy } from "../fixtures/proxy-faults.ts";
import { type Scene, scene, textTopic } from "../fixtures/scene.ts";
import { hasKafka } from "../fixtures/servers.ts";

const idleInTransactionTimeoutMs = 3_000;

/** A COMMIT that was struck, and the transaction that it was to commit. */
interface Struck {
  readonly fault: RequestFault;
  readonly planned: PlannedFault;
  readonly xid: string;
}

interface Stage extends AsyncDisposable {
  readonly s: Scene;
  readonly proxy: FaultProxy;
  readonly storage: Storage<ClientBase>;
  readonly struck: readonly Struck[];
  /** Resolves when the first COMMIT has been struck. */
  readonly first: Promise<void>;
  /** Starts a consumer that strikes the COMMIT of a chunk, the first time it handles these offsets. */
  start(storage: Storage<ClientBase>, faults: ReadonlyMap<number, RequestFault>): Promise<void>;
  /** What PostgreSQL says of the struck transactions, in their order. */
  statuses(): Promise<string[]>;
}

async function stage(pipelined: boolean): Promise<Stage> {
  const s = await scene();
  const { proxy, url } = await startDatabaseProxy(s.databaseUrl);
  const pool = s.morePool({ connectionString: url, pipeline: pipelined } as object);
  const storage = postgresStorage({ pool, idleInTransactionTimeoutMs });
  const struck: Struck[] = [];
  let strike = (_: Promise<void>) => {};
  const first = new Promise<void>((resolve) => {
    strike = resolve;
  });
  return {
    ...{ s, proxy, storage, struck, first },
    start: async (through, faults) => {
      const left = new Map(faults);
      const handler = async ({ value, offset }: Message<string>, tx: ClientBase) => {
        await tx.query("INSERT INTO effects (value) VALUES ($1)", [value]);
        const fault = left.get(Number(offset));
        if (fault === undefined || !left.delete(Number(offset))) return;
        const { rows } = await tx.query("SELECT pg_current_xact_id()::text AS xid");
        // The next COMMIT of this consumer is that of this chunk: it has one partition.
        const planned = planFault(proxy, { on: { text: "COMMIT" }, fault });
        struck.push({ fault, planned, xid: rows[0].xid });
        strike(planned.until());
      };
      await s
        .bareConsumer({ storage: through, chunkSizeMax: 2 })
        .handle(textTopic(s.topic), handler)
        .start();
    },
    statuses: async () => {
      const { rows } = await s.pool.query<{ status: string }>(
        `SELECT pg_xact_status(x::xid8) AS status FROM unnest($1::text[])
         WITH ORDINALITY AS g (x, place) ORDER BY place`,
        [struck.map(({ xid }) => xid)],
      );
      return rows.map(({ status }) => status);
    },
    [Symbol.asyncDispose]: async () => {
      // First the way to the database: a consumer that stops must not wait for what is held.
      proxy.release();
      await s[Symbol.asyncDispose]();
      await storage.close();
      await proxy.close();
    },
  };
}

const valuesOf = (count: number) => Array.from({ length: count }, (_, i) => `m${i}`);

/** Every `every`-th message strikes its chunk's COMMIT, these faults by turns. */
function faultsEvery(every: number, count: number, ...faults: readonly RequestFault[]) {
  const list = Array.from({ length: count }, (_, i) => {
    return [i * every + 1, faults[i % faults.length] as RequestFault] as const;
  });
  return new Map(list);
}

/** How many COMMITs were unknown; red where a chunk was opened behind one before a new claim. */
function unknowns({ s }: Stage): number {
  const types = s.ear.heard.map(({ type }) => type);
  const next = types.flatMap((type, at) =>
    type === "inbox.commit-unknown"
      ? [types.slice(at).find((each) => each === "inbox.claimed" || each === "inbox.chunk-opening")]
      : [],
  );
  expect(next).toEqual(next.map(() => "inbox.claimed"));
  return next.length;
}

describe.skipIf(!hasKafka())("B1: COMMITs that are cut", () => {
  // Guards #setBack "unknown" (core/inbox/partition.ts) and the claim's wait for the row.
  // The row's position would save what is run again under an old claim: see the last control.
  it("ten before the server and ten behind it: each message has one effect", async () => {
    // Without pipelining the answer behind COMMIT is certainly that of COMMIT.
    await using at = await stage(false);
    const { s, storage, struck } = at;
    const values = valuesOf(64);
    await s.produce(0, ...values);
    await at.start(storage, faultsEvery(3, 20, "cut request", "cut reply"));
    await s.ear.waitFor("inbox.chunk-committed", ({ nextOffset }) => nextOffset === 64n);
    expect(await s.effects()).toEqual(values);
    expect(struck.map(({ planned }) => planned.struck)).toEqual(struck.map(() => 1));
    const expected = struck.map(({ fault }) => (fault === "cut reply" ? "committed" : "aborted"));
    expect(await at.statuses()).toEqual(expected);
    expect(expected.filter((status) => status === "committed")).toHaveLength(10);
    expect(expected).toHaveLength(20);
    expect(unknowns(at)).toBe(20);
  });

  it("ten on a pipelining pool, where the advance may be lost with it", async () => {
    await using at = await stage(true);
    const { s, storage, struck } = at;
    const values = valuesOf(40);
    await s.produce(0, ...values);
    await at.start(storage, faultsEvery(4, 10, "cut request", "cut reply"));
    await s.ear.waitFor("inbox.chunk-committed", ({ nextOffset }) => nextOffset === 40n);
    expect(await s.effects()).toEqual(values);
    expect(struck).toHaveLength(10);
    expect(unknowns(at)).toBe(10);
  });
});

describe.skipIf(!hasKafka())("B1: COMMITs that arrive late", () => {
  // Guards the claim's wait: who reads the row before the transaction has ended reads what is not so.
  it("while the transaction is open: they count, and nothing is run again", async () => {
    await using at = await stage(false);
    const { s, proxy, storage } = at;
    await s.produce(0, "a", "b", "c", "d");
    await at.start(storage, new Map([[1, "hold request"]]));
    const unknown = s.ear.waitFor("inbox.commit-unknown");
    await at.first;
    proxy.cutClients();
    await unknown;
    // The server has heard neither COMMIT nor the end of the client.
    const { error } = await s.ear.waitFor("inbox.claim-waiting");
    expect(error.code).toBe("claim-timeout");
    expect(await at.statuses()).toEqual(["in progress"]);
    proxy.release();
    await s.ear.waitFor("inbox.chunk-committed", ({ nextOffset }) => nextOffset === 4n);
    expect(await at.statuses()).toEqual(["committed"]);
    expect(await s.effects()).toEqual(["a", "b", "c", "d"]);
  });

  // Guards the idle time-out of a chunk's transaction (postgres/chunk.ts): nobody would end it else.
  it("after the time-out ended the transaction: they change nothing, and it is run again", async () => {
    await using at = await stage(false);
    const { s, proxy, storage } = at;
    await s.produce(0, "a", "b", "c", "d");
    await at.start(storage, new Map([[1, "hold request"]]));
    const unknown = s.ear.waitFor("inbox.commit-unknown");
    await at.first;
    proxy.cutClients();
    await unknown;
    const since = s.ear.heard.length;
    await s.ear.waitFor("inbox.claimed", () => true, since);
    expect(await at.statuses()).toEqual(["aborted"]);
    proxy.release();
    await s.ear.waitFor("inbox.chunk-committed", ({ nextOffset }) => nextOffset === 4n);
    expect(await at.statuses()).toEqual(["aborted"]);
    expect(await s.effects()).toEqual(["a", "b", "c", "d"]);
  });
});

type Wrong = "as failed" | "as committed";

/**
 * A storage that thinks to know what became of a COMMIT without an answer. `looks`: whether `open`
 * still says where the row is; else the worker's own position is taken for the truth.
 */
function presuming(storage: Storage<ClientBase>, wrong: Wrong, looks: boolean) {
  const open: typeof storage.open = async (claim, records) => {
    const chunk = await storage.open(claim, records);
    const [first] = records;
    const believed =
      looks || first === undefined
        ? {}
        : { nextOffset: first.offset, recorded: records.map(() => "new" as const) };
    const commit: typeof chunk.commit = async (nextOffset, mark) => {
      try {
        await chunk.commit(nextOffset, mark);
      } catch (error) {
        if (!(error instanceof CommitUnknownError)) throw error;
        if (wrong === "as committed") return;
        throw new StorageError("storage-conflict", "presumed to have failed", { retryable: true });
      }
    };
    return { ...chunk, ...believed, commit };
  };
  return { ...storage, open };
}

describe.skipIf(!hasKafka())("B1: controls that must be caught", () => {
  const cuts = 4;
  const outcomeOf = async (wrong: Wrong, looks: boolean) => {
    await using at = await stage(false);
    const { s, storage } = at;
    const values = valuesOf(24);
    await s.produce(0, ...values);
    const fault = wrong === "as failed" ? "cut reply" : "cut request";
    await at.start(presuming(storage, wrong, looks), faultsEvery(4, cuts, fault));
    await s.ear.waitFor("inbox.chunk-committed", ({ nextOffset }) => nextOffset === 24n);
    const effects = await s.effects();
    const lost = values.filter((value) => !effects.includes(value)).length;
    expect(at.struck).toHaveLength(cuts);
    expect(unknowns(at)).toBe(0);
    const displaced = s.ear.heard.filter(({ type }) => type === "inbox.displaced").length;
    return { lost, doubled: effects.length - new Set(effects).size, displaced };
  };

  it("unknown taken as failed: what was committed is run again", async () => {
    const { lost, doubled } = await outcomeOf("as failed", false);
    expect(doubled).toBeGreaterThanOrEqual(cuts);
    expect(lost).toBe(0);
  });

  it("unknown taken as committed: what was not is lost", async () => {
    const { lost, doubled } = await outcomeOf("as committed", false);
    expect(lost).toBeGreaterThanOrEqual(cuts);
    expect(doubled).toBe(0);
  });

  // The second line: the row says that the worker is not where it thinks it is.
  it.each(["as failed", "as committed"] as const)(
    "unknown taken %s is caught by the position that `open` reads",
    async (wrong) => {
      expect(await outcomeOf(wrong, true)).toEqual({ lost: 0, doubled: 0, displaced: cuts });
    },
  );
});
