/**
 * How long the storage's own statements wait for locks, and how long they hold them: neither without
 * limit, whatever another transaction or a frozen process does.
 */

import type { PartitionClaim } from "@oncebox/core";
import { postgresStorage } from "@oncebox/postgres";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import type { TestDatabase } from "../fixtures/databases.ts";
import { type FaultProxy, startProxy } from "../fixtures/proxy.ts";
import { testDatabase } from "../fixtures/servers.ts";
import { claimOf, type Place, place } from "./postgres-place.ts";

let database: TestDatabase;
let proxy: FaultProxy;
beforeAll(async () => {
  database = await testDatabase();
});
beforeEach(async () => {
  const { port, hostname } = new URL(database.url);
  proxy = await startProxy(Number(port), hostname);
});
afterEach(() => proxy.close());
afterAll(() => database.drop());

/** Freezes the sender from the message on that contains this text, with all it has sent before. */
function frozenBefore(text: string): Promise<void> {
  return new Promise((resolve) => {
    let frozen = false;
    proxy.onChunk = (way, _, bytes) => {
      if (way !== "toServer") return "pass";
      frozen ||= bytes.includes(text);
      if (frozen) resolve();
      return frozen ? "hold" : "pass";
    };
  });
}

async function frozenAndHealthy(): Promise<{ frozen: Place; healthy: Place["storage"] }> {
  const url = new URL(database.url);
  url.host = `127.0.0.1:${proxy.port}`;
  const storage = { idleInTransactionTimeoutMs: 300 };
  const frozen = await place(database, { pool: { connectionString: url.href }, storage });
  const pool = database.pool({ max: 3 });
  return { frozen, healthy: postgresStorage({ pool, schema: frozen.schema }) };
}

// Guards the idle time-out of the storage's own transactions (partitions.ts, own-transaction.ts): a
// process that stands still between their statements and COMMIT would hold rows until it dies.
describe("a process that freezes in a transaction of the storage's own", () => {
  const moving = (claim: PartitionClaim) => ({
    ...{ consumer: claim.consumer, topic: claim.topic, topicId: null },
    ...{ moves: [{ partition: 0, to: 7n }], replay: false, expected: null },
    audit: { actor: "tests", reason: "to see it" },
  });
  const registering = {
    ...{ consumer: "consumer", groupId: "group", topic: "topic", topicId: null },
    ...{ start: new Map([[0, 0n]]), added: new Map() },
  };
  const verbs = {
    claim: (p: Place) => claimOf(p.storage),
    seek: (p: Place, claim: PartitionClaim) => p.storage.seek(moving(claim)),
    register: (p: Place) => p.storage.registerTopic(registering),
  } as const;

  it.each(["claim", "seek", "register"] as const)("%s: holds its locks no longer", async (verb) => {
    const { frozen, healthy } = await frozenAndHealthy();
    const claim = await frozen.claimed();
    const before = frozenBefore("COMMIT\0");
    const outcome = verbs[verb](frozen, claim).then(
      () => null,
      (error: unknown) => error,
    );
    await before;
    // The wait is longer than the time-out, and shorter than anything else that could end it.
    const waiting =
      verb === "register"
        ? healthy.registerTopic(registering)
        : claimOf(healthy, 0, 5_000).then(({ nextOffset }) => expect(nextOffset).toBe(0n));
    await waiting;
    proxy.onChunk = undefined;
    proxy.release();
    const error = await outcome;
    expect(error).not.toBeNull();
    expect(frozen.storage.trouble(error)).not.toBeNull();
  });
});
