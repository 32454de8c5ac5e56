import { describe, expect, it } from "vitest";
import type { OnceboxEvent } from "../events.ts";
import { utf8 } from "../message.ts";
import type { BrokerRecord, LogState, RecordBatch } from "../ports/broker.ts";
import type { Clock } from "../ports/clock.ts";
import type { LogMark, PartitionClaim } from "../ports/storage.ts";
import { lastRecordOf } from "./chunk.ts";
import type { LostPositionPolicy } from "./lost-position.ts";
import { Reader } from "./reader.ts";

const ref = { consumer: "billing", topic: "orders", partition: 0 };
const topicId = "topic-1";
const whole = { recordsMax: 100, bytesMax: 1_000, before: null };

function record(offset: bigint, changes: Partial<BrokerRecord> = {}): BrokerRecord {
  const fields = { timestamp: 1_000n + offset, leaderEpoch: 3, key: null, value: utf8("v") };
  return { offset, headers: [], ...fields, ...changes };
}

/** Records of these offsets, fetched at the first of them unless something else is said. */
function batch(records: readonly BrokerRecord[], changes: Partial<RecordBatch> = {}): RecordBatch {
  const fetchedOffset = records[0]?.offset ?? 0n;
  const endOffset = (records.at(-1)?.offset ?? fetchedOffset) + 1n;
  const place = { topic: ref.topic, partition: 0, assignment: 1, topicId, endEpoch: 3 };
  return { ...place, fetchedOffset, endOffset, records, ...changes };
}

const logOf = (end: bigint, lastStable = end, start = 0n): LogState => ({ start, lastStable, end });

/** A claim at 10; with `last` the record at 9 was the last one that was handled. */
function scene(given: { last?: boolean; policy?: LostPositionPolicy } = {}) {
  let now = 0;
  let rings = 0;
  const events: OnceboxEvent[] = [];
  const clock = { now: () => now } as Clock;
  const last = given.last ? lastRecordOf(record(9n)) : null;
  const log: LogMark = { topicId, leaderEpoch: 3, last };
  const claim: PartitionClaim = {
    ...{ ...ref, token: "t", epoch: 1n, nextOffset: 10n, log, replay: { number: 0, until: 0n } },
    ...{ soughtEpoch: 0n, stalledClaims: 1, trying: null, incarnation: "db-1" },
  };
  const reader = new Reader(
    {
      clock,
      observe: (event) => void events.push(event),
      buffer: { batchesMax: 2, bytesMax: 1_000 },
      onLostPosition: given.policy ?? {},
      hangingTransactionAfterMs: 90_000,
    },
    claim,
    () => {
      rings += 1;
      // As the worker does where the claim is held.
      reader.announce();
    },
  );
  const types = () => events.map(({ type }) => type);
  const pass = (ms: number) => {
    now += ms;
  };
  return { reader, events, types, pass, rings: () => rings };
}

const offsets = (reader: Reader) => reader.chunk(whole)?.records.map(({ offset }) => offset);

describe("the last handled record", () => {
  it("is asked for first, with the epoch before the position, and never handled again", () => {
    // Guards: the fetch from the last record, and that nothing below the position is kept.
    const { reader, types, rings } = scene({ last: true });
    expect(reader.position()).toEqual({ offset: 9n, topicId, leaderEpoch: 3 });
    reader.deliver(batch([record(9n), record(10n), record(11n)]));
    // Guards: nothing of that batch is taken. Kafka has compared epochs at 9 only: where something
    // lies between the last record and the position, the log may be another one behind it.
    expect(offsets(reader)).toBeUndefined();
    expect(reader.position()).toEqual({ offset: 10n, topicId, leaderEpoch: 3 });
    reader.deliver(batch([record(10n), record(11n)]));
    expect(offsets(reader)).toEqual([10n, 11n]);
    expect(reader.chunk(whole)?.firstOffset).toBe(10n);
    expect(reader.position()?.offset).toBe(12n);
    expect([types(), rings()]).toEqual([[], 1]);
  });

  it("is not asked for where the position has none, or none below it", () => {
    // Guards: a claim without a last record reads from its position at once.
    expect(scene().reader.position()).toEqual({ offset: 10n, topicId, leaderEpoch: 3 });
  });

  it.each([
    ["timestamp", { timestamp: 5n }],
    ["key or value", { value: utf8("another") }],
    ["key or value", { key: utf8("another") }],
  ])("with another %s: another log, nothing of it is taken", (what, changes) => {
    // Guards: both halves of the comparison, time and checksum.
    const { reader, types, rings } = scene({ last: true });
    reader.deliver(batch([record(9n, changes), record(10n)]));
    expect(reader.lost?.error).toMatchObject({
      code: "record-changed",
      message: expect.stringContaining(`another ${what}`),
      details: { ...ref, offset: 9n, position: 10n },
    });
    expect(reader.lost).toMatchObject({ goOn: null, mayPass: false });
    expect([offsets(reader), reader.position()]).toEqual([undefined, null]);
    expect([types(), rings()]).toEqual([["inbox.displaced"], 1]);
  });

  it("that compaction took: told, and read on", () => {
    // Guards: absence is no proof of another log, and must not stop the partition.
    const { reader, events } = scene({ last: true });
    reader.deliver(batch([record(10n)], { fetchedOffset: 9n }));
    expect(events).toEqual([{ ...ref, type: "inbox.continuity-unknown", offset: 9n }]);
    reader.deliver(batch([record(10n)]));
    expect(offsets(reader)).toEqual([10n]);
  });

  it("at the end of its batch: the position itself is asked for next", () => {
    // Guards: a batch that ends at the position holds nothing to take, and is no gap.
    const { reader, types } = scene({ last: true });
    reader.deliver(batch([record(9n)]));
    expect(reader.lost).toBeNull();
    expect(reader.position()).toEqual({ offset: 10n, topicId, leaderEpoch: 3 });
    reader.deliver(batch([record(10n)]));
    expect([offsets(reader), types()]).toEqual([[10n], []]);
  });

  it("gone in a batch that ends below the position: read on from the position", () => {
    // Guards: the position never moves back to what such a batch ends at.
    const { reader, types } = scene({ last: true });
    reader.deliver(batch([], { fetchedOffset: 9n, endOffset: 10n }));
    expect(types()).toEqual(["inbox.continuity-unknown"]);
    expect(reader.position()?.offset).toBe(10n);
  });

  it("does not take a batch that was fetched at the position instead", () => {
    // Guards: nothing is read before the comparison, also where an old answer arrives.
    const { reader, events } = scene({ last: true });
    reader.deliver(batch([record(10n)]));
    expect(events).toEqual([{ ...ref, type: "inbox.batch-dropped", reason: "wrong-position" }]);
    expect([offsets(reader), reader.position()?.offset]).toEqual([undefined, 9n]);
  });

  it.each([
    [10n, 20n],
    [10n, 10n],
  ])("that retention took while the position is inside %d to %d: told, read on", (start, end) => {
    // Guards: out of range of the record before the position is not out of range of the position.
    const { reader, types } = scene({ last: true });
    reader.displaced(9n, { kind: "out-of-range", log: { start, end } });
    expect([types(), reader.lost]).toEqual([["inbox.continuity-unknown"], null]);
    expect(reader.position()?.offset).toBe(10n);
  });

  it.each([
    ["retention took the position as well", 12n, 20n, { from: 10n, to: 11n }],
    ["the log ends below both", 0n, 5n, { from: 5n, to: 9n }],
    ["the log was emptied up to below the position", 9n, 9n, { from: 9n, to: 9n }],
  ])("out of range because %s: judged at the position", (_, start, end, range) => {
    // Guards: the exact range counts from the position, not from the record that was asked for.
    const { reader } = scene({ last: true });
    reader.displaced(9n, { kind: "out-of-range", log: { start, end } });
    expect(reader.lost?.error).toMatchObject({
      code: "position-out-of-range",
      details: { position: 10n, ...range },
    });
  });
});

describe("a position that does not fit", () => {
  const recreated = { kind: "topic-recreated", topicId: "topic-2" } as const;
  const log = { start: 0n, end: 11n };

  it("is null from then on, told once, and nothing that comes late is taken", () => {
    // Guards: nothing is handled after a loss, whatever an old answer brings.
    const { reader, types, rings } = scene();
    reader.displaced(10n, recreated);
    reader.deliver(batch([record(10n)]));
    reader.displaced(10n, { kind: "topic-missing" });
    reader.unreadable(10n, new Error("damaged"));
    reader.fetched(logOf(20n));
    expect([reader.position(), offsets(reader)]).toEqual([null, undefined]);
    expect(reader.lost?.error.code).toBe("topic-recreated");
    expect(types()).toEqual(["inbox.displaced", "inbox.batch-dropped"]);
    expect(rings()).toBe(1);
  });

  it.each([
    ["is displaced", (reader: Reader) => reader.displaced(12n, recreated)],
    ["is cut off", (reader: Reader) => reader.displaced(12n, { kind: "out-of-range", log })],
    ["cannot be read", (reader: Reader) => reader.unreadable(12n, new Error("damaged"))],
    ["leaves a gap", (reader: Reader) => reader.deliver(batch([record(12n)], { endOffset: 12n }))],
  ])("behind messages that wait here, which %s, is judged when these are handled", (_, happens) => {
    // Guards #draining: the position in the database is what may be lost. What was read before it is
    // handled; to stop in front of it, or to go on behind it, would pass it over.
    const { reader, types } = scene();
    reader.deliver(batch([record(10n), record(11n)]));
    happens(reader);
    expect([reader.lost, reader.position(), types()]).toEqual([null, null, []]);
    expect(offsets(reader)).toEqual([10n, 11n]);
    reader.drop(11n);
    expect(reader.position()).toBeNull();
    reader.drop(12n);
    expect(reader.position()?.offset).toBe(12n);
    reader.displaced(12n, recreated);
    expect(reader.lost?.error.details).toMatchObject({ position: 12n });
    expect(types()).toEqual(["inbox.displaced"]);
  });

  it("is forgotten where the log fits by then", () => {
    const { reader } = scene();
    reader.deliver(batch([record(10n)]));
    reader.displaced(11n, { kind: "topic-missing" });
    reader.drop(11n);
    reader.fetched(logOf(12n));
    reader.deliver(batch([record(11n)]));
    expect([offsets(reader), reader.position()?.offset]).toEqual([[11n], 12n]);
  });

  it("is not lost by an answer about another position", () => {
    // Guards: an answer that was asked for under an older claim is void.
    const { reader, types } = scene();
    reader.displaced(7n, recreated);
    reader.unreadable(7n, new Error("damaged"));
    expect([reader.lost, types()]).toEqual([null, []]);
  });

  it.each([
    ["a policy goes on", { recreated: "go-on" } as const, false],
    ["a person decides", {}, true],
  ])("says whether it pauses: %s", (_, policy, paused) => {
    // Guards: `paused` of the event, which an alarm rests on.
    const { reader, events } = scene({ policy });
    reader.displaced(10n, recreated);
    expect(events).toMatchObject([{ type: "inbox.displaced", paused }]);
  });

  it("because the log has another topic's id, although the broker did not say so", () => {
    // Guards: the topic of each batch is compared, also where an adapter delivers.
    const { reader } = scene();
    reader.deliver(batch([record(10n)], { topicId: "topic-2" }));
    expect(reader.lost?.error.code).toBe("topic-recreated");
  });

  it.each([
    ["out of order", batch([record(11n), record(10n)], { fetchedOffset: 10n, endOffset: 12n })],
    ["past its end", batch([record(10n), record(12n)], { endOffset: 12n })],
  ])("because a batch is %s", (_, broken) => {
    // Guards: what a batch does not account for stops the partition.
    const { reader } = scene();
    reader.deliver(broken);
    expect(reader.lost?.error.code).toBe("position-gap");
  });

  it("because what is there cannot be decoded", () => {
    // Guards: an unreadable position pauses, with its cause.
    const { reader } = scene();
    const cause = new Error("no codec");
    reader.unreadable(10n, cause);
    expect(reader.lost?.error).toMatchObject({ code: "position-unreadable", cause });
  });
});

describe("a loss that may pass", () => {
  const missing = { kind: "topic-missing" } as const;

  it("is asked for again after 30 s, as often as somebody wants to know, until it is answered", () => {
    // Guards: a look at the position spends nothing. A client may ask and not fetch (it looks the
    // topic up first), and the watchdog asks as well.
    const { reader, pass, types } = scene();
    reader.displaced(10n, missing);
    pass(29_999);
    expect(reader.position()).toBeNull();
    pass(1);
    for (let asked = 0; asked < 3; asked += 1) expect(reader.position()?.offset).toBe(10n);
    reader.displaced(10n, missing);
    expect(reader.position()).toBeNull();
    pass(30_000);
    expect(reader.position()?.offset).toBe(10n);
    // The same again is nothing new.
    expect(types()).toEqual(["inbox.displaced"]);
  });

  it("ends with an answer", () => {
    const { reader, pass } = scene();
    reader.displaced(10n, missing);
    pass(30_000);
    reader.fetched(logOf(11n));
    reader.deliver(batch([record(10n)]));
    expect([reader.lost, offsets(reader)]).toEqual([null, [10n]]);
  });

  it("becomes a final one where the topic came back as another", () => {
    // Guards: a loss that may pass does not hide one that will not.
    const { reader, pass, types } = scene();
    reader.displaced(10n, missing);
    pass(30_000);
    reader.displaced(10n, { kind: "topic-recreated", topicId: "topic-2" });
    pass(30_000);
    expect([reader.lost?.error.code, reader.position()]).toEqual(["topic-recreated", null]);
    expect(types()).toEqual(["inbox.displaced", "inbox.displaced"]);
  });
});

describe("a transaction that stays open", () => {
  it("is told after a while, again after as long, and not once the last stable offset moved", () => {
    // Guards: the alarm's clock, which starts anew with each step and each alarm.
    const { reader, events, pass } = scene();
    const hanging = () => events.filter(({ type }) => type === "inbox.transaction-hanging");
    reader.fetched(logOf(20n, 12n));
    pass(89_999);
    reader.fetched(logOf(21n, 12n));
    expect(hanging()).toEqual([]);
    pass(1);
    reader.fetched(logOf(22n, 12n));
    const told = { ...ref, type: "inbox.transaction-hanging", lastStable: 12n };
    expect(hanging()).toEqual([{ ...told, logEnd: 22n, ms: 90_000 }]);
    pass(89_999);
    reader.fetched(logOf(22n, 12n));
    expect(hanging()).toHaveLength(1);
    pass(1);
    reader.fetched(logOf(22n, 12n));
    expect(hanging()).toHaveLength(2);
    pass(60_000);
    reader.fetched(logOf(22n, 13n));
    pass(60_000);
    reader.fetched(logOf(22n, 13n));
    reader.fetched(logOf(22n));
    expect(hanging()).toHaveLength(2);
  });
});

describe("silence", () => {
  it("is not that there is nothing to read", () => {
    // Guards: an answer without records at the end of the log counts as heard.
    const { reader, pass } = scene();
    pass(50_000);
    reader.fetched(logOf(10n));
    expect(reader.silentMs()).toBe(0);
    // Nor that a transaction keeps the rest.
    pass(50_000);
    reader.fetched(logOf(15n, 10n));
    expect(reader.silentMs()).toBe(0);
  });

  it("is that there is something to read and it never comes", () => {
    // Guards: answers alone do not count where records are owed.
    const { reader, pass } = scene();
    pass(50_000);
    reader.fetched(logOf(11n));
    expect(reader.silentMs()).toBe(50_000);
    reader.deliver(batch([record(10n)]));
    expect(reader.silentMs()).toBe(0);
  });

  it("counts from the record that is asked for while the last one is looked for", () => {
    // Guards: at the end of the log the last record is still owed.
    const { reader, pass } = scene({ last: true });
    pass(50_000);
    reader.fetched(logOf(10n));
    expect(reader.silentMs()).toBe(50_000);
    reader.deliver(batch([record(9n)]));
    expect(reader.silentMs()).toBe(0);
  });

  it("is not that the buffer is full", () => {
    // Guards: what is not asked for is not owed.
    const { reader, pass } = scene();
    reader.deliver(batch([record(10n)]));
    reader.deliver(batch([record(11n)]));
    expect(reader.position()).toBeNull();
    pass(50_000);
    reader.fetched(logOf(99n));
    expect(reader.silentMs()).toBe(0);
  });

  it("does not end with a batch of a wrong position, but with trouble that is told", () => {
    // Guards: a client that answers the wrong question is as good as silent.
    const { reader, pass, types } = scene();
    pass(50_000);
    reader.deliver(batch([record(4n)]));
    expect(reader.silentMs()).toBe(50_000);
    const error = new Error("its disk");
    reader.troubled(error);
    expect([reader.silentMs(), reader.trouble]).toEqual([0, error]);
    expect(types()).toEqual(["inbox.batch-dropped", "inbox.fetch-troubled"]);
  });
});
