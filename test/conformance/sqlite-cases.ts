// Owns which cases of the storage suite apply to SQLite, native and through knex, and why the others
// cannot.

import { storageConformance } from "@oncebox/testing";

const oneWriter = "SQLite has one writer at a time: no two transactions write at once";
const noWire = "the database is in the process: there is no reply to be lost";
const goesOn = "in SQLite a statement that fails undoes itself alone, and the transaction goes on";

/** What a file with one writer has nothing to show for, and why. */
const inapplicable: Readonly<Record<string, string>> = {
  "T1 a transaction with a swallowed failed statement rejects and commits nothing": goesOn,
  "T1 a chunk with a swallowed failed statement rejects and commits nothing": goesOn,
  "T1 a COMMIT that never arrived is unknown, not failed, and nothing is committed": noWire,
  "T1 a COMMIT whose reply was lost is unknown, not failed, and is committed": noWire,
  "I1 a claim waits for a commit that arrives after its connection died, and sees it": noWire,
  "I5 after a lost COMMIT nothing is left, and the next claim says so": noWire,
  "I5 after a lost reply everything is there, and the next claim says so": noWire,
  "I1 a claim's wait is bounded, names who blocks, and leaves the holder its claim":
    "SQLite does not tell who holds the lock (the bound is tested in sqlite-sync.test.ts)",
  "I1 a claim does not wait for chunks of other partitions": oneWriter,
  "I1 of many claims those taken over are lost, and asking neither waits nor takes": oneWriter,
  "I5 ids, position, effects and outbox rows commit together": `${oneWriter}, and a relay's lease is a write (see sqlite-processes.test.ts)`,
  "I3 chunks that wait for the same id do not wait for each other when they go on": oneWriter,
  "I3 recordings that wait for the same id do not wait for each other when they go on": oneWriter,
  "I3 recordIds in opposite orders at once never deadlocks, and each id is new once": oneWriter,
  "O1 enqueue needs no other connection: it works while all of the storage's are in use": oneWriter,
  "O3 a lower position that commits after higher ones were settled is not missed": oneWriter,
  "O3 nor one whose transaction began after that of the higher position": oneWriter,
  "O3 nor one of several that overlap, in lanes read by one holder after another": oneWriter,
  "O3 beside many writers no committed row is missed or read twice, and order per key holds":
    oneWriter,
  "O6 a settle deletes exactly the confirmed rows, none that lies between them": oneWriter,
  "I6 a chunk with a swallowed failed statement parks nothing": goesOn,
  "I6 a turn with a swallowed failed statement rejects, and its message is as it was": goesOn,
  "I6 after a lost COMMIT nothing is parked, after a lost reply everything": noWire,
  "I6 a turn whose COMMIT was lost is unknown, and its message as it was": noWire,
  "I6 a turn whose reply was lost is unknown, and its message is gone": noWire,
  "I6 what an open turn has not committed yet holds its key up": oneWriter,
  "I6 while an open turn has the first of a key locked, neither it nor the second is taken":
    oneWriter,
  "I6 an open chunk and an open turn of its partition do not wait for each other": oneWriter,
  "I6 a redrive does not wait for an open turn, and leaves it alone": oneWriter,
  "I6 changes by hand do not wait for an open chunk of the partition": oneWriter,
  "I7 a step and an open chunk do not wait for each other": oneWriter,
};

const onlyConnection = "a knex on SQLite has one connection: a second chunk waits for the first";
const inapplicableToKnex: Readonly<Record<string, string>> = {
  "I4 a chunk that another one overtook moves nothing, not even under the same claim":
    onlyConnection,
  "I6 a chunk that another one overtook parks nothing, not even under the same claim":
    onlyConnection,
};

const itself = "a handler gets the Database itself, which lives on and can refuse nothing";
const oneCall = "a transaction is one call: nothing can come from outside while it runs";
const alone = "handlers run one after another within one call: none shares a transaction";
const inapplicableToNative: Readonly<Record<string, string>> = {
  "T1 a transaction's handle refuses to begin or end it, and stays whole": itself,
  "T1 a handle is dead when its transaction has ended": itself,
  "T1 a handler's handle is dead after end(), while the chunk goes on": itself,
  "O1 enqueue through a handle that has ended is refused, and the chunk commits without it": itself,
  "I5 a chunk's handle refuses to begin or end the transaction, and stays whole": itself,
  "T1 a transaction whose connection died rejects and commits nothing": oneCall,
  "I5 nothing is left of a chunk whose connection died before the commit": oneCall,
  "I2 a chunk that was destroyed lets the next claim through and can commit nothing": oneCall,
  "I6 a turn whose connection died leaves no effect, and its message as it was": oneCall,
  "I6 a turn that was destroyed leaves no effect, and its message as it was": oneCall,
  "I6 a turn's handle is dead after end()": itself,
  "I5 handlers may use shared handles of one chunk at the same time, each until its own end": alone,
  "I5 a shared handle refuses what works on the whole transaction, which goes on untouched": alone,
  "I5 a handle that is not shared refuses none of it for that reason": alone,
  "I5 a shared handle refuses to begin or end the transaction as any other does": alone,
  "I5 a shared handle of a turn refuses the same, and its handler may go on": alone,
  "T1 relays are woken when the rows can be read, by the storage and from another process":
    "other processes poll: SQLite has no message to send (in the process: sqlite-sync.test.ts)",
};

/** The cases that apply to native storage. */
export function nativeCases<Tx>() {
  return casesWithout<Tx>({ ...inapplicable, ...inapplicableToNative });
}

/** The cases that apply to storage through knex. */
export function knexCases<Tx>() {
  return casesWithout<Tx>({ ...inapplicable, ...inapplicableToKnex });
}

/** All titles that are left out somewhere. */
export const leftOut: readonly string[] = Object.keys({
  ...{ ...inapplicable, ...inapplicableToKnex, ...inapplicableToNative },
});

function casesWithout<Tx>(left: Readonly<Record<string, string>>) {
  return storageConformance<Tx>().filter(({ promise, name }) => !(`${promise} ${name}` in left));
}
