/**
 * Scopes of ids and topics as the integers that rows hold. Remembered for each connection, not for
 * the process: after a fail-over to a replica that lagged, the same integer may belong to another
 * name, and connections do not outlive a fail-over.
 */
import { beginScript, type Limits } from "./begin.ts";
import type { Connection } from "./connections.ts";
import type { InboxQueries } from "./queries.ts";

/** Most names remembered for one connection: sources may be as many as orders. */
const namesMax = 10_000;

export interface Names {
  /**
   * Adds what is missing, in a transaction of its own. Call it outside any: a chunk must not wait for
   * another's new name, and a number must not be remembered that is rolled back. Leaves the
   * transaction open where it fails.
   */
  readonly idsOf: (
    connection: Connection,
    names: ReadonlySet<string>,
  ) => Promise<ReadonlyMap<string, number>>;
}

export function createNames(queries: InboxQueries, limits: Limits): Names {
  const known = new WeakMap<object, Map<string, number>>();

  const read = async (connection: Connection, ids: Map<string, number>, names: string[]) => {
    if (names.length === 0) return;
    // By place, not by the name that comes back: the stored form may differ.
    const { rows } = await connection.run<{ place: bigint; id: number }>(queries.names(names));
    for (const { place, id } of rows) {
      const name = names[Number(place) - 1];
      if (name !== undefined) ids.set(name, id);
    }
  };

  return {
    idsOf: async (connection, names) => {
      let ids = known.get(connection.client);
      if (ids === undefined || ids.size + names.size > namesMax) {
        ids = new Map();
        known.set(connection.client, ids);
      }
      const missing = () => [...names].filter((name) => !ids.has(name));
      await read(connection, ids, missing());
      const unknown = missing();
      if (unknown.length > 0) {
        // For the sake of its limits: it waits for whoever adds the same name.
        await connection.script(beginScript(limits));
        await connection.run(queries.addNames(unknown));
        await connection.script("COMMIT");
        await read(connection, ids, unknown);
      }
      return ids;
    },
  };
}
