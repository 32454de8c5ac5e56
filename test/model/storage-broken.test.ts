// A comparison that cannot fail shows nothing: here the model is wrong on purpose, and scripts that
// the true model passes must turn red. No server is needed: the true model stands for the real one.

import type { ChunkTransaction, PartitionClaim, RecordRef } from "@oncebox/core";
import type { MemoryStorage, MemoryTx } from "@oncebox/testing";
import { describe, expect, test } from "vitest";
import { firstDifference } from "./comparison.ts";
import { comparable, interleaved } from "./storage-generated.ts";
import { memorySide } from "./storage-memory.ts";
import { run } from "./storage-run.ts";
import type { Script } from "./storage-script.ts";
import { inboxScripts } from "./storage-scripts-inbox.ts";
import { outboxScripts } from "./storage-scripts-outbox.ts";
import { troubleScripts } from "./storage-scripts-trouble.ts";

const byHand: readonly Script[] = [...inboxScripts, ...troubleScripts, ...outboxScripts];

type Open = (
  claim: PartitionClaim,
  records: readonly RecordRef[],
) => Promise<ChunkTransaction<MemoryTx>>;

/** Claims as they are now: what is asked under an old one is answered under the new one. */
function withoutFence(storage: MemoryStorage): MemoryStorage {
  const open: Open = async (claim, records) => {
    const { tables } = storage.database;
    const key = JSON.stringify([claim.consumer, claim.topic, claim.partition]);
    const row = tables.get(null, "partitions", key) as { token: string } | undefined;
    return storage.open({ ...claim, token: row?.token ?? claim.token }, records);
  };
  return { ...storage, open };
}

function changed(change: (storage: MemoryStorage) => Partial<MemoryStorage>) {
  return (storage: MemoryStorage): MemoryStorage => ({ ...storage, ...change(storage) });
}

const breaks: Readonly<Record<string, (storage: MemoryStorage) => MemoryStorage>> = {
  "open does not compare tokens": withoutFence,
  "open records no ids": changed(({ open }) => ({
    open: (claim, records) =>
      open(
        claim,
        records.map((record) => ({ ...record, id: null })),
      ),
  })),
  "a claim does not wait": changed(({ claim }) => ({
    claim: (ref) => claim(ref, 0).catch(() => null),
  })),
  "a seek moves without fencing its own topic's mark": changed(({ seek }) => ({
    seek: (request) => seek({ ...request, topicId: "another" }),
  })),
  "a replay is an ordinary seek": changed(({ seek }) => ({
    seek: (request) => seek({ ...request, replay: false }),
  })),
  "a settle deletes nothing": changed(({ settleBatch }) => ({
    settleBatch: (leases) => settleBatch(leases, []),
  })),
  "a settle says nothing of lanes that are lost": changed(({ settleBatch }) => ({
    settleBatch: async (leases, rows) => {
      await settleBatch(leases, rows);
      return { lost: [] };
    },
  })),
  "a lease takes nothing when it renews": changed(({ leaseLanes }) => ({
    leaseLanes: (request) =>
      leaseLanes(request.renew.length > 0 ? { ...request, acquireMax: 0 } : request),
  })),
  "a read forgets what is pending": changed(({ readLanes }) => ({
    readLanes: (leases, request) => readLanes(leases, { ...request, pending: [] }),
  })),
  "a transaction swallows what its COMMIT meets": changed(({ transaction }) => ({
    transaction: (work) => transaction(work).catch(() => undefined as never),
  })),
  "nobody is told that a claim is lost": changed(() => ({ lostClaims: async () => [] })),
};

/** The true ones do the same every time, and are asked once. */
const truths = new Map<Script, Promise<readonly string[]>>();

function truthOf(script: Script): Promise<readonly string[]> {
  const truth = truths.get(script) ?? run(script, memorySide());
  truths.set(script, truth);
  return truth;
}

async function redScripts(
  wrap: (storage: MemoryStorage) => MemoryStorage,
  scripts: readonly Script[],
): Promise<readonly string[]> {
  const red: string[] = [];
  for (const script of scripts) {
    const broken = await run(script, memorySide(wrap)).catch((error: unknown) => [String(error)]);
    if (firstDifference(await truthOf(script), broken) !== null) red.push(script.name);
  }
  return red;
}

describe("a wrong model", () => {
  test.each(Object.entries(breaks))("%s: turns scripts red", async (_, wrap) => {
    const red = await redScripts(wrap, byHand);
    expect(red.length).toBeGreaterThan(0);
    // Nor does everything turn red: the difference is what was broken.
    expect(red.length).toBeLessThan(byHand.length);
  });

  test("is found by chance as well", async () => {
    const made = await Promise.all(
      Array.from({ length: 12 }, (_, n) => comparable(interleaved(n + 1), memorySide)),
    );
    expect(await redScripts(withoutFence, made)).not.toEqual([]);
  });

  test("the true one turns none red, in any of two runs", async () => {
    expect(await redScripts((storage) => storage, byHand)).toEqual([]);
  });
});
