/** What `handle` is given becomes what a consumer keeps of a topic. */
import type { Topic } from "../topic.ts";
import { type CompleteOptions, checkHandler, checkHandlerOptions } from "./consumer-options.ts";
import { type FailurePolicy, failurePolicy } from "./failure-policy.ts";
import type { Handler, HandlerOptions, Run } from "./handler.ts";
import type { StartFrom } from "./start.ts";
import { type Runners, runnersOf } from "./sync-runs.ts";

/** One topic, as its handler asked for it. */
export interface Handled extends Runners {
  readonly startFrom: StartFrom;
  readonly policy: FailurePolicy;
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
  const { name, storage, source } = consumer;
  const handler = "run" in what ? what : what.handler(runOrOptions as Run<Out, Tx>);
  const { topic } = handler;
  checkHandler(consumer, topic, "run" in what ? what.run : runOrOptions);
  const given = "run" in what ? (runOrOptions as HandlerOptions | undefined) : optionsOfRun;
  const options = given ?? {};
  checkHandlerOptions(`consumer ${name}, handler of ${topic}`, options);
  const { startFrom = "earliest", ordering } = options;
  const runners = runnersOf(storage, handler, source);
  const policy = failurePolicy(options);
  return { topic, handled: { ...runners, startFrom, policy, byKey: ordering === "key" } };
}
