// Owns the PostgreSQL storages that break one promise each, made from the outside: one statement is
// replaced on its way to the database, or one verb is wrapped. There is no switch in the packages.

import { type ErrorCode, OnceboxError, StorageError } from "@oncebox/core";
import { brokenText } from "../fixtures/breaks.ts";
import { brokenKeeping } from "./broken-keeping.ts";
import { brokenLetters } from "./broken-letters.ts";
import { brokenParking } from "./broken-parking.ts";
import { brokenPruning } from "./broken-pruning.ts";
import { altered, type Broken, together } from "./broken-statements.ts";
import { brokenVerbs, opening, openingTurns, wrapped } from "./broken-verbs.ts";

/** Takes the end of every transaction through `judge`, which may turn a failure into a success. */
function judged(judge: (error: unknown) => void): Broken {
  return wrapped((storage) => ({
    transaction: (work) => storage.transaction(work).catch((error) => judge(error) as never),
    open: opening(storage, (chunk) => ({
      commit: (...end) => chunk.commit(...end).catch(judge),
    })),
    openParked: openingTurns(storage, (turn) => ({
      commit: () => turn.commit().catch(judge),
    })),
  }));
}

function isCoded(error: unknown, code: ErrorCode): boolean {
  return error instanceof OnceboxError && error.code === code;
}

/** The advance without the question whether the transaction is still the one that was opened. */
const anyTransaction = [
  [/AND pg_current_xact_id\(\) = \$7::xid8/, "AND $7::xid8 IS NOT NULL"],
  [/SELECT CASE[\s\S]*/, "SELECT 1 / (SELECT count(*) FROM moved)"],
] as const;

/** By what is wrong with them; the promise that each breaks stands first. */
export const brokenStorages = {
  ...brokenVerbs,
  ...brokenParking,
  ...brokenLetters,
  ...brokenKeeping,
  ...brokenPruning,
  "T1: a transaction with a swallowed error passes for committed": judged((error) => {
    if (!isCoded(error, "transaction-aborted")) throw error;
  }),
  "T1: a lost reply passes for a failure": judged((error) => {
    if (!isCoded(error, "commit-unknown")) throw error;
    throw new StorageError("storage-unavailable", "the commit failed", { cause: error });
  }),
  "I1: a claim keeps the token of the one before": altered("claim", [
    /gen_random_uuid\(\)/,
    "coalesce(p.token, gen_random_uuid())",
  ]),
  "I1: a claim that was taken over is not told": altered("lost_claims", [
    /\(p\.token, p\.next_offset\) IS DISTINCT FROM \(g\.token, g\.next_offset\)/,
    "p.next_offset IS DISTINCT FROM g.next_offset",
  ]),
  "I1: a position that was set back is not told": altered("lost_claims", [
    /\(p\.token, p\.next_offset\) IS DISTINCT FROM \(g\.token, g\.next_offset\)/,
    "p.token IS DISTINCT FROM g.token",
  ]),
  "I1: a chunk does not lock its partition's row": altered("open", [/FOR NO KEY UPDATE/, ""]),
  "I2: a chunk is opened under any claim": altered("open", [
    /AND token = \$4/,
    "AND $4::uuid IS NOT NULL",
  ]),
  "I2: a seek keeps the token": altered("seek", [/token = gen_random_uuid\(\)/, "token = p.token"]),
  "I2: a seek keeps the token, and an early end of the transaction is not noticed": together(
    altered("seek", [/token = gen_random_uuid\(\)/, "token = p.token"]),
    altered("advance", ...anyTransaction),
  ),
  "I2: a seek does not lock before it looks": altered("seek_lock", [/FOR NO KEY UPDATE OF p/, ""]),
  "I3: ids are not recorded": { rewrite: (text) => brokenText(["dedupe"], text) },
  "I3: a chunk records ids in the order in which they come": altered("open", [
    /ORDER BY r\.source, r\.id, r\.record_offset/,
    "",
  ]),
  "I3: recordIds records ids in the order in which they come": altered("record", [
    /ORDER BY source, id, place/,
    "ORDER BY place",
  ]),
  "I3: an id taken by the record's own position is a duplicate": altered("takers", [
    /m\.record_offset,/,
    "m.record_offset + 1 AS record_offset,",
  ]),
  "I3: a seek forgets up to where messages were applied": altered("seek", [
    /applied_until = greatest\(p\.applied_until, p\.next_offset\)/,
    "applied_until = p.applied_until",
  ]),
  "I3: a second seek back lowers what counts as applied": altered("seek", [
    /applied_until = greatest\(p\.applied_until, p\.next_offset\)/,
    "applied_until = p.next_offset",
  ]),
  "I3: all replays have one number": altered("seek", [/replay = p\.replay\s+\+/, "replay ="]),
  "I4: the position moves wherever it stands": altered(
    "advance",
    [/AND next_offset = \$5/, "AND $5::bigint IS NOT NULL"],
    ...anyTransaction,
  ),
  "I4: a commit without a record forgets the last one": altered(
    "advance",
    [/coalesce\(\$10, last_offset\)/, "$10"],
    [/coalesce\(\$11, last_time\)/, "$11"],
    [/coalesce\(\$12, last_checksum\)/, "$12"],
  ),
  "I4: a seek keeps the mark of the log": altered("seek", [
    /leader_epoch = NULL, last_offset = NULL, last_time = NULL, last_checksum = NULL,/,
    "",
  ]),
  "I4: an adoption adds to what is there": altered("adopt_taken", [/ORDER BY 1/, "LIMIT 0"]),
  "I4: a topic of one consumer counts as registered for all": altered("registered", [
    /c\.name = \$1/,
    "$1::text IS NOT NULL",
  ]),
  "I5: nothing comes into the audit log": altered("audit", [
    /VALUES \([^)]*\)/,
    "SELECT $1::text, $2::text, $3::text, $4::text, $5::jsonb WHERE false",
  ]),
  "I5: every page of the audit log is the first": altered("audit_log", [
    /id < coalesce\(\$2, 9223372036854775807\)/,
    "($2::bigint IS NULL OR true)",
  ]),
  "I5: an early end of the transaction is not noticed": altered("advance", ...anyTransaction),
  "O3: the floor rises although older transactions are open": altered("read", [
    /pg_snapshot_xmin\(/,
    "pg_snapshot_xmax(",
  ]),
  "O4: a live lease is taken": altered("lease", [
    /\(leased_until IS NULL OR leased_until < clock_timestamp\(\)\)/,
    "true",
  ]),
  "O4: a settle does not ask for the lease": altered("settle", [
    /ON l\.lane = g\.lane AND l\.token = g\.token/,
    "ON l.lane = g.lane",
  ]),
  "O6: a settle deletes all up to the confirmed rows": altered("settle", [
    /o\.position = p\.position LIMIT 1/,
    "o.position <= p.position OFFSET 0",
  ]),
  "M1: migrations are not locked against each other": {
    rewrite: (text) => text.replace(/pg_advisory_xact_lock\(-?\d+\)/, "1"),
  },
} satisfies Readonly<Record<string, Broken>>;
