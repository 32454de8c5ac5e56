/** Which statements of SQLite begin or end a transaction, told by their first words. */

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
