import { defineConfig } from "vitest/config";

// Groups run one after another: unit tests and static checks first, then the simulation, then what
// needs servers, then clusters and chaos, of which most is waiting: for sessions to end, for brokers to
// come back, for successors.
export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: "unit",
          include: ["packages/*/src/**/*.test.ts"],
          // A process for each file would take longer than the tests.
          isolate: false,
          sequence: { groupOrder: 0 },
        },
      },
      {
        test: {
          name: "checks",
          include: ["test/checks/**/*.test.ts", "test/architecture.test.ts"],
          testTimeout: 120_000,
          maxWorkers: 2,
          sequence: { groupOrder: 1 },
        },
      },
      {
        test: {
          name: "examples",
          // As users run them, without any server.
          include: ["examples/*/*.test.ts", "test/integration/demo.test.ts"],
          testTimeout: 60_000,
          maxWorkers: 2,
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
          sequence: { groupOrder: 2 },
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
          sequence: { groupOrder: 3 },
        },
      },
      {
        test: {
          name: "clusters",
          // Each file starts a Kafka cluster of its own, once, when its turn has come.
          include: ["test/integration/kafka-cluster*.test.ts"],
          testTimeout: 120_000,
          hookTimeout: 120_000,
          maxWorkers: 3,
          sequence: { groupOrder: 4 },
        },
      },
      {
        test: {
          name: "chaos",
          // Its tests start servers of their own: set-ups of all projects run at the beginning.
          include: ["test/chaos/**/*.test.ts"],
          testTimeout: 300_000,
          hookTimeout: 60_000,
          maxWorkers: 3,
          sequence: { groupOrder: 4 },
        },
      },
    ],
  },
});
