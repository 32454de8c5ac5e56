// Owns the client that stands between a relay and the memory producer, and the decision when it is
// thrown away: a real adapter has both. Such a client, used again after it has lost an answer, counts
// its batches wrongly: the broker takes what it sends for repeats, and says that all is stored.

import type { BrokerProducer } from "@oncebox/core";

/** A producer whose client is thrown away after any send whose outcome is not known. */
export function producerOfClients(producer: BrokerProducer): BrokerProducer {
  let client: BrokerProducer | null = null;
  return {
    publish: async (records) => {
      client ??= countingClient(producer);
      const result = await client.publish(records);
      if (result.unknown.length > 0) client = null;
      return result;
    },
    close: () => producer.close(),
  };
}

function countingClient(producer: BrokerProducer): BrokerProducer {
  let wrong = false;
  return {
    publish: async (records) => {
      if (wrong) return { acknowledged: [...records.keys()], unknown: [], refused: [] };
      const result = await producer.publish(records);
      wrong = result.unknown.length > 0;
      return result;
    },
    close: () => producer.close(),
  };
}
