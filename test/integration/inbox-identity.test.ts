/** What makes a message one that was seen before. */
import { describe, expect, it } from "vitest";
import { scene } from "../fixtures/scene.ts";
import { hasKafka } from "../fixtures/servers.ts";

const twice = [
  { value: "a", headers: { id: "1" } },
  { value: "a", headers: { id: "1" } },
];

describe.skipIf(!hasKafka())("deduplicate", () => {
  it("by offset applies what a producer sent twice, and a redelivery once, without a row for each", async () => {
    // Guards: the position alone as protection, and the promise of no row on that way.
    await using s = await scene();
    const first = s.consumer({}, { deduplicate: "offset" });
    await s.produce(0, ...twice);
    await first.start();
    expect(await s.effectsReach(2)).toEqual(["a", "a"]);
    await first.stop();
    const { rows } = await s.pool.query("SELECT count(*)::int AS n FROM oncebox.inbox_messages");
    expect(rows[0].n).toBe(0);
    // The group's offset is gone: only the database knows where to go on.
    const admin = s.kafka.admin();
    await admin.connect();
    await admin.deleteGroups([s.name]);
    await admin.disconnect();
    await s.consumer({}, { deduplicate: "offset" }).start();
    await s.produce(0, "b");
    expect(await s.effectsReach(3)).toEqual(["a", "a", "b"]);
  });

  it("E1: by id applies what a producer sent twice once, also in two chunks", async () => {
    await using s = await scene();
    await s.produce(0, ...twice);
    await s.consumer().start();
    await s.effectsReach(1);
    await s.produce(0, ...twice, "b");
    expect(await s.effectsReach(2)).toEqual(["a", "b"]);
  });
});
