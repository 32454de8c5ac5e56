/**
 * What became of each record of one publish. Owns that nothing is left out and nothing is said twice;
 * never decides what became of anything.
 */
import type { OutgoingRecord, PublishResult } from "@oncebox/core";

export class Outcome {
  readonly records: readonly OutgoingRecord[];
  readonly #acknowledged: number[] = [];
  readonly #unknown: PublishResult["unknown"][number][] = [];
  readonly #refused: PublishResult["refused"][number][] = [];
  readonly #open: Set<number>;
  #sealed = false;

  constructor(records: readonly OutgoingRecord[]) {
    this.records = records;
    this.#open = new Set(records.keys());
  }

  /** Once sealed, what is still under way changes nothing. */
  get sealed(): boolean {
    return this.#sealed;
  }

  acknowledge(indexes: readonly number[]): void {
    for (const index of this.#take(indexes)) this.#acknowledged.push(index);
  }

  unknown(indexes: readonly number[], error: Error): void {
    for (const index of this.#take(indexes)) this.#unknown.push({ index, error });
  }

  refuse(indexes: readonly number[], error: Error, scope: "message" | "topic"): void {
    for (const index of this.#take(indexes)) this.#refused.push({ index, error, scope });
  }

  /** Everything without an outcome yet is unknown for this reason. */
  seal(error: Error): PublishResult {
    this.unknown([...this.#open], error);
    this.#sealed = true;
    const acknowledged = this.#acknowledged.sort((a, b) => a - b);
    return { acknowledged, unknown: this.#unknown, refused: this.#refused };
  }

  #take(indexes: readonly number[]): number[] {
    if (this.#sealed) return [];
    return indexes.filter((index) => this.#open.delete(index));
  }
}
