/** Ids of `inbox.once` under a name without a consumer: forgotten behind a window, when it is asked for. */
import { join } from "node:path";
import { createInbox, type Inbox } from "@oncebox/core";
import { migrate, postgresStorage } from "@oncebox/postgres";
import { migrate as sqliteMigrate, sqliteStorage } from "@oncebox/sqlite";
import { expect, it } from "vitest";
import { openDatabase, temporaryFolder } from "../conformance/sqlite-knex-under-test.ts";
import { testDatabase } from "../fixtures/servers.ts";

const day = 86_400_000;
const hour = 3_600_000;

/** A name that records ids, and tampering with when it did. */
interface Hooks {
  readonly once: (id: string) => Promise<string>;
  readonly prune: Inbox<never>["prune"];
}
interface Place {
  readonly hooks: (name: string) => Hooks;
  /** Has all ids that are there recorded so much earlier. */
  readonly age: (ms: number) => Promise<void>;
  readonly ids: () => Promise<number>;
  /** Gives the name to a consumer. */
  readonly register: (name: string) => Promise<void>;
  readonly end: () => Promise<void>;
}

const registration = (consumer: string) => ({
  ...{ consumer, groupId: consumer, topic: "orders", topicId: null },
  ...{ start: new Map([[0, 0n]]), added: new Map() },
});

async function onPostgres(): Promise<Place & { readonly steps: readonly number[] }> {
  const database = await testDatabase();
  const pool = database.pool();
  await migrate(pool);
  const storage = postgresStorage({ pool });
  const steps: number[] = [];
  const noting: typeof storage = {
    ...storage,
    pruneIds: async (request) => {
      const pruned = await storage.pruneIds(request);
      steps.push(pruned.deleted);
      return pruned;
    },
  };
  return {
    steps,
    hooks: (name) => {
      const inbox = createInbox({ name, storage: noting });
      const once = (id: string) =>
        storage.transaction((tx) => inbox.once(tx, { source: "/hooks", id }));
      return { once, prune: inbox.prune };
    },
    age: async (ms) => {
      await pool.query("UPDATE oncebox.inbox_messages SET record_time = record_time - $1", [ms]);
    },
    ids: async () => {
      const { rows } = await pool.query("SELECT count(*)::int AS n FROM oncebox.inbox_messages");
      return rows[0].n;
    },
    register: (name) => storage.registerTopic(registration(name)),
    end: async () => {
      await storage.close();
      await database.drop();
    },
  };
}

async function onSqlite(): Promise<Place> {
  const { folder, remove } = temporaryFolder();
  const database = openDatabase(join(folder, "main.db"));
  await sqliteMigrate(database);
  const storage = sqliteStorage({ database });
  return {
    hooks: (name) => {
      const inbox = createInbox({ name, storage });
      const once = async (id: string) =>
        storage.transactionSync((tx) => inbox.once(tx, { source: "/hooks", id }));
      return { once, prune: inbox.prune };
    },
    age: async (ms) => {
      database
        .prepare("UPDATE oncebox_inbox_messages SET record_time = record_time - ?")
        .run(BigInt(ms));
    },
    ids: async () =>
      database.prepare("SELECT count(*) FROM oncebox_inbox_messages").pluck().get() as number,
    register: (name) => storage.registerTopic(registration(name)),
    end: async () => {
      await storage.close();
      database.close();
      remove();
    },
  };
}

it.each([
  { name: "PostgreSQL", place: onPostgres },
  { name: "SQLite", place: onSqlite },
])(
  "ids of a name without a consumer are deleted behind the window, on $name",
  async ({ place }) => {
    const { hooks, age, ids, register, end } = await place();
    try {
      const payments = hooks("payments");
      const others = hooks("others");
      expect(await payments.prune({ windowMs: day })).toEqual({ ids: 0 });
      for (const each of [payments, others]) expect(await each.once("old")).toBe("new");
      // Guards the window: what is younger stays, as what a sender may still repeat.
      await age(day);
      expect(await payments.prune({ windowMs: day })).toEqual({ ids: 0 });
      await age(hour);
      expect(await payments.once("young")).toBe("new");
      // Guards the other names, whose window is theirs to say.
      expect(await payments.prune({ windowMs: day })).toEqual({ ids: 1 });
      expect(await ids()).toBe(2);
      expect(await payments.once("young")).toBe("duplicate");
      expect(await others.once("old")).toBe("duplicate");
      expect(await payments.once("old")).toBe("new");
      // Guards the ids of a consumer: its backlog may lie far behind the clock.
      await register("others");
      await age(2 * day);
      await expect(others.prune({ windowMs: day })).rejects.toMatchObject({
        code: "invalid-options",
      });
      expect(await payments.prune({ windowMs: day })).toEqual({ ids: 2 });
      expect(await ids()).toBe(1);
    } finally {
      await end();
    }
  },
);

it("many ids are deleted a few at a time", async () => {
  // Guards the bound of a step on a real database: more ids than one step may take.
  const { hooks, age, ids, steps, end } = await onPostgres();
  const count = 4_500;
  try {
    const payments = hooks("payments");
    expect(await payments.once("first")).toBe("new");
    await many(payments, count - 1);
    await age(2 * day);
    expect(await payments.prune({ windowMs: day })).toEqual({ ids: count });
    expect(await ids()).toBe(0);
    expect(steps.length).toBeGreaterThan(2);
    expect(Math.max(...steps)).toBeLessThanOrEqual(2_000);
  } finally {
    await end();
  }
});

async function many({ once }: Hooks, count: number): Promise<void> {
  for (let from = 0; from < count; from += 100) {
    const some = Array.from({ length: Math.min(100, count - from) }, (_, i) => `id-${from + i}`);
    await Promise.all(some.map(once));
  }
}
