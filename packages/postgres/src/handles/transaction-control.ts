/**
 * Which statements begin or end a transaction, or reach all who share one; told by their first words.
 */

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

/** What works on the transaction or the session as a whole, not on rows. */
const reaching: ReadonlySet<string> = new Set([
  ...["BEGIN", "START", "COMMIT", "END", "ABORT", "ROLLBACK"],
  ...["SAVEPOINT", "RELEASE", "SET", "RESET", "DISCARD"],
]);

/**
 * Whether a statement of the text would work on others who use the transaction at the same time: all
 * that ends or begins one, savepoints, settings. Each statement of the text is looked at; true as well
 * where it cannot be told how many there are. What a function does inside is not seen, but for
 * `set_config`, which is SET under another name.
 */
export function reachesOthers(text: string): boolean {
  if (/\bset_config\s*\(/i.test(text)) return true;
  // Nearly every text is one statement.
  if (!/;\s*\S/.test(text)) return reaches(text);
  const statements = statementsOf(text);
  return statements === null || statements.some(reaches);
}

function reaches(statement: string): boolean {
  const [first, second] = firstWords(statement, 2);
  if (first === "PREPARE") return second === "TRANSACTION";
  return first !== undefined && reaching.has(first);
}

/**
 * The statements of a text, cut at each semicolon outside of quotes and comments. Null where that
 * cannot be told: something is not closed, or it depends on a setting what a backslash means.
 */
function statementsOf(text: string): string[] | null {
  const statements: string[] = [];
  const special = /[;'"$]|--|\/\*/g;
  let from = 0;
  for (;;) {
    const found = special.exec(text);
    if (found === null) return [...statements, text.slice(from)];
    const { index } = found;
    if (found[0] === ";") {
      statements.push(text.slice(from, index));
      from = index + 1;
      continue;
    }
    const end = endOf(text, index);
    if (end === null) return null;
    special.lastIndex = end;
  }
}

/** Where what begins here (a quote, a comment) has ended; null where that cannot be told. */
function endOf(text: string, at: number): number | null {
  switch (text[at]) {
    case "-":
      return skipBlank(text, at, /\s*/y);
    case "/":
      return endOfComment(text, at);
    case "$": {
      // Within a name (a$b$) a dollar sign quotes nothing, nor does that of a parameter ($1).
      if (/[\w$\u0080-\uffff]/.test(text[at - 1] ?? "")) return at + 1;
      const tag = wordAt(text, at, /\$(?:[A-Za-z_\u0080-\uffff][\w\u0080-\uffff]*)?\$/y);
      if (tag === undefined) return at + 1;
      const end = text.indexOf(tag, at + tag.length);
      return end < 0 ? null : end + tag.length;
    }
    default: {
      // A doubled quote ends one text and begins the next: it comes to the same.
      const quote = text[at] as string;
      const end = text.indexOf(quote, at + 1);
      if (end < 0 || (quote === "'" && text.slice(at, end).includes("\\"))) return null;
      return end + 1;
    }
  }
}

function firstWords(text: string, count: number): string[] {
  const words: string[] = [];
  const word = /[A-Za-z]+/y;
  // An empty statement in front is skipped by the server as well.
  let at = skipBlank(text, 0, /[\s;]*/y);
  while (words.length < count) {
    const found = wordAt(text, at, word);
    if (found === undefined) break;
    words.push(found.toUpperCase());
    at = skipBlank(text, word.lastIndex, /\s*/y);
  }
  return words;
}

/** What the sticky pattern finds right here. */
function wordAt(text: string, at: number, pattern: RegExp): string | undefined {
  pattern.lastIndex = at;
  return pattern.exec(text)?.[0];
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
