// @ts-check
// Removes from the `dist` of a package (the folder given, else the current one) what no entry of its
// manifest leads to. Chunks carry a hash in their names, so each change leaves the old ones behind,
// and they would be published. Never empties `dist` first: whoever runs tests beside a build would
// find nothing. Runs as the last step of every build, also where Turborepo took the files from its
// cache, which removes nothing either. Plain JavaScript so that it starts without a loader.

import { readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";

const folder = process.argv[2] ?? ".";
const dist = join(folder, "dist");

/** @param {string} text @param {RegExp} pattern */
function allNames(text, pattern) {
  return Array.from(text.matchAll(pattern), ([, name = ""]) => name);
}

/** Siblings that a file imports, and its source map. @param {string} file */
function namedIn(file) {
  const text = readFileSync(join(dist, file), "utf8");
  const imported = allNames(text, /["']\.\/([\w.-]+\.c?js)["']/g);
  const maps = allNames(text, /^\/\/# sourceMappingURL=([\w.-]+)/gm);
  // Declarations import by the name of the code, and mean the declarations beside it.
  const declared = imported.map((name) => name.replace(/\.(c?)js$/, ".d.$1ts"));
  return [...(/\.d\.c?ts$/.test(file) ? declared : imported), ...maps];
}

const manifest = readFileSync(join(folder, "package.json"), "utf8");
const waiting = allNames(manifest, /"\.\/dist\/([\w.-]+)"/g);
/** @type {Set<string>} */
const reached = new Set();
for (let file = waiting.pop(); file !== undefined; file = waiting.pop()) {
  if (reached.has(file)) continue;
  // A file that is not there ends this with an error, before anything is removed.
  waiting.push(...namedIn(file));
  reached.add(file);
}
for (const file of readdirSync(dist)) {
  if (!reached.has(file)) rmSync(join(dist, file), { recursive: true });
}
