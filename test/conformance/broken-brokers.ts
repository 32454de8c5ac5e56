// Owns brokers that each break one promise, made from the real one by changing what passes through
// them. There is no switch for any of it in the packages.

import {
  type Broker,
  type BrokerConsumer,
  BrokerError,
  type BrokerProducer,
  type ConsumerCallbacks,
  type FetchPosition,
  type PublishResult,
  type RecordBatch,
  type TopicPartition,
} from "@oncebox/core";

type Breaking = (broker: Broker) => Broker;

/** Changes what is told of a consumer, or asked of it. */
function hearing(change: (callbacks: ConsumerCallbacks) => Partial<ConsumerCallbacks>): Breaking {
  return (broker) => ({
    ...broker,
    consumer: (options, callbacks) =>
      broker.consumer(options, { ...callbacks, ...change(callbacks) }),
  });
}

/** Changes what a consumer does when it is told to. */
function acting(change: (consumer: BrokerConsumer) => Partial<BrokerConsumer>): Breaking {
  return (broker) => ({
    ...broker,
    consumer: async (options, callbacks) => {
      const consumer = await broker.consumer(options, callbacks);
      return { ...consumer, ...change(consumer) };
    },
  });
}

/** Changes every producer. */
function publishing(change: (producer: BrokerProducer) => BrokerProducer["publish"]): Breaking {
  return (broker) => ({
    ...broker,
    producer: async () => {
      const producer = await broker.producer();
      return { ...producer, publish: change(producer) };
    },
  });
}

/** Changes what a publish came to. */
function judging(change: (result: PublishResult) => PublishResult): Breaking {
  return publishing(
    ({ publish }) =>
      async (records) =>
        change(await publish(records)),
  );
}

/** Changes each batch; null swallows it. */
function delivering(change: (batch: RecordBatch) => RecordBatch | null): Breaking {
  return hearing(({ deliver }) => ({
    deliver: (batch) => {
      const changed = change(batch);
      if (changed !== null) deliver(changed);
    },
  }));
}

const nameOf = ({ topic, partition }: TopicPartition) => `${topic}/${partition}`;

/** A record of an aborted transaction, as a client hands it over that does not filter them. */
function unfiltered(batch: RecordBatch): RecordBatch {
  const records = [...batch.records];
  const known = new Set(records.map(({ offset }) => offset));
  for (let offset = batch.fetchedOffset; offset < batch.endOffset; offset += 1n) {
    if (known.has(offset)) continue;
    const value = new TextEncoder().encode("no");
    records.push({ offset, timestamp: 0n, leaderEpoch: 0, key: null, value, headers: [] });
  }
  return { ...batch, records: records.sort((a, b) => Number(a.offset - b.offset)) };
}

/** Each batch as two, the second one first. */
const swapped = hearing(({ deliver }) => ({
  deliver: (batch) => {
    const [first, ...others] = batch.records;
    if (first === undefined || others.length === 0) return deliver(batch);
    const between = first.offset + 1n;
    deliver({ ...batch, records: others, fetchedOffset: between });
    deliver({ ...batch, records: [first], endOffset: between });
  },
}));

/** Of calls at once the later one goes first. */
const lastCallFirst = publishing(({ publish }) => {
  const calls: (() => void)[] = [];
  return (records) =>
    new Promise((resolve) => {
      calls.push(() => resolve(publish(records)));
      if (calls.length > 1) return;
      setTimeout(() => {
        for (const call of calls.splice(0).reverse()) call();
      });
    });
});

/** The whole call is sent backwards. */
const backwards = publishing(({ publish }) => async (records) => {
  const last = records.length - 1;
  const { acknowledged, unknown, refused } = await publish([...records].reverse());
  return {
    acknowledged: acknowledged.map((index) => last - index),
    unknown: unknown.map((each) => ({ ...each, index: last - each.index })),
    refused: refused.map((each) => ({ ...each, index: last - each.index })),
  };
});

/** Nothing is asked or fetched until the promise that the core returned has settled. */
const waiting = hearing(({ deliver, position }) => {
  const pending = new Set<string>();
  return {
    position: (at) => (pending.has(nameOf(at)) ? null : position(at)),
    deliver: (batch) => {
      pending.add(nameOf(batch));
      const done = () => {
        pending.delete(nameOf(batch));
      };
      const told: unknown = deliver(batch);
      Promise.resolve(told).then(done, done);
    },
  };
});

const assignedLate = hearing(({ assigned }) => ({
  assigned: (number, partitions) => {
    setTimeout(() => assigned(number, partitions), 500);
  },
}));

/** The core's position counts once; from then on the client goes on by itself. */
const ownPositions = hearing(({ position, deliver }) => {
  const own = new Map<string, FetchPosition>();
  return {
    position: (at) => {
      const asked = position(at);
      const kept = own.get(nameOf(at)) ?? asked;
      if (kept !== null) own.set(nameOf(at), kept);
      return kept;
    },
    deliver: (batch) => {
      const { endOffset: offset, topicId, endEpoch: leaderEpoch } = batch;
      own.set(nameOf(batch), { offset, topicId, leaderEpoch });
      deliver(batch);
    },
  };
});

/** What never had a position begins at the start. */
const fromStart = hearing(({ position }) => {
  const known = new Set<string>();
  return {
    position: (at) => {
      const asked = position(at);
      if (asked !== null) known.add(nameOf(at));
      return known.has(nameOf(at)) ? asked : { offset: 0n, topicId: null, leaderEpoch: null };
    },
  };
});

/** An answer is told only with its records. */
const silentAnswers = hearing(({ fetched, deliver }) => {
  const kept = new Map<string, () => void>();
  return {
    fetched: (at, log) => {
      kept.set(nameOf(at), () => fetched(at, log));
    },
    deliver: (batch) => {
      kept.get(nameOf(batch))?.();
      deliver(batch);
    },
  };
});

/** A reset, as clients do it by themselves: on from the log's start. */
const followed = hearing(({ position, displaced }) => {
  const starts = new Map<string, bigint>();
  return {
    position: (at) => {
      const start = starts.get(nameOf(at));
      if (start === undefined) return position(at);
      starts.delete(nameOf(at));
      return { offset: start, topicId: null, leaderEpoch: null };
    },
    displaced: (at, asked, why) => {
      if (why.kind === "out-of-range" && why.log !== null) starts.set(nameOf(at), why.log.start);
      else displaced(at, asked, why);
    },
  };
});

/** What was fetched before a new assignment is handed over after it. */
const lateBatches = hearing(({ assigned, deliver }) => {
  let last: RecordBatch | null = null;
  return {
    assigned: (number, partitions) => {
      assigned(number, partitions);
      if (last !== null) deliver(last);
    },
    deliver: (batch) => {
      last = batch;
      deliver(batch);
    },
  };
});

/** By what is wrong with them; the promise that each breaks stands first. */
export const brokenBrokers = {
  "B1: what was unknown is acknowledged": judging(({ acknowledged, unknown, refused }) => ({
    acknowledged: [...acknowledged, ...unknown.map(({ index }) => index)],
    unknown: [],
    refused,
  })),
  "B1: a call is sent backwards": backwards,
  "B1: of calls at once the last goes first": lastCallFirst,
  "B1: keys are spread by their last byte": ((broker) => ({
    ...broker,
    partitionOf: (key, id, partitions) => (key?.at(-1) ?? id.length) % partitions,
  })) as Breaking,
  "B2: an index is left out": judging(({ acknowledged, ...others }) => ({
    acknowledged: acknowledged.slice(0, -1),
    ...others,
  })),
  "B2: an index comes twice": judging(({ acknowledged, ...others }) => ({
    acknowledged: [...acknowledged, ...acknowledged.slice(-1)],
    ...others,
  })),
  "B2: a missing topic is laid to its messages": judging(({ refused, ...others }) => ({
    refused: refused.map((each) => ({ ...each, scope: "message" as const })),
    ...others,
  })),
  "B2: a publish rejects where the outcome is unknown": judging((result) => {
    const [first] = result.unknown;
    if (first !== undefined) throw first.error;
    return result;
  }),
  "B3: batches change places": swapped,
  "B3: aborted records are handed over": delivering(unfiltered),
  "B3: what has no record is not accounted for": delivering((batch) => {
    const last = batch.records.at(-1);
    return last === undefined ? null : { ...batch, endOffset: last.offset + 1n };
  }),
  "B3: of a header's repeats the last is left": delivering((batch) => ({
    ...batch,
    records: batch.records.map((record) => ({
      ...record,
      headers: [...new Map(record.headers)],
    })),
  })),
  "B3: delivering waits": waiting,
  "B3: nothing says which leader wrote it": delivering((batch) => ({
    ...batch,
    endEpoch: null,
    records: batch.records.map((record) => ({ ...record, leaderEpoch: null })),
  })),
  "B4: an assignment is told late": assignedLate,
  "B4: batches of a void assignment are handed over": lateBatches,
  "B4: all assignments have one number": hearing(({ assigned, deliver }) => ({
    assigned: (_, partitions) => assigned(1, partitions),
    deliver: (batch) => deliver({ ...batch, assignment: 1 }),
  })),
  "B5: a changed position is ignored": ownPositions,
  "B5: a partition without a position is read from its start": fromStart,
  "B5: empty answers are not told": silentAnswers,
  "B5: an open transaction is not told": hearing(({ fetched }) => ({
    fetched: (at, log) => fetched(at, { ...log, lastStable: log.end }),
  })),
  "B6: a commit that failed is true": acting(({ commit }) => ({
    commit: async (positions) => {
      await commit(positions);
      return true;
    },
  })),
  "B6: a commit leaves its metadata out": acting(({ commit }) => ({
    commit: (positions) => commit(positions.map((each) => ({ ...each, metadata: "" }))),
  })),
  "B6: a commit that failed costs the membership": acting(({ commit, stop }) => ({
    commit: async (positions) => {
      const done = await commit(positions);
      if (!done) await stop(5_000);
      return done;
    },
  })),
  "B6: an active group's offsets pass for written": ((broker) => ({
    ...broker,
    setGroupOffsets: async (groupId, offsets) => {
      await broker.setGroupOffsets(groupId, offsets).catch((error: unknown) => {
        if (!(error instanceof BrokerError && error.code === "group-active")) throw error;
      });
    },
  })) as Breaking,
  "B7: a position outside the log is moved to its start": followed,
  "B7: the log's bounds are not told": hearing(({ displaced }) => ({
    displaced: (at, asked, why) =>
      displaced(at, asked, why.kind === "out-of-range" ? { ...why, log: null } : why),
  })),
  "B7: a topic made anew passes for the old one": hearing(({ position }) => ({
    position: (at) => {
      const asked = position(at);
      return asked === null ? null : { ...asked, topicId: null, leaderEpoch: null };
    },
  })),
  "B8: a stop does not leave the group": acting(() => ({ stop: async () => {} })),
  "B8: a stop knows no deadline": acting(({ stop }) => ({
    stop: (deadlineMs) => stop(deadlineMs + 60_000),
  })),
} satisfies Readonly<Record<string, Breaking>>;
