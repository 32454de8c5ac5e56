import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { sha256First16 } from "./hashes.ts";
import {
  derivedId,
  idBytesOf,
  incomingIdentity,
  replayedIdBytes,
  uuidText,
  uuidv7,
} from "./ids.ts";
import { utf8 } from "./message.ts";

const uuid = "0190163d-8694-739b-aea5-966c26f8ad91";

describe("idBytesOf", () => {
  it("keeps a UUID as it is, in either case of letters", () => {
    expect(uuidText(idBytesOf(utf8(uuid)))).toBe(uuid);
    expect(uuidText(idBytesOf(utf8(uuid.toUpperCase())))).toBe(uuid);
  });

  it("hashes everything else", () => {
    for (const id of ["order-1", `${uuid} `, uuid.replaceAll("-", ""), uuid.replace("0", "g")]) {
      expect(idBytesOf(utf8(id))).toEqual(sha256First16(utf8(id)));
    }
  });

  it("hashes bytes that are not text, also of a UUID's length", () => {
    const bytes = new Uint8Array(36).fill(0xff);
    expect(idBytesOf(bytes)).toEqual(sha256First16(bytes));
  });
});

describe("uuidv7", () => {
  const clock = (ms: number, random = Math.random) => ({ epochMs: () => ms, random });

  it("is of version 7 and variant 10, with the milliseconds first", () => {
    expect(uuidv7(clock(0x0190163d8694, () => 0))).toBe("0190163d-8694-7000-8000-000000000000");
    expect(uuidv7(clock(0x0190163d8694, () => 1 - 2 ** -53))).toBe(
      "0190163d-8694-7fff-bfff-ffffffffffff",
    );
  });

  it("sorts by time", () => {
    fc.assert(
      fc.property(fc.nat({ max: 2 ** 47 }), fc.integer({ min: 1, max: 1e6 }), (ms, later) => {
        expect(uuidv7(clock(ms)) < uuidv7(clock(ms + later))).toBe(true);
      }),
    );
  });

  it("takes milliseconds with a fraction", () => {
    expect(uuidv7(clock(1.75, () => 0))).toBe("00000000-0001-7000-8000-000000000000");
  });
});

describe("incomingIdentity", () => {
  const place = { source: "shop", topic: "orders", partition: 3, offset: 41n };

  it("is the id within its source", () => {
    const idBytes = idBytesOf(utf8(uuid));
    expect(incomingIdentity({ ...place, idBytes })).toBe(`i:shop:${uuid}`);
  });

  it("is the place in the log where there is no id", () => {
    expect(incomingIdentity({ ...place, idBytes: null })).toBe("o:orders:3:41");
  });
});

describe("derivedId", () => {
  const incoming = "o:orders.placed:3:41";

  // Computed by another program. A redo after an update of this library must yield the same ids.
  it.each([
    [utf8("order-1"), 0, "b05f24ff-c428-8c4a-880f-fa345ea6fa9e"],
    [utf8("order-1"), 1, "db1768ed-7d97-816b-8c5a-1e58a8154fc8"],
    [null, 0, "70a1e7c5-62cd-882d-8432-db299ab43a92"],
    [utf8(""), 0, "7756f46c-1c04-801f-812b-3222bb249e27"],
  ])("is fixed", (key, nth, id) => {
    expect(derivedId(incoming, "invoices", key, nth)).toBe(id);
  });

  it("differs in each of its parts", () => {
    const ids = [
      derivedId(incoming, "a", utf8("k"), 0),
      derivedId(`${incoming}1`, "a", utf8("k"), 0),
      derivedId(incoming, "b", utf8("k"), 0),
      derivedId(incoming, "a", utf8("l"), 0),
      derivedId(incoming, "a", utf8("k"), 10),
      derivedId(incoming, "a", null, 0),
    ];
    expect(new Set(ids).size).toBe(ids.length);
  });
});

describe("replayedIdBytes", () => {
  const id = Uint8Array.from({ length: 16 }, (_, byte) => byte);
  const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");

  // Computed by another program. After an update of this library a replay must know its own ids.
  it.each([
    [1, "f09ed0c5b47c27e87c6e1cd9f99523f7"],
    [2, "7e5437610b3aa168725ab61d523e6aaa"],
  ])("is fixed for replay %d", (number, golden) => {
    expect(hex(replayedIdBytes(id, 9n, { number, until: 10n }))).toBe(golden);
  });

  it("is the id itself from the end of the range on, and where nothing is replayed", () => {
    // Guards: messages that were never handled keep their ids, so that duplicates stay duplicates.
    expect(replayedIdBytes(id, 10n, { number: 1, until: 10n })).toBe(id);
    expect(replayedIdBytes(id, 9n, { number: 0, until: 10n })).toBe(id);
  });
});
