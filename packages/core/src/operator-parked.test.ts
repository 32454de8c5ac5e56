import { expect, it } from "vitest";
import { changeParked, listParked } from "./operator-parked.ts";
import type { ParkedMessage, ParkedPage } from "./ports/parking.ts";

const message = (id: number, state: ParkedMessage["state"] = "dead") =>
  ({ id: BigInt(id), state }) as ParkedMessage;

function scene(messages: readonly ParkedMessage[], pages: readonly (bigint | null)[] = [null]) {
  const asked: unknown[] = [];
  const changes: { page: ParkedPage }[] = [];
  const storage = {
    parked: async (filter: unknown, page: ParkedPage) => {
      asked.push({ filter, page });
      return messages.filter(({ id }) => id > (page.above ?? -1n)).slice(0, page.limit);
    },
    changeParked: async (change: { page: ParkedPage }) => {
      const next = pages[changes.length] ?? null;
      changes.push(change);
      return { changed: 2, next };
    },
  };
  return { asked, changes, operator: { storage, actor: "ann" }, storage };
}

it("lists by what is given, a key as its bytes", async () => {
  const { storage, asked } = scene([message(1)]);
  await listParked(storage, { consumer: "billing", key: "k", state: "dead", limit: 5, above: 3n });
  expect(asked).toEqual([
    {
      filter: { consumer: "billing", key: new Uint8Array([107]), state: "dead" },
      page: { limit: 5, above: 3n },
    },
  ]);
});

it("changes page after page until there is none, each audited", async () => {
  const { operator, changes } = scene([], [500n, 900n, null]);
  const given = { consumer: "billing", topic: "orders", reason: "fixed" };
  expect(await changeParked(operator, "redrive", given)).toBe(6);
  expect(changes.map(({ page }) => page.above)).toEqual([null, 500n, 900n]);
  expect(changes[0]).toMatchObject({
    action: "redrive",
    filter: { consumer: "billing", topic: "orders" },
    audit: { actor: "ann", reason: "fixed" },
  });
});

it("only counts in a dry run, without what a redrive would leave alone", async () => {
  const many = Array.from({ length: 250 }, (_, id) => message(id, id === 7 ? "retrying" : "dead"));
  const { operator, changes, asked } = scene(many);
  const given = { consumer: "billing", reason: "look", dryRun: true };
  expect(await changeParked(operator, "redrive", given)).toBe(249);
  expect(await changeParked(operator, "skip", given)).toBe(250);
  expect(changes).toEqual([]);
  expect(asked).toHaveLength(6);
});

it("refuses what is unknown or empty, before anything is asked", async () => {
  const { operator, storage, asked } = scene([]);
  const wrong = { consumer: "", ids: [], state: "gone", partitions: [1] } as never;
  await expect(listParked(storage, wrong)).rejects.toMatchObject({
    code: "invalid-options",
    details: {
      problems: expect.arrayContaining([expect.stringContaining("partitions is unknown")]),
    },
  });
  await expect(
    changeParked(operator, "skip", { consumer: "billing" } as never),
  ).rejects.toMatchObject({
    message: expect.stringContaining("reason is missing"),
  });
  expect(asked).toEqual([]);
});
