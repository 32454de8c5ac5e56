// The suite itself on trial, on PostgreSQL: every promise is broken on purpose, and the suite has to
// notice. The table says which cases notice what, all of them.

import { storageConformance } from "@oncebox/testing";
import type { ClientBase } from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { TestDatabase } from "../fixtures/databases.ts";
import { testDatabase } from "../fixtures/servers.ts";
import { noticedKeeping } from "./broken-keeping.ts";
import { noticedLetters } from "./broken-letters.ts";
import { noticedParking } from "./broken-parking.ts";
import { noticedPruning } from "./broken-pruning.ts";
import { misfits } from "./broken-statements.ts";
import { brokenStorages } from "./broken-storages.ts";
import { promisesOf, tryBroken } from "./broken-trial.ts";
import { noticedVerbs } from "./broken-verbs.ts";
import { type PostgresVariant, postgresUnderTest } from "./postgres-under-test.ts";

/** These race for real: whether they meet a break is up to chance, so they are in no list. */
const byChance = [
  "I3 chunks with the same ids in opposite orders never deadlock, and each id is new once",
  "I3 recordIds in opposite orders at once never deadlocks, and each id is new once",
  "I6 of processes that take at once each message goes to one, and of a key one message",
  "O3 beside many writers no committed row is missed or read twice, and order per key holds",
];

const noticed: Readonly<Record<keyof typeof brokenStorages, readonly string[]>> = {
  ...noticedVerbs,
  ...noticedParking,
  ...noticedLetters,
  ...noticedKeeping,
  ...noticedPruning,
  "T1: a transaction with a swallowed error passes for committed": [
    "T1 a transaction with a swallowed failed statement rejects and commits nothing",
    "T1 a chunk with a swallowed failed statement rejects and commits nothing",
    "I6 a chunk with a swallowed failed statement parks nothing",
    "I6 a turn with a swallowed failed statement rejects, and its message is as it was",
  ],
  "T1: a lost reply passes for a failure": [
    "T1 a COMMIT that never arrived is unknown, not failed, and nothing is committed",
    "T1 a COMMIT whose reply was lost is unknown, not failed, and is committed",
    "I1 a claim waits for a commit that arrives after its connection died, and sees it",
    "I5 after a lost COMMIT nothing is left, and the next claim says so",
    "I5 after a lost reply everything is there, and the next claim says so",
    "I6 after a lost COMMIT nothing is parked, after a lost reply everything",
    "I6 a turn whose COMMIT was lost is unknown, and its message as it was",
    "I6 a turn whose reply was lost is unknown, and its message is gone",
  ],
  "I1: a claim keeps the token of the one before": [
    "I1 a claim takes a new token and raises the epoch by one",
    "I1 of claims at once each has its own epoch, and the highest is the live one",
    "I1 nothing is noted as tried under a claim that is held no more",
    "I1 of many claims those taken over are lost, and asking neither waits nor takes",
    "I2 open under an old claim rejects and records nothing",
    "I2 the token fences, not the epoch: after a fail-over an old epoch may fit again",
    "I2 a claim by the same owner voids its older ones too",
    "I4 a seek under an expected claim moves only while that is held",
  ],
  "I1: a claim that was taken over is not told": [
    "I1 of many claims those taken over are lost, and asking neither waits nor takes",
  ],
  "I1: a position that was set back is not told": [
    "I1 a claim is lost as well where its row stands elsewhere than its holder believes",
  ],
  "I1: a chunk does not lock its partition's row": [
    "I1 a claim waits for an open chunk and counts on from where that left the row",
    "I1 a claim's wait is bounded, names who blocks, and leaves the holder its claim",
    "I1 a claim waits for a commit that arrives after its connection died, and sees it",
    "I2 a chunk opened before a take-over is tried blocks it and commits",
    "I2 a seek waits for an open chunk, whose commit comes before it",
    "I4 a chunk under the same claim waits for the one before it and starts where that ended",
  ],
  "I2: a chunk is opened under any claim": [
    "I1 of claims at once each has its own epoch, and the highest is the live one",
    "I2 open under an old claim rejects and records nothing",
    "I2 the token fences, not the epoch: after a fail-over an old epoch may fit again",
    "I2 a claim by the same owner voids its older ones too",
    "I2 a seek fences the claims of its partitions and of no other",
    "I2 a seek waits for an open chunk, whose commit comes before it",
  ],
  "I2: a seek keeps the token": [
    "I1 of many claims those taken over are lost, and asking neither waits nor takes",
    "I2 a seek fences the claims of its partitions and of no other",
    "I2 a seek waits for an open chunk, whose commit comes before it",
    "I4 a seek under an expected claim moves only while that is held",
  ],
  "I2: a seek keeps the token, and an early end of the transaction is not noticed": [
    "I1 of many claims those taken over are lost, and asking neither waits nor takes",
    "I2 a seek fences the claims of its partitions and of no other",
    "I2 a seek waits for an open chunk, whose commit comes before it",
    "I2 a chunk that gave its lock away before a seek commits nothing after it",
    "I4 a seek under an expected claim moves only while that is held",
    "I5 a handler that commits early fails the chunk, and the redo is not lost",
    "I5 a handler that commits early and begins anew fails the chunk, and the redo is not lost",
    "I6 a chunk that its handler ended parks nothing, whether another transaction was begun or not",
  ],
  "I2: a seek does not lock before it looks": [
    "I2 a seek waits for an open chunk, whose commit comes before it",
  ],
  "I3: ids are not recorded": [
    "I3 an id taken by another position is a duplicate, with another value a conflict",
    "I3 of the same id twice in one chunk the first offset wins",
    "I3 an id taken by the record's own position is new again while it is not done",
    "I3 two partitions at once: the second waits, and is a duplicate once the first committed",
    "I3 chunks that wait for the same id do not wait for each other when they go on",
    "I3 recordIds and chunks see each other's ids",
    "I3 after a seek back what was applied is a duplicate, at its own position as well",
    "I3 what a seek had left out is new, and counts as seen afterwards",
    "I3 from the highest position upwards an early commit's redo is new, after any seek",
    "I3 a replay applies its range once more, each time it is asked for",
    "I3 a replay ends with the next seek, and its number is not used again",
    "I5 ids, position, effects and outbox rows commit together",
    "I5 after a lost reply everything is there, and the next claim says so",
    "I6 only what would be new is held: what is done, a duplicate or a conflict stays so",
    "I6 the id of a held record is recorded with the chunk that parks it",
    "I6 a turn needs no claim and leaves the position and the ids alone",
  ],
  "I3: a chunk records ids in the order in which they come": [
    "I3 chunks that wait for the same id do not wait for each other when they go on",
  ],
  "I3: recordIds records ids in the order in which they come": [
    "I3 recordings that wait for the same id do not wait for each other when they go on",
  ],
  "I3: an id taken by the record's own position is a duplicate": [
    "I2 a commit under a claim lost meanwhile writes nothing",
    "I3 an id taken by the record's own position is new again while it is not done",
    "I3 from the highest position upwards an early commit's redo is new, after any seek",
    "I3 a replay applies its range once more, each time it is asked for",
    "I5 ids, position, effects and outbox rows commit together",
    "I5 a handler that commits early fails the chunk, and the redo is not lost",
    "I5 a handler that commits early and begins anew fails the chunk, and the redo is not lost",
    "I5 after a lost reply everything is there, and the next claim says so",
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
    "I4 a chunk that another one overtook moves nothing, not even under the same claim",
    "I5 a handler that commits early fails the chunk, and the redo is not lost",
    "I5 a handler that commits early and begins anew fails the chunk, and the redo is not lost",
    "I6 a chunk that another one overtook parks nothing, not even under the same claim",
    "I6 a chunk that its handler ended parks nothing, whether another transaction was begun or not",
  ],
  "I4: a commit without a record forgets the last one": [
    "I4 a commit writes the mark of the log; without a last record the one before stays",
  ],
  "I4: a seek keeps the mark of the log": [
    "I4 a seek replaces the mark of the log by the topic alone",
  ],
  "I4: an adoption adds to what is there": [
    "I4 an adoption that names a topic with rows, or another group, changes nothing",
    "I4 of adoptions and registrations at once one gives all positions",
  ],
  "I4: a topic of one consumer counts as registered for all": [
    "I4 a topic is registered for a consumer once it has rows",
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
  "I5: an early end of the transaction is not noticed": [
    "I5 a handler that commits early fails the chunk, and the redo is not lost",
    "I5 a handler that commits early and begins anew fails the chunk, and the redo is not lost",
    "I6 a chunk that its handler ended parks nothing, whether another transaction was begun or not",
  ],
  "O3: the floor rises although older transactions are open": [
    "O3 a lower position that commits after higher ones were settled is not missed",
    "O3 nor one whose transaction began after that of the higher position",
    "O3 nor one of several that overlap, in lanes read by one holder after another",
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
  "O6: a settle deletes all up to the confirmed rows": [
    "O3 rows read before and not settled are left out while pending, and kept for the next holder",
    "O6 a settle deletes exactly the confirmed rows, none that lies between them",
    "O6 a settle is by lane and position: another lane's row keeps its own",
  ],
  "M1: migrations are not locked against each other": ["M1 many processes may migrate at once"],
};

const cases = storageConformance<ClientBase>();
let database: TestDatabase;
beforeAll(async () => {
  database = await testDatabase();
});
afterAll(() => database.drop());

test("every promise is broken by one storage at least", () => {
  const { promised, broken } = promisesOf(cases, brokenStorages);
  expect(broken).toEqual(promised);
});

tryBroken<ClientBase, Omit<PostgresVariant, "pipeline">>({
  ...{ broken: brokenStorages, noticed, cases, byChance },
  casesAtOnce: 6,
  make: (broken) => postgresUnderTest(database.url, { pipeline: true, ...broken }),
  after: () => expect([...misfits]).toEqual([]),
});
