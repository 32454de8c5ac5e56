/** What a consumer is to its user, with handlers that wait and with handlers that do not. */
import type { Service } from "../service.ts";
import type { Topic } from "../topic.ts";
import type {
  BatchHandlerOptions,
  BatchRun,
  Handler,
  HandlerOptions,
  Run,
  SyncBatchRun,
  SyncRun,
} from "./handler.ts";
import type { Health, PartitionStatus } from "./status.ts";

interface ConsumerService extends Service {
  /** The partitions assigned now, and what each waits for. */
  readonly status: () => readonly PartitionStatus[];
  /** Whether it can work, and whether a new process would help: for readiness and liveness probes. */
  readonly health: () => Health;
  /**
   * Fetches and handles nothing more of a topic, or of all: a chunk that runs still ends. Holds until
   * `resume`, also over rebalances; this process keeps its partitions.
   */
  readonly pause: (topic?: string | Topic<never, unknown>) => void;
  /** Ends a pause: of one topic, or of all. */
  readonly resume: (topic?: string | Topic<never, unknown>) => void;
}

/** Handles the messages of its topics exactly once, relative to the database. */
export interface Consumer<Tx> extends ConsumerService {
  /**
   * Handles a topic. One handler per topic; before `start`. Throws ConfigurationError otherwise.
   */
  handle<In, Out>(topic: Topic<In, Out>, run: Run<Out, Tx>, options?: HandlerOptions): this;
  handle(handler: Handler<Tx>, options?: HandlerOptions): this;
  /** As `handle`, with one call for all new messages of a chunk: for set-based SQL. */
  handleBatch<In, Out>(
    topic: Topic<In, Out>,
    run: BatchRun<Out, Tx>,
    options?: BatchHandlerOptions,
  ): this;
}

/** As Consumer, on a storage whose driver answers at once: its handlers end when they return. */
export interface SyncConsumer<Tx> extends ConsumerService {
  /**
   * Handles a topic. One handler per topic; before `start`; no async function. Throws
   * ConfigurationError otherwise. A handler that returns a promise all the same fails its message
   * with HandlerError `handler-not-synchronous`.
   */
  handle<In, Out, R>(
    topic: Topic<In, Out>,
    run: SyncRun<Out, Tx, R>,
    options?: HandlerOptions,
  ): this;
  /** As `handle`, with one call for all new messages of a chunk: for set-based SQL. */
  handleBatch<In, Out, R>(
    topic: Topic<In, Out>,
    run: SyncBatchRun<Out, Tx, R>,
    options?: BatchHandlerOptions,
  ): this;
}
