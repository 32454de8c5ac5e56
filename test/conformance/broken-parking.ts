// Owns the PostgreSQL storages that break one sentence each about parked messages and about what claims
// leave behind, by a statement that is replaced on its way to the database.

import { altered, type Broken, together } from "./broken-statements.ts";

/** Whether a row is the first of its key, as two statements ask it. */
const head = /\(m\.key_hash IS NULL OR NOT EXISTS \([\s\S]*?\)\)/;

const endsCount =
  /stalled_claims = 0, trying_offset = NULL, trying_claims = 0, trying_epoch = NULL/;

/** The end of a turn that raises nothing where there is no row to remove. */
const orNone = [/1 \/ \(SELECT/, "1 + (SELECT"] as const;

/** By what is wrong with them; the promise that each breaks stands first. */
export const brokenParking = {
  "I1: claims are not counted": altered("claim", [
    /stalled_claims = p\.stalled_claims \+ 1/,
    "stalled_claims = 1",
  ]),
  "I1: a commit does not end the count of claims": altered("advance", [
    endsCount,
    "stalled_claims = stalled_claims",
  ]),
  "I1: a seek does not end the count of claims": altered("seek", [
    endsCount,
    "stalled_claims = p.stalled_claims",
  ]),
  "I1: a claim that is given up takes back another's trying": altered("left", [
    /\(p\.trying_epoch IS NOT DISTINCT FROM \$4\)::integer/,
    "least(1, p.trying_claims)",
  ]),
  "I1: a note of a claim that is not known is taken": altered("left", [/ AND p\.epoch >= \$4/, ""]),
  "I1: a try is noted under any claim": altered("trying", [
    /AND p\.token = \$4/,
    "AND $4::uuid IS NOT NULL",
  ]),
  "I1: a claim counts each of its tries": altered("trying", [
    /\(p\.trying_epoch IS DISTINCT FROM \$5\)::integer/,
    "1",
  ]),
  "I6: what is parked holds nothing up": altered("among_parked", [
    /(?<=m\.key_hash = g\.key_hash.*)LIMIT 1/,
    "LIMIT 0",
  ]),
  "I6: what is parked itself is new to a chunk": altered("among_parked", [
    /(?<=m\.record_offset = g\.record_offset.*)LIMIT 1/,
    "LIMIT 0",
  ]),
  "I6: another record at the place of a parked one is a duplicate": altered("among_parked", [
    /AND m\.record_time = g\.record_time/,
    "AND g.record_time IS NOT NULL",
  ]),
  "I6: keys of other partitions hold up as well": altered("among_parked", [
    /AND m\.partition = \$3\s+AND m\.key_hash/,
    "AND $3::integer IS NOT NULL AND m.key_hash",
  ]),
  "I6: a chunk says that nothing is left": altered("among_parked", [
    /IS TRUE AS any_left/,
    "IS TRUE AND false AS any_left",
  ]),
  "I6: no chunk says that it has parked": altered("advance", [
    /parked = \$13/,
    "parked = $13 AND false",
  ]),
  "I6: a chunk parks in whatever transaction": altered("park", [
    /WHERE pg_current_xact_id\(\) = \$4::xid8/,
    "WHERE $4::xid8 IS NOT NULL",
  ]),
  "I6: a chunk parks backwards": altered("park", [/ORDER BY r\.place/, "ORDER BY r.place DESC"]),
  "I6: a position that is parked again begins anew": altered("park", [
    /DO NOTHING/,
    "DO UPDATE SET (state, attempts) = (excluded.state, excluded.attempts), next_attempt_at = excluded.next_attempt_at",
  ]),
  "I6: any message of a key is taken": altered("take_parked", [head, "true"]),
  "I6: the first of a key is the first that nobody has locked": {
    rewrite: (text) => {
      const [, table] = /^\/\* oncebox_take_parked \*\/[\s\S]*FROM (\S+) earlier/.exec(text) ?? [];
      if (table === undefined) return text;
      const first = `(m.key_hash IS NULL OR m.record_offset = (
        SELECT e.record_offset FROM ${table} e
        WHERE e.consumer = m.consumer AND e.topic = m.topic AND e.partition = m.partition
          AND e.key_hash = m.key_hash
        ORDER BY e.record_offset LIMIT 1 FOR UPDATE SKIP LOCKED))`;
      return text.replace(head, () => first);
    },
  },
  "I6: taking waits for what is locked": altered("take_parked", [/SKIP LOCKED/, ""]),
  "I6: a try is not counted": altered("take_parked", [
    /attempts = m\.attempts \+ 1/,
    "attempts = m.attempts",
  ]),
  "I6: a lease is not waited for": altered("take_parked", [
    /AND m\.next_attempt_at <= statement_timestamp\(\)/,
    "AND (m.state = 'retrying' OR m.next_attempt_at <= statement_timestamp())",
  ]),
  "I6: a turn keeps the token of the one before": altered("take_parked", [
    /token = \$5/,
    "token = coalesce(m.token, $5)",
  ]),
  "I6: messages of all topics are taken": altered("take_parked", [
    /m\.topic = ANY \(\$2::text\[\]\)/,
    "$2::text[] IS NOT NULL",
  ]),
  "I6: what is due last is taken first": altered("take_parked", [
    /ORDER BY m\.next_attempt_at, m\.id/,
    "ORDER BY m.next_attempt_at DESC, m.id DESC",
  ]),
  "I6: a turn opens behind an earlier message of its key": altered("open_parked", [head, "true"]),
  "I6: a turn opens under any token": altered("open_parked", [
    /AND m\.token = \$2/,
    "AND $2::uuid IS NOT NULL",
  ]),
  "I6: a turn's token is asked for neither first nor last": together(
    altered("open_parked", [/AND m\.token = \$2/, "AND $2::uuid IS NOT NULL"]),
    altered("remove_parked", [/AND token = \$2/, "AND $2::uuid IS NOT NULL"]),
  ),
  "I6: a turn does not lock its message": altered("open_parked", [/FOR UPDATE OF m/, ""]),
  "I6: a message ends where its turn begins": together(
    altered(
      "open_parked",
      [/SELECT m\.id FROM/, "DELETE FROM"],
      [/FOR UPDATE OF m/, "RETURNING m.id"],
    ),
    altered("remove_parked", orNone),
  ),
  "I6: a turn's commit leaves its message": altered(
    "remove_parked",
    [/DELETE FROM/, "UPDATE"],
    [/parked_messages\s+WHERE/, "parked_messages SET error = error WHERE"],
  ),
  "I6: a turn commits whatever transaction it finds": altered(
    "remove_parked",
    [/AND pg_current_xact_id\(\) = \$3::xid8/, "AND $3::xid8 IS NOT NULL"],
    [/SELECT CASE[\s\S]*/, "SELECT 1 / (SELECT count(*) FROM removed)"],
  ),
  "I6: turns are given back under any token": altered("release_parked", [
    /AND token = \$2/,
    "AND $2::uuid IS NOT NULL",
  ]),
  "I6: a turn that is given back has spent its attempt": altered("release_parked", [
    /attempts = attempts - 1/,
    "attempts = attempts",
  ]),
  "I6: a turn that is given back is not due": altered("release_parked", [
    /next_attempt_at = clock_timestamp\(\)/,
    "next_attempt_at = next_attempt_at",
  ]),
  "I6: a turn is settled under any token": altered("settle_parked", [
    /AND token = \$2/,
    "AND $2::uuid IS NOT NULL",
  ]),
  "I6: a turn that is settled without an error loses the last one": altered(
    "settle_parked",
    [/coalesce\(\$6, error_code\)/, "$6"],
    [/coalesce\(\$7, error\)/, "$7"],
  ),
  "I6: an attempt that is not to count stays with who took over": altered("take_back_parked", [
    /attempts - 1/,
    "attempts",
  ]),
  "I6: a redrive keeps the attempts that were spent": altered("redrive", [
    /attempts = 0/,
    "attempts = m.attempts",
  ]),
  "I6: what is redriven is not due": altered("redrive", [
    /next_attempt_at = clock_timestamp\(\)/,
    "next_attempt_at = clock_timestamp() + interval '1 hour'",
  ]),
  "I6: a redrive takes away what is being tried": altered("redrive", [
    /NOT \(m\.state = 'retrying' AND m\.next_attempt_at > clock_timestamp\(\)\)/,
    "true",
  ]),
} satisfies Readonly<Record<string, Broken>>;

/** The cases that notice them, all of them. */
export const noticedParking: Readonly<Record<keyof typeof brokenParking, readonly string[]>> = {
  "I1: claims are not counted": [
    "I1 claims in a row are counted until a commit; what is rolled back does not end the count",
    "I1 the claims of each partition are counted by themselves",
    "I1 a claim given up alive is not counted, also when another one holds the partition by then",
    "I1 a record that is tried alone is told to the next claims, with how many have tried it",
    "I1 another record that is tried alone takes the place of the one before",
    "I1 a claim given up alive takes back its own trying and no other's",
    "I1 nothing is noted as tried under a claim that is held no more",
    "I1 a note of a claim that the row knows nothing of does nothing",
  ],
  "I1: a commit does not end the count of claims": [
    "I1 claims in a row are counted until a commit; what is rolled back does not end the count",
    "I1 a claim given up alive is not counted, also when another one holds the partition by then",
    "I1 a commit and a seek end the count and what was tried",
  ],
  "I1: a seek does not end the count of claims": [
    "I1 a commit and a seek end the count and what was tried",
  ],
  "I1: a claim that is given up takes back another's trying": [
    "I1 a claim given up alive takes back its own trying and no other's",
  ],
  "I1: a note of a claim that is not known is taken": [
    "I1 a note of a claim that the row knows nothing of does nothing",
  ],
  "I1: a try is noted under any claim": [
    "I1 nothing is noted as tried under a claim that is held no more",
  ],
  "I1: a claim counts each of its tries": [
    "I1 a record that is tried alone is told to the next claims, with how many have tried it",
  ],
  "I6: what is parked holds nothing up": [
    "I6 behind a parked message its key is held; other keys and records without one are new",
    "I6 a parked message holds up its own partition, for its own consumer",
    "I6 a key is held whatever the state of its message: waiting, retrying, dead",
    "I6 a message without a key holds up nothing, one with an empty key its own",
    "I6 a record whose own position is parked is a duplicate, with or without an id, also in a replay",
    "I6 another record at the offset of a parked one is no duplicate of it, and is parked beside it",
    "I6 a record below the position is done, also where its own position is parked",
    "I6 only what would be new is held: what is done, a duplicate or a conflict stays so",
    "I6 a key is held until its last parked message is gone, and from the next one on again",
    "I6 what an open turn has not committed yet holds its key up",
    "I6 an open chunk and an open turn of its partition do not wait for each other",
    "I6 changes by hand do not wait for an open chunk of the partition",
  ],
  "I6: what is parked itself is new to a chunk": [
    "I6 a record whose own position is parked is a duplicate, with or without an id, also in a replay",
  ],
  "I6: another record at the place of a parked one is a duplicate": [
    "I6 another record at the offset of a parked one is no duplicate of it, and is parked beside it",
  ],
  "I6: keys of other partitions hold up as well": [
    "I6 a parked message holds up its own partition, for its own consumer",
  ],
  "I6: a chunk says that nothing is left": [
    "I6 only what would be new is held: what is done, a duplicate or a conflict stays so",
    "I6 a key is held until its last parked message is gone, and from the next one on again",
    "I6 an open chunk and an open turn of its partition do not wait for each other",
  ],
  "I6: no chunk says that it has parked": [
    "I6 behind a parked message its key is held; other keys and records without one are new",
    "I6 a parked message holds up its own partition, for its own consumer",
    "I6 a key is held whatever the state of its message: waiting, retrying, dead",
    "I6 a message without a key holds up nothing, one with an empty key its own",
    "I6 a record whose own position is parked is a duplicate, with or without an id, also in a replay",
    "I6 another record at the offset of a parked one is no duplicate of it, and is parked beside it",
    "I6 a record below the position is done, also where its own position is parked",
    "I6 only what would be new is held: what is done, a duplicate or a conflict stays so",
    "I6 a key is held until its last parked message is gone, and from the next one on again",
    "I6 what an open turn has not committed yet holds its key up",
    "I6 an open chunk and an open turn of its partition do not wait for each other",
    "I6 changes by hand do not wait for an open chunk of the partition",
  ],
  "I6: a chunk parks in whatever transaction": [
    "I6 a chunk that its handler ended parks nothing, whether another transaction was begun or not",
  ],
  "I6: a chunk parks backwards": [
    "I6 a chunk parks records as they lay in the log, in the order given, and moves the position",
    "I6 a parked message tells its state, attempts, error and when it is tried next",
    "I6 a key is held until its last parked message is gone, and from the next one on again",
    "I6 while an open turn has the first of a key locked, neither it nor the second is taken",
    "I6 the token fences a turn: with the right id and another token nothing is done",
    "I6 turns that nobody was told of are given back by their token, with no attempt spent",
    "I6 a turn that was settled is over: it waits or is dead, with what it was settled with",
    "I6 an open chunk and an open turn of its partition do not wait for each other",
    "I6 parked messages are told by id, page by page, those that fit all of a filter",
    "I6 a redrive makes messages due now, with no attempts spent and their error kept",
    "I6 a redrive leaves alone what is being tried, and sets free what a dead process left",
    "I6 a skip deletes for good, and the next message of the key is the first",
    "I6 a change goes page by page, and says where the next one begins, however few it changed",
    "I6 a change and its line in the audit log are there together, and none where nothing changed",
  ],
  "I6: a position that is parked again begins anew": [
    "I6 what is parked already stays as it is when its position is parked again",
  ],
  "I6: any message of a key is taken": [
    "I6 of a key only the earliest is taken, whatever the order of parking and its state",
    "I6 a key is tried in order of offset to its last message, each when the one before is gone",
    "I6 while an open turn has the first of a key locked, neither it nor the second is taken",
    "I6 a skip deletes for good, and the next message of the key is the first",
  ],
  "I6: the first of a key is the first that nobody has locked": [
    "I6 while an open turn has the first of a key locked, neither it nor the second is taken",
  ],
  "I6: taking waits for what is locked": [
    "I6 while an open turn has the first of a key locked, neither it nor the second is taken",
  ],
  "I6: a try is not counted": [
    "I6 a message that is due is taken as it was parked, its attempt counted before it runs",
    "I6 a turn whose lease ran out is taken by another; the old one changes nothing",
    "I6 turns that nobody was told of are given back by their token, with no attempt spent",
    "I6 a turn that was settled is over: it waits or is dead, with what it was settled with",
    "I6 a redrive makes messages due now, with no attempts spent and their error kept",
    "I6 a redrive leaves alone what is being tried, and sets free what a dead process left",
    "I6 what is not known to a consumer is not changed for it",
  ],
  "I6: a lease is not waited for": [
    "I6 what is due is taken, of the topics asked for, those due first first, so many at most",
    "I6 of a key only the earliest is taken, whatever the order of parking and its state",
    "I6 while an open turn has the first of a key locked, neither it nor the second is taken",
    "I6 a turn whose lease ran out is taken by another; the old one changes nothing",
    "I6 the token fences a turn: with the right id and another token nothing is done",
    "I6 turns that nobody was told of are given back by their token, with no attempt spent",
    "I6 a skip deletes for good, and the next message of the key is the first",
  ],
  "I6: a turn keeps the token of the one before": [
    "I6 a turn whose lease ran out is taken by another; the old one changes nothing",
    "I6 a turn that another has taken since is not given back",
  ],
  "I6: messages of all topics are taken": [
    "I6 what is due is taken, of the topics asked for, those due first first, so many at most",
  ],
  "I6: what is due last is taken first": [
    "I6 a key is held until its last parked message is gone, and from the next one on again",
    "I6 what is due is taken, of the topics asked for, those due first first, so many at most",
    "I6 while an open turn has the first of a key locked, neither it nor the second is taken",
    "I6 turns that nobody was told of are given back by their token, with no attempt spent",
    "I6 an open chunk and an open turn of its partition do not wait for each other",
    "I6 a change goes page by page, and says where the next one begins, however few it changed",
  ],
  "I6: a turn opens behind an earlier message of its key": [
    "I6 a turn opens only while no earlier message of its key is parked",
  ],
  "I6: a turn opens under any token": [
    "I6 a turn whose lease ran out is taken by another; the old one changes nothing",
    "I6 the token fences a turn: with the right id and another token nothing is done",
  ],
  "I6: a turn's token is asked for neither first nor last": [
    "I6 a turn whose lease ran out is taken by another; the old one changes nothing",
    "I6 the token fences a turn: with the right id and another token nothing is done",
  ],
  "I6: a turn does not lock its message": [
    "I6 while an open turn has the first of a key locked, neither it nor the second is taken",
    "I6 a skip waits for an open turn, and deletes what that leaves",
  ],
  "I6: a message ends where its turn begins": [
    "I6 a turn whose handler ends its transaction early is not lost: its message is parked still",
    "I6 nor is one whose handler ends its transaction early and begins anew",
  ],
  "I6: a turn's commit leaves its message": [
    "I5 a shared handle of a turn refuses the same, and its handler may go on",
    "I6 what an open turn has not committed yet holds its key up",
    "I6 a key is tried in order of offset to its last message, each when the one before is gone",
    "I6 while an open turn has the first of a key locked, neither it nor the second is taken",
    "I6 a turn whose lease ran out is taken by another; the old one changes nothing",
    "I6 a turn opens only while no earlier message of its key is parked",
    "I6 a turn's commit keeps its effects and ends its message",
    "I6 a turn that is rolled back leaves no effect, and its message as it was",
    "I6 a turn with a swallowed failed statement rejects, and its message is as it was",
    "I6 a turn whose handler ends its transaction early is not lost: its message is parked still",
    "I6 nor is one whose handler ends its transaction early and begins anew",
    "I6 a turn whose connection died leaves no effect, and its message as it was",
    "I6 a turn that was destroyed leaves no effect, and its message as it was",
    "I6 a turn whose COMMIT was lost is unknown, and its message as it was",
    "I6 a turn whose reply was lost is unknown, and its message is gone",
    "I6 an open chunk and an open turn of its partition do not wait for each other",
    "I6 a redrive does not wait for an open turn, and leaves it alone",
    "I6 a skip waits for an open turn, and deletes what that leaves",
  ],
  "I6: a turn commits whatever transaction it finds": [
    "I6 a turn whose handler ends its transaction early is not lost: its message is parked still",
    "I6 nor is one whose handler ends its transaction early and begins anew",
  ],
  "I6: turns are given back under any token": [
    "I6 turns that nobody was told of are given back by their token, with no attempt spent",
    "I6 a turn that another has taken since is not given back",
  ],
  "I6: a turn that is given back has spent its attempt": [
    "I6 turns that nobody was told of are given back by their token, with no attempt spent",
  ],
  "I6: a turn that is given back is not due": [
    "I6 turns that nobody was told of are given back by their token, with no attempt spent",
  ],
  "I6: a turn is settled under any token": [
    "I6 a turn whose lease ran out is taken by another; the old one changes nothing",
    "I6 the token fences a turn: with the right id and another token nothing is done",
    "I6 a turn that is held no more leaves no letter",
  ],
  "I6: a turn that is settled without an error loses the last one": [
    "I6 a turn that was settled is over: it waits or is dead, with what it was settled with",
  ],
  "I6: an attempt that is not to count stays with who took over": [
    "I6 an attempt that is not to count is taken back, also from whoever has the turn by then",
  ],
  "I6: a redrive keeps the attempts that were spent": [
    "I6 a redrive makes messages due now, with no attempts spent and their error kept",
    "I6 a redrive leaves alone what is being tried, and sets free what a dead process left",
  ],
  "I6: what is redriven is not due": [
    "I6 of a key only the earliest is taken, whatever the order of parking and its state",
    "I6 a redrive makes messages due now, with no attempts spent and their error kept",
    "I6 a redrive leaves alone what is being tried, and sets free what a dead process left",
  ],
  "I6: a redrive takes away what is being tried": [
    "I6 a redrive leaves alone what is being tried, and sets free what a dead process left",
    "I6 a redrive does not wait for an open turn, and leaves it alone",
    "I6 a change goes page by page, and says where the next one begins, however few it changed",
  ],
};
