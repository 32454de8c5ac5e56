import { defineConfig, type Options } from "tsup";

/**
 * The one build of every package: ESM and CJS, each with its own types. Only options that tsup's
 * named successor (tsdown) has as well, so that a later move stays a rename.
 */
export function library(entry: Record<string, string>, options: Options = {}) {
  return defineConfig({
    entry,
    format: ["esm", "cjs"],
    splitting: true,
    // docs/decisions/0020: `npx tsup --sourcemap` in a package's folder makes them for a debugger.
    sourcemap: false,
    // Not cleaned first: whoever runs tests beside a build would find nothing for a moment. What
    // earlier builds left goes at the end, by scripts/prune-dist.mjs.
    clean: false,
    target: "node20",
    treeshake: true,
    // rollup's d.ts build sets baseUrl, which TypeScript 6 reports as deprecated (TS5101).
    dts: { compilerOptions: { ignoreDeprecations: "6.0" } },
    ...options,
  });
}
