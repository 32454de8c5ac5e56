/**
 * The glossary: its names exist in what the packages publish, and its words are used by the other
 * documents. Then the tables of what to install, held against
 * the manifests.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { documents, files, read, root } from "./documents.ts";

const glossary = "docs/glossary.md";

/** What a newcomer reads: not decisions, which are for those who ask why. */
const publicDocuments = documents.filter(
  (path) =>
    /^(?:README|ARCHITECTURE|CONTRIBUTING|docs\/[\w-]+)\.md$/.test(path) && path !== glossary,
);

/** Rows of the tables below a heading of level 2, without heads and rules. */
function rowsOf(text: string): string[][] {
  const sections = text.split(/^## /m).slice(1);
  return sections.flatMap((section) => {
    const lines = section.split("\n").filter((line) => line.startsWith("|"));
    const cells = lines.map((line) => line.split("|").slice(1, -1));
    return cells.slice(2).map((row) => row.map((cell) => cell.trim()));
  });
}

const rows = rowsOf(read(glossary));
const words = rows.map(([word = ""]) => word);

/** Everything that packages publish: types with their comments, code, and the columns of tables. */
const published = [
  ...["core", "postgres", "sqlite", "kafkajs", "testing"].flatMap((name) => {
    const folder = `packages/${name}/dist`;
    return ["index.d.ts", "index.js"].map((file) => `${folder}/${file}`);
  }),
  ...files("migrations/*/*.sql"),
].map(read);

function escaped(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}

describe("the glossary", () => {
  it("has enough words, each once", () => {
    expect(words.length).toBeGreaterThan(50);
    expect(words.filter((word, index) => words.indexOf(word) !== index)).toEqual([]);
  });

  it("names what the packages publish, or a file", () => {
    const gone = rows.flatMap(([word, where = ""]) => {
      const names = [...where.matchAll(/`([^`]+)`/g)].map(([, name = ""]) => name);
      expect(names, word).not.toEqual([]);
      return names.filter((name) => {
        const whole = new RegExp(`(?<![\\w-])${escaped(name)}(?![\\w-])`);
        return !existsSync(join(root, name)) && !published.some((text) => whole.test(text));
      });
    });
    expect(gone).toEqual([]);
  });

  it("has no word that no other document uses", () => {
    const text = publicDocuments.map(read).join("\n").toLowerCase().replace(/\s+/g, " ");
    expect(words.filter((word) => !text.includes(word.toLowerCase()))).toEqual([]);
  });

  it("is linked from every page that a newcomer reads", () => {
    // Declarations, for the compiler.
    const exempt = ["docs/fragments.md"];
    const without = publicDocuments.filter((path) => !read(path).includes("glossary.md"));
    expect(without.filter((path) => !exempt.includes(path))).toEqual([]);
  });
});

interface Manifest {
  readonly peerDependencies?: Readonly<Record<string, string>>;
  readonly peerDependenciesMeta?: Readonly<Record<string, { readonly optional?: boolean }>>;
}

describe("what to install", () => {
  it.each(["core", "postgres", "sqlite", "kafkajs", "testing"])("@oncebox/%s", (name) => {
    const manifest = JSON.parse(read(`packages/${name}/package.json`)) as Manifest;
    const peers = Object.entries(manifest.peerDependencies ?? {});
    const row = rowsOf(`## x\n${read("docs/installing.md")}`).find(
      ([first]) => first === `\`@oncebox/${name}\``,
    );
    const said = [...(row?.[2] ?? "").matchAll(/`([\w-]+)` ([>=<\d. ]*\d)/g)];
    expect(said.map(([, peer, range]) => [peer, range]).sort()).toEqual(peers.sort());
    // The readme of the package: one command for what cannot be left out, and the optional ones named.
    const readme = read(`packages/${name}/README.md`);
    const command = /^npm install (.+)$/m
      .exec(readme)?.[1]
      ?.split(" ")
      .filter((w) => w[0] !== "-");
    const optional = (peer: string) => manifest.peerDependenciesMeta?.[peer]?.optional === true;
    const needed = peers
      .filter(([peer]) => !optional(peer))
      .map(([peer, range]) => {
        return /^[\d.]+$/.test(range) ? `${peer}@${range}` : peer;
      });
    const own = name === "core" ? [] : [`@oncebox/${name}`];
    expect(command?.sort()).toEqual(["@oncebox/core", ...own, ...needed].sort());
    for (const [peer, range] of peers) {
      expect(readme).toContain(`\`${peer}\` ${range}`);
    }
  });
});
