/**
 * Handlers of different keys at the same time, those of one key one after another. Messages without a
 * key are each a key of their own.
 */
import { mapKeyOf } from "../message.ts";

/**
 * Runs `one` for every item, at most `limit` at once. After a failure nothing more begins; rejects with
 * the first failure once all that runs has ended.
 */
export async function atOnceByKey<Item extends { readonly key: Uint8Array | null }>(
  items: readonly Item[],
  limit: number,
  one: (item: Item) => Promise<void>,
): Promise<void> {
  const queues = queuesOf(items);
  let failure: { readonly error: unknown } | null = null;
  const work = async () => {
    for (let queue = queues.shift(); queue !== undefined; queue = queues.shift()) {
      for (const item of queue) {
        if (failure !== null) return;
        try {
          await one(item);
        } catch (error) {
          failure ??= { error };
          return;
        }
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(limit, queues.length) }, work));
  if (failure !== null) throw (failure as { readonly error: unknown }).error;
}

/** In the order in which keys appear. */
function queuesOf<Item extends { readonly key: Uint8Array | null }>(
  items: readonly Item[],
): Item[][] {
  const queues: Item[][] = [];
  const byKey = new Map<string, Item[]>();
  for (const item of items) {
    const known = item.key === null ? undefined : byKey.get(mapKeyOf(item.key));
    if (known !== undefined) {
      known.push(item);
      continue;
    }
    const queue = [item];
    queues.push(queue);
    if (item.key !== null) byKey.set(mapKeyOf(item.key), queue);
  }
  return queues;
}
