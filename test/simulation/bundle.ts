// Owns the program that simulates: core, the memory models and the simulator in one file, made from
// the sources as they are now. What is replaced in them is replaced here, from the tests' side: the
// packages hold no switch.

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { build, type Plugin } from "esbuild";

/** One statement or decision, replaced by another. */
export interface Replacement {
  /** From the top of the repository. */
  readonly file: string;
  /** Stands exactly once in the file. */
  readonly find: string;
  readonly by: string;
}

export interface Program extends Disposable {
  readonly path: string;
}

const root = join(import.meta.dirname, "..", "..");

/** Throws where a text that is to be replaced does not stand exactly once in its file. */
export async function bundle(replacements: readonly Replacement[] = []): Promise<Program> {
  const folder = mkdtempSync(join(tmpdir(), "oncebox-simulation-"));
  const path = join(folder, "simulation.mjs");
  const remove = () => rmSync(folder, { recursive: true, force: true });
  const building = build({
    entryPoints: [join(import.meta.dirname, "main.ts")],
    outfile: path,
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node20",
    sourcemap: "inline",
    sourcesContent: false,
    logLevel: "error",
    alias: {
      "@oncebox/core": join(root, "packages/core/src/index.ts"),
      "@oncebox/testing": join(root, "packages/testing/src/index.ts"),
    },
    plugins: replacements.length === 0 ? [] : [replacing(replacements)],
  });
  await building.catch((error: unknown) => {
    remove();
    throw error;
  });
  return { path, [Symbol.dispose]: remove };
}

function replacing(replacements: readonly Replacement[]): Plugin {
  return {
    name: "replacing",
    setup: ({ onLoad }) => {
      onLoad({ filter: /\.ts$/ }, ({ path }) => {
        const own = replacements.filter(({ file }) => file === relative(root, path));
        if (own.length === 0) return null;
        return { contents: own.reduce(replaced, readFileSync(path, "utf8")), loader: "ts" };
      });
    },
  };
}

function replaced(text: string, { file, find, by }: Replacement): string {
  const times = text.split(find).length - 1;
  if (times !== 1) throw new Error(`${file} holds this ${times} times, not once:\n${find}`);
  return text.replace(find, () => by);
}
