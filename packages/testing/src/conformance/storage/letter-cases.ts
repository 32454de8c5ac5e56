/** I6: what a turn leaves in the outbox when it is settled: with the death of its message, or not at all. */
import type { OutboxEntry, Storage } from "@oncebox/core";
import { failureOf, same } from "../check.ts";
import { entry, leaseAll, read, register, type StorageCase } from "./arrange.ts";
import { bytesOf, failure, park, sameParked, takeOne, toPark } from "./arrange-parking.ts";

const death = { state: "dead", counts: true, afterMs: 0, error: failure } as const;

const letters: readonly OutboxEntry[] = [
  entry(5, "one", {
    value: null,
    headers: [
      ["id", bytesOf("an id")],
      ["a", null],
      ["a", bytesOf("")],
    ],
  }),
  entry(5, "two", { key: null }),
];

/** What any process finds in the outbox. All lanes must be free. */
async function sameOutbox<Tx>(
  storage: Storage<Tx>,
  expected: readonly OutboxEntry[],
): Promise<void> {
  const { rows } = await read(storage, await leaseAll(storage));
  const entries = rows.map(({ position: _, ...row }) => row);
  entries.sort((a, b) => (a.id < b.id ? -1 : 1));
  same(entries, expected, "the rows of the outbox");
}

/** The turn of the only parked message. */
async function turnOf<Tx>(storage: Storage<Tx>) {
  await register(storage, 0n);
  await park(storage, [toPark(0, "a")]);
  return takeOne(storage);
}

export const letterCases: readonly StorageCase[] = [
  {
    promise: "I6",
    name: "a turn that is settled as dead leaves its letters, as they were given",
    run: async ({ storage, another }) => {
      const turn = await turnOf(storage);
      same(await storage.settleParked(turn, death, letters), true, "whether it was settled");
      await sameParked(another(), [[0n, "dead"]]);
      await sameOutbox(another(), letters);
    },
  },
  {
    promise: "I6",
    name: "a turn that is held no more leaves no letter",
    run: async ({ storage, another }) => {
      const turn = await turnOf(storage);
      const other = { ...turn, token: "00000000-0000-4000-8000-000000000000" };
      same(await storage.settleParked(other, death, letters), false, "whether it was settled");
      await sameParked(another(), [[0n, "retrying"]]);
      same(await storage.settleParked(turn, death), true, "whether the turn was settled");
      same(await storage.settleParked(turn, death, letters), false, "and once more");
      await sameOutbox(another(), []);
    },
  },
  {
    promise: "I6",
    name: "a turn whose letters cannot be written is not settled, and none of them is there",
    run: async ({ storage, another }) => {
      const turn = await turnOf(storage);
      const [first, second] = letters;
      const unwritable = Object.defineProperty({ ...second }, "value", {
        get: () => {
          throw new TypeError("this letter cannot be read");
        },
      });
      const given = [first, unwritable] as readonly OutboxEntry[];
      const settling = storage.settleParked(turn, death, given);
      await failureOf(settling, "a letter that cannot be written must reject");
      await sameParked(another(), [[0n, "retrying"]]);
      // Its turn is as it was.
      same(await storage.settleParked(turn, death, letters), true, "whether it was settled then");
      await sameParked(another(), [[0n, "dead"]]);
      await sameOutbox(another(), letters);
    },
  },
];
