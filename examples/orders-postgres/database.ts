// Owns the connections to PostgreSQL, and the question whether it answers.

import knex, { type Knex } from "knex";

const answerWithinMs = 2_000;

/**
 * 12 connections: a consumer takes up to 6, a relay 4 (docs/database.md), requests and probes the
 * rest. A request that waits for longer than 5 s for one of them fails.
 */
export function openDatabase(databaseUrl: string): Knex {
  return knex({
    client: "pg",
    connection: { connectionString: databaseUrl, connectionTimeoutMillis: 5_000 },
    pool: { min: 0, max: 12 },
    acquireConnectionTimeout: 5_000,
  });
}

/** For a probe: why the database cannot be used; null where it answers. */
export async function databaseTrouble(database: Knex): Promise<string | null> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<string>((resolve) => {
    timer = setTimeout(resolve, answerWithinMs, `no answer within ${answerWithinMs} ms`);
  });
  const asked = database.raw("SELECT 1").then(
    () => null,
    (error: Error & { code?: string }) => error.code ?? error.name,
  );
  const trouble = await Promise.race([asked, late]);
  clearTimeout(timer);
  return trouble === null ? null : `the database cannot be used: ${trouble}`;
}
