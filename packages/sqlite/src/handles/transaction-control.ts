/**
 * Which statements of SQLite begin or end a transaction, and which work on all that is done in it or
 * over its connection, told by their first words.
 */

/** Blanks and comments, as SQLite reads them: they do not nest. In front, empty statements as well. */
const inFront = /(?:[\s;]+|--[^\n]*|\/\*[\s\S]*?(?:\*\/|$))*/y;
const between = /(?:\s+|--[^\n]*|\/\*[\s\S]*?(?:\*\/|$))*/y;
const word = /[A-Za-z]+/y;

/**
 * Whether the text starts with a statement that ends, or begins, a transaction. `ROLLBACK TO` a
 * savepoint does neither. Only the first statement of a text is looked at: the driver prepares no more.
 */
export function endsTransaction(text: string): boolean {
  // Nearly every statement starts with a letter that is none of theirs.
  if (!/^[\s;/\-becrBECR]/.test(text)) return false;
  const [first, second, third] = firstWords(text, 3);
  switch (first) {
    case "BEGIN":
    case "COMMIT":
    case "END":
      return true;
    case "ROLLBACK":
      return (second === "TRANSACTION" ? third : second) !== "TO";
    default:
      return false;
  }
}

/**
 * Whether a statement of the text works on more than rows: on the transaction, a part of it, or a
 * setting of the connection. Every statement is looked at: `exec` of the driver runs them all.
 */
export function worksOnAll(text: string): boolean {
  return statementsOf(text).some((statement) => {
    const [first] = firstWords(statement, 1);
    switch (first) {
      case "BEGIN":
      case "COMMIT":
      case "END":
      case "ROLLBACK":
      case "SAVEPOINT":
      case "RELEASE":
        return true;
      case "PRAGMA":
        return sets(statement);
      default:
        return false;
    }
  });
}

/** In turn: comments, quoted text of all kinds, and what ends a statement. Open ends reach to the end. */
const pieces =
  /--[^\n]*|\/\*[\s\S]*?(?:\*\/|$)|'[^']*(?:'|$)|"[^"]*(?:"|$)|`[^`]*(?:`|$)|\[[^\]]*(?:\]|$)|;/g;

function statementsOf(text: string): readonly string[] {
  // Nearly every text is one statement.
  if (!/;[\s\S]*\S/.test(text)) return [text];
  const ends = [...text.matchAll(pieces)]
    .filter(([piece]) => piece === ";")
    .map(({ index }) => index);
  return [...ends, text.length].map((end, n) =>
    text.slice(n === 0 ? 0 : (ends[n - 1] ?? 0) + 1, end),
  );
}

/** Pragmas that say something of what is named in brackets; all others set what they are given. */
const tellingPragmas: ReadonlySet<string> = new Set([
  ...["table_info", "table_xinfo", "table_list", "index_info", "index_xinfo", "index_list"],
  ...["foreign_key_list", "foreign_key_check", "integrity_check", "quick_check"],
]);

function sets(pragma: string): boolean {
  const bare = pragma.replaceAll(/--[^\n]*|\/\*[\s\S]*?(?:\*\/|$)/g, " ");
  const [, name = "", sign] = /pragma\s+(?:\w+\s*\.\s*)?(\w+)\s*([=(]?)/i.exec(bare) ?? [];
  return sign === "=" || (sign === "(" && !tellingPragmas.has(name.toLowerCase()));
}

function firstWords(text: string, count: number): string[] {
  const words: string[] = [];
  let at = 0;
  while (words.length < count) {
    const blank = at === 0 ? inFront : between;
    blank.lastIndex = at;
    blank.exec(text);
    word.lastIndex = blank.lastIndex;
    const [found] = word.exec(text) ?? [];
    if (found === undefined) break;
    words.push(found.toUpperCase());
    at = word.lastIndex;
  }
  return words;
}
