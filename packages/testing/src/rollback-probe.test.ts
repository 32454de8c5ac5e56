import { defineTopic, json } from "@oncebox/core";
import { describe, expect, it } from "vitest";
import { memoryStorage } from "./memory-storage/memory-storage.ts";
import type { MemoryTx } from "./memory-storage/memory-tx.ts";
import { probedMessage, probeRollback, type RollbackProbe } from "./rollback-probe.ts";

const orders = defineTopic({ name: "orders", value: json<{ readonly id: string }>() });

function scene() {
  const storage = memoryStorage();
  const calls: string[] = [];
  const snapshot = () => ({ invoices: storage.rows("invoices"), calls });
  const probe = (run: RollbackProbe<MemoryTx>["run"], settle?: () => Promise<unknown>) =>
    probeRollback({ storage, run, snapshot, ...(settle === undefined ? {} : { settle }) });
  return { storage, calls, probe };
}

describe("probeRollback", () => {
  it("passes a handler that writes through tx alone, its messages included", async () => {
    const { storage, probe } = scene();
    await storage.transaction((tx) => tx.append("invoices", "there before"));
    await probe(async (tx, { outbox, attempt, signal }) => {
      await tx.append("invoices", `${attempt} ${signal.aborted}`);
      await outbox.enqueue(orders.message({ key: "k", value: { id: "o-1" } }));
    });
    expect(storage.rows("invoices")).toEqual(["there before"]);
    const leases = await storage.leaseLanes({
      ...{ relay: "r", leaseMs: 1_000, renew: [], acquireMax: 64 },
    });
    const request = { rows: 9, bytes: 1_000, pending: [], sweep: true };
    expect((await storage.readLanes(leases.leases, request)).rows).toEqual([]);
  });

  it("finds a second connection", async () => {
    const { storage, probe } = scene();
    const around = probe(async () => {
      await storage.transaction((other) => other.append("invoices", "around"));
    });
    await expect(around).rejects.toThrow(
      'it left something behind: appeared: invoices: "around". It must write through tx alone',
    );
  });

  it("finds calls to elsewhere, and those that nobody awaited", async () => {
    const { calls, probe } = scene();
    const call = async (text: string) => {
      for (let turn = 0; turn < 5; turn += 1) await Promise.resolve();
      calls.push(text);
    };
    let pending: Promise<void> = Promise.resolve();
    const floating = async () => {
      pending = call("late");
    };
    await expect(probe(floating, () => pending)).rejects.toThrow('appeared: calls: "late"');
    await expect(probe(() => call("now"))).rejects.toThrow('appeared: calls: "now"');
  });

  it("finds what was taken away, and what only changed its order", async () => {
    const { calls, probe } = scene();
    calls.push("a", "b");
    await expect(probe(async () => calls.pop())).rejects.toThrow('disappeared: calls: "b"');
    calls.push("b");
    await expect(probe(async () => calls.reverse())).rejects.toThrow("the order of what is there");
  });

  it("throws what the handler threw, but not before what it left behind", async () => {
    const { calls, probe } = scene();
    const thrown = new Error("the handler's own");
    const failing = probe(async () => {
      throw thrown;
    });
    await expect(failing).rejects.toBe(thrown);
    const both = probe(async () => {
      calls.push("sent");
      throw thrown;
    });
    await expect(both).rejects.toMatchObject({ name: "ExpectationError", cause: thrown });
  });

  it("takes a handler from a file of its own", async () => {
    const { storage, calls } = scene();
    const handler = orders.handler<MemoryTx>(async ({ value, offset }, tx) => {
      await tx.append("invoices", value.id);
      calls.push(`${value.id} at ${offset}`);
    });
    const value = new TextEncoder().encode('{"id":"o-7"}');
    const message = probedMessage(handler, { value, offset: 5n });
    const run: RollbackProbe<MemoryTx>["run"] = (tx, context) => handler.run(message, tx, context);
    const found = probeRollback({ storage, run, snapshot: () => calls });
    await expect(found).rejects.toThrow('appeared: "o-7 at 5"');
  });
});
