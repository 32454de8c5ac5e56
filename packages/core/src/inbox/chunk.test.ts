import { expect, it } from "vitest";
import { clockByHand } from "../clock-by-hand.ts";
import { textOf } from "../message.ts";
import type { OutboxEntry } from "../ports/outbox.ts";
import type { Storage } from "../ports/storage.ts";
import { checkConsumerOptions } from "./consumer-options.ts";
import { makeConsumer } from "./consumer-scene.ts";

/** The headers of what a handler enqueues. */
async function published(options: { readonly source?: string }) {
  const scene = makeConsumer(async (_, __, { outbox }) => {
    await outbox.enqueue({ topic: "invoices", key: "k", value: null, headers: [] });
  }, options);
  const rows: OutboxEntry[] = [];
  const enqueue: Storage<"tx">["enqueue"] = async (_, entries) => {
    rows.push(...entries);
  };
  Object.assign(scene.storage, { enqueue });
  await scene.consumer.start();
  await scene.assigned();
  await scene.delivered();
  expect(scene.handled).toEqual([10n]);
  const [row] = rows;
  const headers = Object.fromEntries(
    (row?.headers ?? []).map(([name, value]) => [name, value === null ? null : textOf(value)]),
  );
  return { id: row?.id, headers };
}

it("carries the consumer's source on what its handlers enqueue", async () => {
  // Guards: the way of the option from createConsumer to the outbox of a handler.
  const { id, headers } = await published({ source: "/billing" });
  expect(headers).toMatchObject({ ce_id: id, ce_source: "/billing", ce_type: "invoices" });
  // By the consumer's clock.
  const time = new Date(clockByHand().clock.epochMs()).toISOString();
  expect(headers).toMatchObject({ ce_time: time });
});

it("carries the id only where the consumer has no source", async () => {
  const { id, headers } = await published({});
  expect(headers).toEqual({ id });
});

it.each(["", "x".repeat(1_025), "a\0b", "a\nb", 1])("refuses the source %j", (source) => {
  expect(() => checkConsumerOptions({ source })).toThrow("source must be text of 1 to 1024 bytes");
});
