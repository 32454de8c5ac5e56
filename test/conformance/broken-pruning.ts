// Owns the storages that forget the wrong message ids, on PostgreSQL and on SQLite: by a statement that
// is replaced on its way to the database. Which cases notice what is the same for both, but where said.

import { changesOf, type StatementChange } from "../fixtures/sqlite-rewrite.ts";
import { altered, type Broken } from "./broken-statements.ts";

const inRecordTime =
  "I7 ids older than the window are deleted, in record time, whatever the clock says";
const slowest = "I7 the slowest partition decides, not the one that went ahead";
const neverRead =
  "I7 a partition that was never read holds everything back, unless it stands at its log's end";
const nothingToRead =
  "I7 a partition that has nothing to read counts as far as the clock, also an old one";
const askedBefore =
  "I7 the end of a log counts as far as when it was asked for, however late the step comes";
const anotherLog =
  "I7 the end of another log is none: what it says of a partition counts for nothing";
const noClock =
  "I7 a time that is no clock's does not move the window: neither from the future nor before 1970";
const oddTimes =
  "I7 an id counts from where its partition was: neither forgotten at once nor kept for ever";
const parked = "I7 the id of a parked message stays as long as that is parked";
const bounded =
  "I7 a step deletes no more than its limit, and a walk of steps leaves nothing behind";
const others = "I7 ids of other consumers stay, and one that is not known has none";
const soughtBack = "I7 a seek back makes a partition slow again";
const beside = "I7 a step and an open chunk do not wait for each other";

/** By what is wrong with them; the promise that each breaks stands first. */
export const brokenPruning = {
  "I7: the window goes by the wall clock": altered("prune", [
    /at\.now THEN p\.last_time/,
    "at.now THEN at.now",
  ]),
  "I7: the fastest partition decides": altered("prune", [
    /ORDER BY come_to NULLS FIRST/,
    "ORDER BY come_to DESC NULLS FIRST",
  ]),
  "I7: a partition of which nothing is known is passed over": altered("prune", [
    /ORDER BY come_to NULLS FIRST/,
    "ORDER BY come_to NULLS LAST",
  ]),
  "I7: the ends of logs count for nothing": altered("prune", [
    /p\.next_offset = e\.end_offset/,
    "p.next_offset = e.end_offset AND false",
  ]),
  "I7: the end of a log counts as far as the clock of the step": altered("prune", [
    /least\(at\.now, \$14::bigint\)/,
    "least(at.now, greatest(at.now, $14::bigint))",
  ]),
  "I7: the end of any log counts": altered("prune", [
    /\(p\.topic_id = nullif\(e\.topic_id, ''\)\) IS NOT FALSE/,
    "true",
  ]),
  "I7: a record of any time counts as one of the clock": altered("prune", [
    /p\.last_time BETWEEN at\.now AND at\.now \+ \$3 THEN/,
    "p.last_time NOT BETWEEN 0 AND at.now + $3 THEN",
  ]),
  "I7: an id keeps the time of its record, whatever that is": altered("open", [
    /least\(greatest\(r\.record_time, claimed\.last_time\), claimed\.now\)/,
    "r.record_time",
  ]),
  "I7: ids of parked messages are deleted": altered("prune", [
    /AND NOT EXISTS \(\s+SELECT FROM[\s\S]*?m\.record_offset\s+\)/,
    "",
  ]),
  "I7: a step has no bound": altered(
    "prune",
    [/m\.ctid < \$9::tid/, "$9::tid IS NOT NULL"],
    [/LIMIT \$10/, "LIMIT 1000 + $10"],
  ),
  "I7: a walk ends with its first step": altered("prune", [
    /THEN \(SELECT max\(place\)::text FROM old\)/,
    "THEN NULL",
  ]),
  "I7: ids of all consumers are deleted": altered("prune", [
    /m\.consumer = h\.consumer/,
    "h.consumer IS NOT NULL",
  ]),
  "I7: a step locks what a chunk has locked": altered("prune", [
    /p\.partition LIMIT 1/,
    "p.partition LIMIT 1 FOR UPDATE OF p NOWAIT",
  ]),
} satisfies Readonly<Record<string, Broken>>;

export const noticedPruning: Readonly<Record<keyof typeof brokenPruning, readonly string[]>> = {
  "I7: the window goes by the wall clock": [
    ...[inRecordTime, slowest, neverRead, anotherLog, noClock, oddTimes, parked, beside],
  ],
  "I7: the fastest partition decides": [slowest, neverRead],
  "I7: a partition of which nothing is known is passed over": [neverRead, soughtBack],
  "I7: the ends of logs count for nothing": [
    ...[neverRead, nothingToRead, askedBefore, anotherLog, oddTimes, others],
  ],
  "I7: the end of a log counts as far as the clock of the step": [askedBefore],
  "I7: the end of any log counts": [anotherLog],
  "I7: a record of any time counts as one of the clock": [noClock],
  "I7: an id keeps the time of its record, whatever that is": [noClock, oddTimes],
  "I7: ids of parked messages are deleted": [parked],
  "I7: a step has no bound": [bounded],
  "I7: a walk ends with its first step": [bounded],
  "I7: ids of all consumers are deleted": [others],
  "I7: a step locks what a chunk has locked": [beside],
};

/** Found by what no other has. */
const statements = {
  record: /INTO oncebox_inbox_messages\s+\(consumer, source, id, topic,/,
  slowest: /AS come_to/,
  last: /OFFSET @limit - 1/,
  old: /FROM oncebox_inbox_messages AS m/,
} as const;

const changed = changesOf(statements);

/** As above, on native SQLite. */
export const brokenNativePruning = {
  "I7: the window goes by the wall clock": changed("slowest", [
    /THEN p\.last_time/,
    "THEN CAST(unixepoch('subsec') * 1000 AS INTEGER)",
  ]),
  "I7: the fastest partition decides": changed("slowest", [
    /ORDER BY come_to NULLS FIRST/,
    "ORDER BY come_to DESC NULLS FIRST",
  ]),
  "I7: a partition of which nothing is known is passed over": changed("slowest", [
    /ORDER BY come_to NULLS FIRST/,
    "ORDER BY come_to NULLS LAST",
  ]),
  "I7: the ends of logs count for nothing": changed("slowest", [
    /WHEN p\.next_offset =/,
    "WHEN false AND p.next_offset =",
  ]),
  "I7: the end of a log counts as far as the clock of the step": changed("slowest", [
    /min\(CAST\(unixepoch\('subsec'\) \* 1000 AS INTEGER\), @askedAt\)/,
    "max(CAST(unixepoch('subsec') * 1000 AS INTEGER), min(0, @askedAt))",
  ]),
  "I7: the end of any log counts": changed("slowest", [/coalesce\([^)]*\), 1\)/, "true"]),
  "I7: an id keeps the time of its record, whatever that is": changed("record", [
    /min\(max\(\?, \?\), .*?INTEGER\)\)/,
    "coalesce(?, ?)",
  ]),
  "I7: ids of parked messages are deleted": changed("old", [/AND NOT EXISTS \([\s\S]*\)/, ""]),
  "I7: a step has no bound": changed("last", [/LIMIT 1 OFFSET @limit - 1/, "LIMIT min(0, @limit)"]),
  "I7: ids of all consumers are deleted": changed("old", [
    /m\.consumer = @consumer/,
    "@consumer IS NOT NULL",
  ]),
} as const satisfies Readonly<Record<string, readonly StatementChange[]>>;

export const noticedNativePruning: Readonly<
  Record<keyof typeof brokenNativePruning, readonly string[]>
> = {
  "I7: the window goes by the wall clock": [
    ...[inRecordTime, slowest, neverRead, anotherLog, noClock, oddTimes, parked],
  ],
  "I7: the fastest partition decides": [slowest, neverRead],
  "I7: a partition of which nothing is known is passed over": [neverRead, soughtBack],
  "I7: the ends of logs count for nothing": [
    ...[neverRead, nothingToRead, askedBefore, anotherLog, oddTimes, others],
  ],
  "I7: the end of a log counts as far as the clock of the step": [askedBefore],
  "I7: the end of any log counts": [anotherLog],
  "I7: an id keeps the time of its record, whatever that is": [noClock, oddTimes],
  "I7: ids of parked messages are deleted": [parked],
  "I7: a step has no bound": [bounded],
  "I7: ids of all consumers are deleted": [others],
};
