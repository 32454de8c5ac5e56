import { describe, expect, it, vi } from "vitest";
import type { KafkaNode } from "./kafkajs-client.ts";
import type { TopicAnswer } from "./metadata-request.ts";
import { TopicIds } from "./topic-ids.ts";

const node = {} as KafkaNode;
const missing: TopicAnswer = { code: 3, topicId: null };
const has = (topicId: string): TopicAnswer => ({ code: 0, topicId });

/** Looks answer one after another; the wait between them ends when the test says so. */
function scene(...answers: (TopicAnswer | Error)[]) {
  const told: unknown[][] = [];
  const looked: (readonly string[])[] = [];
  const waits: (() => void)[] = [];
  const ids = new TopicIds({
    look: async (_, topics) => {
      looked.push(topics);
      const answer = answers.shift();
      if (answer === undefined || answer instanceof Error) throw answer ?? new Error("no answer");
      return new Map(topics.map((topic) => [topic, answer]));
    },
    settled: (...args) => told.push(["settled", ...args]),
    refused: (...args) => told.push(["refused", ...args]),
    failed: (_, error) => told.push(["failed", error]),
    clock: {
      sleep: (ms, signal) =>
        new Promise((resolve) => {
          expect(ms).toBeGreaterThanOrEqual(500);
          signal?.addEventListener("abort", () => resolve());
          waits.push(resolve);
        }),
    },
  });
  const settle = () => new Promise((resolve) => setImmediate(resolve));
  const wait = async () => {
    await settle();
    waits.shift()?.();
    await settle();
  };
  return { ids, told, looked, waits, settle, wait };
}

describe("the id of a topic", () => {
  it("is looked up when it is needed first, for topics of the same moment at once", async () => {
    const { ids, looked, settle } = scene(has("A"));
    expect(ids.idFor("t", null, node)).toBeNull();
    expect(ids.idFor("u", "A", node)).toBeNull();
    expect(ids.idFor("t", null, node)).toBeNull();
    await settle();
    expect(looked).toEqual([["t", "u"]]);
    expect([ids.idFor("t", null, node), ids.idFor("u", "A", node)]).toEqual(["A", "A"]);
    expect(looked).toHaveLength(1);
  });

  it("that is not the wanted one counts after a second look only", async () => {
    const { ids, told, wait, settle } = scene(has("B"), has("B"));
    expect(ids.idFor("t", "A", node)).toBeNull();
    await settle();
    expect(told).toEqual([]);
    // Who wants none in particular goes on meanwhile.
    expect(ids.idFor("t", null, node)).toBe("B");
    await wait();
    expect(told).toEqual([["settled", "t", "B"]]);
  });

  it("of a broker that lags behind is not believed", async () => {
    // Guards: the second look. The first one comes from a broker that has not heard of the new topic.
    const { ids, told, wait } = scene(has("old"), has("new"));
    ids.idFor("t", "new", node);
    await wait();
    expect(told).toEqual([]);
    expect(ids.idFor("t", "new", node)).toBe("new");
  });

  it("is in doubt until two looks in a row agree", async () => {
    const { ids, told, wait } = scene(missing, has("B"), missing, missing);
    ids.idFor("t", "A", node);
    await wait();
    await wait();
    expect(told).toEqual([]);
    await wait();
    expect(told).toEqual([["settled", "t", null]]);
  });

  it("is looked up again when a broker contradicts it", async () => {
    const { ids, looked, settle } = scene(has("A"), has("B"));
    ids.idFor("t", null, node);
    await settle();
    ids.contradicted("t", null, node);
    expect(ids.idFor("t", null, node)).toBeNull();
    await settle();
    expect(ids.idFor("t", null, node)).toBe("B");
    expect(looked).toHaveLength(2);
  });

  it("is asked for again after trouble, which is passed on", async () => {
    const trouble = new Error("connection lost");
    const { ids, told, settle } = scene(trouble, { code: 29, topicId: null }, has("A"));
    ids.idFor("t", null, node);
    await settle();
    ids.idFor("t", null, node);
    await settle();
    expect(told).toEqual([
      ["failed", trouble],
      ["refused", "t", 29],
    ]);
    ids.idFor("t", null, node);
    await settle();
    expect(ids.idFor("t", null, node)).toBe("A");
  });

  it("is needed: a broker that gives none is too old", async () => {
    const { ids, told, settle } = scene({ code: 0, topicId: null });
    ids.idFor("t", null, node);
    await settle();
    expect(told).toMatchObject([["failed", { code: "client-unsupported" }]]);
  });

  it("is nobody's business after the end", async () => {
    const { ids, told, looked, settle } = scene(missing, missing);
    ids.idFor("t", null, node);
    await settle();
    ids.close();
    await settle();
    ids.idFor("u", null, node);
    await vi.waitFor(() => expect(looked).toHaveLength(1));
    expect(told).toEqual([]);
  });
});
