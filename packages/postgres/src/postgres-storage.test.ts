import pg from "pg";
import { expect, it } from "vitest";
import { postgresStorage } from "./postgres-storage.ts";

// Connects to nothing.
const pool = new pg.Pool();

it.each([0, 99, 100.5, 86_400_001, Number.POSITIVE_INFINITY, "30s", null])(
  "B17: answerTimeoutMs %s is refused by name",
  (answerTimeoutMs) => {
    const make = () => postgresStorage({ pool, answerTimeoutMs: answerTimeoutMs as number });
    expect(make).toThrow(/answerTimeoutMs must be/);
    expect(make).toThrow(expect.objectContaining({ code: "invalid-options" }));
  },
);

it.each([100, 30_000, 86_400_000, undefined])("B17: answerTimeoutMs %s is taken", async (value) => {
  const options = value === undefined ? {} : { answerTimeoutMs: value };
  await postgresStorage({ pool, ...options }).close();
});
