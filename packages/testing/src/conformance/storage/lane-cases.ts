/** O4, O5, O6: one live holder a lane, no transaction while publishing, exact deletes. */
import type { LaneLease } from "@oncebox/core";
import { eventually, holds, same } from "../check.ts";
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

/** Short enough to wait for its end. */
const briefLeaseMs = 150;

/** Whether these are the lanes of those leases, all of them and no other, in any order. */
function sameLanes(lanes: readonly number[], leases: readonly LaneLease[], what: string): void {
  const ascending = (a: number, b: number) => a - b;
  same([...lanes].sort(ascending), leases.map(({ lane }) => lane).sort(ascending), what);
}

const leaseCases: readonly StorageCase[] = [
  {
    promise: "O4",
    name: "relays that ask at once share the lanes, and no lane has two holders",
    run: async ({ storage, another }) => {
      const relays = [storage, another(), another(), storage];
      const asking = relays.map((each, n) =>
        each.leaseLanes({ relay: `relay ${n}`, leaseMs: 60_000, renew: [], acquireMax: 20 }),
      );
      const answers = await Promise.all(asking);
      const held = answers.flatMap(({ leases }) => leases.map(({ lane }) => lane));
      same(new Set(held).size, held.length, "the number of leased lanes, doubles not counted");
      for (const { leases } of answers) {
        holds(leases.length <= 20, `a relay that asked for 20 lanes got ${leases.length}`);
      }
      const late = await storage.leaseLanes({
        ...{ relay: "relay 4", leaseMs: 60_000, renew: [], acquireMax: 64 },
      });
      same(held.length + late.leases.length, 64, "the number of lanes that are held at last");
      same(late.relays, 5, "the number of live relays");
    },
  },
  {
    promise: "O4",
    name: "a live lease is not taken; a renewed one keeps its token; a released one is free at once",
    run: async (context) => {
      const { storage, another } = context;
      const other = another();
      await publish(context, storage, entry(0, "one"));
      const leases = await leaseAll(storage);
      same(await lease(other, "relay-b"), [], "the lanes another relay gets meanwhile");
      const renewed = await storage.leaseLanes({
        ...{ relay: "relay-a", leaseMs: 60_000, renew: leases, acquireMax: 0 },
      });
      const byLane = (a: { lane: number }, b: { lane: number }) => a.lane - b.lane;
      same([...renewed.leases].sort(byLane), [...leases].sort(byLane), "the renewed leases");
      await storage.releaseLanes("relay-a", leases);
      same((await lease(other, "relay-b")).length, 64, "the lanes another relay gets after it");
    },
  },
  {
    promise: "O4",
    name: "a settle under a lease that was taken over changes nothing and reports the lane lost",
    run: async (context) => {
      const { storage, another } = context;
      await publish(context, storage, entry(0, "one"), entry(1, "two"));
      const old = await leaseAll(storage, "relay-a", briefLeaseMs);
      const { rows } = await read(storage, old);
      const other = another();
      const taken: LaneLease[] = [];
      await eventually(
        longWaitMs,
        async () => {
          // A request that comes in the moment in which they expire may find some of them only.
          taken.push(...(await lease(other, "relay-b")));
          return taken.length === 64 ? true : undefined;
        },
        "a lease of all lanes after theirs expired",
      );
      const { lost } = await storage.settleBatch(old, rows);
      sameLanes(lost, old, "the lanes reported lost");
      const renewed = await storage.leaseLanes({
        ...{ relay: "relay-a", leaseMs: 60_000, renew: old, acquireMax: 0 },
      });
      same(renewed.leases, [], "what a renewal of lost leases keeps");
      await storage.releaseLanes("relay-a", old);
      const left = await read(other, taken);
      same(names(left.rows).sort(), ["one", "two"], "the rows left for the new holder");
      await settle(other, taken, left.rows);
    },
  },
  {
    promise: "O4",
    name: "a settle under an expired lease that nobody took is done whole, or reported lost and not done",
    run: async (context) => {
      const { storage, another } = context;
      await publish(context, storage, entry(0, "one"));
      const old = await leaseAll(storage, "relay-a", briefLeaseMs);
      const { rows } = await read(storage, old);
      const observer = another();
      await eventually(
        longWaitMs,
        async () => {
          const request = { relay: "observer", leaseMs: 60_000, renew: [], acquireMax: 0 };
          // A relay whose leases expired no longer counts as alive.
          return (await observer.leaseLanes(request)).relays === 1 ? true : undefined;
        },
        "the end of a relay's leases",
      );
      // Both are safe: as long as nobody took the lane, nobody else reads it.
      const { lost } = await storage.settleBatch(old, rows);
      const taken = await leaseAll(observer, "observer");
      const left = names((await read(observer, taken)).rows);
      same(left, lost.length === 0 ? [] : ["one"], `the rows left where ${lost.length} was lost`);
    },
  },
  {
    promise: "O4",
    name: "another lease of the same relay is another one",
    run: async (context) => {
      const { storage } = context;
      await publish(context, storage, entry(0, "one"));
      const old = await leaseAll(storage);
      const { rows } = await read(storage, old);
      await storage.releaseLanes("relay-a", old);
      const leases = await leaseAll(storage);
      sameLanes((await storage.settleBatch(old, rows)).lost, old, "the lanes reported lost");
      same(names(await drain(storage, leases)), ["one"], "the rows left");
    },
  },
];

const settleCases: readonly StorageCase[] = [
  {
    promise: "O5",
    name: "no transaction is open after leasing, between reading and settling, and after it",
    run: async (context) => {
      const { storage, openTransactions } = context;
      await publish(context, storage, entry(0, "one"), entry(1, "two"));
      const leases = await leaseAll(storage);
      same(await openTransactions(), 0, "the number of open transactions after leasing");
      const { rows } = await read(storage, leases);
      same(rows.length, 2, "the number of rows");
      same(await openTransactions(), 0, "the number of open transactions while publishing");
      await settle(storage, leases, rows);
      same(await openTransactions(), 0, "the number of open transactions after settling");
      await storage.releaseLanes("relay-a", leases);
      same(await openTransactions(), 0, "the number of open transactions after releasing");
    },
  },
  {
    promise: "O6",
    name: "a settle deletes exactly the confirmed rows, none that lies between them",
    run: async (context) => {
      const { storage, begin } = context;
      const late = await begin();
      await publish(context, storage, entry(0, "1"));
      await storage.enqueue(late.tx, [entry(0, "between")]);
      await publish(context, storage, ...["2", "3", "4", "5"].map((name) => entry(0, name)));
      await publish(context, storage, entry(1, "other lane"));
      const leases = await leaseAll(storage);
      const { rows } = await read(storage, leases);
      same(rows.length, 6, "the number of rows");
      await late.commit();
      await settle(
        storage,
        leases,
        rows.filter((row) => ["1", "3", "5"].includes(row.id)),
      );
      const left = await read(storage, leases, { sweep: true });
      same(names(left.rows).sort(), ["2", "4", "between", "other lane"], "the rows left");
    },
  },
  {
    promise: "O6",
    name: "a settle is by lane and position: another lane's row keeps its own",
    run: async (context) => {
      const { storage } = context;
      await publish(context, storage, entry(0, "zero"), entry(1, "one"));
      const leases = await leaseAll(storage);
      const { rows } = await read(storage, leases);
      const crossed = rows.map((row) => ({ ...row, lane: 1 - row.lane }));
      await storage.settleBatch(leases, crossed);
      const left = await read(storage, leases, { sweep: true });
      same(names(left.rows).sort(), ["one", "zero"], "the rows left");
    },
  },
  {
    promise: "O6",
    name: "of a batch over held and lost lanes only the held lanes' rows are deleted",
    run: async (context) => {
      const { storage, another } = context;
      await publish(context, storage, entry(0, "zero"), entry(1, "one"));
      const leases = await leaseAll(storage);
      const { rows } = await read(storage, leases);
      await storage.releaseLanes(
        "relay-a",
        leases.filter(({ lane }) => lane === 1),
      );
      const other = another();
      const taken = await lease(other, "relay-b");
      same(
        taken.map(({ lane }) => lane),
        [1],
        "the lanes the other relay gets",
      );
      same((await storage.settleBatch(leases, rows)).lost, [1], "the lanes reported lost");
      same(names((await read(other, taken)).rows), ["one"], "the rows left in the lost lane");
      const kept = leases.filter(({ lane }) => lane === 0);
      same(names((await read(storage, kept, { sweep: true })).rows), [], "those in the held lane");
    },
  },
  {
    promise: "O6",
    name: "settling rows again, or none, changes nothing",
    run: async (context) => {
      const { storage } = context;
      await publish(context, storage, entry(0, "one"), entry(0, "two"));
      const leases = await leaseAll(storage);
      const { rows } = await read(storage, leases, { rows: 1 });
      same(names(rows), ["one"], "the rows read");
      await settle(storage, leases, rows);
      await settle(storage, leases, rows);
      await settle(storage, leases, []);
      same(names((await read(storage, leases)).rows), ["two"], "the rows left");
    },
  },
];

export const laneCases: readonly StorageCase[] = [...leaseCases, ...settleCases];
