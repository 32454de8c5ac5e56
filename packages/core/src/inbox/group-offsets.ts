/**
 * What stands beside a group's offset in Kafka, and what an offset above the database's position
 * means. Pure. The database decides in every case; people want to know why the two differ.
 */
import type { OnceboxEvent } from "../events.ts";
import type { Broker, GroupOffset } from "../ports/broker.ts";
import type { PartitionClaim } from "../ports/storage.ts";

/** What lag tools show beside the offset, and what tells a database that was set back. */
export function offsetMetadata(
  claim: Pick<PartitionClaim, "incarnation" | "epoch">,
  nextOffset: bigint,
): string {
  return `oncebox/1 ${claim.incarnation} ${claim.epoch} ${nextOffset}`;
}

/** What there is to tell of the group's offset when its partition was claimed; null: nothing. */
export function groupAhead(
  claim: PartitionClaim,
  offsets: readonly GroupOffset[],
): OnceboxEvent | null {
  const { consumer, topic, partition, nextOffset } = claim;
  const found = offsets.find((at) => at.topic === topic && at.partition === partition);
  const why = found === undefined ? null : whyAhead(claim, found);
  if (why === null || found === undefined) return null;
  const groupOffset = found.offset;
  return {
    ...{ type: "inbox.group-ahead", consumer, topic, partition },
    ...{ why, groupOffset, nextOffset },
  };
}

/** Null: not above, or above because an operator moved the position back. */
function whyAhead(
  claim: PartitionClaim,
  { offset, metadata }: GroupOffset,
): "moved" | "other-database" | "set-back" | null {
  if (offset <= claim.nextOffset) return null;
  const [, incarnation, epoch, nextOffset] =
    /^oncebox\/1 (\S+) (\d{1,19}) (\d{1,19})$/.exec(metadata) ?? [];
  if (incarnation === undefined || epoch === undefined || nextOffset === undefined) return "moved";
  // The offset was changed and what we wrote beside it was kept.
  if (BigInt(nextOffset) !== offset) return "moved";
  if (incarnation !== claim.incarnation) return "other-database";
  return BigInt(epoch) < claim.soughtEpoch ? null : "set-back";
}

/** Only looked at: what cannot be read is no reason to wait, and the next assignment looks again. */
export async function groupOffsetsOf(
  broker: Pick<Broker, "group">,
  groupId: string,
  topics: readonly string[],
): Promise<readonly GroupOffset[]> {
  if (topics.length === 0) return [];
  try {
    return (await broker.group(groupId, topics)).offsets;
  } catch {
    return [];
  }
}
