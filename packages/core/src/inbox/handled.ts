/** What `handle` is given becomes what a consumer keeps of a topic. */
import type { Topic } from "../topic.ts";
import { type CompleteOptions, checkHandler, checkHandlerOptions } from "./consumer-options.ts";
import { type FailurePolicy, failurePolicy } from "./failure-policy.ts";
import type {
  BatchHandler,
  BatchHandlerOptions,
  BatchRun,
  Handler,
  HandlerOptions,
  Run,
} from "./handler.ts";
import type { StartFrom } from "./start.ts";
import { type Runners, runnersOf } from "./sync-runs.ts";

/** One topic, as its handler asked for it. */
export interface Handled extends Runners {
  readonly startFrom: StartFrom;
  readonly policy: FailurePolicy;
  /** Whether ids are recorded. */
  readonly byId: boolean;
  /** Whether handlers of different keys may run at the same time. */
  byKey: boolean;
}

/** Throws ConfigurationError that lists every wrong option. */
export function handledOf<In, Out, Tx>(
  consumer: CompleteOptions<Tx>,
  what: Topic<In, Out> | Handler<Tx>,
  runOrOptions: Run<Out, Tx> | HandlerOptions | undefined,
  optionsOfRun: HandlerOptions | undefined,
): { readonly topic: string; readonly handled: Handled } {
  const { name } = consumer;
  const handler = "run" in what ? what : what.handler(runOrOptions as Run<Out, Tx>);
  const { topic } = handler;
  checkHandler(consumer, topic, "run" in what ? what.run : runOrOptions);
  const given = "run" in what ? (runOrOptions as HandlerOptions | undefined) : optionsOfRun;
  const options = given ?? {};
  checkHandlerOptions(name, topic, options, ["partition", "key"]);
  return { topic, handled: assembled(consumer, handler, options) };
}

/** As above, for a handler of whole batches. */
export function batchHandledOf<In, Out, Tx>(
  consumer: CompleteOptions<Tx>,
  { name: topic, decode }: Topic<In, Out>,
  run: BatchRun<Out, Tx>,
  options: BatchHandlerOptions = {},
): { readonly topic: string; readonly handled: Handled } {
  checkHandler(consumer, topic, run);
  checkHandlerOptions(consumer.name, topic, options, []);
  const handler: BatchHandler<Tx> = {
    topic,
    decode: (message) => ({ ...message, value: decode(message.value) }),
    runBatch: run as BatchRun<unknown, Tx>,
  };
  return { topic, handled: assembled(consumer, handler, options) };
}

function assembled<Tx>(
  { storage, source, name, groupId = name }: CompleteOptions<Tx>,
  handler: Handler<Tx> | BatchHandler<Tx>,
  options: HandlerOptions,
): Handled {
  const { startFrom = "earliest", ordering, deduplicate = "id" } = options;
  const { deadLetter } = options;
  const letter =
    deadLetter === undefined
      ? null
      : { topic: deadLetter.topic, headers: deadLetter.headers ?? "connect", groupId };
  const policy = failurePolicy(options, "runBatch" in handler, letter);
  const runners = runnersOf(storage, handler, { source, deduplicate });
  return { ...runners, startFrom, policy, byId: deduplicate === "id", byKey: ordering === "key" };
}
