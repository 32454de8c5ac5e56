/** M1 on real servers: many at once, newer and edited schemas, other names. */
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { migrate, postgresStorage } from "@oncebox/postgres";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { spawnWorker } from "../fixtures/child.ts";
import type { TestDatabase } from "../fixtures/databases.ts";
import { testDatabase, uniqueName } from "../fixtures/servers.ts";

const folder = new URL("../../migrations/postgres/", import.meta.url);
const names = readdirSync(folder)
  .sort()
  .map((file) => file.replace(/\.sql$/, ""));
let database: TestDatabase;

beforeAll(async () => {
  database = await testDatabase();
});
afterAll(() => database.drop());

describe("migrate", () => {
  it("installs once, whatever the number of pools that start at once", async () => {
    const schema = uniqueName("many");
    const pools = Array.from({ length: 20 }, () => database.pool({ max: 1 }));
    const applied = await Promise.all(pools.map((pool) => migrate(pool, { schema })));
    expect(applied.filter((list) => list.length > 0)).toEqual([names]);
    const { rows } = await database
      .pool()
      .query(`SELECT count(*)::int AS lanes, count(DISTINCT lane)::int AS different
              FROM ${schema}.outbox_lanes`);
    expect(rows).toEqual([{ lanes: 64, different: 64 }]);
  });

  it("installs once, whatever the number of processes that start at once", async () => {
    const schema = uniqueName("processes");
    const file = new URL("../fixtures/workers/migrator.ts", import.meta.url);
    const workers = Array.from({ length: 4 }, () =>
      spawnWorker(file, { args: [database.url, schema] }),
    );
    for (const worker of workers) await worker.waitFor("ready");
    const steps = await Promise.all(workers.map((worker) => worker.waitFor("migrated")));
    expect(steps.flatMap((step) => step.data?.applied)).toEqual(names);
    await Promise.all(workers.map((worker) => worker.exited));
  });

  it("is all there or not at all when a process dies inside it", async () => {
    const schema = uniqueName("cut");
    const pool = database.pool({ max: 1 });
    let seen = 0;
    pool.on("connect", (client) => {
      const query = client.query.bind(client) as (...args: unknown[]) => unknown;
      client.query = ((...args: unknown[]) => {
        // The third file is sent, and its transaction never ends.
        if (String(args[0]).includes("CREATE TABLE outbox_messages")) {
          seen += 1;
          if (seen === 1) client.connection.stream.destroy();
        }
        return query(...args);
      }) as typeof client.query;
    });
    await expect(migrate(pool, { schema })).rejects.toMatchObject({ code: "storage-unavailable" });
    expect(await migrate(pool, { schema })).toEqual(names);
  });

  it("takes any allowed name, and refuses all others before it connects", async () => {
    const pool = database.pool();
    for (const schema of ["_", "select", "a".repeat(63)]) {
      expect(await migrate(pool, { schema })).toEqual(names);
      await expect(postgresStorage({ pool, schema }).check()).resolves.toBeDefined();
    }
    for (const schema of ["", "Oncebox", "1a", 'a"b', "a b", "a".repeat(64), "ä"]) {
      await expect(migrate(pool, { schema })).rejects.toMatchObject({ code: "invalid-options" });
    }
  });

  it("works for a role that may not create schemas, where one was made for it", async () => {
    const schema = uniqueName("given");
    const admin = database.pool();
    await admin.query(
      `CREATE ROLE ${schema} LOGIN; CREATE SCHEMA ${schema} AUTHORIZATION ${schema}`,
    );
    const pool = database.pool({ user: schema, connectionString: roleUrl(database.url, schema) });
    expect(await migrate(pool, { schema })).toEqual(names);
    await admin.query(`DROP SCHEMA ${schema} CASCADE; DROP ROLE ${schema}`);
  });
});

function roleUrl(url: string, role: string): string {
  const of = new URL(url);
  of.username = role;
  return of.href;
}

describe("a schema that does not fit", () => {
  async function changed(sql: string) {
    const schema = uniqueName("changed");
    const pool = database.pool({ max: 3 });
    await migrate(pool, { schema });
    await pool.query(sql.replaceAll("$schema", schema));
    return { pool, schema, storage: postgresStorage({ pool, schema }) };
  }

  it("is newer", async () => {
    const { pool, schema, storage } = await changed(
      `INSERT INTO $schema.migrations (number, name, checksum)
       VALUES (${names.length + 1}, 'later', 'x')`,
    );
    const error = { code: "schema-newer", message: expect.stringContaining("later") };
    await expect(storage.check()).rejects.toMatchObject(error);
    await expect(migrate(pool, { schema })).rejects.toMatchObject(error);
  });

  it("was edited", async () => {
    const { pool, schema, storage } = await changed(
      "UPDATE $schema.migrations SET checksum = 'x' WHERE number = 2",
    );
    const error = { code: "schema-edited", message: expect.stringContaining("0002_inbox") };
    await expect(storage.check()).rejects.toMatchObject(error);
    await expect(migrate(pool, { schema })).rejects.toMatchObject(error);
  });

  it("is older", async () => {
    const { storage } = await changed("DELETE FROM $schema.migrations WHERE number > 2");
    await expect(storage.check()).rejects.toMatchObject({ code: "schema-outdated" });
  });

  it("is missing", async () => {
    const storage = postgresStorage({ pool: database.pool(), schema: "nowhere" });
    await expect(storage.check()).rejects.toMatchObject({
      code: "schema-missing",
      message: expect.stringContaining("migrate(pool"),
    });
  });

  it.each(["CACHE 32", "INCREMENT BY 2", "CYCLE"])("has a sequence with %s", async (setting) => {
    const { storage } = await changed(
      `ALTER TABLE $schema.outbox_messages ALTER COLUMN position SET ${setting}`,
    );
    await expect(storage.check()).rejects.toMatchObject({ code: "sequence-unsafe" });
  });

  it("cannot be written to", async () => {
    const schema = uniqueName("readonly");
    await migrate(database.pool(), { schema });
    const pool = database.pool({ options: "-c default_transaction_read_only=on" });
    const check = postgresStorage({ pool, schema }).check();
    await expect(check).rejects.toMatchObject({ code: "database-read-only" });
  });
});

describe("the files", () => {
  it("are embedded as they are", () => {
    const script = new URL("../../scripts/embed-migrations.ts", import.meta.url).pathname;
    execFileSync(process.execPath, ["--import", "tsx", script, "--check"]);
  });

  it("hold no name of a schema, so that a DBA can run them by hand", async () => {
    const schema = uniqueName("byhand");
    const client = await database.pool().connect();
    await client.query(`CREATE SCHEMA ${schema}; SET search_path = ${schema}`);
    for (const name of names) {
      await client.query(readFileSync(new URL(`${name}.sql`, folder), "utf8"));
    }
    const { rows } = await client.query(
      `SELECT to_regclass('${schema}.inbox_messages') IS NOT NULL AS inbox,
         to_regclass('${schema}.outbox_messages') IS NOT NULL AS outbox`,
    );
    expect(rows).toEqual([{ inbox: true, outbox: true }]);
    client.release(true);
  });
});

describe("the statements of docs/database.md", () => {
  const text = readFileSync(new URL("../../docs/database.md", import.meta.url), "utf8");
  const statements = [...text.matchAll(/^```sql\n((?:SELECT|DELETE)\b.*?)^```$/gms)].map(
    ([, sql = ""]) => sql,
  );

  // Guards the document: a table or a column that a migration renames. Grants have a test of theirs.
  it("run on the tables as they are", async () => {
    const pool = database.pool();
    await migrate(pool);
    expect(statements.length).toBe(8);
    for (const sql of statements) await pool.query(sql);
  });
});
