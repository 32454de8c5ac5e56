/** Options of the outbox relay: their meaning, their defaults, and which do not go together. */
import { ConfigurationError } from "../errors.ts";
import type { Observer } from "../events.ts";
import { aFunction, checkOptions, having, integer, optional } from "../options.ts";
import type { Broker } from "../ports/broker.ts";
import type { Clock } from "../ports/clock.ts";
import type { Storage, SyncStorage } from "../ports/storage.ts";

export interface OutboxRelayOptions<Tx> {
  /** The database that holds the outbox. The relay uses up to four connections of it at once. */
  readonly storage: Storage<Tx> | SyncStorage<Tx>;
  /** Where the messages go. */
  readonly broker: Broker;
  /** Called for every event: logs, metrics, traces. */
  readonly observer?: Observer;
  /**
   * Time and chance; for tests.
   * @defaultValue the machine's
   */
  readonly clock?: Clock;
  /**
   * How long this relay's lanes stay its own without a sign of life, in milliseconds; renewed at a
   * third. Shorter: others take over sooner after a crash. Longer: rides out longer pauses. Must
   * leave room for a publish: see the broker's `publishTimeoutMs`.
   * @defaultValue 10000
   */
  readonly leaseDurationMs?: number;
  /**
   * Most rows in one read and one publish. More is faster; fewer is repeated after a crash.
   * @defaultValue 500
   */
  readonly batchRowsMax?: number;
  /**
   * Most bytes in one read and one publish; a single larger message still goes through. More is
   * faster up to the topics' `max.message.bytes`, beyond which batches are refused and split.
   * @defaultValue 1048576
   */
  readonly batchBytesMax?: number;
  /**
   * Pause between looks into the outbox while there is traffic, in milliseconds. A wake-up comes
   * sooner; this is for commits that nobody announces. Shorter costs the database more reads.
   * @defaultValue 20
   */
  readonly pollBusyMs?: number;
  /**
   * Longest pause between looks into a quiet outbox, in milliseconds: the latency of a message whose
   * wake-up was lost.
   * @defaultValue 1000
   */
  readonly pollIdleMs?: number;
  /**
   * How often lanes are read from their start, in milliseconds: to find a row that was passed over,
   * of which there is none unless a promise of the storage is broken, and to notice that a person
   * has deleted the row of a refused message. A read over dead rows has its price.
   * @defaultValue 60000
   */
  readonly sweepIntervalMs?: number;
  /**
   * Most rows kept in memory behind messages or topics that Kafka refuses. Beyond it their lanes are
   * not read any more, which is an event. More keeps other keys flowing longer, and costs memory.
   * @defaultValue 10000
   */
  readonly blockedRowsMax?: number;
  /**
   * The same in bytes.
   * @defaultValue 20971520
   */
  readonly blockedBytesMax?: number;
}

const defaults = {
  leaseDurationMs: 10_000,
  batchRowsMax: 500,
  batchBytesMax: 2 ** 20,
  pollBusyMs: 20,
  pollIdleMs: 1_000,
  sweepIntervalMs: 60_000,
  blockedRowsMax: 10_000,
  blockedBytesMax: 20 * 2 ** 20,
};

export type RelaySettings = Readonly<typeof defaults> & {
  /** From one request for lanes to the next. */
  readonly renewIntervalMs: number;
  /** What must be left of a lease when a publish starts. */
  readonly leaseNeededMs: number;
};

/** Throws ConfigurationError with every problem in one list. */
export function relaySettings<Tx>(options: OutboxRelayOptions<Tx>): RelaySettings {
  checkOptions("createOutboxRelay", options, {
    storage: having("a storage, for example postgresStorage({ pool })", "leaseLanes", "readLanes"),
    broker: having("a broker, for example kafkajsBroker({ … })", "producer", "partitionOf"),
    observer: aFunction,
    clock: optional(having("a clock", "now", "epochMs", "sleep", "random")),
    leaseDurationMs: integer(100, 600_000),
    batchRowsMax: integer(1, 10_000),
    batchBytesMax: integer(1, 2 ** 30),
    pollBusyMs: integer(1, 60_000),
    pollIdleMs: integer(1, 600_000),
    sweepIntervalMs: integer(10, 86_400_000),
    blockedRowsMax: integer(1, 1_000_000),
    blockedBytesMax: integer(1, 2 ** 31),
  });
  // A key that is there with the value undefined means "not given", as in a call's own defaults.
  const given = Object.entries(options).filter(([key, v]) => key in defaults && v !== undefined);
  const settings = { ...defaults, ...Object.fromEntries(given) };
  const { publishTimeoutMs } = options.broker.timing;
  const renewIntervalMs = settings.leaseDurationMs / 3;
  const leaseNeededMs = publishTimeoutMs + marginMs(settings.leaseDurationMs);
  checkTogether(settings, settings.leaseDurationMs - renewIntervalMs, leaseNeededMs);
  return { ...settings, renewIntervalMs, leaseNeededMs };
}

/** For the way from the check to the wire, and for two clocks that do not tick alike. */
function marginMs(leaseDurationMs: number): number {
  return leaseDurationMs / 20;
}

function checkTogether(
  settings: Readonly<typeof defaults>,
  leaseLeftMs: number,
  leaseNeededMs: number,
): void {
  const { pollBusyMs, pollIdleMs, leaseDurationMs, batchRowsMax, blockedRowsMax } = settings;
  const problems: string[] = [];
  if (leaseNeededMs > leaseLeftMs) {
    const needed = Math.ceil(leaseNeededMs);
    const left = Math.floor(leaseLeftMs);
    const fitting = Math.ceil((leaseNeededMs - marginMs(leaseDurationMs)) / (2 / 3 - 1 / 20));
    problems.push(
      `leaseDurationMs ${leaseDurationMs} leaves ${left} ms before a renewal, but a publish needs ${needed} (the broker's publishTimeoutMs and a margin): make it ${fitting} or more, or the time-out shorter`,
    );
  }
  if (pollBusyMs > pollIdleMs) {
    problems.push(`pollBusyMs ${pollBusyMs} is above pollIdleMs ${pollIdleMs}`);
  }
  if (blockedRowsMax < batchRowsMax) {
    problems.push(`blockedRowsMax ${blockedRowsMax} is below batchRowsMax ${batchRowsMax}`);
  }
  if (settings.blockedBytesMax < settings.batchBytesMax) {
    problems.push(
      `blockedBytesMax ${settings.blockedBytesMax} is below batchBytesMax ${settings.batchBytesMax}`,
    );
  }
  if (problems.length > 0) {
    throw new ConfigurationError("invalid-options", `createOutboxRelay: ${problems.join("; ")}`, {
      details: { problems },
    });
  }
}
