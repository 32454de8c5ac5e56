export { kafkajsBroker } from "./kafkajs-broker.ts";
export type { KafkajsBrokerConfig } from "./kafkajs-options.ts";
