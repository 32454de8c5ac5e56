/**
 * The operator: what a person does to positions, as audited verbs. Each looks first, refuses what
 * cannot be right, and writes who did it and why into the database. Nothing runs in the background.
 */
import { BrokerError, ConfigurationError } from "./errors.ts";
import { offsetMetadata } from "./inbox/group-offsets.ts";
import { aStart, resolveStart, type StartFrom } from "./inbox/start.ts";
import {
  type ActOptions,
  aBoolean,
  act,
  aText,
  aTopic,
  type ChangeParkedOptions,
  changeParked,
  listParked,
  type ParkedOptions,
} from "./operator-parked.ts";
import { aName, checkOptions, having, integer, optional, type Rule } from "./options.ts";
import type { Broker, GroupOffset } from "./ports/broker.ts";
import type { ParkedMessage } from "./ports/parking.ts";
import type {
  Audit,
  AuditEntry,
  ConsumerPositions,
  Move,
  Moved,
  PartitionPosition,
  Storage,
} from "./ports/storage.ts";

/** What the operator uses of a storage: any storage fits, whatever its handles are. */
export type OperatorStorage = Pick<
  Storage<never>,
  "positions" | "seek" | "adopt" | "audit" | "auditLog" | "parked" | "changeParked"
>;

export interface OperatorOptions {
  /** The database that holds the inbox. */
  readonly storage: OperatorStorage;
  /** Where the topics and groups are. */
  readonly broker: Broker;
  /** Who acts: a person's or a job's name, written into the audit log. */
  readonly actor: string;
}

export interface SeekOptions extends ActOptions {
  /** Whose positions: the name of a consumer. */
  readonly consumer: string;
  /** The topic in which they are. */
  readonly topic: string;
  /**
   * Which partitions to move.
   * @defaultValue all that the consumer has
   */
  readonly partitions?: readonly number[];
  /** Where to: as `startFrom`, or one offset for every partition named. */
  readonly to: StartFrom | bigint;
  /**
   * Whether messages that were handled before are handled again. False: their ids still count as
   * seen, as far back as they are kept, so that only what was never handled takes effect.
   * @defaultValue true
   */
  readonly replay?: boolean;
}

export interface AdoptOptions extends ActOptions {
  /** The new consumer. */
  readonly consumer: string;
  /** All that it is to take over; one that it has read before is refused. */
  readonly topics: readonly string[];
  /**
   * The group whose committed offsets are taken over. It must have no members.
   * @defaultValue the consumer's name
   */
  readonly groupId?: string;
  /**
   * Where partitions begin for which the group has committed nothing.
   * @defaultValue "earliest"
   */
  readonly otherwise?: "earliest" | "latest";
}

export interface SyncOptions extends ActOptions {
  /** Whose positions to write into its group. */
  readonly consumer: string;
}

export interface HistoryOptions {
  /** To whom it was done. */
  readonly consumer: string;
  /**
   * Most entries to return.
   * @defaultValue 100
   */
  readonly limit?: number;
  /** Entries below this id only: the next page. */
  readonly below?: bigint;
}

/** A position that an adoption writes. */
export interface Adopted {
  readonly topic: string;
  readonly partition: number;
  readonly nextOffset: bigint;
  /** Whether the group had committed it; else it comes from `otherwise`. */
  readonly committed: boolean;
}

export interface Operator {
  /** Where a consumer stands in every partition. */
  readonly positions: (consumer: string) => Promise<ConsumerPositions>;
  /**
   * Moves positions of a topic. A running consumer notices within a few seconds and goes on from
   * there; a chunk that is under way commits or rolls back first. Throws ConfigurationError
   * (`not-registered`; `invalid-options` where the log does not hold the offset).
   */
  readonly seek: (options: SeekOptions) => Promise<readonly Moved[]>;
  /**
   * Begins a new consumer where an existing group stands, all partitions at once. Throws BrokerError
   * `group-active` where the group has members, ConfigurationError `already-registered` where the
   * consumer has read a topic before, `group-mismatch`.
   */
  readonly adopt: (options: AdoptOptions) => Promise<readonly Adopted[]>;
  /**
   * Writes the consumer's positions into its group in Kafka, for tools that look there. Running
   * consumers do this by themselves; the group must have no members. Throws BrokerError `group-active`,
   * ConfigurationError `not-registered`.
   */
  readonly syncOffsets: (options: SyncOptions) => Promise<readonly GroupOffset[]>;
  /** Parked messages of a consumer with their bytes, in the order in which they were parked. */
  readonly parked: (options: ParkedOptions) => Promise<readonly ParkedMessage[]>;
  /**
   * Has parked messages tried again as soon as possible, with no attempt spent: also dead ones. Of each
   * key the first goes first. What is being tried at the moment is left alone. Returns how many.
   */
  readonly redrive: (options: ChangeParkedOptions) => Promise<number>;
  /**
   * Gives parked messages up for good. One that is being tried at the moment takes effect first, or is
   * skipped: never both. What stands behind them is tried next. Returns how many were skipped.
   */
  readonly skip: (options: ChangeParkedOptions) => Promise<number>;
  /** What was done to a consumer, newest first. */
  readonly history: (options: HistoryOptions) => Promise<readonly AuditEntry[]>;
}

const someTopics: Rule = {
  is: "a list of topic names that is not empty",
  fits: (value) => Array.isArray(value) && value.length > 0 && value.every(aTopic.fits),
};
const somePartitions: Rule = {
  is: "a list of partition numbers that is not empty",
  fits: (value) =>
    Array.isArray(value) &&
    value.length > 0 &&
    value.every((partition) => Number.isSafeInteger(partition) && partition >= 0),
  optional: true,
};
const aTarget: Rule = {
  is: '"earliest", "latest", an offset as bigint, { timestamp } or { offsets }',
  fits: (value) => (typeof value === "bigint" ? value >= 0n : aStart.fits(value)),
};
/** Makes an operator. Connects to nothing before a verb needs it. Throws ConfigurationError. */
export function createOperator(options: OperatorOptions): Operator {
  checkOptions("createOperator", options, {
    storage: having("a storage, for example postgresStorage({ pool })", "seek", "positions"),
    broker: having("a broker, for example kafkajsBroker({ … })", "group", "offsets"),
    actor: aText,
  });
  const { storage } = options;
  return {
    positions: (consumer) => storage.positions(consumer),
    seek: (given) => seek(options, given),
    adopt: (given) => adopt(options, given),
    syncOffsets: (given) => syncOffsets(options, given),
    parked: (given) => listParked(storage, given),
    redrive: (given) => changeParked(options, "redrive", given),
    skip: (given) => changeParked(options, "skip", given),
    history: async (given) => {
      checkOptions("operator.history", given, {
        consumer: aName,
        limit: integer(1, 10_000),
        below: { is: "a bigint", fits: (value) => typeof value === "bigint", optional: true },
      });
      const { consumer, limit = 100, below = null } = given;
      return storage.auditLog(consumer, { limit, below });
    },
  };
}

function auditOf({ actor }: OperatorOptions, { reason }: ActOptions): Audit {
  return { actor, reason };
}

async function seek(operator: OperatorOptions, given: SeekOptions): Promise<readonly Moved[]> {
  checkOptions("operator.seek", given, {
    ...{ consumer: aName, topic: aTopic, partitions: somePartitions, to: aTarget },
    ...{ replay: aBoolean, ...act },
  });
  const { storage, broker } = operator;
  const { consumer, topic, replay = true } = given;
  const known = (await storage.positions(consumer)).positions.filter((at) => at.topic === topic);
  const chosen = chosenOf(given, known);
  const target = await targetOf(broker, given, chosen);
  const moves = chosen.map(({ partition, nextOffset: from }) => {
    const to = target.offsets.get(partition);
    if (to !== undefined) return { partition, from, to };
    throw new ConfigurationError(
      "invalid-options",
      `operator.seek: ${topic} has no partition ${partition} any more`,
      { details: { topic, partition } },
    );
  });
  if (given.dryRun) return moves;
  const moved = await storage.seek({
    ...{ consumer, topic, topicId: target.topicId, replay, expected: null },
    moves: moves.map(({ partition, to }): Move => ({ partition, to })),
    audit: auditOf(operator, given),
  });
  // Null only where a claim was expected, and none is.
  return moved ?? [];
}

function chosenOf(
  { consumer, topic, partitions }: SeekOptions,
  known: readonly PartitionPosition[],
): readonly PartitionPosition[] {
  const lacking = (partitions ?? []).filter(
    (partition) => !known.some((at) => at.partition === partition),
  );
  if (known.length === 0 || lacking.length > 0) {
    const which = lacking.length > 0 ? ` in partitions ${lacking.join(", ")}` : "";
    throw new ConfigurationError(
      "not-registered",
      `consumer ${consumer} has no position in ${topic}${which}: it has never been started with it`,
      { details: { consumer, topic, partitions: lacking } },
    );
  }
  return partitions === undefined ? known : known.filter((at) => partitions.includes(at.partition));
}

/** Offsets inside the log only: a position outside would pause its partition again. */
async function targetOf(
  broker: Broker,
  { topic, to }: SeekOptions,
  chosen: readonly PartitionPosition[],
) {
  if (typeof to !== "bigint" && !isOffsets(to)) return resolveStart(broker, topic, to);
  const [first, next] = await Promise.all([
    broker.offsets(topic, "earliest"),
    broker.offsets(topic, "latest"),
  ]);
  const given = (partition: number) =>
    typeof to === "bigint" ? to : (to.offsets[partition] as bigint | number | undefined);
  const offsets = new Map<number, bigint>();
  const named = typeof to === "bigint" ? [] : Object.keys(to.offsets).map(Number);
  const problems = named
    .filter((partition) => !chosen.some((at) => at.partition === partition))
    .map((partition) => `partition ${partition} is not among those to move`);
  for (const { partition } of chosen) {
    const offset = given(partition);
    const [start, end] = [first.offsets.get(partition), next.offsets.get(partition)];
    if (offset === undefined) problems.push(`partition ${partition} has no offset`);
    else if (start === undefined || end === undefined) {
      problems.push(`there is no partition ${partition} any more`);
    } else if (offset < start || offset > end) {
      problems.push(`partition ${partition} holds ${start} to ${end}, not ${offset}`);
    } else offsets.set(partition, BigInt(offset));
  }
  if (problems.length > 0) {
    throw new ConfigurationError(
      "invalid-options",
      `operator.seek of ${topic}: ${problems.join("; ")}`,
      { details: { topic, problems } },
    );
  }
  return { topicId: first.topicId, offsets };
}

function isOffsets(to: StartFrom): to is StartFrom & { offsets: Record<number, bigint | number> } {
  return typeof to === "object" && "offsets" in to;
}

async function adopt(operator: OperatorOptions, given: AdoptOptions): Promise<readonly Adopted[]> {
  checkOptions("operator.adopt", given, {
    ...{ consumer: aName, topics: someTopics, groupId: optional(aName) },
    otherwise: {
      is: '"earliest" or "latest"',
      fits: (value) => value === "earliest" || value === "latest",
      optional: true,
    },
    ...act,
  });
  const { storage, broker } = operator;
  const { consumer, otherwise = "earliest", groupId = consumer } = given;
  const names = [...new Set(given.topics)].sort();
  const group = await broker.group(groupId, names);
  if (group.members > 0) throw active(groupId, group.members);
  const adopted: Adopted[] = [];
  const topics = [];
  for (const topic of names) {
    const { topicId, offsets } = await broker.offsets(topic, otherwise);
    const start = new Map<number, bigint>();
    for (const [partition, nextOffset] of offsets) {
      const found = group.offsets.find((at) => at.topic === topic && at.partition === partition);
      start.set(partition, found?.offset ?? nextOffset);
      const at = { topic, partition, nextOffset: found?.offset ?? nextOffset };
      adopted.push({ ...at, committed: found !== undefined });
    }
    topics.push({ topic, topicId, start });
  }
  if (!given.dryRun) {
    await storage.adopt({ consumer, groupId, topics, audit: auditOf(operator, given) });
  }
  return adopted;
}

async function syncOffsets(
  operator: OperatorOptions,
  given: SyncOptions,
): Promise<readonly GroupOffset[]> {
  checkOptions("operator.syncOffsets", given, { consumer: aName, ...act });
  const { storage, broker } = operator;
  const { consumer } = given;
  const { groupId, incarnation, positions } = await storage.positions(consumer);
  if (groupId === null || positions.length === 0) {
    throw new ConfigurationError("not-registered", `consumer ${consumer} has no positions`, {
      details: { consumer },
    });
  }
  const group = await broker.group(groupId, []);
  if (group.members > 0) throw active(groupId, group.members);
  const offsets = positions.map(({ topic, partition, nextOffset: offset, epoch }) => {
    const metadata = offsetMetadata({ incarnation, epoch }, offset);
    return { topic, partition, offset, metadata };
  });
  if (given.dryRun) return offsets;
  await broker.setGroupOffsets(groupId, offsets);
  await storage.audit({
    ...{ ...auditOf(operator, given), consumer, action: "sync-offsets" },
    details: { groupId, offsets: offsets.map((at) => ({ ...at, offset: String(at.offset) })) },
  });
  return offsets;
}

function active(groupId: string, members: number): BrokerError {
  return new BrokerError(
    "group-active",
    `the group ${groupId} has ${members} members: stop its consumers first`,
    { details: { groupId, members } },
  );
}
