// Owns what knex on PostgreSQL brings to the storage suite: all that its users set knex to do with
// names, answers and connections is set here, and must not touch what is ours.

import { knexStorage, migrate } from "@oncebox/postgres/knex";
import createKnex, { type Knex } from "knex";
import type { PoolConfig } from "pg";
import { type HandleKind, type Made, underTest, type Variant } from "./postgres-under-test.ts";

/** A knex of a user with strong views. */
export function openKnex({ max = 6, ...connection }: PoolConfig, config: Knex.Config = {}): Knex {
  return createKnex({
    client: "pg",
    connection: connection as Knex.PgConnectionConfig,
    pool: { min: 0, max },
    searchPath: ["pg_catalog"],
    wrapIdentifier: (name, wrap) => wrap(name === "*" ? name : name.toUpperCase()),
    postProcessResponse: () => "spoiled",
    // It says so whenever it throws a broken connection away.
    log: { warn: () => {} },
    ...config,
  });
}

const knexKind: HandleKind<Knex.Transaction, Knex> = {
  open: openKnex,
  end: (knex) => knex.destroy(),
  storage: (knex, schema) => knexStorage(knex, { schema }),
  migrate: (knex, schema) => migrate(knex, { schema }),
  begin: async (knex) => {
    const tx = await knex.transaction();
    return { tx, commit: () => tx.commit(), rollback: () => tx.rollback() };
  },
  query: async (tx, text) => {
    let found: unknown;
    // What the server said, not what postProcessResponse makes of it.
    const seen = (_: unknown, query: { readonly response: unknown }) => {
      found = query.response;
    };
    const raw = tx.raw(text).on("query-response", seen);
    await raw;
    return found as never;
  },
  clientOf: (tx) => tx.client.acquireConnection(),
  plainControls: [
    ...["BEGIN", "COMMIT", "ROLLBACK", " end;"].map((text) => (tx: Knex.Transaction) => {
      return tx.raw(text).then();
    }),
    (tx) => tx.commit(),
    (tx) => tx.rollback(),
  ],
  sharedRefusals: [
    { name: "transaction()", use: (tx) => tx.transaction(async () => {}) },
    { name: "savepoint()", use: (tx) => tx.savepoint(async () => {}) },
  ],
};

export function knexUnderTest(
  databaseUrl: string,
  variant: Variant<Knex.Transaction>,
): Promise<Made<Knex.Transaction>> {
  return underTest(knexKind, databaseUrl, variant);
}
