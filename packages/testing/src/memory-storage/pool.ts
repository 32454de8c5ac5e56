/** Connections of one storage: so many at once, handed out in the order of asking. */
import { StorageError } from "@oncebox/core";
import type { Connection } from "./connection.ts";
import type { MemoryDatabase } from "./database.ts";
import { translated } from "./database-error.ts";

export interface PoolOptions {
  readonly client: string;
  readonly size: number;
  readonly idleInTransactionTimeoutMs: number | null;
  readonly pipelined: boolean;
}

export class Pool {
  readonly size: number;
  readonly #database: MemoryDatabase;
  readonly #options: PoolOptions;
  readonly #waiting: (() => void)[] = [];
  #used = 0;
  #thaw: (() => void) | null = null;
  #frozen: Promise<void> = Promise.resolve();

  constructor(database: MemoryDatabase, options: PoolOptions) {
    this.#database = database;
    this.#options = options;
    this.size = options.size;
  }

  get name(): string {
    return this.#options.client;
  }

  get pipelined(): boolean {
    return this.#options.pipelined;
  }

  get isFrozen(): boolean {
    return this.#thaw !== null;
  }

  /** Nothing is sent and nothing comes back until it thaws: the process stands still. */
  freeze(): void {
    if (this.#thaw !== null) return;
    this.#frozen = new Promise((resolve) => {
      this.#thaw = resolve;
    });
  }

  thaw(): void {
    this.#thaw?.();
    this.#thaw = null;
  }

  readonly running = async (): Promise<void> => {
    while (this.#thaw !== null) await this.#frozen;
  };

  async acquire(): Promise<Connection> {
    await this.running();
    if (this.#used === this.size) {
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve);
      });
      await this.running();
    } else this.#used += 1;
    try {
      return this.#database.connect({ ...this.#options, running: this.running });
    } catch (error) {
      this.#give();
      throw translated("connection", error);
    }
  }

  release(connection: Connection): void {
    this.#database.disconnect(connection);
    this.#give();
  }

  /** One statement, in a transaction of its own. */
  async with<R>(doing: string, work: (connection: Connection) => Promise<R>): Promise<R> {
    const connection = await this.acquire();
    try {
      return await work(connection);
    } catch (error) {
      throw translated(doing, error);
    } finally {
      this.release(connection);
    }
  }

  #give(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#used -= 1;
    else next();
  }
}

/** Where a connection is found dead before its COMMIT was sent. */
export function lostBefore(doing: string, cause: unknown): StorageError {
  return new StorageError("storage-unavailable", `${doing}: the connection was lost before it`, {
    cause,
    retryable: true,
  });
}
