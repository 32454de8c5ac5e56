import { defineTopic, type HandlerContext, text } from "@oncebox/core";
import { expect, it } from "vitest";
import { probedMessage } from "./rollback-probe.ts";
import { stirred } from "./stirring.ts";

const orders = defineTopic({ name: "orders", value: text() });
const context = { signal: new AbortController().signal } as HandlerContext;

function run<Tx>(seed: number, tx: Tx, work: (tx: Tx) => Promise<void>): Promise<void> {
  const handler = stirred(
    orders.handler<Tx>((_, given) => work(given)),
    seed,
  );
  const value = new TextEncoder().encode("v");
  return handler.run(probedMessage(handler, { value }), tx, context);
}

/** As a builder of knex: it is sent when somebody waits for it, and each of its verbs returns it. */
class Builder {
  readonly #sent: string[];
  #text: string;

  constructor(sent: string[], text: string) {
    this.#sent = sent;
    this.#text = text;
  }

  where(condition: string): this {
    this.#text += ` where ${condition}`;
    return this;
  }

  // biome-ignore lint/suspicious/noThenProperty: what makes it a builder.
  then(...told: Parameters<Promise<string>["then"]>) {
    this.#sent.push(this.#text);
    const failing = this.#text.startsWith("broken");
    return (failing ? Promise.reject(new Error("no")) : Promise.resolve("rows")).then(...told);
  }
}

it.each([1, 2, 3, 4, 5, 6, 7, 8])(
  "changes nothing of what a handle answers, seed %s",
  async (seed) => {
    // Guards the stand-in: what it is called on, answers and failures, builders that are sent once.
    const sent: string[] = [];
    class Client {
      readonly name = "one";
      self() {
        return this.name;
      }
      async query(value: string) {
        if (value === "broken") throw new Error("no");
        return `${this.name} ${value}`;
      }
    }
    await run(seed, new Client(), async (tx) => {
      expect([tx.name, tx.self(), tx.constructor]).toEqual(["one", "one", Client]);
      expect(await tx.query("value")).toBe("one value");
      await expect(tx.query("broken")).rejects.toThrow("no");
    });
    const knex = Object.assign((table: string) => new Builder(sent, table), {
      raw: (sql: string) => new Builder(sent, sql),
      fn: { now: () => "now" },
    });
    await run(seed, knex, async (tx) => {
      expect(await tx("orders").where("id")).toBe("rows");
      expect(await tx.raw("select 1")).toBe("rows");
      expect(tx.fn.now()).toBe("now");
      await expect(Promise.resolve(tx("broken"))).rejects.toThrow("no");
    });
    expect(sent).toEqual(["orders where id", "select 1", "broken"]);
    await run(seed, null, async (tx) => expect(tx).toBeNull());
  },
);

it("holds back what promises and builders answer", async () => {
  // Guards that both come later: a race shows in between two statements.
  for (const kind of ["promise", "builder"]) {
    const ask = () => (kind === "promise" ? Promise.resolve("rows") : new Builder([], "t"));
    let quick = 0;
    for (let seed = 1; seed <= 20; seed += 1) {
      await run(seed, { ask }, async (tx) => {
        let turns = 0;
        const answered = Promise.resolve(tx.ask()).then(() => turns);
        for (; turns < 20; turns += 1) await Promise.resolve();
        if ((await answered) < 20) quick += 1;
      });
    }
    expect(quick).toBeGreaterThan(0);
    expect(quick).toBeLessThan(15);
  }
});
