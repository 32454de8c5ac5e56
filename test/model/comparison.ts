// Owns the comparison of two lists of outcomes, line by line. Knows nothing of what the lines say.

export interface Side {
  readonly name: string;
  readonly lines: readonly string[];
}

/** The first place at which the lists are not equal; null where they are. */
export function firstDifference(left: readonly string[], right: readonly string[]): number | null {
  const length = Math.max(left.length, right.length);
  for (let place = 0; place < length; place += 1) {
    if (left[place] !== right[place]) return place;
  }
  return null;
}

/** Both lists side by side, the first difference marked; null where they are equal. */
export function difference(script: readonly string[], left: Side, right: Side): string | null {
  const place = firstDifference(left.lines, right.lines);
  if (place === null) return null;
  const widthOf = ({ name, lines }: Side) => Math.max(name.length, ...lines.map((l) => l.length));
  const width = widthOf(left);
  const row = (mark: string, one: string, other: string) =>
    `${mark} ${one.padEnd(width)} | ${other}`.trimEnd();
  const length = Math.max(left.lines.length, right.lines.length);
  const rows = Array.from({ length }, (_, n) =>
    row(n === place ? ">>>" : "   ", left.lines[n] ?? "(nothing)", right.lines[n] ?? "(nothing)"),
  );
  const head = [row("   ", left.name, right.name), row("   ", "-".repeat(width), "-".repeat(8))];
  return ["the script", ...script, "", ...head, ...rows].join("\n");
}
