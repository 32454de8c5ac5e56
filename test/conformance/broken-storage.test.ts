// The suite itself on trial: every promise is broken on purpose, and the suite has to notice. The
// table says which cases notice what, all of them, so that a case that loses its bite shows. A run
// tries those and their neighbours; `npm run test:long` tries every storage on every case.

import { storageConformance } from "@oncebox/testing";
import type { ClientBase } from "pg";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { TestDatabase } from "../fixtures/databases.ts";
import { testDatabase } from "../fixtures/servers.ts";
import { brokenStorages, misfits } from "./broken-storages.ts";
import { type PostgresVariant, postgresUnderTest } from "./postgres-under-test.ts";

type Name = keyof typeof brokenStorages;

/** Every storage on every case takes minutes: `npm run test:long`. */
const whole = process.env.WHOLE_SUITES === "1";

/** Most of a case is waiting for the server. */
const casesAtOnce = 6;

/** These race for real: whether they meet a break is up to chance, so they are in no list. */
const byChance = [
  "I3 chunks with the same ids in opposite orders never deadlock, and each id is new once",
  "I3 recordIds in opposite orders at once never deadlocks, and each id is new once",
  "O3 beside many writers no committed row is missed or read twice, and order per key holds",
];

const noticed: Readonly<Record<Name, readonly string[]>> = {
  "T1: a transaction with a swallowed error passes for committed": [
    "T1 a transaction with a swallowed failed statement rejects and commits nothing",
    "T1 a chunk with a swallowed failed statement rejects and commits nothing",
  ],
  "T1: a lost reply passes for a failure": [
    "T1 a COMMIT that never arrived is unknown, not failed, and nothing is committed",
    "T1 a COMMIT whose reply was lost is unknown, not failed, and is committed",
    "I1 a claim waits for a commit that arrives after its connection died, and sees it",
    "I5 after a lost COMMIT nothing is left, and the next claim says so",
    "I5 after a lost reply everything is there, and the next claim says so",
  ],
  "I1: a claim keeps the token of the one before": [
    "I1 a claim takes a new token and raises the epoch by one",
    "I1 of claims at once each has its own epoch, and the highest is the live one",
    "I1 of many claims those taken over are lost, and asking neither waits nor takes",
    "I2 open under an old claim rejects and records nothing",
    "I2 the token fences, not the epoch: after a fail-over an old epoch may fit again",
    "I2 a claim by the same owner voids its older ones too",
    "I4 a seek under an expected claim moves only while that is held",
  ],
  "I1: a claim ends the replay": [
    "I1 a claim tells the log of its position, its replay and the last seek, and changes none",
    "I3 a replay applies its range once more, each time it is asked for",
    "I3 a replay ends with the next seek, and its number is not used again",
  ],
  "I1: a claim that was taken over is not told": [
    "I1 of many claims those taken over are lost, and asking neither waits nor takes",
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
  ],
  "I3: an id taken by the record's own position is new, whatever was applied before": [
    "I3 after a seek back what was applied is a duplicate, at its own position as well",
    "I3 what a seek had left out is new, and counts as seen afterwards",
    "I3 from the highest position upwards an early commit's redo is new, after any seek",
    "I3 a replay ends with the next seek, and its number is not used again",
  ],
  "I3: a redo inside a replay is a duplicate": [
    "I3 a replay applies its range once more, each time it is asked for",
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
  "I3: every seek is a replay": [
    "I3 after a seek back what was applied is a duplicate, at its own position as well",
    "I3 what a seek had left out is new, and counts as seen afterwards",
    "I3 from the highest position upwards an early commit's redo is new, after any seek",
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
  ],
  "I4: a commit forgets the mark of the log": [
    "I1 a claim tells the log of its position, its replay and the last seek, and changes none",
    "I4 a commit writes the mark of the log; without a last record the one before stays",
  ],
  "I4: a commit without a record forgets the last one": [
    "I4 a commit writes the mark of the log; without a last record the one before stays",
  ],
  "I4: a seek keeps the mark of the log": [
    "I4 a seek replaces the mark of the log by the topic alone",
  ],
  "I4: a seek moves one partition after the other": [
    "I4 a seek that names a partition without a row, or no offset, moves nothing",
    "I5 a seek and its line in the audit log are there together",
  ],
  "I4: a seek does not ask for the expected claim": [
    "I4 a seek under an expected claim moves only while that is held",
  ],
  "I4: an adoption adds to what is there": [
    "I4 an adoption that names a topic with rows, or another group, changes nothing",
    "I4 of adoptions and registrations at once one gives all positions",
  ],
  "I4: a topic of one consumer counts as registered for all": [
    "I4 a topic is registered for a consumer once it has rows",
  ],
  "I4: positions are told under a claim": [
    "I4 a commit writes the mark of the log; without a last record the one before stays",
    "I4 positions are told by topic and partition, as they are committed, without a claim",
  ],
  "I5: nothing comes into the audit log": [
    "I4 an adoption registers its topics at the given positions, with their line in the log",
    "I5 a seek and its line in the audit log are there together",
    "I5 the audit log is read back newest first, page by page, for one consumer",
  ],
  "I5: every page of the audit log is the first": [
    "I5 the audit log is read back newest first, page by page, for one consumer",
  ],
  "I5: an early end of the transaction is not noticed": [
    "I5 a handler that commits early fails the chunk, and the redo is not lost",
    "I5 a handler that commits early and begins anew fails the chunk, and the redo is not lost",
  ],
  "I5: ids are recorded in a transaction of their own": [
    "I3 two partitions at once: the second waits, and is new once the first rolled back",
    "I3 what a seek had left out is new, and counts as seen afterwards",
    "I4 a commit writes the mark of the log; without a last record the one before stays",
    "I5 ids, position, effects and outbox rows vanish together in a rollback",
    "I5 a failed statement can be rolled back, and the connection is clean afterwards",
    "I5 nothing is left of a chunk whose connection died before the commit",
    "I5 after a lost COMMIT nothing is left, and the next claim says so",
  ],
  "O1: enqueue has a transaction of its own": [
    "T1 a handle is dead when its transaction has ended",
    "I5 ids, position, effects and outbox rows commit together",
    "I5 ids, position, effects and outbox rows vanish together in a rollback",
    "O1 enqueue in a transaction that rolls back leaves nothing",
    "O1 enqueue sends one statement, however many rows, and none for no row",
    "O1 enqueue needs no other connection: it works while all of the storage's are in use",
    "O1 enqueue through a handle whose transaction has ended is refused and writes nothing",
    "O2 a row can be read only after its transaction committed",
    "O3 a lower position that commits after higher ones were settled is not missed",
    "O3 nor one whose transaction began after that of the higher position",
    "O6 a settle deletes exactly the confirmed rows, none that lies between them",
  ],
  "O1: enqueue sends one statement for each row": [
    "O1 enqueue sends one statement, however many rows, and none for no row",
  ],
  "O2: enqueue commits the caller's transaction": [
    "T1 relays are woken when the rows can be read, by the storage and from another process",
    "I5 ids, position, effects and outbox rows commit together",
    "I5 ids, position, effects and outbox rows vanish together in a rollback",
    "O1 enqueue in a transaction that rolls back leaves nothing",
    "O1 enqueue sends one statement, however many rows, and none for no row",
    "O1 enqueue needs no other connection: it works while all of the storage's are in use",
    "O2 a row can be read only after its transaction committed",
    "O3 a lower position that commits after higher ones were settled is not missed",
    "O3 nor one whose transaction began after that of the higher position",
    "O6 a settle deletes exactly the confirmed rows, none that lies between them",
    "M1 a migration keeps what is there",
  ],
  "O3: the highest settled position is taken for a floor": [
    "O3 a lower position that commits after higher ones were settled is not missed",
    "O3 nor one whose transaction began after that of the higher position",
    "O3 nor one of several that overlap, in lanes read by one holder after another",
    "O4 another lease of the same relay is another one",
    "O6 a settle deletes exactly the confirmed rows, none that lies between them",
    "O6 a settle is by lane and position: another lane's row keeps its own",
  ],
  "O3: the floor rises although older transactions are open": [
    "O3 a lower position that commits after higher ones were settled is not missed",
    "O3 nor one whose transaction began after that of the higher position",
    "O3 nor one of several that overlap, in lanes read by one holder after another",
  ],
  "O3: a lane is read backwards": [
    "O2 a row is read as it was written: bytes, nulls, repeated headers and their order",
    "O3 each lane is read in the order of enqueueing, whatever the limits, and to its end",
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
  "O5: a transaction stays open from reading to settling": [
    "O5 no transaction is open after leasing, between reading and settling, and after it",
  ],
  "O6: a settle deletes all up to the confirmed rows": [
    "O3 rows read before and not settled are left out while pending, and kept for the next holder",
    "O6 a settle deletes exactly the confirmed rows, none that lies between them",
    "O6 a settle is by lane and position: another lane's row keeps its own",
  ],
  "M1: migrations are not locked against each other": ["M1 many processes may migrate at once"],
  "M1: nobody looks at what was migrated": [
    "M1 an empty place is refused, migrated in order, and migrated once",
    "M1 a migration that was edited after it was applied is refused",
    "M1 an older schema and a newer one are told apart and refused",
  ],
};

const cases = storageConformance<ClientBase>();
type Case = (typeof cases)[number];
let database: TestDatabase;
beforeAll(async () => {
  database = await testDatabase();
});
afterAll(() => database.drop());

async function fails(variant: PostgresVariant, { run }: Case): Promise<boolean> {
  const { context, close } = await postgresUnderTest(database.url, variant);
  try {
    await run(context);
    return false;
  } catch {
    return true;
  } finally {
    await close();
  }
}

const titleOf = ({ promise, name }: Case) => `${promise} ${name}`;

/** The cases that fail, in the order of the suite. */
async function failing(variant: PostgresVariant, tried: readonly Case[]): Promise<string[]> {
  const results: boolean[] = [];
  const queue = tried.entries();
  const worker = async () => {
    for (const [index, each] of queue) results[index] = await fails(variant, each);
  };
  await Promise.all(Array.from({ length: casesAtOnce }, worker));
  return tried.filter((_, index) => results[index]).map(titleOf);
}

/** Those that must fail, and their neighbours, which must not: all cases where all are wanted. */
function triedOn(name: Name): readonly Case[] {
  return cases.filter((each) => {
    return whole || noticed[name].includes(titleOf(each)) || each.promise === name.slice(0, 2);
  });
}

test("every promise is broken by one storage at least", () => {
  const promises = new Set(Object.keys(brokenStorages).map((name) => name.slice(0, 2)));
  expect([...promises].sort()).toEqual([...new Set(cases.map(({ promise }) => promise))].sort());
});

for (const [name, broken] of Object.entries(brokenStorages)) {
  test(name, { timeout: 300_000 }, async () => {
    const found = await failing({ pipeline: true, ...broken }, triedOn(name as Name));
    expect([...misfits]).toEqual([]);
    expect(found.filter((each) => !byChance.includes(each))).toEqual(noticed[name as Name]);
    expect(noticed[name as Name].some((each) => each.startsWith(name.slice(0, 2)))).toBe(true);
  });
}
