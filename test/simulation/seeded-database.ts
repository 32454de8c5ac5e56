// Owns the seeded bugs of the inbox's half of the storage: claims, locks, ids, commits. The memory
// storage stands for PostgreSQL and SQLite; `real` names what notices the same there.

import { inFile, type SeededBug } from "./seeded-bug.ts";
import { noSweep } from "./seeded-outbox.ts";

const folder = "packages/testing/src/memory-storage";
const chunk = `${folder}/chunk.ts`;
const partitions = `${folder}/partitions.ts`;
const recordIds = `${folder}/record-ids.ts`;
const ownTransaction = `${folder}/own-transaction.ts`;

const comparison = "row?.token !== this.#claim.token || row.nextOffset !== this.nextOffset";
const firstLook = "if (find()?.token !== claim.token) throw claimLost(claim);";
const secondLook = "if (row?.token !== claim.token) throw claimLost(claim);";

/**
 * A chunk locks its row when it moves the position, not when it opens, as an UPDATE without a SELECT
 * FOR UPDATE before it does; a transaction that failed before shows in the answer to COMMIT only; and
 * nobody sweeps the outbox.
 */
const fewerLayers = [
  ...inFile(
    chunk,
    ["await tables.lock(transaction,", "if (false) await tables.lock(transaction,"],
    [
      'this.#connection.run("advance", (transaction) => {',
      `this.#connection.run("advance", async (transaction) => {
        await tables.lock(transaction, "partitions/" + key, this.#parts.lockTimeoutMs);`,
    ],
    ["throw aborted(doing, this.#firstFailure ?? this.#begun.aborted);", "return;"],
  ),
  ...noSweep,
];

/** The position moves under any claim and from anywhere: what is held since `open` protects it. */
const noComparison = inFile(chunk, [comparison, "row === undefined"]);

export const databaseBugs: readonly SeededBug[] = [
  {
    name: "no compare-and-set",
    why: "A position moves only from where the chunk began, under the claim it began with.",
    replace: noComparison,
    without: fewerLayers,
    finds: ["doubled", "movedBack", "inverted", "totals", "strayCommit"],
    seed: 178,
    real: "I4: the position moves wherever it stands",
  },
  {
    name: "no epoch check",
    why: "A chunk opens under the claim that the row holds, and under no older one.",
    replace: inFile(chunk, [firstLook, ""], [secondLook, "if (!row) throw claimLost(claim);"]),
    without: noComparison,
    finds: ["strayCommit"],
    seed: 4,
    real: "I2: a chunk is opened under any claim",
  },
  {
    name: "token not checked after the database goes back",
    why: "A claim is known by a random token: its number comes again when the database goes back.",
    replace: [
      ...inFile(
        chunk,
        [firstLook, "if (find()?.epoch !== claim.epoch) throw claimLost(claim);"],
        [secondLook, "if (row?.epoch !== claim.epoch) throw claimLost(claim);"],
        ["row?.token !== this.#claim.token", "row?.epoch !== this.#claim.epoch"],
      ),
      ...inFile(partitions, [
        "const { token, nextOffset } = (row as PartitionRow | undefined) ?? {};\n          return token !== held.token ||",
        "const { epoch, nextOffset } = (row as PartitionRow | undefined) ?? {};\n          return epoch !== held.epoch ||",
      ]),
    ],
    finds: ["strayOpen", "strayCommit"],
    seed: 47,
    real: "I2 the token fences, not the epoch: after a fail-over an old epoch may fit again",
  },
  {
    name: "read without the lock after it",
    why: "What a chunk goes by is read under the lock, not before it waited for the lock.",
    replace: inFile(
      chunk,
      ["const row = find();\n", ""],
      ["await tables.lock(transaction,", "const row = find();\n await tables.lock(transaction,"],
    ),
    without: noComparison,
    finds: ["doubled", "movedBack", "strayCommit", "inverted", "totals"],
    seed: 56,
    real: "I1: a chunk does not lock its partition's row",
  },
  {
    name: "a claim goes by what it saw before it waited",
    why: "A COMMIT that arrives late counts: a claim waits for its lock, then reads the position.",
    replace: inFile(partitions, [
      `await lockPartition(parts, transaction, ref, waitMs, "could not be claimed");
      const row = tables.get(transaction, "partitions", key) as PartitionRow | undefined;`,
      `const row = tables.get(transaction, "partitions", key) as PartitionRow | undefined;
      await lockPartition(parts, transaction, ref, waitMs, "could not be claimed");`,
    ]),
    finds: ["doubled", "movedBack", "inverted", "totals"],
    real: "I1 a claim waits for a commit that arrives after its connection died, and sees it",
  },
  {
    name: "advance of zero rows committed",
    why: "A compare-and-set that misses ends the chunk, and its effects with it.",
    replace: inFile(chunk, ["throw claimLost(this.#claim);", "return;"]),
    without: fewerLayers,
    finds: ["doubled", "inverted", "totals"],
    real: "I2: an advance that moved nothing passes for committed",
  },
  {
    name: "dedupe off",
    why: "A message that lies at two offsets has one effect.",
    replace: inFile(recordIds, [
      'if (record.id === null || inserted.has(place)) return "new";',
      'return "new";',
    ]),
    finds: ["doubled", "totals"],
    real: "I3: ids are not recorded",
  },
  {
    name: "ids without positions",
    why: "An id that the record's own place took is no duplicate: a handler may have committed early.",
    replace: inFile(recordIds, [
      'if (own && (number > 0 || record.offset >= until)) return "new";',
      "",
    ]),
    finds: ["lost"],
    seed: 66,
    real: "I3: an id taken by the record's own position is a duplicate",
  },
  {
    name: "COMMIT answer not read",
    why: "COMMIT of a failed transaction is answered without an error: rolled back.",
    replace: inFile(ownTransaction, ['if (outcome !== "committed") throw', "if (false) throw"]),
    without: fewerLayers,
    finds: ["groupAhead", "undrained", "lost"],
    seed: 8,
    real: "T1: a transaction with a swallowed error passes for committed",
  },
  {
    name: "early end of a chunk's transaction not noticed",
    why: "A chunk commits the very transaction it began: where a handler ended that, it has failed.",
    replace: [
      ...inFile(chunk, ["if (transaction !== this.#begun) throw endedEarly(doing);", ""]),
      ...inFile(ownTransaction, ["if (connection.transaction !== begun) {", "if (!begun) {"]),
    ],
    finds: ["earlyEnd"],
    seed: 28,
    real: "I5: an early end of the transaction is not noticed",
  },
  {
    name: "position moved in a transaction of its own",
    why: "Effects and position commit together.",
    replace: inFile(
      chunk,
      [
        `await this.#advance(doing, nextOffset, mark);
      await commitOf(doing, this.#connection, this.#begun, this.#firstFailure);`,
        `await commitOf(doing, this.#connection, this.#begun, this.#firstFailure);
      await this.#advance(doing, nextOffset, mark);`,
      ],
      ["if (transaction !== this.#begun) throw endedEarly(doing);", ""],
    ),
    finds: ["doubled", "inverted", "totals"],
  },
  {
    name: "a seek leaves the claim",
    why: "A seek fences whoever holds the partition, so that it goes on from the new position.",
    replace: inFile(`${folder}/registration.ts`, [
      "nextOffset: to, token, epoch,",
      "nextOffset: to, token: token && row.token, epoch,",
    ]),
    finds: ["undrained", "lost"],
    seed: 165,
    real: "I2: a seek keeps the token",
  },
];
