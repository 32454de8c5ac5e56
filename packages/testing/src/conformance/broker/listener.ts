/**
 * A stand-in for the core beside a consumer: it keeps everything it is told, in order, and the
 * positions that a case sets. It accepts batches as the core does. Never judges: the cases do.
 */
import type {
  ConsumerCallbacks,
  Displacement,
  FetchPosition,
  LogState,
  RecordBatch,
  TopicPartition,
} from "@oncebox/core";
import { ConformanceError, within } from "../check.ts";

export interface Assigned {
  readonly what: "assigned";
  readonly assignment: number;
  readonly partitions: readonly TopicPartition[];
}

export interface Delivered {
  readonly what: "delivered";
  readonly at: TopicPartition;
  readonly batch: RecordBatch;
  /** Whether it went on from the position of that moment. */
  readonly accepted: boolean;
}

export interface Displaced {
  readonly what: "displaced";
  readonly at: TopicPartition;
  readonly asked: bigint;
  readonly why: Displacement;
}

export type Told =
  | Assigned
  | { readonly what: "asked"; readonly at: TopicPartition; readonly position: FetchPosition | null }
  | { readonly what: "fetched"; readonly at: TopicPartition; readonly log: LogState }
  | Delivered
  | Displaced
  | { readonly what: "unreadable" | "troubled"; readonly at: TopicPartition; readonly error: Error }
  | { readonly what: "failed"; readonly error: Error };

export interface Listener {
  readonly callbacks: ConsumerCallbacks;
  readonly told: readonly Told[];
  /** Where to read next; a number knows nothing of the log. Without any it is 0. */
  readonly set: (at: TopicPartition, position: bigint | FetchPosition | null) => void;
  readonly position: (at: TopicPartition) => FetchPosition | null;
  /** What is told of one partition, or of all. */
  readonly batches: (at?: TopicPartition) => readonly RecordBatch[];
  readonly displaced: () => readonly Omit<Displaced, "what">[];
  readonly assignments: () => readonly Assigned[];
  /** Values of accepted batches, as text. */
  readonly values: (at?: TopicPartition) => readonly (string | null)[];
  /** Resolves as soon as it holds; rejects when it does not in time, or when the consumer fails. */
  readonly until: (holds: () => boolean, what: string) => Promise<void>;
}

const decoder = new TextDecoder();

export function nameOf({ topic, partition }: TopicPartition): string {
  return `${topic}/${partition}`;
}

/** `patienceMs`: how long `until` waits. */
export function listener(patienceMs: number): Listener {
  const told: Told[] = [];
  const positions = new Map<string, FetchPosition | null>();
  const waiting = new Set<() => void>();
  const note = (each: Told) => {
    told.push(each);
    for (const look of [...waiting]) look();
  };
  const position = (at: TopicPartition) => {
    const kept = positions.get(nameOf(at));
    return kept === undefined ? bare(0n) : kept;
  };
  const set = (at: TopicPartition, given: bigint | FetchPosition | null) => {
    positions.set(nameOf(at), typeof given === "bigint" ? bare(given) : given);
  };
  const of = (at: TopicPartition | undefined) =>
    told.filter(
      (each): each is Delivered =>
        each.what === "delivered" && (at === undefined || nameOf(each.at) === nameOf(at)),
    );
  return {
    told,
    callbacks: hearing(note, position, set),
    set,
    position,
    batches: (at) => of(at).map(({ batch }) => batch),
    displaced: () =>
      told
        .filter((each) => each.what === "displaced")
        .map(({ at, asked, why }) => ({ at, asked, why })),
    assignments: () => told.filter((each) => each.what === "assigned"),
    values: (at) =>
      of(at)
        .filter(({ accepted }) => accepted)
        .flatMap(({ batch }) => batch.records)
        .map(({ value }) => (value === null ? null : decoder.decode(value))),
    until: async (holds, what) => {
      const held = new Promise<void>((resolve, reject) => {
        const look = () => {
          const failure = told.find((each) => each.what === "failed");
          if (!holds() && failure === undefined) return;
          waiting.delete(look);
          if (holds()) resolve();
          else reject(unmet(what, told));
        };
        waiting.add(look);
        look();
      });
      await within(patienceMs, held, what).catch(() => {
        throw unmet(what, told);
      });
    },
  };
}

/** What the consumer calls: each call is noted, and moves the position as the core would. */
function hearing(
  note: (each: Told) => void,
  position: Listener["position"],
  set: Listener["set"],
): ConsumerCallbacks {
  return {
    assigned: (assignment, partitions) => note({ what: "assigned", assignment, partitions }),
    position: (at) => {
      const asked = position(at);
      note({ what: "asked", at, position: asked });
      return asked;
    },
    fetched: (at, log) => note({ what: "fetched", at, log }),
    deliver: (batch) => {
      const { topic, partition, fetchedOffset, endOffset: offset, topicId } = batch;
      const at = { topic, partition };
      const accepted = position(at)?.offset === fetchedOffset;
      if (accepted) set(at, { offset, topicId, leaderEpoch: batch.endEpoch });
      note({ what: "delivered", at, batch, accepted });
    },
    displaced: (at, asked, why) => {
      set(at, null);
      note({ what: "displaced", at, asked, why });
    },
    unreadable: (at, _asked, error) => {
      set(at, null);
      note({ what: "unreadable", at, error });
    },
    troubled: (at, error) => note({ what: "troubled", at, error }),
    failed: (error) => note({ what: "failed", error }),
  };
}

function bare(offset: bigint): FetchPosition {
  return { offset, topicId: null, leaderEpoch: null };
}

function unmet(what: string, told: readonly Told[]): ConformanceError {
  const last = told
    .filter((each) => each.what !== "asked" && each.what !== "fetched")
    .slice(-8)
    .map((each) => {
      if (each.what === "assigned") return `assigned ${each.partitions.map(nameOf).join(" ")}`;
      const detail = "error" in each ? String(each.error) : nameOf(each.at);
      return `${each.what} ${detail}`;
    });
  return new ConformanceError(
    `${what} must happen; the last told: ${last.join(", ") || "nothing"}`,
  );
}
