/** O1, O2, O3: rows are written by the caller's transaction alone, and read in order, none missed. */
import type { Headers, LaneLease, OutboxEntry, OutboxRow, Storage } from "@oncebox/core";
import { holds, rejected, same, within } from "../check.ts";
import {
  drain,
  entry,
  lease,
  leaseAll,
  longWaitMs,
  names,
  publish,
  read,
  type StorageCase,
  settle,
} from "./arrange.ts";
import type { OwnTransaction, StorageUnderTest } from "./storage-under-test.ts";

const enqueueCases: readonly StorageCase[] = [
  {
    promise: "O1",
    name: "enqueue in a transaction that rolls back leaves nothing",
    run: async ({ storage, begin }) => {
      const own = await begin();
      await storage.enqueue(own.tx, [entry(0, "one"), entry(1, "two")]);
      await own.rollback();
      const failing = storage.transaction(async (tx) => {
        await storage.enqueue(tx, [entry(0, "three")]);
        throw new Error("rolled back");
      });
      await failing.catch(() => {});
      same(names((await read(storage, await leaseAll(storage))).rows), [], "the rows");
    },
  },
  {
    promise: "O1",
    name: "enqueue sends one statement, however many rows, and none for no row",
    run: async ({ storage, begin, statements }) => {
      const own = await begin();
      const many = Array.from({ length: 500 }, (_, n) => entry(n % 64, `${n}`));
      const one = await statements(own.tx, () => storage.enqueue(own.tx, [entry(0, "one")]));
      same(one, 1, "the number of statements for one row");
      const all = await statements(own.tx, () => storage.enqueue(own.tx, many));
      same(all, 1, "the number of statements for 500 rows");
      const none = await statements(own.tx, () => storage.enqueue(own.tx, []));
      holds(none <= 1, "enqueue of no row must send at most one statement");
      await own.commit();
    },
  },
  {
    promise: "O1",
    name: "enqueue needs no other connection: it works while all of the storage's are in use",
    run: async ({ storage }) => {
      const { poolSize } = await storage.check();
      let started = 0;
      let go = () => {};
      const allStarted = new Promise<void>((resolve) => {
        go = resolve;
      });
      const one = (n: number) =>
        storage.transaction(async (tx) => {
          started += 1;
          if (started === poolSize) go();
          await allStarted;
          await storage.enqueue(tx, [entry(0, `${n}`)]);
        });
      const all = Promise.all(Array.from({ length: poolSize }, (_, n) => one(n)));
      await within(longWaitMs, all, "enqueue in as many transactions as there are connections");
      same((await drain(storage, await leaseAll(storage))).length, poolSize, "the number of rows");
    },
  },
  {
    promise: "O1",
    name: "enqueue through a handle whose transaction has ended is refused and writes nothing",
    run: async ({ storage, begin }) => {
      const own = await begin();
      await own.commit();
      const finished = ["invalid-handle", "transaction-finished"] as const;
      const late = storage.enqueue(own.tx, [entry(0, "late")]);
      await rejected(late, finished, "enqueue through a finished transaction");
      same(names((await read(storage, await leaseAll(storage))).rows), [], "the rows");
    },
  },
  {
    promise: "O2",
    name: "a row can be read only after its transaction committed",
    run: async (context) => {
      const { storage, another, begin } = context;
      const reader = another();
      const leases = await leaseAll(reader);
      const own = await begin();
      await storage.enqueue(own.tx, [entry(0, "one")]);
      for (const sweep of [false, true]) {
        const { rows } = await read(reader, leases, { sweep });
        same(names(rows), [], `the rows before the commit${sweep ? ", in a sweep" : ""}`);
      }
      await own.commit();
      same(names((await read(reader, leases)).rows), ["one"], "the rows after the commit");
    },
  },
  {
    promise: "O2",
    name: "a row is read as it was written: bytes, nulls, repeated headers and their order",
    run: async (context) => {
      const { storage } = context;
      const bytes = Uint8Array.from({ length: 256 }, (_, n) => n);
      const headers: Headers = [
        ["b", bytes],
        ["a", null],
        ["b", new Uint8Array()],
        ['"quoted", {and} \\ escaped', new Uint8Array([0])],
      ];
      const written: OutboxEntry[] = [
        entry(0, "full", { key: bytes, value: bytes, headers }),
        entry(0, "tombstone", { key: new Uint8Array([0, 0]), value: null }),
        entry(0, "empty", { key: new Uint8Array(), value: new Uint8Array() }),
        entry(0, "no key", { key: null, topic: "another.topic" }),
        entry(0, "named NULL", { headers: [["NULL", null]] }),
      ];
      await publish(context, storage, ...written);
      const { rows } = await read(storage, await leaseAll(storage));
      same(
        rows.map(({ position, ...rest }) => rest),
        written,
        "the rows",
      );
    },
  },
];

const orderCases: readonly StorageCase[] = [
  {
    promise: "O3",
    name: "each lane is read in the order of enqueueing, whatever the limits, and to its end",
    run: async (context) => {
      const { storage } = context;
      const expected = new Map<number, string[]>();
      for (let round = 0; round < 6; round += 1) {
        const entries = Array.from({ length: 7 }, (_, n) => entry(n % 3, `${round}.${n}`));
        for (const { lane, id } of entries) expected.set(lane, [...(expected.get(lane) ?? []), id]);
        await publish(context, storage, ...entries);
      }
      const leases = await leaseAll(storage);
      const { more } = await read(storage, leases, { rows: 41 });
      same(more, true, "whether rows were left out by a limit of 41 of 42");
      for (const limit of [{ rows: 4 }, { bytes: 1 }, {}]) {
        const { rows } = await read(storage, leases, limit);
        holds(rows.length > 0, "a read must return at least one row where there is one");
        for (const [lane, ids] of expected) {
          const found = names(rows.filter((row) => row.lane === lane));
          same(found, ids.slice(0, found.length), `the first rows of lane ${lane}`);
        }
      }
      const all = await drain(storage, leases, { rows: 5 });
      for (const [lane, ids] of expected) {
        same(names(all.filter((row) => row.lane === lane)), ids, `all rows of lane ${lane}`);
      }
      same((await read(storage, leases)).more, false, "whether more is left at the end");
    },
  },
  {
    promise: "O3",
    name: "rows read before and not settled are left out while pending, and kept for the next holder",
    run: async (context) => {
      const { storage, another } = context;
      await publish(context, storage, ...[1, 2, 3, 4].map((n) => entry(0, `${n}`)));
      const leases = await leaseAll(storage);
      const { rows } = await read(storage, leases);
      const pending = rows.filter((row) => row.id === "2");
      await settle(
        storage,
        leases,
        rows.filter((row) => row.id !== "2"),
      );
      for (let round = 5; round < 9; round += 1) {
        await publish(context, storage, entry(0, `${round}`));
        const next = await read(storage, leases, { pending });
        same(names(next.rows), [`${round}`], "the rows read beside a pending one");
        await settle(storage, leases, next.rows);
      }
      await storage.releaseLanes("relay-a", leases);
      const other = another();
      const left = await read(other, await leaseAll(other, "relay-b"));
      same(names(left.rows), ["2"], "the rows that the next holder reads");
    },
  },
  {
    promise: "O3",
    name: "a lower position that commits after higher ones were settled is not missed",
    run: (context) =>
      lateCommitter(context, async () => {
        const late = await context.begin();
        await context.storage.enqueue(late.tx, [entry(0, "late")]);
        await publish(context, context.storage, entry(0, "early"));
        return { late };
      }),
  },
  {
    promise: "O3",
    name: "nor one whose transaction began after that of the higher position",
    run: (context) =>
      lateCommitter(context, async () => {
        const { storage, begin, insertEffect } = context;
        const [early, other, late] = [await begin(), await begin(), await begin()];
        // In this order they become transactions in the eyes of the database.
        await insertEffect(early.tx, "early");
        await insertEffect(other.tx, "other");
        await storage.enqueue(late.tx, [entry(0, "late")]);
        await storage.enqueue(early.tx, [entry(0, "early")]);
        await early.commit();
        return { late, other };
      }),
  },
  {
    promise: "O3",
    name: "nor one of several that overlap, in lanes read by one holder after another",
    run: overlapping,
  },
  {
    promise: "O3",
    name: "beside many writers no committed row is missed or read twice, and order per key holds",
    run: manyWriters,
  },
];

/**
 * `arrange` commits the row `early` and leaves open a transaction that has written `late` below it,
 * perhaps another that ends when `early` is settled.
 */
async function lateCommitter<Tx>(
  context: StorageUnderTest<Tx>,
  arrange: () => Promise<{ late: OwnTransaction<Tx>; other?: OwnTransaction<Tx> }>,
): Promise<void> {
  const { storage, another } = context;
  const reader = another();
  // Before, so that nothing that is newer ends between the writers' commits and the settling.
  const leases = await leaseAll(reader);
  const { late, other } = await arrange();
  const first = await read(reader, leases);
  same(names(first.rows), ["early"], "the rows before the late commit");
  await settle(reader, leases, first.rows);
  await other?.rollback();
  // The floor may be moved by any later read or settle: give it every chance.
  for (let round = 0; round < 4; round += 1) {
    await publish(context, storage, entry(0, `higher ${round}`), entry(1, `lane 1, ${round}`));
    const next = await read(reader, leases);
    same(next.rows.length, 2, "the number of rows read in a round");
    await settle(reader, leases, next.rows);
    same((await read(reader, leases)).rows.length, 0, "the number of rows read after settling");
  }
  await late.commit();
  const found = await read(reader, leases);
  same(names(found.rows), ["late"], "the rows after the late commit");
  same(
    found.rows.every((row) => row.position < (first.rows[0] as OutboxRow).position),
    true,
    "whether the late row has the lower position, as this case needs",
  );
  await settle(reader, leases, found.rows);
  const swept = await read(reader, leases, { sweep: true });
  same([names(swept.rows), swept.belowFloor], [[], 0], "what a sweep finds at the end");
}

/** Three writers open at any time, each committing two rounds late; the holder changes half-way. */
async function overlapping<Tx>(context: StorageUnderTest<Tx>): Promise<void> {
  const { storage, another, begin } = context;
  const open: OwnTransaction<Tx>[] = [];
  const seen: string[] = [];
  let holder = another();
  let leases = await leaseAll(holder);
  const round = async () => {
    const { rows } = await read(holder, leases);
    seen.push(...names(rows));
    await settle(holder, leases, rows);
  };
  const rounds = 12;
  for (let n = 0; n < rounds; n += 1) {
    const own = await begin();
    await storage.enqueue(own.tx, [entry(n % 2, `late ${n}`)]);
    open.push(own);
    await publish(context, storage, entry(0, `zero ${n}`), entry(1, `one ${n}`));
    await round();
    if (open.length > 2) await (open.shift() as OwnTransaction<Tx>).commit();
    await round();
    if (n !== rounds / 2) continue;
    await holder.releaseLanes("relay-a", leases);
    holder = another();
    leases = await leaseAll(holder, "relay-b");
  }
  for (const own of open) await own.commit();
  await round();
  const expected = Array.from({ length: rounds }, (_, n) => [`late ${n}`, `one ${n}`, `zero ${n}`]);
  same(seen.sort(), expected.flat().sort(), "all rows read");
  const swept = await read(holder, leases, { sweep: true });
  same([names(swept.rows), swept.belowFloor], [[], 0], "what a sweep finds at the end");
}

const writers = 6;
const transactionsEach = 20;

/**
 * Writers hold their transactions open over other writers' commits, so positions commit out of
 * order all the time. Rows of one key are written behind one another, as behind a business lock.
 */
async function manyWriters<Tx>(context: StorageUnderTest<Tx>): Promise<void> {
  const { storage, another, begin } = context;
  const keys = Array.from({ length: 8 }, (_, n) => {
    return { name: `key ${n}`, lane: n % 3, count: 0, free: Promise.resolve() };
  });
  const write = async (writer: number, nth: number) => {
    const key = keys[(writer * 5 + nth * 3) % keys.length] as (typeof keys)[number];
    const before = key.free;
    let done = () => {};
    key.free = new Promise((resolve) => {
      done = resolve;
    });
    await before;
    const own = await begin();
    const bytes = new TextEncoder().encode(key.name);
    const next = () => entry(key.lane, `${key.name}#${key.count++}`, { key: bytes });
    await storage.enqueue(own.tx, [next(), next()]);
    // Some wait for other writers' work, some do not: this spreads the commits.
    for (let wait = 0; wait < (writer * nth) % 4; wait += 1) await context.openTransactions();
    await own.commit();
    done();
  };
  const writing = Promise.all(
    Array.from({ length: writers }, async (_, writer) => {
      for (let nth = 0; nth < transactionsEach; nth += 1) await write(writer, nth);
    }),
  );
  const total = writers * transactionsEach * 2;
  const seen = await collect(another(), total, writing);
  same(new Set(seen).size, seen.length, "the number of rows read, doubles not counted");
  for (const { name, count } of keys) {
    const numbers = seen.filter((id) => id.startsWith(`${name}#`));
    same(
      numbers,
      Array.from({ length: count }, (_, n) => `${name}#${n}`),
      `rows of ${name}`,
    );
  }
}

/** Reads and settles beside the writers, then to the end; the names in order of reading. */
async function collect<Tx>(
  reader: Storage<Tx>,
  total: number,
  writing: Promise<unknown>,
): Promise<readonly string[]> {
  let over = false;
  const end = writing.then(() => {
    over = true;
  });
  const leases: readonly LaneLease[] = await lease(reader);
  const seen: string[] = [];
  for (let last = false; !last && seen.length <= total; ) {
    last = over;
    const { rows } = await read(reader, leases, { rows: 7 });
    seen.push(...names(rows));
    await settle(reader, leases, rows);
    // What was committed before `over` is read by a read that began after it.
    last = last && rows.length === 0;
  }
  await end;
  const swept = await read(reader, leases, { sweep: true });
  same([names(swept.rows), swept.belowFloor], [[], 0], "what a sweep finds at the end");
  return seen;
}

export const outboxCases: readonly StorageCase[] = [...enqueueCases, ...orderCases];
