import { describe, expect, it } from "vitest";
import { ConfigurationError, InvalidMessageError } from "../errors.ts";
import { checksumOf } from "../hashes.ts";
import { idBytesOf } from "../ids.ts";
import { utf8 } from "../message.ts";
import type { MessageRef, Storage } from "../ports/storage.ts";
import { createInbox, type InboxMessage } from "./inbox.ts";

/** Writes down what it is given; the SQL is proved against real databases. */
function noting(answer = "new") {
  const calls: unknown[][] = [];
  const storage = {
    recordIds: async (tx: string, consumer: string, ids: readonly MessageRef[]) => {
      calls.push([tx, consumer, ...ids]);
      return [answer];
    },
  } as unknown as Storage<string>;
  return { inbox: createInbox({ name: "billing", storage }), calls };
}

describe("inbox.once", () => {
  it("records the id under its source, in the caller's transaction", async () => {
    const { inbox, calls } = noting();
    const message = { source: "stripe", id: "evt_1", value: "{}" };
    expect(await inbox.once("tx", message)).toBe("new");
    const id = idBytesOf(utf8("evt_1"));
    const checksum = checksumOf(utf8("{}"));
    expect(calls).toEqual([["tx", "billing", { source: "stripe", id, checksum }]]);
  });

  it.each(["new", "duplicate", "conflict"])("answers %s as the storage does", async (answer) => {
    const { inbox } = noting(answer);
    expect(await inbox.once("tx", { source: "stripe", id: "evt_1" })).toBe(answer);
  });

  it("knows no conflict without a value, which is not an empty one", async () => {
    const { inbox, calls } = noting();
    await inbox.once("tx", { source: "s", id: "1" });
    await inbox.once("tx", { source: "s", id: "1", value: "" });
    const checksums = calls.map((call) => (call[2] as MessageRef).checksum);
    expect(checksums).toEqual([null, checksumOf(new Uint8Array(0))]);
  });

  it("takes text and its bytes as the same", async () => {
    const { inbox, calls } = noting();
    await inbox.once("tx", { source: "s", id: "é", value: "ü" });
    await inbox.once("tx", { source: "s", id: utf8("é"), value: utf8("ü") });
    expect(calls[0]).toEqual(calls[1]);
  });

  it.each([
    { source: "" },
    { source: "a\0b" },
    { source: "x".repeat(1_025) },
    { source: 1 },
    { id: "" },
    { id: new Uint8Array(0) },
    { id: new Uint8Array(1_025) },
    { id: 7 },
    { id: null },
    { value: null },
    { value: { a: 1 } },
  ])("refuses %j before any SQL", async (change) => {
    const { inbox, calls } = noting();
    const message = { source: "s", id: "1", value: "v", ...change } as InboxMessage;
    await expect(inbox.once("tx", message)).rejects.toThrow(InvalidMessageError);
    expect(calls).toEqual([]);
  });

  it("passes on what the storage throws", async () => {
    const storage = { recordIds: () => Promise.reject(new Error("deadlock")) };
    const inbox = createInbox<string>({ name: "billing", storage: storage as never });
    await expect(inbox.once("tx", { source: "s", id: "1" })).rejects.toThrow("deadlock");
  });
});

it("options of the inbox are checked", () => {
  const { storage } = { storage: { recordIds: () => {} } as never };
  expect(() => createInbox({ name: "", storage })).toThrow(ConfigurationError);
  expect(() => createInbox({ name: "a", storage: {} as never })).toThrow(ConfigurationError);
  expect(() => createInbox({ name: "a", storage, window: 1 } as never)).toThrow(ConfigurationError);
});
