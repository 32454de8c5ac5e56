/** I7: message ids that nobody needs any more. Decides nothing about when: each call is one step. */
import type { PruningVerbs } from "@oncebox/core";
import type { Connections } from "./connections.ts";
import type { PrunedRow, PruningQueries } from "./pruning-queries.ts";

export interface PruningParts {
  readonly connections: Connections;
  readonly pruning: PruningQueries;
}

export function pruningVerbs({ connections, pruning }: PruningParts): PruningVerbs {
  return {
    pruneIds: async (request) => {
      const statement = pruning.prune(request);
      const { rows } = await connections.with(`pruning of ids of ${request.consumer}`, (each) =>
        each.run<PrunedRow & Record<string, unknown>>(statement),
      );
      const [row] = rows;
      if (row === undefined) throw new TypeError("oncebox_prune answered nothing");
      const { deleted, next, before, topic, partition } = row;
      const slowest = topic === null || partition === null ? null : { topic, partition };
      return { deleted: Number(deleted), next, before, slowest };
    },
  };
}
