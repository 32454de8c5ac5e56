export { kafkajsBroker } from "./kafkajs-broker.ts";
export type { KafkajsBrokerConfig, PartitionAssigner } from "./kafkajs-options.ts";
