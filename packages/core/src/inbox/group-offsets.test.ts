import { expect, it } from "vitest";
import type { GroupOffset } from "../ports/broker.ts";
import type { PartitionClaim } from "../ports/storage.ts";
import { groupAhead, offsetMetadata } from "./group-offsets.ts";

const ref = { consumer: "billing", topic: "orders", partition: 0 };

/** Claimed at 10 under epoch 6; an operator moved it last under epoch 4. */
const claim: PartitionClaim = {
  ...{ ...ref, token: "t", epoch: 6n, nextOffset: 10n, replay: { number: 0, until: 0n } },
  ...{ log: { topicId: null, leaderEpoch: null, last: null } },
  ...{ soughtEpoch: 4n, stalledClaims: 1, trying: null, incarnation: "db-1" },
};

const written = (incarnation: string, epoch: bigint, offset: bigint) =>
  offsetMetadata({ incarnation, epoch }, offset);

function why(offset: bigint, metadata: string, changes: Partial<GroupOffset> = {}) {
  const found = { topic: ref.topic, partition: 0, offset, metadata, ...changes };
  const event = groupAhead(claim, [{ ...found, partition: 9, offset: 99n }, found]);
  return event?.type === "inbox.group-ahead" ? event.why : event;
}

it("writes what it can read again", () => {
  // Guards: the form beside the offset, which operators and other versions read as well.
  expect(written("db-1", 5n, 12n)).toBe("oncebox/1 db-1 5 12");
});

it("says where both stand", () => {
  // Guards: the event's fields.
  const offsets = [{ topic: "orders", partition: 0, offset: 12n, metadata: "" }];
  expect(groupAhead(claim, offsets)).toEqual({
    ...{ ...ref, type: "inbox.group-ahead", why: "moved" },
    ...{ groupOffset: 12n, nextOffset: 10n },
  });
});

it("has nothing to tell of an offset at or below the position, or of none", () => {
  // Guards: the group's offset follows the database, so it is lower most of the time.
  expect([why(10n, ""), why(9n, "by hand"), groupAhead(claim, [])]).toEqual([null, null, null]);
  expect(why(12n, "", { topic: "another" })).toBeNull();
});

it.each([
  ["nothing of ours beside it", ""],
  ["text of another tool", "reset by someone"],
  ["our text with something added", `${written("db-1", 5n, 12n)} by hand`],
  ["the offset changed and our text kept", written("db-1", 5n, 9n)],
])("was moved by somebody: %s", (_, metadata) => {
  // Guards: only an offset that we wrote ourselves says anything of this database.
  expect(why(12n, metadata)).toBe("moved");
});

it("was written from another database", () => {
  // Guards: two databases under one group, or one that was installed anew.
  expect(why(12n, written("db-2", 5n, 12n))).toBe("other-database");
});

it.each([4n, 5n, 6n, 900n])("was written under epoch %d: this database was set back", (epoch) => {
  // Guards: what was committed under a claim since the last seek cannot be above the position.
  expect(why(12n, written("db-1", epoch, 12n))).toBe("set-back");
});

it("was written before an operator moved the position back: as expected", () => {
  // Guards: no alarm after each seek.
  expect(why(12n, written("db-1", 3n, 12n))).toBeNull();
});
