// Owns the breaks that are made at the verbs of a storage, whatever database lies beneath: one verb is
// wrapped, or one of its answers changed. What breaks a statement belongs to the database's own list.

import type {
  ChunkTransaction,
  HandlerTransaction,
  Moved,
  ParkedTransaction,
  PartitionClaim,
  Storage,
} from "@oncebox/core";
import type { StorageUnderTest } from "@oncebox/testing";

type Hooks<Tx> = Pick<StorageUnderTest<Tx>, "begin" | "endSecretly">;

/** Stands between the suite and each storage; called once for each. */
export type Wrap = <Tx>(storage: Storage<Tx>, hooks: Hooks<Tx>) => Storage<Tx>;

/** Replaces some verbs; `change` is called once for each storage. */
export function wrapped(
  change: <Tx>(storage: Storage<Tx>, hooks: Hooks<Tx>) => Partial<Storage<Tx>>,
): { readonly wrap: Wrap } {
  return { wrap: (storage, hooks) => ({ ...storage, ...change(storage, hooks) }) };
}

/** An `open` whose chunks are changed. */
export function opening<Tx>(
  storage: Storage<Tx>,
  change: (chunk: ChunkTransaction<Tx>) => Partial<ChunkTransaction<Tx>>,
): Storage<Tx>["open"] {
  return async (claim, records) => {
    const chunk = await storage.open(claim, records);
    return { ...chunk, ...change(chunk) };
  };
}

/** An `openParked` whose turns are changed. */
export function openingTurns<Tx>(
  storage: Storage<Tx>,
  change: (turn: ParkedTransaction<Tx>) => Partial<ParkedTransaction<Tx>>,
): Storage<Tx>["openParked"] {
  return async (given) => {
    const turn = await storage.openParked(given);
    return { ...turn, ...change(turn) };
  };
}

/** Handles of all transactions of the storage. */
function handing(
  change: <Tx>(handle: HandlerTransaction<Tx>["handle"]) => HandlerTransaction<Tx>["handle"],
) {
  return wrapped((storage) => ({
    open: opening(storage, ({ handle }) => ({ handle: change(handle) })),
    openParked: openingTurns(storage, ({ handle }) => ({ handle: change(handle) })),
  }));
}

/** An `open` under a claim that is not quite the one that was given. */
function opened(change: (claim: PartitionClaim) => PartitionClaim) {
  return wrapped((storage) => ({
    open: (claim, records) => storage.open(change(claim), records),
  }));
}

/** By what is wrong with them; the promise that each breaks stands first. */
export const brokenVerbs = {
  "I1: a claim ends the replay": wrapped((storage) => ({
    claim: async (...args) => {
      const claim = await storage.claim(...args);
      return claim === null ? null : { ...claim, replay: { ...claim.replay, number: 0 } };
    },
  })),
  "I1: a claim that is given up alive stays counted": wrapped((storage) => ({
    noteClaim: async (claim, note) => {
      if (note.kind !== "left") await storage.noteClaim(claim, note);
    },
  })),
  "I1: what is tried alone is not noted": wrapped((storage) => ({
    noteClaim: async (claim, note) => {
      if (note.kind !== "trying") await storage.noteClaim(claim, note);
    },
  })),
  "I3: an id taken by the record's own position is new, whatever was applied before": opened(
    (claim) => ({ ...claim, replay: { ...claim.replay, until: 0n } }),
  ),
  "I3: a redo inside a replay is a duplicate": opened((claim) => ({
    ...claim,
    replay: { ...claim.replay, number: 0 },
  })),
  "I3: every seek is a replay": wrapped((storage) => ({
    seek: (seek) => storage.seek({ ...seek, replay: true }),
  })),
  "I4: a commit forgets the mark of the log": wrapped((storage) => ({
    open: opening(storage, (chunk) => ({
      commit: (nextOffset, _, park) =>
        chunk.commit(nextOffset, { topicId: null, leaderEpoch: null, last: null }, park),
    })),
  })),
  "I4: a seek moves one partition after the other": wrapped((storage) => ({
    seek: async (seek) => {
      const moved: Moved[] = [];
      for (const move of seek.moves) {
        const one = await storage.seek({ ...seek, moves: [move] });
        if (one === null) return null;
        moved.push(...one);
      }
      return moved;
    },
  })),
  "I4: a seek does not ask for the expected claim": wrapped((storage) => ({
    seek: (seek) => storage.seek({ ...seek, expected: null }),
  })),
  "I4: positions are told under a claim": wrapped((storage) => ({
    positions: async (consumer) => {
      const read = await storage.positions(consumer);
      for (const each of read.positions) {
        await storage.claim({ consumer, ...each, owner: "a look" }, 200);
      }
      return read;
    },
  })),
  "I5: ids are recorded in a transaction of their own": wrapped((storage) => ({
    open: async (claim, records) => {
      const ids = await storage.open(claim, records);
      await ids.commit(ids.nextOffset, claim.log);
      return storage.open(claim, records);
    },
  })),
  "I5: a shared handle refuses no more than any other": handing((handle) => () => handle()),
  "I5: what a shared handle has refused is not told": handing((handle) => (use) => ({
    ...handle(use),
    refused: () => false,
  })),
  "I6: headers of what is parked are sorted": wrapped((storage) => ({
    open: opening(storage, (chunk) => ({
      commit: (nextOffset, mark, park = []) => {
        const sorted = park.map(({ record, ...rest }) => {
          const headers = record.headers.toSorted(([a], [b]) => (a < b ? -1 : 1));
          return { ...rest, record: { ...record, headers } };
        });
        return chunk.commit(nextOffset, mark, sorted);
      },
    })),
  })),
  "I6: a message ends before its handler has run": wrapped((storage, { begin }) => ({
    openParked: async (turn) => {
      await (await storage.openParked(turn)).commit();
      const own = await begin();
      return {
        handle: () => ({ tx: own.tx, end: () => {}, refused: () => false }),
        commit: async () => void (await own.commit()),
        rollback: () => own.rollback().then(() => true),
        destroy: () => void own.rollback(),
      };
    },
  })),
  "I6: a change by hand asks for no filter": wrapped((storage) => ({
    changeParked: ({ filter: { consumer }, ...change }) =>
      storage.changeParked({ ...change, filter: { consumer } }),
  })),
  "I6: every page of parked messages is the first": wrapped((storage) => ({
    parked: (filter, page) => storage.parked(filter, { ...page, above: null }),
    changeParked: ({ page, ...change }) =>
      storage.changeParked({ ...change, page: { ...page, above: null } }),
  })),
  "O1: enqueue has a transaction of its own": wrapped((storage) => ({
    enqueue: (_, rows) => storage.transaction((own) => storage.enqueue(own, rows)),
  })),
  "O1: enqueue sends one statement for each row": wrapped((storage) => ({
    enqueue: async (tx, rows) => {
      for (const row of rows) await storage.enqueue(tx, [row]);
    },
  })),
  "O2: enqueue commits the caller's transaction": wrapped((storage, { endSecretly }) => ({
    enqueue: async (tx, rows) => {
      await storage.enqueue(tx, rows);
      await endSecretly(tx, { begin: true });
    },
  })),
  "O3: the highest settled position is taken for a floor": wrapped((storage) => {
    const floors = new Map<number, bigint>();
    return {
      readLanes: async (leases, request) => {
        const read = await storage.readLanes(leases, request);
        return {
          ...read,
          rows: read.rows.filter((row) => row.position > (floors.get(row.lane) ?? 0n)),
        };
      },
      settleBatch: (leases, published) => {
        for (const { lane, position } of published) {
          if (position > (floors.get(lane) ?? 0n)) floors.set(lane, position);
        }
        return storage.settleBatch(leases, published);
      },
    };
  }),
  "O3: a lane is read backwards": wrapped((storage) => ({
    readLanes: async (...args) => {
      const read = await storage.readLanes(...args);
      return { ...read, rows: [...read.rows].reverse() };
    },
  })),
  "O5: a transaction stays open from reading to settling": wrapped((storage, { begin }) => {
    const open: Awaited<ReturnType<typeof begin>>[] = [];
    return {
      readLanes: async (...args) => {
        open.push(await begin());
        return storage.readLanes(...args);
      },
      settleBatch: async (...args) => {
        for (const own of open.splice(0)) await own.rollback();
        return storage.settleBatch(...args);
      },
    };
  }),
  "M1: nobody looks at what was migrated": wrapped(() => ({
    check: async () => ({ pipelined: true, poolSize: 6, idleInTransactionTimeoutMs: null }),
  })),
} as const;

/** The cases that notice them, all of them, of those that apply to the database. */
export const noticedVerbs: Readonly<Record<keyof typeof brokenVerbs, readonly string[]>> = {
  "I1: a claim ends the replay": [
    "I1 a claim tells the log of its position, its replay and the last seek, and changes none",
    "I3 a replay applies its range once more, each time it is asked for",
    "I3 a replay ends with the next seek, and its number is not used again",
  ],
  "I1: a claim that is given up alive stays counted": [
    "I1 a claim given up alive is not counted, also when another one holds the partition by then",
    "I1 a claim given up alive takes back its own trying and no other's",
  ],
  "I1: what is tried alone is not noted": [
    "I1 a record that is tried alone is told to the next claims, with how many have tried it",
    "I1 another record that is tried alone takes the place of the one before",
    "I1 a claim given up alive takes back its own trying and no other's",
    "I1 nothing is noted as tried under a claim that is held no more",
    "I1 a note of a claim that the row knows nothing of does nothing",
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
  "I3: every seek is a replay": [
    "I3 after a seek back what was applied is a duplicate, at its own position as well",
    "I3 what a seek had left out is new, and counts as seen afterwards",
    "I3 from the highest position upwards an early commit's redo is new, after any seek",
    "I3 a replay ends with the next seek, and its number is not used again",
  ],
  "I4: a commit forgets the mark of the log": [
    "I1 a claim tells the log of its position, its replay and the last seek, and changes none",
    "I4 a commit writes the mark of the log; without a last record the one before stays",
  ],
  "I4: a seek moves one partition after the other": [
    "I4 a seek that names a partition without a row, or no offset, moves nothing",
    "I5 a seek and its line in the audit log are there together",
  ],
  "I4: a seek does not ask for the expected claim": [
    "I4 a seek under an expected claim moves only while that is held",
  ],
  "I4: positions are told under a claim": [
    "I4 a commit writes the mark of the log; without a last record the one before stays",
    "I4 positions are told by topic and partition, as they are committed, without a claim",
  ],
  "I5: ids are recorded in a transaction of their own": [
    "I1 claims in a row are counted until a commit; what is rolled back does not end the count",
    "I3 two partitions at once: the second waits, and is new once the first rolled back",
    "I3 what a seek had left out is new, and counts as seen afterwards",
    "I4 a commit writes the mark of the log; without a last record the one before stays",
    "I5 ids, position, effects and outbox rows vanish together in a rollback",
    "I5 a failed statement can be rolled back, and the connection is clean afterwards",
    "I5 nothing is left of a chunk whose connection died before the commit",
    "I5 after a lost COMMIT nothing is left, and the next claim says so",
    "I6 a parked message holds up its own partition, for its own consumer",
  ],
  "I5: a shared handle refuses no more than any other": [
    "I5 a shared handle refuses what works on the whole transaction, which goes on untouched",
    "I5 a shared handle of a turn refuses the same, and its handler may go on",
  ],
  "I5: what a shared handle has refused is not told": [
    "I5 a shared handle refuses what works on the whole transaction, which goes on untouched",
    "I5 a shared handle of a turn refuses the same, and its handler may go on",
  ],
  "I6: headers of what is parked are sorted": [
    "I6 a chunk parks records as they lay in the log, in the order given, and moves the position",
  ],
  "I6: a message ends before its handler has run": [
    "I5 a shared handle of a turn refuses the same, and its handler may go on",
    "I6 what an open turn has not committed yet holds its key up",
    "I6 while an open turn has the first of a key locked, neither it nor the second is taken",
    "I6 a turn that is rolled back leaves no effect, and its message as it was",
    "I6 a turn that was rolled back can be settled",
    "I6 a turn with a swallowed failed statement rejects, and its message is as it was",
    "I6 a turn whose handler ends its transaction early is not lost: its message is parked still",
    "I6 nor is one whose handler ends its transaction early and begins anew",
    "I6 a turn whose connection died leaves no effect, and its message as it was",
    "I6 a turn that was destroyed leaves no effect, and its message as it was",
    "I6 a turn whose COMMIT was lost is unknown, and its message as it was",
    "I6 a turn whose reply was lost is unknown, and its message is gone",
    "I6 a turn's handle is dead after end()",
    "I6 an open chunk and an open turn of its partition do not wait for each other",
    "I6 a skip waits for an open turn, and deletes what that leaves",
  ],
  "I6: a change by hand asks for no filter": [
    "I6 a key is held until its last parked message is gone, and from the next one on again",
    "I6 of a key only the earliest is taken, whatever the order of parking and its state",
    "I6 a redrive makes messages due now, with no attempts spent and their error kept",
    "I6 a skip deletes for good, and the next message of the key is the first",
    "I6 changes by hand do not wait for an open chunk of the partition",
    "I6 a change goes page by page, and says where the next one begins, however few it changed",
    "I6 a change and its line in the audit log are there together, and none where nothing changed",
    "I6 what is not known to a consumer is not changed for it",
  ],
  "I6: every page of parked messages is the first": [
    "I6 parked messages are told by id, page by page, those that fit all of a filter",
    "I6 a change goes page by page, and says where the next one begins, however few it changed",
  ],
  "O1: enqueue has a transaction of its own": [
    "T1 a handle is dead when its transaction has ended",
    "I5 ids, position, effects and outbox rows commit together",
    "I5 ids, position, effects and outbox rows vanish together in a rollback",
    "O1 enqueue in a transaction that rolls back leaves nothing",
    "O1 enqueue sends one statement, however many rows, and none for no row",
    "O1 enqueue needs no other connection: it works while all of the storage's are in use",
    "O1 enqueue through a handle whose transaction has ended is refused and writes nothing",
    "O1 what handlers of a chunk enqueue is gone with its rollback",
    "O1 a savepoint takes back what was enqueued behind it, and nothing else",
    "O1 enqueue through a handle that has ended is refused, and the chunk commits without it",
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
    "O1 what handlers of a chunk enqueue is there with its commit, in the order of their calls",
    "O1 what handlers of a chunk enqueue is gone with its rollback",
    "O1 a savepoint takes back what was enqueued behind it, and nothing else",
    "O1 a row in a handler is as it was when it was enqueued, whatever becomes of its bytes",
    "O1 enqueue through a handle that has ended is refused, and the chunk commits without it",
    "O1 more rows than anyone keeps are written, in order, and those of an immediate handle behind",
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
  "O3: a lane is read backwards": [
    "O2 a row is read as it was written: bytes, nulls, repeated headers and their order",
    "O3 each lane is read in the order of enqueueing, whatever the limits, and to its end",
  ],
  "O5: a transaction stays open from reading to settling": [
    "O5 no transaction is open after leasing, between reading and settling, and after it",
  ],
  "M1: nobody looks at what was migrated": [
    "M1 an empty place is refused, migrated in order, and migrated once",
    "M1 a migration that was edited after it was applied is refused",
    "M1 an older schema and a newer one are told apart and refused",
  ],
};
