// Owns the SQLite storages that break one sentence each about parked messages and about what claims leave
// behind, by a statement that is replaced on its way to the connection. Tried on native storage.
//
// What can have no broken storage here: what waits for a lock, or passes one by. One writer has the
// whole file.

import { changesOf, type StatementChange } from "../fixtures/sqlite-rewrite.ts";

/** Each is found by what no other has. */
const statements = {
  advance: /SET next_offset = \?/,
  seek: /SET next_offset = @to/,
  claim: /epoch = epoch \+ 1, owner = \?/,
  left: /SET stalled_claims = max/,
  trying: /SET trying_claims =/,
  anyLeft: /SELECT 1 FROM oncebox_parked_messages WHERE [^_]* LIMIT 1/,
  offsetParked: /FROM oncebox_parked_messages WHERE [^_]* AND record_offset = \?/,
  keyParked: /FROM oncebox_parked_messages WHERE [^_]* AND key_hash = \?/,
  park: /INSERT INTO oncebox_parked_messages/,
  due: /FROM oncebox_parked_messages AS due/,
  take: /SET state = 'retrying', attempts =/,
  open: /FROM oncebox_parked_messages AS tried/,
  remove: /DELETE FROM oncebox_parked_messages WHERE id = \? AND token/,
  settle: /SET state = @state/,
  release: /attempts = attempts - 1/,
  takeBack: /SET attempts = max\(0, attempts/,
  redrive: /SET state = 'waiting', attempts = 0/,
  changeable: /AS tried\s+FROM oncebox_parked_messages/,
} as const;

const altered = changesOf(statements);

/** Whether a row is the first of its key, as two statements ask it. */
const head = /AND NOT EXISTS \([\s\S]*?< \([^)]*\)\)/;

const endsCount =
  /stalled_claims = 0, trying_offset = NULL, trying_claims = 0, trying_epoch = NULL/;

/** By what is wrong with them; the promise that each breaks stands first. */
export const brokenNativeParking = {
  "I1: claims are not counted": altered("claim", [
    /stalled_claims = stalled_claims \+ 1/,
    "stalled_claims = 1",
  ]),
  "I1: a commit does not end the count of claims": altered("advance", [
    endsCount,
    "stalled_claims = stalled_claims",
  ]),
  "I1: a seek does not end the count of claims": altered("seek", [
    endsCount,
    "stalled_claims = stalled_claims",
  ]),
  "I1: a claim that is given up takes back another's trying": altered("left", [
    /iif\(trying_epoch = @epoch, max/,
    "iif(true, max",
  ]),
  "I1: a note of a claim that is not known is taken": altered("left", [/ AND epoch >= @epoch/, ""]),
  "I1: a try is noted under any claim": altered("trying", [
    /AND token = @token/,
    "AND @token IS NOT NULL",
  ]),
  "I1: a claim counts each of its tries": altered("trying", [
    /\(trying_epoch IS NOT @epoch\)/,
    "1",
  ]),
  "I6: what is parked holds nothing up": altered("keyParked", [/LIMIT 1/, "LIMIT 0"]),
  "I6: what is parked itself is new to a chunk": altered("offsetParked", [/$/, " LIMIT 0"]),
  "I6: another record at the place of a parked one is a duplicate": altered("offsetParked", [
    /record_time = \?/,
    "? IS NOT NULL",
  ]),
  "I6: keys of other partitions hold up as well": altered("keyParked", [
    /partition = \?/,
    "? IS NOT NULL",
  ]),
  "I6: a chunk says that nothing is left": altered("anyLeft", [/LIMIT 1/, "LIMIT 0"]),
  "I6: no chunk says that it has parked": altered("advance", [
    /parked = \?/,
    "parked = (? AND false)",
  ]),
  "I6: a position that is parked again begins anew": altered("park", [
    /DO NOTHING/,
    `DO UPDATE SET state = excluded.state, attempts = excluded.attempts,
      next_attempt_at = excluded.next_attempt_at`,
  ]),
  "I6: any message of a key is taken": altered("due", [head, ""]),
  "I6: a try is not counted": altered("take", [/attempts = attempts \+ 1/, "attempts = attempts"]),
  "I6: a lease is not waited for": altered("due", [
    /next_attempt_at <=/,
    "iif(state = 'retrying', 0, next_attempt_at) <=",
  ]),
  "I6: a turn keeps the token of the one before": altered("take", [
    /token = \?/,
    "token = coalesce(token, ?)",
  ]),
  "I6: messages of all topics are taken": altered("due", [
    /\+topic IN \(SELECT value FROM json_each\(\?\)\)/,
    "? IS NOT NULL",
  ]),
  "I6: what is due last is taken first": altered("due", [
    /ORDER BY next_attempt_at, id/,
    "ORDER BY next_attempt_at DESC, id DESC",
  ]),
  "I6: a turn opens behind an earlier message of its key": altered("open", [head, ""]),
  "I6: a turn opens under any token": altered("open", [/token = \?/, "? IS NOT NULL"]),
  "I6: a turn's token is asked for neither first nor last": [
    ...altered("open", [/token = \?/, "? IS NOT NULL"]),
    ...altered("remove", [/token = \?/, "? IS NOT NULL"]),
  ],
  "I6: a message ends where its turn begins": [
    ...altered("open", [/SELECT 1 FROM/, "DELETE FROM"], [/$/, " RETURNING 1"]),
    ...altered("remove", [
      /[\s\S]*/,
      "UPDATE oncebox_meta SET only_row = only_row WHERE ? IS NOT NULL AND ? IS NOT NULL",
    ]),
  ],
  "I6: a turn's commit leaves its message": altered("remove", [
    /DELETE FROM oncebox_parked_messages/,
    "UPDATE oncebox_parked_messages SET error = error",
  ]),
  "I6: turns are given back under any token": altered("release", [/token = \?/, "? IS NOT NULL"]),
  "I6: a turn that is given back has spent its attempt": altered("release", [
    /attempts = attempts - 1/,
    "attempts = attempts",
  ]),
  "I6: a turn that is given back is not due": altered("release", [
    /next_attempt_at = [^\n]*/,
    "next_attempt_at = next_attempt_at",
  ]),
  "I6: a turn is settled under any token": altered("settle", [
    /token = @token/,
    "@token IS NOT NULL",
  ]),
  "I6: a turn that is settled without an error loses the last one": altered(
    "settle",
    [/coalesce\(@code, error_code\)/, "@code"],
    [/coalesce\(@error, error\)/, "@error"],
  ),
  "I6: an attempt that is not to count stays with who took over": altered("takeBack", [
    /attempts - 1/,
    "attempts",
  ]),
  "I6: an attempt is taken back from what is dead": altered("takeBack", [
    /AND state <> 'dead'/,
    "",
  ]),
  "I6: a redrive keeps the attempts that were spent": altered("redrive", [/attempts = 0, /, ""]),
  "I6: what is redriven is not due": altered("redrive", [
    /next_attempt_at = /,
    "next_attempt_at = 3600000 + ",
  ]),
  "I6: a redrive takes away what is being tried": altered("changeable", [
    /state = 'retrying' AND next_attempt_at > .* AS tried/,
    "false AS tried",
  ]),
} as const satisfies Readonly<Record<string, readonly StatementChange[]>>;

/** The cases that notice them, all of them. */
export const noticedNativeParking: Readonly<
  Record<keyof typeof brokenNativeParking, readonly string[]>
> = {
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
    "I6 behind a parked message its key is held; other keys and records without one are new",
    "I6 a parked message holds up its own partition, for its own consumer",
    "I6 a key is held whatever the state of its message: waiting, retrying, dead",
    "I6 a message without a key holds up nothing, one with an empty key its own",
    "I6 a record whose own position is parked is a duplicate, with or without an id, also in a replay",
    "I6 another record at the offset of a parked one is no duplicate of it, and is parked beside it",
    "I6 a record below the position is done, also where its own position is parked",
    "I6 only what would be new is held: what is done, a duplicate or a conflict stays so",
    "I6 a key is held until its last parked message is gone, and from the next one on again",
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
  ],
  "I6: a position that is parked again begins anew": [
    "I6 what is parked already stays as it is when its position is parked again",
  ],
  "I6: any message of a key is taken": [
    "I6 of a key only the earliest is taken, whatever the order of parking and its state",
    "I6 a key is tried in order of offset to its last message, each when the one before is gone",
    "I6 of processes that take at once each message goes to one, and of a key one message",
    "I6 a skip deletes for good, and the next message of the key is the first",
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
    "I6 of processes that take at once each message goes to one, and of a key one message",
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
    "I6 turns that nobody was told of are given back by their token, with no attempt spent",
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
  "I6: a message ends where its turn begins": [
    "I6 a turn whose handler ends its transaction early is not lost: its message is parked still",
    "I6 nor is one whose handler ends its transaction early and begins anew",
  ],
  "I6: a turn's commit leaves its message": [
    "I6 a key is tried in order of offset to its last message, each when the one before is gone",
    "I6 a turn whose lease ran out is taken by another; the old one changes nothing",
    "I6 a turn opens only while no earlier message of its key is parked",
    "I6 a turn's commit keeps its effects and ends its message",
    "I6 a turn that is rolled back leaves no effect, and its message as it was",
    "I6 a turn whose handler ends its transaction early is not lost: its message is parked still",
    "I6 nor is one whose handler ends its transaction early and begins anew",
    "I6 a skip waits for an open turn, and deletes what that leaves",
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
  "I6: an attempt is taken back from what is dead": [
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
    "I6 a change goes page by page, and says where the next one begins, however few it changed",
  ],
};
