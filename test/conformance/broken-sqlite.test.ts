// The suite itself on trial, on SQLite: every promise is broken on purpose, and the suite has to
// notice. The tables say which cases notice what, all of them.

import type { Knex } from "knex";
import { afterAll, describe, expect, test } from "vitest";
import type { StatementChange } from "../fixtures/sqlite-rewrite.ts";
import type { Session } from "../fixtures/sqlite-session.ts";
import { noticedKeeping } from "./broken-keeping.ts";
import { noticedLetters } from "./broken-letters.ts";
import { noticedNativePruning } from "./broken-pruning.ts";
import { noticedNativeParking } from "./broken-sqlite-parking.ts";
import { brokenKnex, brokenNative } from "./broken-sqlite-storages.ts";
import { promisesOf, titleOf, tryBroken } from "./broken-trial.ts";
import { noticedVerbs } from "./broken-verbs.ts";
import { knexCases, nativeCases } from "./sqlite-cases.ts";
import { knexUnderTest, type SqliteVariant } from "./sqlite-knex-under-test.ts";
import { endSessions, nativeUnderTest } from "./sqlite-native-under-test.ts";

const noticedByNative: Readonly<Record<keyof typeof brokenNative, readonly string[]>> = {
  ...noticedNativeParking,
  ...noticedNativePruning,
  "T1: a transaction that was ended early passes for committed": [
    "T1 a transaction that its work ended early rejects",
    "I5 a handler that commits early and begins anew fails the chunk, and the redo is not lost",
    "I6 a chunk that its handler ended parks nothing, whether another transaction was begun or not",
    "I6 nor is one whose handler ends its transaction early and begins anew",
  ],
  "T1: a commit is answered, and what was written under it is rolled back": [
    "T1 a transaction commits what its work wrote and resolves with its value",
    "I2 open under an old claim rejects and records nothing",
    "I2 a chunk opened before a take-over is tried blocks it and commits",
    "I2 a seek waits for an open chunk, whose commit comes before it",
    "I5 a handler that commits early fails the chunk, and the redo is not lost",
    "I5 a handler that commits early and begins anew fails the chunk, and the redo is not lost",
    "I6 a chunk parks records as they lay in the log, in the order given, and moves the position",
    "I6 a key is tried in order of offset to its last message, each when the one before is gone",
    "I6 a turn's commit keeps its effects and ends its message",
    "I6 a turn that is rolled back leaves no effect, and its message as it was",
    "O1 what handlers of a chunk enqueue is there with its commit, in the order of their calls",
    "O1 what handlers of a chunk enqueue is gone with its rollback",
    "O1 a savepoint takes back what was enqueued behind it, and nothing else",
    "O1 a row in a handler is as it was when it was enqueued, whatever becomes of its bytes",
    "O1 more rows than anyone keeps are written, in order, and those of an immediate handle behind",
    "M1 a migration keeps what is there",
  ],
  "I1: a claim keeps the token of the one before": [
    "I1 a claim takes a new token and raises the epoch by one",
    "I1 of claims at once each has its own epoch, and the highest is the live one",
    "I1 nothing is noted as tried under a claim that is held no more",
    "I2 open under an old claim rejects and records nothing",
    "I2 the token fences, not the epoch: after a fail-over an old epoch may fit again",
    "I2 a claim by the same owner voids its older ones too",
    "I4 a seek under an expected claim moves only while that is held",
  ],
  "I1: a claim does not raise the epoch": [
    "I1 a claim takes a new token and raises the epoch by one",
    "I1 a claim waits for an open chunk and counts on from where that left the row",
    "I1 of claims at once each has its own epoch, and the highest is the live one",
    "I1 a record that is tried alone is told to the next claims, with how many have tried it",
    "I1 a claim given up alive takes back its own trying and no other's",
    "I1 a claim tells the log of its position, its replay and the last seek, and changes none",
    "I2 a seek fences the claims of its partitions and of no other",
  ],
  "I2: a chunk is opened under any claim": [
    "I1 of claims at once each has its own epoch, and the highest is the live one",
    "I2 open under an old claim rejects and records nothing",
    "I2 the token fences, not the epoch: after a fail-over an old epoch may fit again",
    "I2 a claim by the same owner voids its older ones too",
    "I2 a seek fences the claims of its partitions and of no other",
    "I2 a seek waits for an open chunk, whose commit comes before it",
  ],
  "I2: the token is asked for neither first nor last": [
    "T1 a transaction that its work ended early rejects",
    "I1 of claims at once each has its own epoch, and the highest is the live one",
    "I2 open under an old claim rejects and records nothing",
    "I2 the token fences, not the epoch: after a fail-over an old epoch may fit again",
    "I2 a claim by the same owner voids its older ones too",
    "I2 a commit under a claim lost meanwhile writes nothing",
    "I2 a seek fences the claims of its partitions and of no other",
    "I2 a seek waits for an open chunk, whose commit comes before it",
    "I2 a chunk that gave its lock away before a seek commits nothing after it",
    "I5 a handler that commits early and begins anew fails the chunk, and the redo is not lost",
    "I6 a chunk whose claim was lost meanwhile parks nothing",
    "I6 a chunk that its handler ended parks nothing, whether another transaction was begun or not",
    "I6 nor is one whose handler ends its transaction early and begins anew",
  ],
  "I2: an advance that moved nothing passes for committed": [
    "T1 a transaction that its work ended early rejects",
    "I2 a commit under a claim lost meanwhile writes nothing",
    "I2 a chunk that gave its lock away before a seek commits nothing after it",
    "I4 a chunk that another one overtook moves nothing, not even under the same claim",
    "I5 a handler that commits early and begins anew fails the chunk, and the redo is not lost",
    "I6 a chunk whose claim was lost meanwhile parks nothing",
    "I6 a chunk that another one overtook parks nothing, not even under the same claim",
    "I6 a chunk that its handler ended parks nothing, whether another transaction was begun or not",
    "I6 nor is one whose handler ends its transaction early and begins anew",
  ],
  "I2: a seek keeps the token": [
    "I2 a seek fences the claims of its partitions and of no other",
    "I2 a seek waits for an open chunk, whose commit comes before it",
    "I4 a seek under an expected claim moves only while that is held",
  ],
  "I2: a seek keeps the token, and an early end of the transaction is not noticed": [
    "T1 a transaction that its work ended early rejects",
    "I2 a seek fences the claims of its partitions and of no other",
    "I2 a seek waits for an open chunk, whose commit comes before it",
    "I2 a chunk that gave its lock away before a seek commits nothing after it",
    "I4 a seek under an expected claim moves only while that is held",
    "I5 a handler that commits early and begins anew fails the chunk, and the redo is not lost",
    "I6 a chunk that its handler ended parks nothing, whether another transaction was begun or not",
    "I6 nor is one whose handler ends its transaction early and begins anew",
  ],
  "I3: ids are not recorded": [
    "I3 an id taken by another position is a duplicate, with another value a conflict",
    "I3 of the same id twice in one chunk the first offset wins",
    "I3 an id taken by the record's own position is new again while it is not done",
    "I3 two partitions at once: the second waits, and is a duplicate once the first committed",
    "I3 chunks with the same ids in opposite orders never deadlock, and each id is new once",
    "I3 recordIds and chunks see each other's ids",
    "I3 after a seek back what was applied is a duplicate, at its own position as well",
    "I3 what a seek had left out is new, and counts as seen afterwards",
    "I3 from the highest position upwards an early commit's redo is new, after any seek",
    "I3 a replay applies its range once more, each time it is asked for",
    "I3 a replay ends with the next seek, and its number is not used again",
    "I6 only what would be new is held: what is done, a duplicate or a conflict stays so",
    "I6 the id of a held record is recorded with the chunk that parks it",
    "I6 a turn needs no claim and leaves the position and the ids alone",
  ],
  "I3: recordIds records no id": [
    "I3 recordIds tells new, duplicate and conflict, and forgets what rolls back",
    "I3 recordIds and chunks see each other's ids",
  ],
  "I3: consumers share their ids": [
    "I3 recordIds tells new, duplicate and conflict, and forgets what rolls back",
  ],
  "I3: another value under the same id is a duplicate": [
    "I3 an id taken by another position is a duplicate, with another value a conflict",
    "I3 of the same id twice in one chunk the first offset wins",
    "I3 two partitions at once: the second waits, and is a duplicate once the first committed",
    "I3 recordIds tells new, duplicate and conflict, and forgets what rolls back",
    "I3 recordIds and chunks see each other's ids",
    "I3 after a seek back what was applied is a duplicate, at its own position as well",
    "I6 only what would be new is held: what is done, a duplicate or a conflict stays so",
  ],
  "I3: an id taken by the record's own position is a duplicate": [
    "I2 a commit under a claim lost meanwhile writes nothing",
    "I3 an id taken by the record's own position is new again while it is not done",
    "I3 from the highest position upwards an early commit's redo is new, after any seek",
    "I3 a replay applies its range once more, each time it is asked for",
    "I5 a handler that commits early fails the chunk, and the redo is not lost",
    "I5 a handler that commits early and begins anew fails the chunk, and the redo is not lost",
    "I6 a chunk whose claim was lost meanwhile parks nothing",
    "I6 only what would be new is held: what is done, a duplicate or a conflict stays so",
  ],
  "I3: a seek forgets up to where messages were applied": [
    "I1 a claim tells the log of its position, its replay and the last seek, and changes none",
    "I2 a seek waits for an open chunk, whose commit comes before it",
    "I3 after a seek back what was applied is a duplicate, at its own position as well",
    "I3 what a seek had left out is new, and counts as seen afterwards",
    "I3 from the highest position upwards an early commit's redo is new, after any seek",
    "I3 a replay applies its range once more, each time it is asked for",
    "I3 a replay ends with the next seek, and its number is not used again",
  ],
  "I3: a second seek back lowers what counts as applied": [
    "I3 after a seek back what was applied is a duplicate, at its own position as well",
    "I3 a replay ends with the next seek, and its number is not used again",
  ],
  "I3: all replays have one number": [
    "I3 a replay applies its range once more, each time it is asked for",
    "I3 a replay ends with the next seek, and its number is not used again",
  ],
  "I4: the position moves wherever it stands": [
    "T1 a transaction that its work ended early rejects",
    "I4 a chunk that another one overtook moves nothing, not even under the same claim",
    "I5 a handler that commits early and begins anew fails the chunk, and the redo is not lost",
    "I6 a chunk that another one overtook parks nothing, not even under the same claim",
    "I6 a chunk that its handler ended parks nothing, whether another transaction was begun or not",
    "I6 nor is one whose handler ends its transaction early and begins anew",
  ],
  "I4: a commit without a record forgets the last one": [
    "I4 a commit writes the mark of the log; without a last record the one before stays",
  ],
  "I4: a seek keeps the mark of the log": [
    "I4 a seek replaces the mark of the log by the topic alone",
  ],
  "I4: a registration moves the positions that are there": [
    "I4 a partition added to a topic that has rows starts where `added` says, the others stay",
  ],
  "I4: no topic is found to be registered": [
    "I4 a partition added to a topic that has rows starts where `added` says, the others stay",
    "I4 a topic is registered for a consumer once it has rows",
    "I4 an adoption that names a topic with rows, or another group, changes nothing",
    "I4 of adoptions and registrations at once one gives all positions",
  ],
  "I4: a topic of one consumer counts as registered for all": [
    "I3 consumers do not share ids",
    "I4 a topic is registered for a consumer once it has rows",
    "I6 a parked message holds up its own partition, for its own consumer",
  ],
  "I4: a second group takes the consumer's name over": [
    "I4 registrations at once give all partitions the start of one of them, and bind one group",
    "I4 an adoption that names a topic with rows, or another group, changes nothing",
  ],
  "I4: any claim is an expected one": [
    "I4 a seek under an expected claim moves only while that is held",
  ],
  "I5: nothing comes into the audit log": [
    "I4 an adoption registers its topics at the given positions, with their line in the log",
    "I5 a seek and its line in the audit log are there together",
    "I5 the audit log is read back newest first, page by page, for one consumer",
    "I6 a change and its line in the audit log are there together, and none where nothing changed",
  ],
  "I5: every page of the audit log is the first": [
    "I5 the audit log is read back newest first, page by page, for one consumer",
  ],
  "O2: what has no bytes is read as empty": [
    "I6 a turn that is settled as dead leaves its letters, as they were given",
    "I6 a turn whose letters cannot be written is not settled, and none of them is there",
    "O2 a row is read as it was written: bytes, nulls, repeated headers and their order",
  ],
  "O3: rows of one call get their positions backwards": [
    "O2 a row is read as it was written: bytes, nulls, repeated headers and their order",
    "O3 each lane is read in the order of enqueueing, whatever the limits, and to its end",
    "O6 settling rows again, or none, changes nothing",
  ],
  "O3: rows of a lane are read from the newest on": [
    "O2 a row is read as it was written: bytes, nulls, repeated headers and their order",
    "O3 each lane is read in the order of enqueueing, whatever the limits, and to its end",
    "O6 settling rows again, or none, changes nothing",
  ],
  "O3: rows of all lanes are read for each": [
    "O2 a row can be read only after its transaction committed",
    "O2 a row is read as it was written: bytes, nulls, repeated headers and their order",
    "O3 each lane is read in the order of enqueueing, whatever the limits, and to its end",
    "O3 rows read before and not settled are left out while pending, and kept for the next holder",
    "O4 a settle under a lease that was taken over changes nothing and reports the lane lost",
    "O4 another lease of the same relay is another one",
    "O5 no transaction is open after leasing, between reading and settling, and after it",
    "O6 a settle is by lane and position: another lane's row keeps its own",
    "O6 of a batch over held and lost lanes only the held lanes' rows are deleted",
    "O6 settling rows again, or none, changes nothing",
    "M1 a migration keeps what is there",
  ],
  "O4: a live lease is taken": [
    "O4 relays that ask at once share the lanes, and no lane has two holders",
    "O4 a live lease is not taken; a renewed one keeps its token; a released one is free at once",
    "O6 of a batch over held and lost lanes only the held lanes' rows are deleted",
  ],
  "O4: a settle does not ask for the lease": [
    "O4 a settle under a lease that was taken over changes nothing and reports the lane lost",
    "O4 another lease of the same relay is another one",
    "O6 of a batch over held and lost lanes only the held lanes' rows are deleted",
  ],
  "O4: a lease that was lost is renewed": [
    "O4 a settle under a lease that was taken over changes nothing and reports the lane lost",
  ],
  "O4: a lease that was lost is released": [
    "O4 a settle under a lease that was taken over changes nothing and reports the lane lost",
  ],
  "O6: a settle deletes all up to the confirmed rows": [
    "O3 rows read before and not settled are left out while pending, and kept for the next holder",
    "O6 a settle is by lane and position: another lane's row keeps its own",
  ],
  "O6: a settle deletes a position in whatever lane": [
    "O6 a settle is by lane and position: another lane's row keeps its own",
  ],
  "M1: the checksum of what was applied is not compared": [
    "M1 a migration that was edited after it was applied is refused",
  ],
  "M1: what is newer is not seen": [
    "M1 an older schema and a newer one are told apart and refused",
  ],
  "M1: a migration is not noted": [
    "M1 an empty place is refused, migrated in order, and migrated once",
    "M1 many processes may migrate at once",
    "M1 a migration keeps what is there",
    "M1 a migration that was edited after it was applied is refused",
    "M1 an older schema and a newer one are told apart and refused",
  ],
};

/** A wait for the write lock holds up the process: cases would hold up each other. */
const casesAtOnce = 1;

const ofKnex = knexCases<Knex.Transaction>();
const applicable = new Set(ofKnex.map(titleOf));
const ofVerbs = Object.entries(noticedVerbs).map(([name, titles]) => {
  return [name, titles.filter((title) => applicable.has(title))] as const;
});

const noticedByKnex: Readonly<Record<string, readonly string[]>> = {
  ...Object.fromEntries(ofVerbs),
  ...noticedLetters,
  ...noticedKeeping,
  "O1: rows of a chunk that was rolled back come with the next": [
    "I5 nothing is left of a chunk whose connection died before the commit",
    ...noticedKeeping["O1: rows of a chunk that was rolled back come with the next"],
  ],
  "T1: a handle lives on when its handler has ended": [
    "T1 a handler's handle is dead after end(), while the chunk goes on",
    "I5 handlers may use shared handles of one chunk at the same time, each until its own end",
    "O1 enqueue through a handle that has ended is refused, and the chunk commits without it",
  ],
  "I1: a claim waits for nobody": [
    "I1 a claim waits for an open chunk and counts on from where that left the row",
  ],
  "I3: a transaction is begun without the lock": [
    "I3 two partitions at once: the second waits, and is a duplicate once the first committed",
    "I3 two partitions at once: the second waits, and is new once the first rolled back",
    "I3 chunks with the same ids in opposite orders never deadlock, and each id is new once",
    "I6 a skip waits for an open turn, and deletes what that leaves",
  ],
  "I5: a rollback commits": [
    "T1 a transaction whose work throws commits nothing and rejects with that error",
    "I2 a commit under a claim lost meanwhile writes nothing",
    "I2 a chunk that was destroyed lets the next claim through and can commit nothing",
    "I2 a chunk that gave its lock away before a seek commits nothing after it",
    "I3 two partitions at once: the second waits, and is new once the first rolled back",
    "I3 recordIds tells new, duplicate and conflict, and forgets what rolls back",
    "I5 ids, position, effects and outbox rows vanish together in a rollback",
    "I5 a failed statement can be rolled back, and the connection is clean afterwards",
    "I5 a handler that commits early and begins anew fails the chunk, and the redo is not lost",
    "I6 a parked message holds up its own partition, for its own consumer",
    "I6 a turn that is rolled back leaves no effect, and its message as it was",
    "I6 nor is one whose handler ends its transaction early and begins anew",
    "I6 a turn that was destroyed leaves no effect, and its message as it was",
    "I6 a turn whose letters cannot be written is not settled, and none of them is there",
    "O1 enqueue in a transaction that rolls back leaves nothing",
    "O1 what handlers of a chunk enqueue is gone with its rollback",
  ],
};

test("every promise is broken by one storage at least", () => {
  const { promised, broken } = promisesOf(ofKnex, brokenNative, brokenKnex);
  expect(broken).toEqual(promised);
});

describe("native", () => {
  afterAll(endSessions);
  tryBroken<Session, readonly StatementChange[]>({
    ...{ broken: brokenNative, noticed: noticedByNative, cases: nativeCases(), casesAtOnce },
    make: nativeUnderTest,
  });
});

describe("knex", () => {
  tryBroken<Knex.Transaction, SqliteVariant>({
    ...{ broken: brokenKnex, noticed: noticedByKnex, cases: ofKnex, casesAtOnce },
    make: knexUnderTest,
  });
});
