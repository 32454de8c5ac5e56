/** Handlers that write around their transaction, found before they do it twice. */

import { migrate, postgresStorage } from "@oncebox/postgres";
import { probeRollback } from "@oncebox/testing";
import type { ClientBase } from "pg";
import { expect, it } from "vitest";
import { testDatabase } from "../fixtures/servers.ts";

it("B7: a handler that writes by another connection is found by the rollback probe", async () => {
  // Guards the probe against PostgreSQL: such a write stays when the chunk's transaction is undone.
  const database = await testDatabase();
  const pool = database.pool();
  await migrate(pool);
  await pool.query("CREATE TABLE effects (value text)");
  const storage = postgresStorage({ pool });
  const snapshot = async () => (await pool.query("SELECT value FROM effects ORDER BY value")).rows;
  const insert = (by: Pick<ClientBase, "query">, value: string) =>
    by.query("INSERT INTO effects VALUES ($1)", [value]);
  try {
    await probeRollback({ storage, snapshot, run: (tx) => insert(tx, "inside") });
    const around = probeRollback({
      ...{ storage, snapshot },
      run: async (tx) => {
        await insert(tx, "inside");
        await insert(pool as never, "around");
      },
    });
    await expect(around).rejects.toThrow(/around/);
    expect(await snapshot()).toEqual([{ value: "around" }]);
  } finally {
    await storage.close();
    await database.drop();
  }
});
