/** Rounds of two sides in turn, and what is said of them: medians and ratios pair by pair. */

export interface Comparison {
  readonly ours: number;
  readonly theirs: number;
  readonly ratio: number;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? upper)) / 2;
}

export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

/** Messages per second of a piece of work over this many messages. */
export async function rate(messages: number, work: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await work();
  return (messages * 1_000) / (performance.now() - began);
}

/** Both sides in turn, the order swapped every round, after one round that is not counted. */
export async function compare(
  rounds: number,
  ours: () => Promise<number>,
  theirs: () => Promise<number>,
): Promise<Comparison> {
  const pairs: { ours: number; theirs: number }[] = [];
  for (let round = 0; round <= rounds; round += 1) {
    const first = round % 2 === 0 ? await ours() : await theirs();
    const second = round % 2 === 0 ? await theirs() : await ours();
    if (round > 0) {
      pairs.push(
        round % 2 === 0 ? { ours: first, theirs: second } : { ours: second, theirs: first },
      );
    }
  }
  return {
    ours: median(pairs.map((pair) => pair.ours)),
    theirs: median(pairs.map((pair) => pair.theirs)),
    ratio: median(pairs.map((pair) => pair.ours / pair.theirs)),
  };
}
