/** What lies between one process and the cluster: it may be cut, silent, or lead nowhere. */
import { BrokerError } from "@oncebox/core";

export class Link {
  /** Counts cuts: what was under way at another number is lost. */
  cuts = 0;
  #down = false;
  #silence: Promise<void> | null = null;
  #resume: () => void = () => undefined;

  get silent(): boolean {
    return this.#silence !== null;
  }

  get down(): boolean {
    return this.#down;
  }

  cut(): void {
    this.cuts += 1;
  }

  /** While it is down, every request fails at once. */
  setDown(down: boolean): void {
    if (down && !this.#down) this.cut();
    this.#down = down;
  }

  /** Nothing passes in either direction, and nothing fails. */
  silence(): void {
    if (this.#silence !== null) return;
    this.#silence = new Promise((resolve) => {
      this.#resume = resolve;
    });
  }

  resume(): void {
    this.#silence = null;
    this.#resume();
  }

  /** Resolves when a request or an answer has passed; rejects where nothing is there. */
  async pass(): Promise<void> {
    while (this.#silence !== null) await this.#silence;
    if (this.#down) {
      throw new BrokerError("broker-unavailable", "no broker can be reached", { retryable: true });
    }
  }
}
