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
import { aName } from "./options.ts";

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
  const place = { consumer: "billing", source: "shop", topic: "orders", partition: 3, offset: 41n };

  it("is the id within its source", () => {
    const idBytes = idBytesOf(utf8(uuid));
    expect(incomingIdentity({ ...place, idBytes })).toBe(`billing/i:shop:${uuid}`);
  });

  it("is the place in the log where there is no id", () => {
    expect(incomingIdentity({ ...place, idBytes: null })).toBe("billing/o:orders:3:41");
  });

  it("is another one for each consumer, whatever their names", () => {
    // Guards: the consumer in the identity. Two that publish to one topic derive equal ids without.
    for (const idBytes of [null, idBytesOf(utf8(uuid))]) {
      const billing = incomingIdentity({ ...place, idBytes });
      const shipping = incomingIdentity({ ...place, consumer: "shipping", idBytes });
      expect(derivedId(shipping, "t", null, 0)).not.toBe(derivedId(billing, "t", null, 0));
    }
  });

  it("keeps a name with colons apart from the source behind it", () => {
    // Guards: the slash, which no name may hold.
    const idBytes = idBytesOf(utf8(uuid));
    const longName = incomingIdentity({ ...place, consumer: "a:i:b", source: "c", idBytes });
    const longSource = incomingIdentity({ ...place, consumer: "a", source: "b:i:c", idBytes });
    expect(longName).not.toBe(longSource);
    expect(aName.fits("a/b")).toBe(false);
  });
});

describe("derivedId", () => {
  const incoming = "billing/o:orders.placed:3:41";

  // Computed by another program. A redo after an update of this library must yield the same ids.
  it.each([
    [utf8("order-1"), 0, "32018ccf-d56d-89b1-8133-da1379b0e273"],
    [utf8("order-1"), 1, "cf793888-a6ba-82aa-9713-23da3121d974"],
    [null, 0, "449bf35b-78c0-8ef3-b5b9-858d31747e69"],
    [utf8(""), 0, "3116d4ea-d6b2-8367-a810-0add92567977"],
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

  it("keeps its parts apart, also where a source holds what lies between them", () => {
    // Guards: the lengths. Separated by U+0000, these two would be written alike.
    const key = `x:${uuid}\u0000b\u00000\u0000ky`;
    const short = derivedId(`c/i:s:${uuid}`, "a", utf8(key), 0);
    const long = derivedId(`c/i:s:${uuid}\u0000a\u00000\u0000kx:${uuid}`, "b", utf8("y"), 0);
    expect(short).not.toBe(long);
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
