/**
 * Every code block of the documents compiles against the built packages. One marked `ts` stands
 * alone; one marked `ts fragment` may use the names that the block of docs/fragments.md declares.
 */
import { join, resolve } from "node:path";
import ts from "typescript";
import { describe, expect, it } from "vitest";
import { documents, read, root } from "./documents.ts";

interface Block {
  readonly path: string;
  /** Of the first line of code, from 1. */
  readonly line: number;
  readonly info: string;
  readonly code: string;
}

/** Every block says what it is, so the one that ends it is bare. */
function blocksOf(path: string): Block[] {
  const text = read(path);
  return Array.from(
    text.matchAll(/^```(\S[^\n]*)\n(.*?)^```$/gms),
    ({ index, 1: info, 2: code }) => {
      const line = text.slice(0, index).split("\n").length + 1;
      return { path, line, info: info ?? "", code: code ?? "" };
    },
  );
}

const blocks = documents.flatMap(blocksOf).filter(({ info }) => /^(ts|typescript)\b/.test(info));

/** Declarations of libraries, parsed once for all programs. */
const parsed = new Map<string, ts.SourceFile>();

/** Complaints of the compiler, at the places in the documents. Nothing is written to the disk. */
function complaints(code: readonly Block[]): string[] {
  const config = ts.readConfigFile(join(root, "tsconfig.json"), ts.sys.readFile);
  const { options } = ts.parseJsonConfigFileContent(config.config, ts.sys, root);
  const nameOf = ({ path, line }: Block) => `${path.replaceAll("/", "-")}-${line}.mts`;
  const names = new Map(code.map((block) => [join(root, nameOf(block)), block]));
  const settings = { ...options, noUnusedLocals: false, noUnusedParameters: false, noEmit: true };
  const host = ts.createCompilerHost(settings);
  const { readFile, fileExists, getSourceFile } = host;
  const own = (path: string) => names.get(resolve(path));
  host.fileExists = (path) => own(path) !== undefined || fileExists(path);
  host.readFile = (path) => own(path)?.code ?? readFile(path);
  host.getSourceFile = (path, language, ...rest) => {
    const block = own(path);
    const file = block === undefined ? parsed.get(path) : undefined;
    if (file !== undefined) return file;
    // A block without an import is a module all the same, or its names would clash with others'.
    if (block !== undefined)
      return ts.createSourceFile(path, `${block.code}\nexport {};\n`, language);
    const read = getSourceFile(path, language, ...rest);
    if (read !== undefined) parsed.set(path, read);
    return read;
  };
  const program = ts.createProgram([...names.keys()], settings, host);
  return ts.getPreEmitDiagnostics(program).map((diagnostic) => {
    const text = ts.flattenDiagnosticMessageText(diagnostic.messageText, " ");
    const { file, start = 0 } = diagnostic;
    const block = file && own(file.fileName);
    if (!file || !block) return text;
    const { line } = file.getLineAndCharacterOfPosition(start);
    return `${block.path}:${block.line + line}: ${text}`;
  });
}

describe("code blocks", () => {
  const fragments = blocks.filter(({ info }) => /\b(fragment|declarations)\b/.test(info));

  it("are marked in a way that is known here", () => {
    const known = ["ts", "ts fragment", "ts declarations"];
    expect(blocks.filter(({ info }) => !known.includes(info))).toEqual([]);
  });

  it("that stand alone compile", () => {
    expect(complaints(blocks.filter((block) => !fragments.includes(block)))).toEqual([]);
  });

  it("that are fragments compile with the declarations of docs/fragments.md", () => {
    expect(complaints(fragments)).toEqual([]);
  });
});
