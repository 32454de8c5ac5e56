// Owns the seeded bugs of the outbox: the relay in the core, and lanes, floors and rows, for which the
// memory storage stands.

import { inFile, type SeededBug } from "./seeded-bug.ts";

const core = "packages/core/src/outbox";
const relay = `${core}/outbox-relay.ts`;
const backlog = `${core}/backlog.ts`;
const publisher = `${core}/publisher.ts`;
const lanes = "packages/testing/src/memory-storage/lanes.ts";

const risenFloor = "const floor = reachable(parts, transaction, lane);";

/** Nobody looks below the floors: what lies there stays. */
export const noSweep = inFile(
  relay,
  ["const sweep = now >= this.#sweepAt;", "const sweep = false;"],
  ["return Math.min(readAt, this.#sweepAt);", "return readAt;"],
);

export const outboxBugs: readonly SeededBug[] = [
  {
    name: "floor ignores open transactions",
    why: "A floor stays below every row that may still be committed.",
    replace: inFile(lanes, ['[...there, ...tables.pending("outbox")]', "there"]),
    finds: ["floorAnomaly", "unpublished"],
    real: "O3: the floor rises although older transactions are open",
  },
  {
    name: "floor as a cursor",
    why: "A floor is no cursor: it stays below what its own lane may still show, or has not sent.",
    replace: inFile(lanes, [
      risenFloor,
      `const sent = published.filter((row) => row.lane === lane).map((row) => row.position);
    const floor = sent.reduce((high, each) => (each > high ? each : high), 0n);`,
    ]),
    without: noSweep,
    finds: ["unpublished"],
    seed: 28,
    real: "O3: the highest settled position is taken for a floor",
  },
  {
    name: "delete by range",
    why: "Exactly the rows that were acknowledged are deleted, never a range.",
    replace: inFile(lanes, [
      "for (const { lane, position } of published) {",
      `const below = parts.database.tables
    .entries(transaction, "outbox")
    .map(([, row]) => row as OutboxRow)
    .filter((row) => published.some(({ lane, position }) => lane === row.lane && row.position <= position));
  for (const { lane, position } of below) {`,
    ]),
    finds: ["unpublished"],
    seed: 28,
    real: "O6: a settle deletes all up to the confirmed rows",
  },
  {
    name: "live lease taken",
    why: "A lane is taken only when its lease is over.",
    replace: inFile(lanes, [
      "(row !== undefined && row.leasedUntil >= now)",
      "(row !== undefined && row.leasedUntil >= now && row.owner === relay)",
    ]),
    finds: ["strayPublish"],
    real: "O4: a live lease is taken",
  },
  {
    name: "enqueued beside the transaction",
    why: "A row of the outbox commits with the work that it tells of, or not at all.",
    replace: inFile(lanes, [
      'tables.write(transaction, "outbox", String(position), { ...row, position });',
      `const apart = tables.begin("apart");
        tables.write(apart, "outbox", String(position), { ...row, position });
        tables.commit(apart);`,
    ]),
    finds: ["uncommitted"],
    real: "O1: enqueue has a transaction of its own",
  },
  {
    name: "lease not checked before sending",
    why: "A lane is sent only while its lease outlasts a publish.",
    replace: inFile(relay, [
      'return lane.state === "active" && lane.deadline - now >= this.#settings.leaseNeededMs;',
      'return lane.state === "active" && now >= 0;',
    ]),
    finds: ["strayPublish"],
    seed: 21,
    real: "are not sent when their lease is too short for a publish (A5)",
  },
  {
    name: "unlisted acknowledgement counted",
    why: "Only what Kafka says is stored counts as published.",
    replace: inFile(backlog, [
      "new Set(result.acknowledged)",
      "new Set([...result.acknowledged, ...result.unknown.map(({ index }) => index)])",
    ]),
    finds: ["unpublished"],
    seed: 12,
    real: "B1: what was unknown is acknowledged",
  },
  {
    name: "producer kept after a failed send",
    why: "After a failed send the Kafka client is thrown away: what it sends next may be dropped.",
    replace: inFile("test/simulation/producer-clients.ts", [
      "if (result.unknown.length > 0) client = null;",
      "",
    ]),
    finds: ["unpublished"],
    seed: 12,
    real: "what a lost answer would have said, and goes on with a new connection",
  },
  {
    name: "two sends at once",
    why: "One batch is on its way at a time.",
    replace: inFile(publisher, [
      "if (batch.length > 0) await this.#send(",
      "if (batch.length > 0) void this.#send(",
    ]),
    finds: ["overlappingSends", "unpublished"],
    seed: 12,
    real: "does not hold up reading the next and deleting the last, and is alone on its way",
  },
  {
    name: "rows overtake one whose outcome is unknown",
    why: "What follows in the same partition waits behind an unknown outcome.",
    replace: inFile(backlog, [
      "if (this.#blocks.size === 0) return undefined;",
      "if (this.#blocks.size >= 0) return undefined;",
    ]),
    finds: ["disordered", "unpublished"],
    seed: 12,
    real: "of acknowledgements repeat messages, with the same ids and never out of order",
  },
  {
    name: "lost wake-ups are not polled for",
    why: "The outbox is looked into now and then, whether a bell rang or not.",
    replace: inFile(relay, [
      "return Math.min(pollIdleMs, Math.max(pollBusyMs, previousMs * 2));",
      "return never;",
    ]),
    without: noSweep,
    finds: ["unpublished"],
    seed: 767,
  },
];
