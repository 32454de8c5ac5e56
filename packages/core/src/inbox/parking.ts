/**
 * Which records of a chunk are handled, and which are set aside: those given up, and those of a key
 * of which something is parked already or is being parked before them. Pure.
 */

import { mapKeyOf } from "../message.ts";
import type { BrokerRecord } from "../ports/broker.ts";
import type { ToPark } from "../ports/parking.ts";
import type { Recorded } from "../ports/storage.ts";
import type { GiveUp } from "./failure-policy.ts";

export interface Sorted {
  readonly toHandle: readonly { readonly record: BrokerRecord; readonly conflict: boolean }[];
  readonly toPark: readonly ToPark[];
  /** What is given up: parked, or dropped. Null: nothing, or it was handled or parked before. */
  readonly givenUp: BrokerRecord | null;
  readonly dropped: number;
  /** Handled before, or parked already. */
  readonly duplicates: number;
}

export function sorted(
  records: readonly BrokerRecord[],
  recorded: readonly Recorded[],
  giveUp: GiveUp | null,
): Sorted {
  const toHandle: { record: BrokerRecord; conflict: boolean }[] = [];
  const toPark: ToPark[] = [];
  const heldKeys = new Set<string>();
  let givenUp: BrokerRecord | null = null;
  let dropped = 0;
  let duplicates = 0;
  for (const [index, record] of records.entries()) {
    const outcome = recorded[index];
    if (outcome === "duplicate" || outcome === "done") {
      duplicates += 1;
    } else if (giveUp?.offset === record.offset) {
      givenUp = record;
      if (giveUp.park === null) dropped += 1;
      else toPark.push({ ...giveUp.park, record });
      if (giveUp.park !== null && record.key !== null) heldKeys.add(mapKeyOf(record.key));
    } else if (outcome !== "conflict" && isHeld(record, outcome, heldKeys)) {
      toPark.push({ record, state: "waiting", attempts: 0, afterMs: 0, error: null });
      if (record.key !== null) heldKeys.add(mapKeyOf(record.key));
    } else {
      toHandle.push({ record, conflict: outcome !== "new" });
    }
  }
  return { toHandle, toPark, givenUp, dropped, duplicates };
}

/** A conflict is none of these: it is told, and parked as dead, whatever stands before it. */
function isHeld(
  { key }: BrokerRecord,
  outcome: Recorded | undefined,
  heldKeys: ReadonlySet<string>,
): boolean {
  return outcome === "held" || (key !== null && heldKeys.has(mapKeyOf(key)));
}
