/** Which statements begin or end a transaction, told by their first words. */

/**
 * Whether the text starts with a statement that ends, or begins, a transaction. `ROLLBACK TO` a
 * savepoint does neither. Only the first statement of a text is looked at.
 */
export function endsTransaction(text: string): boolean {
  // Nearly every statement starts with a letter that is none of theirs.
  if (!/^[\s;/\-bscerapBSCERAP]/.test(text)) return false;
  const [first, second, third] = firstWords(text, 3);
  switch (first) {
    case "BEGIN":
    case "START":
    case "COMMIT":
    case "END":
    case "ABORT":
      return true;
    case "PREPARE":
      return second === "TRANSACTION";
    case "ROLLBACK": {
      const object = second === "WORK" || second === "TRANSACTION" ? third : second;
      return object !== "TO";
    }
    default:
      return false;
  }
}

function firstWords(text: string, count: number): string[] {
  const words: string[] = [];
  const word = /[A-Za-z]+/y;
  // An empty statement in front is skipped by the server as well.
  let at = skipBlank(text, 0, /[\s;]*/y);
  while (words.length < count) {
    word.lastIndex = at;
    const [found] = word.exec(text) ?? [];
    if (found === undefined) break;
    words.push(found.toUpperCase());
    at = skipBlank(text, word.lastIndex, /\s*/y);
  }
  return words;
}

/** Where the first character stands that is neither blank nor inside a comment. */
function skipBlank(text: string, from: number, blank: RegExp): number {
  let at = from;
  for (;;) {
    blank.lastIndex = at;
    blank.exec(text);
    at = blank.lastIndex;
    if (text.startsWith("--", at)) {
      const end = text.indexOf("\n", at);
      if (end < 0) return text.length;
      at = end + 1;
    } else if (text.startsWith("/*", at)) {
      at = endOfComment(text, at);
    } else {
      return at;
    }
  }
}

/** Comments of this kind nest. */
function endOfComment(text: string, from: number): number {
  let depth = 0;
  let at = from;
  while (at < text.length) {
    if (text.startsWith("/*", at)) depth += 1;
    else if (text.startsWith("*/", at)) depth -= 1;
    else {
      at += 1;
      continue;
    }
    at += 2;
    if (depth === 0) return at;
  }
  return text.length;
}
