// Owns the SQLite storages that break one promise each, made from the outside: one statement is
// replaced on its way to the connection, or one verb is wrapped. There is no switch in the packages.
//
// Native storage and that through knex share every statement and every step of a chunk, so each break
// of those is tried once, in threads on native storage: there a chunk can overtake another. What is
// tried through knex is what only it has, handles that a handler gets and verbs that wait, and what is
// broken at the verbs.
//
// What can have no broken storage here, and what shows it instead:
//
//   a chunk without the write lock    SQLite has one writer: the first statement of a chunk takes the
//                                     lock, if BEGIN did not. Through knex it then waits for it inside
//                                     a call, which is noticed.
//   migrations not locked             each is one call, and the suite's "processes" share a thread
//   how long one try may wait         no case looks at the event loop: sqlite-sync.test.ts
//   a promise out of a handler        the suite waits in every handler: sqlite-sync.test.ts
//   enqueue in its own transaction    it would wait for the caller's, on the same connection
//   a floor that rises too far        positions are committed in their order: a floor that is the
//                                     highest settled one would be true
//   replies and connections lost      there is no wire: the cases do not apply (sqlite-cases.ts)

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { changesOf, type StatementChange } from "../fixtures/sqlite-rewrite.ts";
import { brokenKeeping } from "./broken-keeping.ts";
import { brokenLetters } from "./broken-letters.ts";
import { brokenNativePruning } from "./broken-pruning.ts";
import { brokenNativeParking } from "./broken-sqlite-parking.ts";
import { brokenVerbs, opening, wrapped } from "./broken-verbs.ts";
import type { SqliteVariant } from "./sqlite-knex-under-test.ts";

/** Statements bear no names: each is found by what no other has. */
const statements = {
  begin: /^BEGIN IMMEDIATE$/,
  rollback: /^ROLLBACK$/,
  endMark: /^RELEASE oncebox_mark$/,
  open: /SET owner = owner/,
  record: /INTO oncebox_inbox_messages\s+\(consumer, source, id, topic,/,
  recordOnce: /INTO oncebox_inbox_messages \(consumer, source, id, record_time,/,
  taker: /FROM oncebox_inbox_messages\s+WHERE consumer/,
  advance: /SET next_offset = \?/,
  claim: /epoch = epoch \+ 1, owner = \?/,
  held: /^\s*SELECT p\.next_offset FROM oncebox_inbox_partitions[\s\S]*p\.token = \?/,
  bind: /UPDATE oncebox_consumers SET group_id/,
  registered: /^\s*SELECT 1 FROM oncebox_inbox_partitions[\s\S]*LIMIT 1/,
  addPartition: /INSERT INTO oncebox_inbox_partitions/,
  seek: /SET next_offset = @to/,
  audit: /INSERT INTO oncebox_audit_log/,
  auditLog: /FROM oncebox_audit_log/,
  enqueue: /INSERT INTO oncebox_outbox_messages/,
  take: /RETURNING lane, token/,
  renew: /UPDATE oncebox_outbox_lanes SET leased_until/,
  release: /SET token = NULL, owner = NULL/,
  look: /SELECT position, 64/,
  row: /SELECT message_id, topic/,
  holds: /^SELECT 1 FROM oncebox_outbox_lanes/,
  settle: /DELETE FROM oncebox_outbox_messages/,
  applied: /FROM oncebox_migrations ORDER BY number/,
  noteMigration: /INSERT INTO oncebox_migrations/,
} as const;

type Changes = readonly StatementChange[];

const altered = changesOf(statements);

/** The end of a transaction without the question whether it is still the one that was begun. */
const anyTransaction = altered("endMark", [/RELEASE.*/, "DROP TABLE IF EXISTS oncebox_nothing"]);

/** Says that it has moved one row, and has moved it only where it stands right. */
const advanceAnyway = `
  WITH given (next_offset, topic_id, leader_epoch, last_offset, last_time, last_checksum, parked,
    consumer, topic, partition, token, from_offset) AS (VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?))
  UPDATE oncebox_inbox_partitions AS p
  SET (next_offset, topic_id, leader_epoch, last_offset, last_time, last_checksum, parked,
    stalled_claims, trying_offset, trying_claims, trying_epoch) = (
    SELECT g.next_offset, g.topic_id, g.leader_epoch, coalesce(g.last_offset, p.last_offset),
      coalesce(g.last_time, p.last_time), coalesce(g.last_checksum, p.last_checksum), g.parked,
      0, NULL, 0, NULL
    WHERE p.token = g.token AND p.next_offset = g.from_offset
    UNION ALL
    SELECT p.next_offset, p.topic_id, p.leader_epoch, p.last_offset, p.last_time, p.last_checksum,
      p.parked, p.stalled_claims, p.trying_offset, p.trying_claims, p.trying_epoch
    LIMIT 1)
  FROM given AS g
  WHERE p.consumer = g.consumer AND p.topic = g.topic AND p.partition = g.partition`;

/** Of the first migration, as it is noted where nothing was edited. */
const firstMigration = new URL("../../migrations/sqlite/0001_migrations.sql", import.meta.url);
const firstChecksum = createHash("sha256").update(readFileSync(firstMigration)).digest("hex");

/** By what is wrong with them; the promise that each breaks stands first. Tried on native storage. */
export const brokenNative = {
  ...brokenNativeParking,
  ...brokenNativePruning,
  "T1: a transaction that was ended early passes for committed": anyTransaction,
  "T1: a commit is answered, and what was written under it is rolled back": altered("endMark", [
    /RELEASE/,
    "ROLLBACK TO",
  ]),
  "I1: a claim keeps the token of the one before": altered("claim", [
    /SET token = .*?,/,
    "SET token = coalesce(token, 'first'),",
  ]),
  "I1: a claim does not raise the epoch": altered("claim", [/epoch = epoch \+ 1/, "epoch = epoch"]),
  "I2: a chunk is opened under any claim": altered("open", [/AND token = \?/, "AND ? IS NOT NULL"]),
  "I2: the token is asked for neither first nor last": [
    ...altered("open", [/AND token = \?/, "AND ? IS NOT NULL"]),
    ...altered("advance", [/AND token = \?/, "AND ? IS NOT NULL"]),
    ...anyTransaction,
  ],
  "I2: an advance that moved nothing passes for committed": [
    ...altered("advance", [/[\s\S]*/, advanceAnyway]),
    ...anyTransaction,
  ],
  "I2: a seek keeps the token": altered("seek", [/token = .*?, epoch/, "token = token, epoch"]),
  "I2: a seek keeps the token, and an early end of the transaction is not noticed": [
    ...altered("seek", [/token = .*?, epoch/, "token = token, epoch"]),
    ...anyTransaction,
  ],
  "I3: ids are not recorded": altered("record", [
    /\(\?, \?, \?,/,
    "(?, ?, coalesce(randomblob(16), ?),",
  ]),
  "I3: recordIds records no id": altered("recordOnce", [
    /\(\?, \?, \?,/,
    "(?, ?, coalesce(randomblob(16), ?),",
  ]),
  "I3: consumers share their ids": [
    ...altered("record", [/\(\?,/, "(0 * ?,"]),
    ...altered("recordOnce", [/\(\?,/, "(0 * ?,"]),
    ...altered("taker", [/consumer = \?/, "consumer = 0 * ?"]),
  ],
  "I3: another value under the same id is a duplicate": altered("taker", [
    /checksum FROM/,
    "NULL AS checksum FROM",
  ]),
  "I3: an id taken by the record's own position is a duplicate": altered("taker", [
    /record_offset,/,
    "record_offset + 1 AS record_offset,",
  ]),
  "I3: a seek forgets up to where messages were applied": altered("seek", [
    /applied_until = max\(applied_until, next_offset\)/,
    "applied_until = applied_until",
  ]),
  "I3: a second seek back lowers what counts as applied": altered("seek", [
    /applied_until = max\(applied_until, next_offset\)/,
    "applied_until = next_offset",
  ]),
  "I3: all replays have one number": altered("seek", [/replay = replay \+ /, "replay = "]),
  "I4: the position moves wherever it stands": [
    ...altered("advance", [/AND next_offset = \?/, "AND ? IS NOT NULL"]),
    ...anyTransaction,
  ],
  "I4: a commit without a record forgets the last one": altered(
    "advance",
    [/coalesce\(\?, last_offset\)/, "?"],
    [/coalesce\(\?, last_time\)/, "?"],
    [/coalesce\(\?, last_checksum\)/, "?"],
  ),
  "I4: a seek keeps the mark of the log": altered("seek", [
    /leader_epoch = NULL,\s+last_offset = NULL, last_time = NULL, last_checksum = NULL,/,
    "",
  ]),
  "I4: a registration moves the positions that are there": altered("addPartition", [
    /DO NOTHING/,
    "DO UPDATE SET next_offset = excluded.next_offset",
  ]),
  "I4: no topic is found to be registered": altered("registered", [/LIMIT 1/, "LIMIT 0"]),
  "I4: a topic of one consumer counts as registered for all": altered("registered", [
    /c\.name = \?/,
    "? IS NOT NULL",
  ]),
  "I4: a second group takes the consumer's name over": altered("bind", [
    /AND group_id IS NULL/,
    "",
  ]),
  "I4: any claim is an expected one": altered("held", [/p\.token = \?/, "? IS NOT NULL"]),
  "I5: nothing comes into the audit log": altered("audit", [
    /VALUES (\(.*\))/,
    "SELECT ?, ?, ?, ?, ? WHERE false",
  ]),
  "I5: every page of the audit log is the first": altered("auditLog", [/id < \?/, "? IS NOT NULL"]),
  "O2: what has no bytes is read as empty": altered("enqueue", [
    /unhex\(value ->> 4\)/,
    "coalesce(unhex(value ->> 4), x'')",
  ]),
  "O3: rows of one call get their positions backwards": altered("enqueue", [
    /ORDER BY key/,
    "ORDER BY key DESC",
  ]),
  "O3: rows of a lane are read from the newest on": altered("look", [
    /ORDER BY position/,
    "ORDER BY position DESC",
  ]),
  "O3: rows of all lanes are read for each": [
    ...altered("look", [/lane = \?/, "? IS NOT NULL"]),
    ...altered("row", [/lane = \?/, "? IS NOT NULL"]),
  ],
  "O4: a live lease is taken": altered("take", [/\(leased_until IS NULL .*\)/, "true"]),
  "O4: a settle does not ask for the lease": altered("holds", [/token = \?/, "? IS NOT NULL"]),
  "O4: a lease that was lost is renewed": altered("renew", [/token = \?/, "? IS NOT NULL"]),
  "O4: a lease that was lost is released": altered("release", [/token = \?/, "? IS NOT NULL"]),
  "O6: a settle deletes all up to the confirmed rows": altered("settle", [
    /position = \?/,
    "position <= ?",
  ]),
  "O6: a settle deletes a position in whatever lane": altered("settle", [
    /lane = \?/,
    "? IS NOT NULL",
  ]),
  "M1: the checksum of what was applied is not compared": altered("applied", [
    /checksum/,
    `iif(number = 1, '${firstChecksum}', checksum) AS checksum`,
  ]),
  "M1: what is newer is not seen": altered("applied", [
    /ORDER BY/,
    "WHERE name NOT LIKE '9999%' ORDER BY",
  ]),
  "M1: a migration is not noted": altered("noteMigration", [
    /VALUES .*/,
    "SELECT ?, ?, ? WHERE false",
  ]),
} as const satisfies Readonly<Record<string, Changes>>;

/** Breaks of no promise here. */
const {
  "O1: enqueue has a transaction of its own": _waits,
  "O3: the highest settled position is taken for a floor": _true,
  ...verbs
} = brokenVerbs;

/** As above; tried through knex. */
export const brokenKnex = {
  ...verbs,
  ...brokenLetters,
  ...brokenKeeping,
  "T1: a handle lives on when its handler has ended": wrapped((storage) => ({
    open: opening(storage, (chunk) => ({
      handle: (use) => ({ ...chunk.handle(use), end: () => {} }),
    })),
  })),
  "I1: a claim waits for nobody": wrapped((storage) => ({
    claim: (ref) => storage.claim(ref, 0),
  })),
  "I3: a transaction is begun without the lock": {
    changes: altered("begin", [/ IMMEDIATE/, ""]),
  },
  "I5: a rollback commits": { changes: altered("rollback", [/ROLLBACK/, "COMMIT"]) },
} satisfies Readonly<Record<string, SqliteVariant>>;
