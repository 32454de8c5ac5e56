import { defineConfig } from "vitest/config";

// Groups run one after another: static checks and unit tests first, then what needs servers, then
// clusters and chaos, two files at a time, because they would starve whatever ran beside them on a
// small machine.
export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: "unit",
          include: ["packages/*/src/**/*.test.ts"],
          sequence: { groupOrder: 0 },
        },
      },
      {
        test: {
          name: "checks",
          include: ["test/checks/**/*.test.ts", "test/architecture.test.ts"],
          testTimeout: 120_000,
          fileParallelism: false,
          sequence: { groupOrder: 1 },
        },
      },
      {
        test: {
          name: "examples",
          // As users run them, without any server.
          include: ["examples/*/*.test.ts", "test/integration/demo.test.ts"],
          testTimeout: 60_000,
          fileParallelism: false,
          sequence: { groupOrder: 1 },
        },
      },
      {
        test: {
          name: "simulation",
          // Takes every core by itself.
          include: ["test/simulation/**/*.test.ts"],
          hookTimeout: 60_000,
          fileParallelism: false,
          // Tests that run beside each other start a process each.
          maxConcurrency: 2,
          sequence: { groupOrder: 1 },
        },
      },
      {
        test: {
          name: "servers",
          include: ["test/{fixtures,conformance,integration,model}/**/*.test.ts"],
          exclude: ["test/integration/kafka-cluster*.test.ts", "test/integration/demo.test.ts"],
          globalSetup: ["test/fixtures/global-setup.ts"],
          testTimeout: 60_000,
          hookTimeout: 60_000,
          // Most of a test is waiting for a server: more at once than there are cores.
          maxWorkers: 4,
          sequence: { groupOrder: 2 },
        },
      },
      {
        test: {
          name: "clusters",
          // Each file starts a Kafka cluster of its own, once, when its turn has come.
          include: ["test/integration/kafka-cluster*.test.ts"],
          testTimeout: 120_000,
          hookTimeout: 120_000,
          maxWorkers: 2,
          sequence: { groupOrder: 3 },
        },
      },
      {
        test: {
          name: "chaos",
          // Its tests start servers of their own: set-ups of all projects run at the beginning.
          include: ["test/chaos/**/*.test.ts"],
          testTimeout: 300_000,
          hookTimeout: 60_000,
          // Most of a run is waiting for a successor.
          maxWorkers: 2,
          sequence: { groupOrder: 4 },
        },
      },
    ],
  },
});
