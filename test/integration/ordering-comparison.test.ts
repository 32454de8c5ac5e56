/** Handlers that are not fit for `ordering: "key"`, found on PostgreSQL, through pg and through knex. */
import { defineTopic, type Handler, json, type Storage } from "@oncebox/core";
import { migrate, postgresStorage } from "@oncebox/postgres";
import { knexStorage } from "@oncebox/postgres/knex";
import { knexStorage as sqliteKnexStorage, migrate as sqliteMigrate } from "@oncebox/sqlite/knex";
import { compareOrderings, type OrderingComparison } from "@oncebox/testing";
import createKnex, { type Knex } from "knex";
import type { ClientBase, Pool, PoolConfig } from "pg";
import { expect, it } from "vitest";
import { temporaryFolder } from "../conformance/sqlite-knex-under-test.ts";
import { testDatabase } from "../fixtures/servers.ts";

interface Payment {
  readonly account: string;
  readonly cents: number;
}
const payments = defineTopic({ name: "payments", value: json<Payment>() });
const paid = (account: string, cents: number) =>
  payments.message({ key: account, value: { account, cents } });

/** What a handler does to the one balance, and to the lines of its account. */
interface Books<Tx> {
  readonly read: (tx: Tx) => Promise<number>;
  readonly write: (tx: Tx, cents: number) => Promise<unknown>;
  readonly add: (tx: Tx, cents: number) => Promise<unknown>;
  readonly line: (tx: Tx, payment: Payment) => Promise<unknown>;
}

const sql = {
  read: "SELECT cents::int AS cents FROM balances WHERE id = 1 FOR UPDATE",
  write: "UPDATE balances SET cents = $1 WHERE id = 1",
  add: "UPDATE balances SET cents = cents + $1 WHERE id = 1",
  line: "INSERT INTO lines (account, cents) VALUES ($1, $2)",
};

const inPg: Books<ClientBase> = {
  read: async (tx) => (await tx.query(sql.read)).rows[0].cents,
  write: (tx, cents) => tx.query(sql.write, [cents]),
  add: (tx, cents) => tx.query(sql.add, [cents]),
  line: (tx, { account, cents }) => tx.query(sql.line, [account, cents]),
};

const inKnex: Books<Knex.Transaction> = {
  read: async (tx) => Number((await tx("balances").where({ id: 1 }).forUpdate().first()).cents),
  write: async (tx, cents) => await tx("balances").where({ id: 1 }).update({ cents }),
  add: async (tx, cents) => await tx("balances").increment("cents", cents),
  line: async (tx, payment) => await tx.insert(payment).into("lines"),
};

const ways = [
  {
    name: "pg",
    over: (pool: Pool) => {
      const storage = postgresStorage({ pool });
      return { end: storage.close, compare: comparing(storage, inPg, pool) };
    },
  },
  {
    name: "knex",
    over: (pool: Pool, url: string) => {
      const connection = { connectionString: url, pipeline: true } as Knex.PgConnectionConfig;
      const knex = createKnex({ client: "pg", connection, pool: { min: 0, max: 6 } });
      const storage = knexStorage(knex);
      const end = async () => {
        await storage.close();
        await knex.destroy();
      };
      return { end, compare: comparing(storage, inKnex, pool) };
    },
  },
];

type Work = <Tx>(books: Books<Tx>) => Parameters<typeof payments.handler<Tx>>[0];

function comparing<Tx>(storage: Storage<Tx>, books: Books<Tx>, pool: Pool) {
  return (work: Work, changes: Partial<OrderingComparison<Tx>> = {}) =>
    compareOrderings({
      ...{ storage, handler: payments.handler(work(books)), seed: 1 },
      messages: [paid("a", 10), paid("b", 20)],
      reset: () => pool.query("UPDATE balances SET cents = 100; TRUNCATE lines RESTART IDENTITY"),
      snapshot: async () => ({
        balances: (await pool.query("SELECT cents::int AS cents FROM balances")).rows,
        lines: (
          await pool.query(
            `SELECT account, string_agg(cents::text, ' ' ORDER BY n) AS cents
             FROM lines GROUP BY account`,
          )
        ).rows,
      }),
      ...changes,
    });
}

/** Read, compute, write back, behind a lock that does not separate handlers of one transaction. */
const readAndWrite: Work =
  (books) =>
  async ({ value }, tx) => {
    const cents = await books.read(tx);
    await books.write(tx, cents + value.cents);
  };

it.each(ways)("finds what handlers of different keys lose, through $name", async ({ over }) => {
  const database = await testDatabase();
  const pool = database.pool({ pipeline: true } as PoolConfig);
  await migrate(pool);
  await pool.query("CREATE TABLE balances (id int PRIMARY KEY, cents bigint NOT NULL)");
  await pool.query("INSERT INTO balances VALUES (1, 100)");
  await pool.query(
    "CREATE TABLE lines (n int GENERATED ALWAYS AS IDENTITY, account text, cents int)",
  );
  const { compare, end } = over(pool, database.url);
  try {
    // Guards the comparison: 100 + 10 + 20 is 120 by key, in spite of the lock.
    await expect(compare(readAndWrite)).rejects.toThrow(
      /run 1 of 20.*missing: balances: \{cents: 130\}; extra: balances: \{cents: 120\}/,
    );
    // Guards against one that says no to everything, and pauses that change what a handle does: a
    // relative statement, an order within each key.
    const relative: Work =
      (books) =>
      async ({ value }, tx) => {
        if ((await books.read(tx)) < 100) throw new Error("the answer is another one");
        await books.line(tx, value);
        await books.add(tx, value.cents);
      };
    const more = [1, 2, 3].flatMap((cents) => [
      paid("a", cents),
      paid("b", cents),
      paid("c", cents),
    ]);
    await compare(relative, { messages: more });
  } finally {
    await end();
    await database.drop();
  }
});

it("is told of a connection that is not pipelined, and of SQLite, where nothing is compared", async () => {
  const database = await testDatabase();
  const pool = database.pool();
  await migrate(pool);
  const { folder, remove } = temporaryFolder();
  const knex = createKnex({
    ...{ client: "better-sqlite3", useNullAsDefault: true },
    connection: { filename: `${folder}/main.db` },
    pool: { min: 1, max: 1 },
  });
  await knex.raw("PRAGMA journal_mode = WAL");
  await sqliteMigrate(knex);
  const handler: Handler<unknown> = payments.handler(async () => undefined);
  const given = { handler, messages: [paid("a", 1), paid("b", 1)] };
  const nothing = { snapshot: () => [], reset: () => undefined };
  const refused = expect.objectContaining({
    code: "invalid-options",
    message: expect.stringContaining("handles everything in order"),
  });
  const postgres = postgresStorage({ pool });
  try {
    const slow = compareOrderings({ storage: postgres, ...given, ...nothing });
    await expect(slow).rejects.toEqual(refused);
    const sqlite = compareOrderings({ storage: sqliteKnexStorage(knex), ...given, ...nothing });
    await expect(sqlite).rejects.toEqual(refused);
  } finally {
    await postgres.close();
    await knex.destroy();
    remove();
    await database.drop();
  }
});
