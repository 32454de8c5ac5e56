// The demo: orders become invoices while processes end at the worst moment; in one process without
// any server, or on real ones. Ends with one line that says whether anything was lost or done twice,
// and exits 1 where it was.

import { DemoFailure, type Undo } from "./ending.ts";
import { type DemoOptions, parseOptions, UsageError, usage } from "./options.ts";
import { openScreen, type Screen } from "./screen.ts";

/** Loaded when it is known which: neither needs what the other one needs. */
async function run(options: DemoOptions, screen: Screen, undo: Undo): Promise<number> {
  if (options.servers) {
    const { runOnServers } = await import("./servers.ts");
    return runOnServers(options, screen, undo);
  }
  const { runEmbedded } = await import("./embedded/run.ts");
  return runEmbedded(options, screen, undo);
}

async function takeDown(undo: Undo): Promise<void> {
  for (const step of undo.reverse()) {
    // What cannot be taken down in order goes with this process: its guards see to that.
    await step().catch(() => undefined);
  }
}

async function main(): Promise<number> {
  const screen = openScreen(process.stdout);
  const undo: Undo = [];
  const interrupted = new Promise<number>((resolve) => {
    // Every time: what started us passes a Ctrl-C on that has reached us already, and the second one
    // must not cut off what the first has begun.
    process.on("SIGINT", () => resolve(130));
    process.on("SIGTERM", () => resolve(143));
  });
  try {
    const options = parseOptions(process.argv.slice(2));
    return await Promise.race([run(options, screen, undo), interrupted]);
  } catch (error) {
    screen.close();
    if (error instanceof UsageError) console.error(`demo: ${error.message}\n${usage}`);
    else console.error(error instanceof DemoFailure ? `demo: ${error.message}` : error);
    return error instanceof UsageError ? 2 : 1;
  } finally {
    screen.close();
    await takeDown(undo);
  }
}

process.exit(await main());
