/**
 * `npm run bench [-- --only chunk,relay,end-to-end,…]`: the first figures. Starts its
 * own servers, runs one thing at a time, prints a line each. Ratios are pair by pair in one run.
 */
import { parseArgs } from "node:util";
import { provideKafka } from "../test/fixtures/kafka.ts";
import { providePostgres } from "../test/fixtures/postgres.ts";
import { backlog } from "./backlog.ts";
import { chunkAgainstRaw } from "./chunk.ts";
import { endToEnd, latency } from "./end-to-end.ts";
import { identity } from "./identity.ts";
import { knexAgainstPg, outboxRow } from "./knex.ts";
import {
  batches,
  byKey,
  byKeyFar,
  byKeyKnex,
  byKeyKnexFar,
  byKeyKnexLarge,
  byKeyLarge,
  parkedAgainstNone,
} from "./ordering.ts";
import { relayDrain } from "./relay.ts";
import { sharedRows } from "./shared-rows.ts";
import { sqliteChunk, sqliteOutboxRow } from "./sqlite.ts";
import { takeover } from "./takeover.ts";

export interface Servers {
  readonly databaseUrl: string;
  readonly brokers: readonly string[];
}

const cases: Readonly<Record<string, (servers: Servers) => Promise<string>>> = {
  chunk: chunkAgainstRaw,
  relay: relayDrain,
  "end-to-end": endToEnd,
  latency,
  takeover,
  identity,
  backlog,
  knex: knexAgainstPg,
  "outbox-row": outboxRow,
  sqlite: sqliteChunk,
  "sqlite-row": sqliteOutboxRow,
  key: byKey,
  "key-250": byKeyLarge,
  "key-far": byKeyFar,
  "key-knex": byKeyKnex,
  "key-knex-250": byKeyKnexLarge,
  "key-knex-far": byKeyKnexFar,
  batch: batches,
  parked: parkedAgainstNone,
  "shared-rows": sharedRows,
};

const { values } = parseArgs({ options: { only: { type: "string" } } });
const wanted = values.only?.split(",") ?? Object.keys(cases);
const unknown = wanted.filter((name) => !Object.hasOwn(cases, name));
if (unknown.length > 0) {
  console.error(`unknown: ${unknown.join(", ")} (known: ${Object.keys(cases).join(", ")})`);
  process.exit(2);
}

const postgres = await providePostgres();
const kafka = await provideKafka();
try {
  for (const name of wanted) {
    const line = await cases[name]?.({ databaseUrl: postgres.url, brokers: kafka.brokers });
    console.log(`${name.padEnd(12)} ${line}`);
  }
} finally {
  await Promise.all([postgres.stop(), kafka.stop()]);
}
